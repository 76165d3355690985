"""What a socket is sent: each entry once and in order, however they come; and never more than fits."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.realtime.cursor import Cursor
from gateway.realtime.outgoing import Frame, Kind, Outgoing

LOG = 40


@given(
    start=st.integers(0, LOG),
    held=st.integers(0, 5),
    arrivals=st.lists(st.integers(1, LOG), max_size=80),
    pages=st.lists(st.integers(1, 7), min_size=1, max_size=5),
)
def test_a_reader_gets_each_entry_once_and_in_order(
    start: int, held: int, arrivals: list[int], pages: list[int]
) -> None:
    cursor: Cursor[int] = Cursor(start, held)
    sent: list[int] = []
    for offset in arrivals:
        sent += cursor.offer(offset, offset)
        assert sent == list(range(start + 1, cursor.offset + 1))
    # What nobody brings again is read, in pages of any size.
    last = max([start, *arrivals])
    turn = 0
    while cursor.behind:
        turn += 1
        assert turn <= LOG
        first = cursor.offset + 1
        for offset in range(first, min(first + pages[turn % len(pages)], last + 1)):
            sent += cursor.offer(offset, offset)
    assert sent == list(range(start + 1, last + 1))


def test_a_reader_who_joins_late_reads_what_the_others_have() -> None:
    cursor: Cursor[str] = Cursor(3)
    cursor.tell(5)
    assert cursor.behind
    assert cursor.offer(6, "six") == []
    assert cursor.offer(4, "four") == ["four"]
    assert cursor.offer(5, "five") == ["five", "six"]
    assert not cursor.behind


FRAMES = st.builds(
    Frame,
    st.sampled_from(Kind),
    st.binary(min_size=1, max_size=40),
    st.sampled_from(["typing ann", "typing bob"]),
)


@given(st.lists(FRAMES | st.none(), max_size=120), st.integers(40, 200))
def test_what_waits_is_bounded_and_what_must_arrive_does(steps: list[Frame | None], most: int) -> None:
    outgoing, sent = Outgoing(most), list[Frame]()
    must: list[Frame] = []
    for step in steps:
        if step is None:
            taken = outgoing.take()
            sent += [taken] if taken else []
        elif outgoing.put(step):
            must += [step] if step.kind in (Kind.CRITICAL, Kind.EVENT) else []
        else:
            # The socket ends here; telemetry and states never end one.
            assert step.kind in (Kind.CRITICAL, Kind.EVENT)
            break
        assert outgoing.bytes <= most
    while (frame := outgoing.take()) is not None:
        sent.append(frame)
    assert outgoing.bytes == len(outgoing) == 0
    assert [frame for frame in sent if frame.kind in (Kind.CRITICAL, Kind.EVENT)] == must


def test_of_a_state_only_the_newest_waits_and_telemetry_gives_way() -> None:
    outgoing = Outgoing(100)
    typing = [Frame(Kind.STATE, text, "typing ann") for text in (b"starts", b"stops")]
    for frame in typing:
        assert outgoing.put(frame)
    assert len(outgoing) == 1
    for number in range(10):
        assert outgoing.put(Frame(Kind.TELEMETRY, b"x" * 9 + b"%d" % number))
    assert outgoing.dropped == 6
    assert outgoing.put(Frame(Kind.CRITICAL, b"m" * 90))
    assert not outgoing.put(Frame(Kind.CRITICAL, b"m" * 90))
    assert outgoing.take() == typing[1]
    assert outgoing.take() == Frame(Kind.CRITICAL, b"m" * 90)
