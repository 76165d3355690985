"""Reads a part of a file at an address, over HTTP. What is said of a failure never tells the address."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from node_agent.cache.addresses import Address
from node_agent.cache.model import ArtifactFile, FileMissingError, StorageUnavailableError

if TYPE_CHECKING:
    from http.client import HTTPResponse
    from urllib.error import HTTPError

_TIMEOUT_S = 30.0  # of waiting for the next bytes; a longer file goes on where it stopped
_CHUNK = 4 * 1024 * 1024
_PARTIAL, _NOT_FOUND = 206, 404
# How providers say that an address is over, or that its signature is not good: Google says 400 for the first.
_REFUSALS = {400, 401, 403}
_LONGEST_ANSWER = 16 * 1024
# How S3, Google Cloud Storage and Azure say what is wrong; whatever else they say may quote the request.
_CODE = re.compile(r"<Code>([\w.-]{1,64})</Code>")
_MESSAGE = re.compile(r"<Message>([\w .,:'()-]{1,200})")


def download(address: Address, url: str, file: ArtifactFile, offset: int, length: int) -> Iterator[memoryview]:
    """So many bytes of a file that is known as one below `url`; blocks.

    Raises FileMissingError and StorageUnavailableError; an address that storage refuses is marked so.
    """
    if not length:
        return
    with _known_failures(address, url, file), _answer(address.url, offset, length) as response:
        if response.status != _PARTIAL and (offset or response.length != length):
            raise _unavailable(url, file, f"it answers {response.status} to a question for a part")
        left = length
        while left:
            chunk = response.read(min(left, _CHUNK))
            if not chunk:
                raise _unavailable(url, file, f"the connection ended {left} bytes too early")
            left -= len(chunk)
            yield memoryview(chunk)


def _answer(address: str, offset: int, length: int) -> "HTTPResponse":
    from urllib.request import Request, urlopen  # costs memory that an agent without a model need not have

    if not address.lower().startswith(("http://", "https://")):
        raise ValueError("the address is none of HTTP")
    request = Request(address, headers={"Range": f"bytes={offset}-{offset + length - 1}"})  # noqa: S310 - checked above
    response: HTTPResponse = urlopen(request, timeout=_TIMEOUT_S)  # noqa: S310 - checked above
    return response


@contextmanager
def _known_failures(address: Address, url: str, file: ArtifactFile) -> Iterator[None]:
    """Turns what goes wrong into errors that say what could not be fetched from where."""
    from http.client import HTTPException
    from urllib.error import HTTPError, URLError

    try:
        yield
    except HTTPError as error:
        cause = _said(error)
        if error.code == _NOT_FOUND:
            missing = f"{url} has no {file.path}; import the model again"
            raise FileMissingError(missing, url=url, path=file.path) from None
        address.refused = error.code in _REFUSALS
        raise _unavailable(url, file, cause) from None
    except URLError as error:
        raise _unavailable(url, file, str(error.reason)) from None
    except OSError as error:
        raise _unavailable(url, file, str(error) or type(error).__name__) from None
    except (HTTPException, ValueError) as error:
        # Their texts may hold the address.
        raise _unavailable(url, file, type(error).__name__) from None


def _unavailable(url: str, file: ArtifactFile, cause: str) -> StorageUnavailableError:
    return StorageUnavailableError(f"cannot fetch {file.path} from {url}: {cause}", url=url, path=file.path)


def _said(error: "HTTPError") -> str:
    with error:
        text = error.read(_LONGEST_ANSWER).decode(errors="replace")
    code, message = _CODE.search(text), _MESSAGE.search(text)
    said = f"{error.code} {code[1] if code else error.reason}{f', {message[1]}' if message else ''}"
    return f"{said}; do the clocks of controller and storage agree?" if error.code in _REFUSALS else said
