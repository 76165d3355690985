"""The log file that an engine writes by itself: kept small, read by offset, never in the engine's way."""

import ctypes
import os
from dataclasses import dataclass
from pathlib import Path

# linux/falloc.h
_KEEP_SIZE, _PUNCH_HOLE = 0x01, 0x02
_BLOCK = 4096
_LINE_SCAN = 64 * 1024


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a log: `offset` is where it begins, `next_offset` where the next one does."""

    content: bytes
    offset: int
    next_offset: int
    end: bool


def open_log(path: Path) -> int:
    """A descriptor that appends to the log, for an engine's output."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


def log_size(path: Path) -> int:
    """How many bytes were ever written."""
    return path.stat().st_size if path.exists() else 0


def trim_log(path: Path, keep: int) -> None:
    """Gives the disk back all but the last `keep` bytes, when there are twice as many.

    The engine keeps writing meanwhile and offsets stay what they were: the old part becomes a hole in the file. Where
    the file system has no holes, the file starts again from nothing.
    """
    if not path.exists() or _kept(path) <= 2 * keep:
        return
    descriptor = os.open(path, os.O_RDWR)
    try:
        end = (os.fstat(descriptor).st_size - keep) // _BLOCK * _BLOCK
        if not _punch(descriptor, end):
            os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def read_page(path: Path, offset: int, limit: int) -> Page:
    """At most `limit` bytes from `offset`; a negative offset means the last so many lines."""
    if not path.exists():
        return Page(b"", 0, 0, end=True)
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        first = _first_kept(file.fileno(), size)
        start = _line_start(file.fileno(), first, size, -offset) if offset < 0 else min(max(offset, first), size)
        if offset < 0:
            start = max(start, size - limit)
        content = os.pread(file.fileno(), limit, start)
    return Page(content, start, start + len(content), start + len(content) >= size)


def read_tail(path: Path, since: int, limit: int) -> str:
    """The last `limit` bytes that were written after offset `since`, as text."""
    if not path.exists():
        return ""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = max(since, size - limit, _first_kept(file.fileno(), size))
        content = os.pread(file.fileno(), limit, start) if start < size else b""
    return content.decode(errors="ignore")


def _kept(path: Path) -> int:
    return path.stat().st_blocks * 512


def _punch(descriptor: int, end: int) -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    return bool(libc.fallocate(descriptor, _PUNCH_HOLE | _KEEP_SIZE, 0, end) == 0)


def _first_kept(descriptor: int, size: int) -> int:
    if size == 0:
        return 0
    try:
        return os.lseek(descriptor, 0, os.SEEK_DATA)
    except OSError:
        return size


def _line_start(descriptor: int, first: int, size: int, lines: int) -> int:
    """Where the last `lines` lines begin."""
    position, needed = size, lines
    while position > first:
        start = max(first, position - _LINE_SCAN)
        block = os.pread(descriptor, position - start, start)
        if position == size and block.endswith(b"\n"):
            needed += 1  # the line feed at the end of the file ends a line, it begins none
        found = block.count(b"\n")
        if found >= needed:
            return start + _nth_last(block, needed) + 1
        needed -= found
        position = start
    return first


def _nth_last(block: bytes, count: int) -> int:
    index = len(block)
    for _ in range(count):
        index = block.rindex(b"\n", 0, index)
    return index
