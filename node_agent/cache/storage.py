"""Reads parts of files from object storage."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from node_agent.cache.model import ArtifactFile, FileMissingError, StorageUnavailableError

if TYPE_CHECKING:
    from obstore.store import ObjectStore

_TIMEOUT = "30s"  # of one request; a longer file goes on where it stopped


def read_range(url: str, file: ArtifactFile, offset: int, length: int) -> bytes:
    """Bytes of a file below the URL; blocks. Raises FileMissingError, StorageUnavailableError."""
    with known_failures(url, file):
        return bytes(open_store(url).get_range(file.key, start=offset, length=length))


def open_store(url: str) -> "ObjectStore":
    """The objects below the URL."""
    from obstore.store import from_url  # costs memory that an agent without a model need not have

    if url.startswith("file:"):
        return from_url(url)
    return from_url(url, client_options={"timeout": _TIMEOUT, "allow_http": True})


@contextmanager
def known_failures(url: str, file: ArtifactFile) -> Iterator[None]:
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
