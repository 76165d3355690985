"""A user at `/ws/system`: hears of what happens in their organisation, as far as their roles go."""

from gateway.realtime.connection import Connection
from gateway.realtime.frames import BadFrameError, Json, critical, error_frame, now_ms
from gateway.realtime.tail import Tail, Told
from mesh.tokens import Claims

MOST_POSITIONS = 64


class Watcher:
    """Hears, from where it was before if it says so."""

    def __init__(self, claims: Claims, connection: Connection, tail: Tail) -> None:
        self._caller = claims.caller()
        self._connection = connection
        self._tail = tail

    def open(self, positions: object) -> None:
        """Tells what came behind the positions, if there are any, and of which nobody knows; from then on, everything.

        BadFrameError.
        """
        lost, missed = [], list[Told]()
        for place, epoch, offset in _places(positions) if positions is not None else ():
            behind = self._tail.behind(place, epoch, offset)
            missed += behind or []
            lost += [place] if behind is None else []
        if positions is not None:
            resumed = {"type": "system.resumed", "resumed": not lost, "lost": lost, "timestamp": now_ms()}
            self._connection.send(critical(resumed))
        for told in missed:
            self.hear(told)
        self._tail.join(self)

    def close(self) -> None:
        """It hears no more."""
        self._tail.leave(self)

    def hear(self, told: Told) -> None:
        """Something happened."""
        if told.is_for(self._caller):
            self._connection.send(told.frame)

    async def take(self, frame: Json) -> None:
        """Here is nothing to be said."""
        self._connection.send(error_frame("INVALID_REQUEST", f"{frame['type']} is nothing that is sent here"))


def _places(positions: object) -> list[tuple[str, str, int]]:
    if not isinstance(positions, list) or len(positions) > MOST_POSITIONS:
        raise BadFrameError("`positions` is a list of places as frames carry them")
    places = []
    for each in positions:
        fields = each if isinstance(each, dict) else {}
        place = (fields.get("topic"), fields.get("epoch"), fields.get("offset"))
        if not (isinstance(place[0], str) and isinstance(place[1], str) and type(place[2]) is int):
            raise BadFrameError("a position has a topic, an epoch and an offset")
        places.append((place[0], place[1], place[2]))
    return places
