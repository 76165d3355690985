"""Object storage: a local directory, S3, Google Cloud Storage or Azure, chosen by URL.

The library's synchronous calls run in threads: its own asynchronous ones leave threads behind that abort an interpreter
that is shutting down.
"""

import asyncio
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore, LocalStore, ObjectStore, S3Store, from_url

from controller.models.hashing import Digests, Hashing
from controller.models.model import MIB, StorageUnavailableError

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

Result = TypeVar("Result")

# The smallest part that S3 takes, and a few less parts than it takes at most.
SMALLEST_PART = 5 * MIB
_MOST_PARTS = 9_000
_ATTEMPTS = 3
# A storage that is away is told to the caller, who is still there, and not waited for. Its endpoint says whether it is
# reached over TLS; options given here take the place of those in the environment.
_CLIENT: "ClientConfig" = {"connect_timeout": "5s", "timeout": "60s", "allow_http": True}
_RETRIES: "RetryConfig" = {"max_retries": 3, "retry_timeout": timedelta(seconds=30)}
# How S3, what speaks its protocol, and Azure say what is wrong.
_CODE = re.compile(r"<Code>([^<]+)</Code>")
_MESSAGE = re.compile(r"<Message>([^<]+)</Message>")
_ADVICE = {
    "AuthenticationFailed": "correct AZURE_STORAGE_ACCOUNT_KEY",
    "AuthorizationFailure": "correct AZURE_STORAGE_ACCOUNT_KEY",
    "ContainerNotFound": "create the container, or correct AIOPS_STORAGE_URL",
    "NoSuchBucket": "create the bucket, or correct AIOPS_STORAGE_URL",
    "AccessDenied": "let these credentials read, write, list and delete there",
    "SignatureDoesNotMatch": "correct AWS_SECRET_ACCESS_KEY",
    "InvalidAccessKeyId": "correct AWS_ACCESS_KEY_ID",
}


class Sink(Protocol):
    """What an object is written to."""

    async def write(self, content: bytes) -> None:
        """Adds bytes."""
        ...

    async def close(self) -> Digests:
        """Completes the object and answers what its bytes are."""
        ...


class ObstoreObjects:
    """The objects below one URL. Raises StorageUnavailableError when the storage refuses or is away."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._store = _open(url)
        self._stores = {self._url: self._store}

    def url_of(self, folder: str) -> str:
        """Where others find a folder."""
        return f"{self._url}/{folder}"

    async def sign(self, url: str, key: str, lifetime: timedelta) -> str:
        """Where anybody can read the object `key` below a URL, for so long. Never to be logged or kept."""
        return await _in_thread(url, f"sign the address of {key}", lambda: self._sign(url, key, lifetime))

    def create(self, path: str, size_bytes: int) -> "ObstoreSink":
        """An object to be written; memory is bounded by two parts of it."""
        part_size = max(SMALLEST_PART, size_bytes // _MOST_PARTS)
        return ObstoreSink(self._store, self._url, path, part_size, Hashing(size_bytes))

    async def read(self, path: str, start: int, length: int) -> bytes:
        """A part of an object."""
        return await _in_thread(
            self._url, f"read {path}", lambda: bytes(obstore.get_range(self._store, path, start=start, length=length))
        )

    async def remove(self, folder: str) -> None:
        """Removes a folder with everything in it, or one object; what is gone already is no error."""
        await _in_thread(self._url, f"remove {folder}", lambda: self._remove(folder))

    async def paths(self, folder: str) -> dict[str, datetime]:
        """The objects in a folder, each with the time of its last change."""
        return await _in_thread(self._url, f"list {folder}", lambda: self._paths(folder))

    def _remove(self, folder: str) -> None:
        for _ in range(_ATTEMPTS):
            paths = [entry["path"] for batch in self._store.list(f"{folder}/") for entry in batch]
            if not paths:
                paths = [folder] if self._exists(folder) else []
            if not paths:
                return
            try:
                self._store.delete(paths)
            except FileNotFoundError:
                # Somebody else removes the same folder; what is left shows in the next listing.
                continue

    def _sign(self, url: str, key: str, lifetime: timedelta) -> str:
        # Models may still lie where the storage was before; the credentials are the same.
        store = self._stores.get(url) or self._stores.setdefault(url, _open(url))
        if not isinstance(store, S3Store | GCSStore | AzureStore):
            raise NotImplementedError("only objects of S3, Google Cloud Storage and Azure have addresses")
        return obstore.sign(store, "GET", key, lifetime)

    def _exists(self, path: str) -> bool:
        try:
            self._store.head(path)
        except FileNotFoundError:
            return False
        return True

    def _paths(self, folder: str) -> dict[str, datetime]:
        batches = self._store.list(f"{folder}/")
        return {entry["path"]: entry["last_modified"] for batch in batches for entry in batch}


class HashingSink:
    """Stores nothing and hashes what passes, for a file that is stored already."""

    def __init__(self, size_bytes: int) -> None:
        self._hashing = Hashing(size_bytes)

    async def write(self, content: bytes) -> None:
        await asyncio.to_thread(self._hashing.update, content)

    async def close(self) -> Digests:
        return self._hashing.digests()


class ObstoreSink:
    """Writes one object and hashes its bytes on the way, in threads."""

    def __init__(self, store: ObjectStore, url: str, path: str, part_size: int, hashing: Hashing) -> None:
        self._url = url
        self._path = path
        self._hashing = hashing
        self._file = obstore.open_writer(store, path, buffer_size=part_size, max_concurrency=1)

    async def write(self, content: bytes) -> None:
        await _in_thread(self._url, f"write {self._path}", lambda: self._write(content))

    async def close(self) -> Digests:
        await _in_thread(self._url, f"complete {self._path}", self._file.close)
        return self._hashing.digests()

    def _write(self, content: bytes) -> None:
        self._hashing.update(content)
        self._file.write(content)


async def _in_thread(url: str, what: str, call: Callable[[], Result]) -> Result:
    with _known_failures(url, what):
        return await asyncio.to_thread(call)


@contextmanager
def _known_failures(url: str, what: str) -> Iterator[None]:
    try:
        yield
    except (BaseError, OSError, NotImplementedError) as error:
        place = urlsplit(url)._replace(query="").geturl()
        raise StorageUnavailableError(
            f"the object storage {place} could not {what}: {_cause(error)}", storage_url=place
        ) from error


def _cause(error: Exception) -> str:
    """What the provider says is wrong, and what to do where that is known; else the library's first line."""
    text = str(error)
    code, message = _CODE.search(text), _MESSAGE.search(text)
    if code is None:
        return text.partition("\n")[0]
    advice = _ADVICE.get(code[1], "")
    said = message[1].partition("\n")[0] if message else "refused"
    return f"{said} ({code[1]}){f'; {advice}' if advice else ''}"


def _open(url: str) -> ObjectStore:
    parts = urlsplit(url)
    if parts.scheme == "file":
        directory = Path(unquote(parts.path))
        return LocalStore(directory, mkdir=True, automatic_cleanup=True)
    return from_url(url, client_options=_CLIENT, retry_config=_RETRIES)
