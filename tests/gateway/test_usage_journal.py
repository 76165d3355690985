"""The journal of requests: read once, in order, from where the last reader stopped, whatever was killed when."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from gateway.usage.journal import Journal, path_in
from gateway.usage.record import record

MEGABYTE = 1024 * 1024


Opened = Callable[..., Journal]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    """Opens the test's journal."""
    with ExitStack() as stack:

        def once_more(most_bytes: int = 64 * MEGABYTE) -> Journal:
            return stack.enter_context(closing(Journal(tmp_path, most_bytes=most_bytes)))

        yield once_more


def write(directory: Path, content: bytes) -> None:
    with path_in(directory).open("ab") as file:
        file.write(content)


def read(journal: Journal) -> list[bytes]:
    return [line for _, line in journal.read().every]


def entry(**more: object) -> bytes:
    line = {"attempts": 1, "cluster": "model/org/tiny", "started": "1700000000.5", "notes": {"org": "org"}, **more}
    return json.dumps(line, separators=(",", ":")).encode()


def test_a_line_that_is_being_written_waits_for_its_end(opened: Opened, tmp_path: Path) -> None:
    journal = opened()
    write(tmp_path, b"one\ntw")
    assert read(journal) == [b"one"]
    write(tmp_path, b"o\n")
    assert read(journal) == [b"one", b"two"]


def test_what_was_forgotten_is_not_read_again_and_all_else_is(opened: Opened, tmp_path: Path) -> None:
    journal = opened()
    write(tmp_path, b"one\n")
    journal.forget(journal.read().end)
    write(tmp_path, b"two\n")
    identity, offset = journal.identity, journal.read().every[0][0]
    journal.close()
    again = opened()
    assert (again.identity, again.read().every) == (identity, [(offset, b"two")])


def test_only_one_process_reads(opened: Opened) -> None:
    opened()
    with pytest.raises(BlockingIOError):
        opened()


def test_what_was_read_takes_no_space(opened: Opened, tmp_path: Path) -> None:
    journal = opened()
    for _ in range(64):
        write(tmp_path, (b"x" * 1023 + b"\n") * 1024)
        while (lines := journal.read()).every:
            journal.forget(lines.end)
    status = path_in(tmp_path).stat()
    assert status.st_size == 64 * MEGABYTE
    assert status.st_blocks * 512 < 2 * MEGABYTE


def test_beyond_the_limit_the_oldest_lines_are_lost(
    opened: Opened, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal = opened(most_bytes=100_000)
    write(tmp_path, b"".join(b"%05d\n" % number for number in range(20_000)))
    kept = read(journal)
    assert "its oldest" in caplog.text
    assert 7_000 < len(kept) < 9_000
    assert kept[-1] == b"19999"


def test_a_replaced_journal_is_read_from_its_beginning_under_another_identity(opened: Opened, tmp_path: Path) -> None:
    journal = opened()
    write(tmp_path, b"one\ntwo\n")
    journal.forget(journal.read().end)
    before = journal.identity
    journal.close()
    path_in(tmp_path).write_bytes(b"new\n")
    again = opened()
    assert read(again) == [b"new"]
    assert again.identity != before


def test_a_line_longer_than_any_is_passed_over(opened: Opened, tmp_path: Path) -> None:
    journal = opened()
    write(tmp_path, b"x" * 5 * MEGABYTE + b"\n" + entry() + b"\n")
    while not (lines := journal.read()).every:
        pass
    assert lines.every[-1][1] == entry()


def test_half_a_line_of_a_killed_envoy_costs_only_itself() -> None:
    used = record(entry(path="/v1/chat")[:40] + entry(request_id="r"), "u")
    assert used is not None
    assert used.request_id == "r"


def test_a_request_that_a_quota_held_back_used_nothing() -> None:
    assert record(entry(status=429, attempts=0), "u") is None
    assert record(entry(status=429, attempts=1), "u") is not None


def test_a_request_that_led_nowhere_used_nothing() -> None:
    assert record(entry(cluster=None), "u") is None


@pytest.mark.parametrize("line", [b"", b"[]", b"null", b"{", entry(started="-"), entry(started=None), b"\xff\xfe"])
def test_what_is_no_entry_is_refused(line: bytes) -> None:
    with pytest.raises((ValueError, TypeError)):
        record(line, "u")


@pytest.mark.parametrize(
    ("counted", "tokens"), [(-1, 0), (2**40, 2**32 - 1), ("many", 0), (None, 0), (float("nan"), 0), (7.0, 7)]
)
def test_an_engine_may_count_nonsense(counted: object, tokens: int) -> None:
    used = record(entry(notes={"org": "o", "output_tokens": counted}), "u")
    assert used is not None
    assert used.output_tokens == tokens


def test_what_envoy_has_no_value_for_is_empty() -> None:
    line = entry(
        instance="-", deployment=None, flags="-", status=0, duration_us=None, first_byte_us="-", content_type=None
    )
    used = record(line, "u")
    assert used is not None
    assert (used.instance_id, used.deployment_id, used.flags, used.status) == ("", "", "", 0)
    assert (used.duration_ms, used.first_byte_ms, used.streamed) == (0, 0, False)
