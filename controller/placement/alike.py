"""Nodes that are alike in all that decides about an engine, sorted so that most questions need no look at each."""

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from operator import attrgetter

from controller.nodes.model import NodeId
from controller.placement.model import ANY_VALUE
from controller.placement.seat import Kind, Seat

# The numbers of cards that are asked for most; 0 is the processor's RAM.
_SIZES = (0, 1, 2, 4, 8)
# Up to so many cards that are in use already are kept sorted by what is left on them.
_SHARED = range(1, 9)
# A list of fewer than one in so many of the nodes is looked through for the best; else the best are looked through.
_FEW = 4
_PREFERENCE = attrgetter("preference")
Room = tuple[int, NodeId, Seat]
Label = tuple[str, str]
# So many cards, and so many megabytes on each.
Shape = tuple[int, int]


class Alike:
    """Nodes of one kind. `seats` are in the order of preference, the best first; not for changing."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.seats: list[Seat] = []
        self._rooms: dict[int, list[Room]] = {size: [] for size in (_SIZES[1:] if kind.gpu else _SIZES[:1])}
        self._shared: dict[int, list[Room]] = {cards: [] for cards in (_SHARED if kind.gpu else ())}
        self._labels: defaultdict[Label, set[Seat]] = defaultdict(set)
        self._ports: defaultdict[int, set[Seat]] = defaultdict(set)

    def __len__(self) -> int:
        return len(self.seats)

    def add(self, seat: Seat) -> None:
        """Takes a node in."""
        insort(self.seats, seat, key=_PREFERENCE)
        for size, rooms in self._rooms.items():
            insort(rooms, (seat.room_for(size), seat.node_id, seat))
        for cards, rooms in self._shared.items():
            insort(rooms, (seat.shared_room(cards), seat.node_id, seat))
        for label in _labels_of(seat):
            self._labels[label].add(seat)
        for port in seat.ports:
            self._ports[port].add(seat)

    def remove(self, seat: Seat) -> None:
        """Lets a node go that was taken in."""
        del self.seats[bisect_left(self.seats, seat.preference, key=_PREFERENCE)]
        for size, rooms in self._rooms.items():
            del rooms[bisect_left(rooms, (seat.room_for(size), seat.node_id))]
        for cards, rooms in self._shared.items():
            del rooms[bisect_left(rooms, (seat.shared_room(cards), seat.node_id))]
        for label in _labels_of(seat):
            self._labels[label].discard(seat)
            if not self._labels[label]:
                del self._labels[label]
        for port in seat.ports:
            self._ports[port].discard(seat)
            if not self._ports[port]:
                del self._ports[port]

    def labelled(self, label: Label) -> AbstractSet[Seat]:
        """The nodes with a label; with any value of it for ANY_VALUE."""
        return self._labels.get(label, frozenset())

    def on_port(self, port: int) -> AbstractSet[Seat]:
        """The nodes where the port is taken."""
        return self._ports.get(port, frozenset())

    def count(self, size: int, mb: int) -> int:
        """How many nodes have so much on each of so many cards."""
        rooms = self._rooms.get(size)
        if rooms is None:
            return sum(seat.room_for(size) >= mb for seat in self.seats)
        return len(rooms) - bisect_left(rooms, (mb, ""))

    def count_any(self, wanted: Sequence[Shape]) -> int:
        """How many nodes have room in one of some shapes, each so many cards and so much on each."""
        counts = {shape: self.count(*shape) for shape in wanted}
        shapes = sorted((shape for shape, count in counts.items() if count), key=lambda shape: -counts[shape])
        if len(shapes) < 2 or counts[shapes[0]] == len(self.seats):
            return counts[shapes[0]] if shapes else 0
        # Whoever is short in the shape that most have room in, and in every other.
        short = self._short(*shapes[0])
        for size, mb in shapes[1:]:
            short = [each for each in short if each.room_for(size) < mb]
        return len(self.seats) - len(short)

    def best(self, size: int, mb: int, cards: int, passing: AbstractSet[Seat]) -> Seat | None:
        """The best node with room that has it on so many cards that are in use already; not one of those to pass."""
        lists = [rooms for rooms in (self._rooms.get(size), self._shared.get(cards)) if rooms is not None]
        few = min((rooms[bisect_left(rooms, (mb, "")) :] for rooms in lists), key=len, default=None)
        if few is None or len(few) * _FEW > len(self.seats):
            return first_of(self.seats, size, mb, cards, passing)
        there = (seat for _, _, seat in few if seat.room_for(size) >= mb and seat.shared_room(cards) >= mb)
        return min((each for each in there if each not in passing), key=_PREFERENCE, default=None)

    def nearest(self, size: int, mb: int) -> Iterator[Seat]:
        """Nodes without the room, those that lack the least first."""
        rooms = self._sorted(size)
        return (rooms[index][2] for index in range(bisect_left(rooms, (mb, "")) - 1, -1, -1))

    def _short(self, size: int, mb: int) -> list[Seat]:
        rooms = self._sorted(size)
        return [seat for _, _, seat in rooms[: bisect_left(rooms, (mb, ""))]]

    def _sorted(self, size: int) -> Sequence[Room]:
        known = self._rooms.get(size)
        return known or sorted((seat.room_for(size), seat.node_id, seat) for seat in self.seats)


def first_of(seats: Iterable[Seat], size: int, mb: int, cards: int, passing: AbstractSet[Seat]) -> Seat | None:
    """The first node with room that has it on so many cards that are in use already; not one of those to pass."""
    return next(
        (each for each in seats if each.room_for(size) >= mb and each.shared_room(cards) >= mb and each not in passing),
        None,
    )


def _labels_of(seat: Seat) -> Iterable[Label]:
    return (*seat.labels, *((name, ANY_VALUE) for name in seat.label_names if (name, ANY_VALUE) not in seat.labels))
