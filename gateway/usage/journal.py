"""The file that Envoy appends a line to for each request, read from where the last reader stopped.

Envoy's own buffered writes are the queue: they need nobody to be there. What was read is given back to the file system
as a hole, so the file grows only by name; nobody has to tell Envoy to open another one. One process reads a directory.
"""

import ctypes
import errno
import fcntl
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

log = logging.getLogger(__name__)
CHUNK = 512 * 1024
LONGEST_LINE = 4 * 1024 * 1024
# fallocate(2): FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE. Whole blocks are given back.
PUNCH_HOLE = 0x01 | 0x02
BLOCK = 4096
_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Lines:
    """Whole lines of the journal, each with its offset, and where the next begins."""

    every: Sequence[tuple[int, bytes]]
    end: int


class Journal:
    """The journal in a directory. `identity` is its own, so that an offset in it is unique everywhere."""

    def __init__(self, directory: Path, *, most_bytes: int) -> None:
        """Opens it for the one reader. Raises OSError, BlockingIOError when another process reads it."""
        directory.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(directory / "lock")
        self._directory = directory
        self._most_bytes = most_bytes
        self._file = path_in(directory).open("a+b")
        self.identity, self.position = self._read_place()
        self._holes = True

    def read(self) -> Lines:
        """The next lines; none when no whole line waits."""
        self._give_up_what_is_too_much()
        content = os.pread(self._file.fileno(), CHUNK, self.position)
        while (end := content.rfind(b"\n") + 1) == 0 and CHUNK <= len(content) < LONGEST_LINE:
            content += os.pread(self._file.fileno(), CHUNK, self.position + len(content))
        if end == 0 and len(content) >= LONGEST_LINE:
            log.error("%d bytes of %s are no line and are lost", len(content), self._file.name)
            self.forget(self.position + len(content))
        every, start = [], 0
        while start < end:
            after = content.index(b"\n", start) + 1
            every.append((self.position + start, content[start : after - 1]))
            start = after
        return Lines(every, self.position + end)

    def forget(self, before: int) -> None:
        """Remembers that everything before an offset is done with, and gives its space back."""
        written = self._directory / "position.new"
        with written.open("w") as file:
            json.dump({"identity": self.identity, "offset": before}, file)
            file.flush()
            os.fdatasync(file.fileno())
        written.replace(self._directory / "position")
        self._punch(self.position // BLOCK * BLOCK, before // BLOCK * BLOCK)
        self.position = before

    def waiting_bytes(self) -> int:
        """How much waits to be read."""
        return max(0, os.fstat(self._file.fileno()).st_size - self.position)

    def close(self) -> None:
        """Lets go of the journal."""
        self._file.close()
        self._lock.close()

    def _give_up_what_is_too_much(self) -> None:
        """A disk that fills up would stop more than the counting: past the limit the oldest half is lost."""
        waiting = self.waiting_bytes()
        if waiting <= self._most_bytes:
            return
        start = self.position + waiting - self._most_bytes // 2
        log.error(
            "usage waits for Kafka beyond %d bytes; its oldest %d are lost", self._most_bytes, start - self.position
        )
        content = os.pread(self._file.fileno(), LONGEST_LINE, start)
        self.forget(start + content.find(b"\n") + 1)

    def _read_place(self) -> tuple[str, int]:
        """Whose offsets these are and how far it came; a file that is shorter than that is another one."""
        path, size = self._directory / "position", os.fstat(self._file.fileno()).st_size
        if path.exists():
            place = json.loads(path.read_text())
            if place["offset"] <= size:
                return str(place["identity"]), int(place["offset"])
            log.error("%s was replaced; it is read from its beginning", self._file.name)
        identity = uuid4().hex
        path.write_text(json.dumps({"identity": identity, "offset": 0}))
        return identity, 0

    def _punch(self, start: int, end: int) -> None:
        if end <= start or not self._holes:
            return
        failed = (
            _LIBC.fallocate(self._file.fileno(), PUNCH_HOLE, ctypes.c_long(start), ctypes.c_long(end - start))
            and ctypes.get_errno()
        )
        if failed in (errno.EOPNOTSUPP, errno.ENOSYS):
            self._holes = False
            log.warning("the file system of %s makes no holes: the journal keeps all that was read", self._file.name)


def _locked(path: Path) -> BinaryIO:
    lock = path.open("wb")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise
    return lock


def path_in(directory: Path) -> Path:
    """The file that Envoy writes."""
    return directory / "requests.jsonl"
