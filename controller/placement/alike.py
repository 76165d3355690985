"""Nodes that are alike in all that decides about an engine, sorted so that most questions need no look at each."""

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from operator import attrgetter

from controller.nodes.model import NodeId
from controller.placement.seat import Kind, Seat

# The numbers of cards that are asked for most; 0 is the processor's RAM.
_SIZES = (0, 1, 2, 4, 8)
_PREFERENCE = attrgetter("preference")
Room = tuple[int, NodeId]


class Alike:
    """Nodes of one kind. `seats` are in the order of preference, the best first; not for changing."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.seats: list[Seat] = []
        self._by_id: dict[NodeId, Seat] = {}
        self._rooms: dict[int, list[Room]] = {size: [] for size in (_SIZES[1:] if kind.gpu else _SIZES[:1])}
        self._shared: list[Room] = []

    def __len__(self) -> int:
        return len(self.seats)

    def add(self, seat: Seat) -> None:
        """Takes a node in."""
        insort(self.seats, seat, key=_PREFERENCE)
        self._by_id[seat.node_id] = seat
        for size, rooms in self._rooms.items():
            insort(rooms, (seat.room_for(size), seat.node_id))
        insort(self._shared, (seat.shared_room(1), seat.node_id))

    def remove(self, seat: Seat) -> None:
        """Lets a node go that was taken in."""
        del self.seats[bisect_left(self.seats, seat.preference, key=_PREFERENCE)]
        del self._by_id[seat.node_id]
        for size, rooms in self._rooms.items():
            del rooms[bisect_left(rooms, (seat.room_for(size), seat.node_id))]
        del self._shared[bisect_left(self._shared, (seat.shared_room(1), seat.node_id))]

    def count(self, size: int, mb: int) -> int:
        """How many nodes have so much on each of so many cards."""
        rooms = self._rooms.get(size)
        if rooms is None:
            return sum(seat.room_for(size) >= mb for seat in self.seats)
        return len(rooms) - bisect_left(rooms, (mb, ""))

    def count_any(self, wanted: Sequence[tuple[int, int]]) -> int:
        """How many nodes have room in one of some shapes, each so many cards and so much on each."""
        counts = {shape: self.count(*shape) for shape in wanted}
        open_to = [shape for shape, count in counts.items() if count]
        most = max(counts.values(), default=0)
        if len(open_to) < 2 or most == len(self.seats):
            return most
        return sum(any(seat.room_for(size) >= mb for size, mb in open_to) for seat in self.seats)

    def sharing(self, size: int, mb: int, cards: int) -> Iterator[Seat]:
        """Nodes with room, the best first, that have it on so many cards that are in use already."""
        if size == cards == 1 and bisect_left(self._shared, (mb, "")) == len(self._shared):
            return iter(())
        return (each for each in self.seats if each.room_for(size) >= mb and each.shared_room(cards) >= mb)

    def nearest(self, size: int, mb: int) -> Iterator[Seat]:
        """Nodes without the room, those that lack the least first."""
        rooms = self._rooms.get(size) or sorted((seat.room_for(size), seat.node_id) for seat in self.seats)
        return (self._by_id[rooms[index][1]] for index in range(bisect_left(rooms, (mb, "")) - 1, -1, -1))
