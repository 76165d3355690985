"""What a container writes, carried from the Engine into the workload's log file, where every log is read."""

import contextlib
import logging
import os
import struct
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from docker import APIClient
from docker.types import CancellableStream

from node_agent.runtime.docker.engine import DockerEngine
from node_agent.runtime.output import open_log

log = logging.getLogger(__name__)

# RFC 3339 with nine digits of a second, always as long: the Engine puts it and a space before each piece.
_STAMP = len("2026-01-01T00:00:00.000000000Z")
_HEADER = struct.Struct(">xxxxL")
_OK = 200


async def follow(engine: DockerEngine, container_id: str, path: Path) -> None:
    """Appends to the log at `path` until the container has ended. Raises EngineAwayError.

    Goes on where an earlier follower stopped, also that of an agent which died: at worst one piece is written twice.
    """
    await engine.stream(lambda client: _Console(client, container_id, path), lambda _: None)


class _Console:
    """The copying, in a reading thread. What cannot be written, on a full disk, is passed over."""

    def __init__(self, client: APIClient, container_id: str, path: Path) -> None:
        self._container_id, self._path = container_id, path
        self._seen = path.with_suffix(".seen")
        self._last = self._remembered()
        self._response = _ask(client, container_id, _second(self._last))
        self._stream = CancellableStream(_frames(self._response), self._response)

    def __iter__(self) -> Iterator[Any]:
        with contextlib.ExitStack() as stack:
            descriptor = open_log(self._path)
            stack.callback(os.close, descriptor)
            memory = os.open(self._seen, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            stack.callback(os.close, memory)
            for piece in self._stream:
                stamp = piece[:_STAMP]
                if stamp > self._last:
                    with contextlib.suppress(OSError):
                        os.write(descriptor, piece[_STAMP + 1 :])
                        os.pwrite(memory, f"{self._container_id} ".encode() + stamp, 0)
                    self._last = stamp
                yield piece

    def close(self) -> None:
        self._stream.close()

    def _remembered(self) -> bytes:
        """The stamp of the last piece that was written, if it was this container's."""
        try:
            container_id, _, stamp = self._seen.read_bytes().partition(b" ")
        except OSError:
            return b""
        return stamp if container_id.decode() == self._container_id and len(stamp) == _STAMP else b""


def _ask(client: APIClient, container_id: str, since: int) -> Any:
    """The Engine's answer, yet to be read. The client's own method leaks one of a container that was just removed."""
    url = f"{client.base_url}/v{client.api_version}/containers/{container_id}/logs"
    asked = {"follow": 1, "stdout": 1, "stderr": 1, "timestamps": 1, "since": since}
    return client.get(url, params=asked, stream=True, timeout=None)


def _frames(response: Any) -> Iterator[bytes]:
    """The pieces of both outputs, each behind a header of eight bytes (Engine API, `ContainerAttach`)."""
    if response.status_code != _OK:
        log.info("the log of a container cannot be read: %s", response.text)
        return
    while len(header := response.raw.read(_HEADER.size)) == _HEADER.size:
        yield response.raw.read(_HEADER.unpack(header)[0])


def _second(stamp: bytes) -> int:
    """The stamp's second since the epoch, 0 for none."""
    return int(datetime.fromisoformat(f"{stamp[:19].decode()}+00:00").timestamp()) if stamp else 0
