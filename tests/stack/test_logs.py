"""Logs stay bounded while somebody writes to them."""

from pathlib import Path

from stack import logs


def test_a_long_log_moves_aside_and_its_writer_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "service.log"
    with logs.open_log(path) as writer:
        writer.write(b"x" * 100 + b"\n")
        logs.trim(path, limit=200)
        assert path.stat().st_size == 101
        writer.write(b"y" * 100 + b"\n")
        logs.trim(path, limit=200)
        writer.write(b"after\n")
    assert path.read_bytes() == b"after\n"
    assert path.with_name("service.log.1").stat().st_size == 202


def test_without_room_for_the_move_the_log_is_still_cut(tmp_path: Path) -> None:
    path = tmp_path / "service.log"
    path.write_bytes(b"x" * 300)
    path.with_name("service.log.1").symlink_to("/dev/full")
    logs.trim(path, limit=200)
    assert path.stat().st_size == 0


def test_the_tail_is_the_last_lines(tmp_path: Path) -> None:
    path = tmp_path / "service.log"
    assert logs.tail(path) == ""
    path.write_text("".join(f"line {number}\n" for number in range(10_000)))
    assert logs.tail(path, 2) == "line 9998\nline 9999"
