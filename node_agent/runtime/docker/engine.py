"""The Docker Engine of this machine: its calls in threads, and whether it is there."""

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from docker import APIClient
from docker.errors import APIError, DockerException
from urllib3.exceptions import HTTPError

from node_agent.runtime.model import RuntimeAwayError

log = logging.getLogger(__name__)

T = TypeVar("T")
_CALL_TIMEOUT_S = 20
_MOST_STREAMS = 200


class EngineAwayError(RuntimeAwayError):
    """Docker Engine does not answer."""


class DockerEngine:
    """One Engine. Use from one event loop; what is passed to `call` and `stream` runs in threads.

    One that is not `expected` and never was there is no trouble.
    """

    def __init__(self, url: str, *, expected: bool = True) -> None:
        self.url = url
        self._expected = expected
        self.version = ""
        self.error = ""
        self._client: APIClient | None = None
        self._opening = threading.Lock()
        self._there = asyncio.Event()
        self._lost = asyncio.Event()

    @property
    def present(self) -> bool:
        """Whether it answered last time."""
        return self._there.is_set()

    @property
    def trouble(self) -> str:
        """Why it is not there, though it should be; empty when all is well."""
        return self.error if self._expected else ""

    async def connect(self) -> None:
        """Finds out whether it is there. Raises EngineAwayError."""
        try:
            await asyncio.to_thread(self._ask)
        except (DockerException, OSError, HTTPError) as error:
            raise self._away(error) from error
        if not self.present:
            log.info("Docker Engine %s is there at %s", self.version, self.url)
        self.error, self._expected = "", True
        self._lost.clear()
        self._there.set()

    async def until_present(self) -> None:
        """Waits for it."""
        if not self.present:
            log.info("waiting for Docker Engine: %s", self.error)
        await self._there.wait()

    async def until_lost(self) -> None:
        """Waits until a call finds it away."""
        await self._lost.wait()

    async def call(self, what: Callable[[APIClient], T]) -> T:
        """The answer of one call. Raises EngineAwayError, and APIError for a refusal of the Engine's own."""
        client = await self._reached()
        try:
            return await asyncio.to_thread(what, client)
        except APIError:
            raise
        except (DockerException, OSError, HTTPError) as error:
            raise self._away(error) from error

    async def stream(self, opened: Callable[[APIClient], Iterable[Any]], each: Callable[[Any], None]) -> None:
        """Reads an answer to its end in a thread of its own, in which `each` is called too.

        Cancelling leaves the thread to end by itself, which it does with the connection. Raises as `call` does.
        """
        client = await self._reached()
        reading = _Reading(asyncio.get_running_loop())
        threading.Thread(target=reading.run, args=(client, opened, each), name="docker", daemon=True).start()
        try:
            await reading.done
        except APIError:
            raise
        except (DockerException, OSError, HTTPError) as error:
            raise self._away(error) from error
        finally:
            reading.cut()

    def close(self) -> None:
        """Gives the connections back."""
        if self._client is not None:
            self._client.close()
            self._client = None

    async def _reached(self) -> APIClient:
        """The connection; the first call of all makes it."""
        if not self.present and not self.error:
            await self.connect()
        if self._client is None or not self.present:
            raise EngineAwayError(self.error)
        return self._client

    def _ask(self) -> None:
        """Has it say its version, over the one client there ever is: a second would outlive whoever still uses it."""
        with self._opening:
            knock(self.url)
            if self._client is None:
                self._client = APIClient(
                    base_url=self.url, version="auto", timeout=_CALL_TIMEOUT_S, max_pool_size=_MOST_STREAMS
                )
            self.version = self._client.version()["Version"]

    def _away(self, error: Exception) -> EngineAwayError:
        gone = f"Docker Engine at {self.url} does not answer: {_cause(error)}"
        if self.present or gone != self.error:
            log.log(logging.WARNING if self._expected else logging.INFO, "%s", gone)
        self.error = gone
        self._there.clear()
        self._lost.set()
        return EngineAwayError(gone, url=self.url)


def knock(url: str) -> None:
    """Raises OSError where nobody listens on the socket: the client would not close the one it tried with."""
    scheme, _, path = url.partition("://")
    if scheme == "unix":
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(_CALL_TIMEOUT_S)
            probe.connect(path)


class _Reading:
    """The reading of one endless answer."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._source: Any = None
        self._cut = False
        self.done: asyncio.Future[None] = loop.create_future()

    def run(self, client: APIClient, opened: Callable[[APIClient], Iterable[Any]], each: Callable[[Any], None]) -> None:
        failure: BaseException | None = None
        try:
            self._source = opened(client)
            for item in self._source if not self._cut else ():
                if self._cut:
                    break
                each(item)
        except (DockerException, OSError, HTTPError, ValueError, AttributeError) as error:
            # A connection that is cut while it is read ends in any of these.
            failure = error if isinstance(error, DockerException | OSError | HTTPError) else None
        finally:
            self.close()
            self._release()
            self._settle(failure)

    def cut(self) -> None:
        self._cut = True
        self.close()

    def close(self) -> None:
        close = getattr(self._source, "close", None)
        if close is not None:
            with contextlib.suppress(DockerException, OSError, HTTPError, ValueError, AttributeError):
                close()

    def _release(self) -> None:
        """Gives the connection's socket back at once: the client's own stream leaves that to the garbage collector."""
        response = getattr(self._source, "_response", None)
        if response is not None:
            with contextlib.suppress(OSError, HTTPError, ValueError):
                response.close()

    def _settle(self, failure: BaseException | None) -> None:
        def settle() -> None:
            if self.done.done():
                return
            if failure is None:
                self.done.set_result(None)
            else:
                self.done.set_exception(failure)

        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(settle)


def _cause(error: BaseException) -> str:
    """The innermost error's words: what lies around it repeats it in brackets."""
    seen = error
    while isinstance(inner := seen.__cause__ or seen.__context__, Exception):
        seen = inner
    text = getattr(seen, "strerror", None) or str(seen)
    return str(text) or type(seen).__name__
