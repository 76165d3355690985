"""Object storage as a node reaches it: a directory as it is, a bucket by addresses that the controller signs."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from mesh.clock import Clock, SystemClock
from node_agent.cache.addresses import Addresses, Sign, nobody_signs
from node_agent.cache.download import download
from node_agent.cache.model import ArtifactFile, FileMissingError, StorageUnavailableError

if TYPE_CHECKING:
    from obstore.store import ObjectStore

_CHUNK = 4 * 1024 * 1024

Stream = Callable[[], Iterator[memoryview]]
"""Bytes from where it was opened to the end; blocks. Raises FileMissingError, StorageUnavailableError."""


class Storage:
    """Where models' files are. Use from one event loop; the bytes themselves are read in threads."""

    def __init__(self, sign: Sign = nobody_signs, clock: Clock | None = None) -> None:
        self._addresses = Addresses(sign, clock or SystemClock())

    async def read(self, url: str, file: ArtifactFile, offset: int, length: int) -> bytes:
        """Bytes of a file below the URL. Raises FileMissingError, StorageUnavailableError."""
        if _is_directory(url):
            return await asyncio.to_thread(_read_directory, url, file, offset, length)
        stream = await self._download(url, file, offset, length)
        return await asyncio.to_thread(lambda: b"".join(stream()))

    async def open(self, url: str, file: ArtifactFile, offset: int) -> Stream:
        """What reads a file below the URL from an offset to its end. Raises StorageUnavailableError."""
        if _is_directory(url):
            return partial(_stream_directory, url, file, offset)
        return await self._download(url, file, offset, file.size_bytes - offset)

    async def _download(self, url: str, file: ArtifactFile, offset: int, length: int) -> Stream:
        address = await self._addresses.of(url, file)
        return partial(download, address, url, file, offset, length)


def _is_directory(url: str) -> bool:
    return url.startswith("file:")


def _read_directory(url: str, file: ArtifactFile, offset: int, length: int) -> bytes:
    with _known_failures(url, file):
        return bytes(_open(url).get_range(file.key, start=offset, length=length))


def _stream_directory(url: str, file: ArtifactFile, offset: int) -> Iterator[memoryview]:
    with _known_failures(url, file):
        result = _open(url).get(file.key, options={"range": {"offset": offset}} if offset else None)
        for chunk in result.stream(min_chunk_size=_CHUNK):
            yield memoryview(chunk)


def _open(url: str) -> "ObjectStore":
    from obstore.store import from_url  # costs memory that an agent without a model need not have

    return from_url(url)


@contextmanager
def _known_failures(url: str, file: ArtifactFile) -> Iterator[None]:
    """Turns what the library raises into errors that say what could not be fetched from where."""
    from obstore.exceptions import BaseError

    try:
        yield
    except FileNotFoundError as error:
        raise FileMissingError(f"{url} has no {file.path}; import the model again", url=url, path=file.path) from error
    except (BaseError, OSError, ValueError) as error:
        raise StorageUnavailableError(
            f"cannot fetch {file.path} from {url}: {error}", url=url, path=file.path
        ) from error
