"""Reads parts of files from object storage."""

from collections.abc import Iterator
from contextlib import contextmanager

from node_agent.cache.model import ArtifactFile, FileMissingError, StorageUnavailableError

_TIMEOUT = "30s"  # of one request


def read_range(url: str, file: ArtifactFile, offset: int, length: int) -> bytes:
    """Bytes of a file below the URL; blocks. Raises FileMissingError, StorageUnavailableError."""
    from obstore.store import from_url  # costs memory that an agent without a model need not have

    with known_failures(url, file):
        store = (
            from_url(url)
            if url.startswith("file:")
            else from_url(url, client_options={"timeout": _TIMEOUT, "allow_http": True})
        )
        return bytes(store.get_range(file.key, start=offset, length=length))


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
