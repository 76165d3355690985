"""An engine's log: small on the disk however much is written, read by offset or from its end."""

import os
from pathlib import Path

import pytest

from node_agent.runtime.output import log_size, open_log, read_page, read_tail, trim_log

KIB = 1024


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "engine.log"


def write(log: Path, content: bytes) -> None:
    descriptor = open_log(log)
    os.write(descriptor, content)
    os.close(descriptor)


def on_disk(log: Path) -> int:
    return log.stat().st_blocks * 512


def test_trimming_gives_the_disk_back_and_keeps_offsets(log: Path) -> None:
    lines = [f"{number:09d}\n".encode() for number in range(100 * KIB)]
    writing = open_log(log)
    for start in range(0, len(lines), KIB):
        os.write(writing, b"".join(lines[start : start + KIB]))
        trim_log(log, 64 * KIB)
    assert on_disk(log) <= 160 * KIB
    size = len(lines) * 10
    assert log_size(log) == size
    page = read_page(log, size - 20, 100)
    assert (page.content, page.next_offset, page.end) == (lines[-2] + lines[-1], size, True)
    oldest = read_page(log, 0, 10_000)
    assert oldest.offset > 0
    assert b"\0" not in oldest.content
    os.write(writing, b"the engine goes on\n")
    os.close(writing)
    assert read_tail(log, 0, 19) == "the engine goes on\n"


def test_a_small_log_is_left_alone(log: Path) -> None:
    write(log, b"x" * 100 * KIB)
    trim_log(log, 64 * KIB)
    assert read_page(log, 0, 200 * KIB).content == b"x" * 100 * KIB


@pytest.mark.parametrize(
    ("offset", "limit", "content"),
    [
        (0, 4, b"one\n"),
        (4, 100, b"two\nthree\n"),
        (99, 100, b""),
        (-1, 100, b"three\n"),
        (-2, 100, b"two\nthree\n"),
        (-99, 100, b"one\ntwo\nthree\n"),
        (-2, 3, b"ee\n"),
        (0, 0, b""),
    ],
)
def test_a_page_starts_at_its_offset_or_so_many_lines_before_the_end(
    log: Path, offset: int, limit: int, content: bytes
) -> None:
    write(log, b"one\ntwo\nthree\n")
    page = read_page(log, offset, limit)
    assert (page.content, page.next_offset - page.offset) == (content, len(content))


def test_a_last_line_without_its_end_counts_as_a_line(log: Path) -> None:
    write(log, b"one\ntwo")
    assert read_page(log, -1, 100).content == b"two"


def test_many_lines_are_counted_over_block_borders(log: Path) -> None:
    lines = [b"%07d\n" % number for number in range(40 * KIB)]
    write(log, b"".join(lines))
    assert read_page(log, -30_000, 8 * 40 * KIB).content == b"".join(lines[-30_000:])


def test_the_tail_begins_where_the_attempt_did(log: Path) -> None:
    write(log, b"first attempt\n")
    since = log_size(log)
    assert read_tail(log, since, 100) == ""
    write(log, "zweiter Versuch: für\n".encode())
    assert read_tail(log, since, 100) == "zweiter Versuch: für\n"
    assert read_tail(log, since, 4) == "ür\n"


def test_a_log_that_is_not_there_is_empty(log: Path) -> None:
    assert read_page(log, 0, 100).end
    assert read_tail(log, 0, 100) == ""
    trim_log(log, 100)
