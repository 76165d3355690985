"""What waits to be sent on one socket, bounded in bytes, and what gives way when that is too much."""

from collections import OrderedDict
from dataclasses import dataclass
from enum import Enum
from itertools import count

MOST_BYTES = 1024 * 1024


class Kind(Enum):
    """What may become of a frame that waits."""

    # It is sent, or the socket ends.
    CRITICAL = "critical"
    EVENT = "event"
    # Only the newest of its subject is sent.
    STATE = "state"
    # It is dropped when others need the room.
    TELEMETRY = "telemetry"


@dataclass(frozen=True, slots=True)
class Frame:
    """A text to be sent. `subject` is what a state is of."""

    kind: Kind
    text: bytes
    subject: str = ""


class Outgoing:
    """First in, first out, but for states, which take the place of their older ones."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._numbers = count()
        self._waiting: OrderedDict[object, Frame] = OrderedDict()
        self._telemetry: OrderedDict[object, None] = OrderedDict()
        self.bytes = 0
        # Frames of telemetry that gave way.
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, frame: Frame) -> bool:
        """Takes a frame; False when there is no room for what must be sent: the socket is too slow."""
        key: object = ("state", frame.subject) if frame.kind is Kind.STATE else next(self._numbers)
        older = self._waiting.get(key)
        size = len(frame.text) - (len(older.text) if older is not None else 0)
        if not self._make_room(size, spare=frame.kind is Kind.TELEMETRY):
            if frame.kind is Kind.TELEMETRY:
                self.dropped += 1
                return True
            # An older state is better than none; the newest comes again with the next change.
            return frame.kind is Kind.STATE
        self._waiting[key] = frame
        self.bytes += size
        if frame.kind is Kind.TELEMETRY:
            self._telemetry[key] = None
        return True

    def take(self) -> Frame | None:
        """The next one to be sent."""
        if not self._waiting:
            return None
        key, frame = self._waiting.popitem(last=False)
        self._telemetry.pop(key, None)
        self.bytes -= len(frame.text)
        return frame

    def _make_room(self, size: int, *, spare: bool) -> bool:
        """Drops the oldest telemetry for it; telemetry itself takes half the room at most."""
        most = self._most_bytes // 2 if spare else self._most_bytes
        while self.bytes + size > most and self._telemetry:
            key, _ = self._telemetry.popitem(last=False)
            self.bytes -= len(self._waiting.pop(key).text)
            self.dropped += 1
        return self.bytes + size <= most
