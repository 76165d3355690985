"""The nodes as one index: grouped by what decides about an engine, so that a plan looks at numbers and not at nodes."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from collections.abc import Set as AbstractSet

from controller.models.model import ModelId
from controller.nodes.model import NodeId
from controller.placement.alike import Alike
from controller.placement.model import Candidate
from controller.placement.seat import Kind, Seat


class Fleet:
    """Seats by kind, by node and by model. A change of one node costs as much as that node."""

    def __init__(self, candidates: Iterable[Candidate] = ()) -> None:
        self._seats: dict[NodeId, Seat] = {}
        self._kinds: dict[Kind, Alike] = {}
        self._of_model: defaultdict[ModelId, set[NodeId]] = defaultdict(set)
        self._priorities = Counter[int]()
        self._cached: dict[NodeId, frozenset[str]] = {}
        self._caching: defaultdict[str, set[NodeId]] = defaultdict(set)
        for candidate in candidates:
            self.put(candidate)

    def __len__(self) -> int:
        return len(self._seats)

    @property
    def groups(self) -> Iterable[Alike]:
        """Every group of alike nodes."""
        return self._kinds.values()

    @property
    def least_priority(self) -> int | None:
        """The lowest priority that any claim has."""
        return min(self._priorities, default=None)

    def put(self, candidate: Candidate) -> None:
        """The node as it is now, instead of what was known of it."""
        known = self._seats.get(candidate.node.node_id)
        if known is not None and known.still(candidate):
            return
        self.remove(candidate.node.node_id)
        seat = Seat(candidate)
        self._seats[seat.node_id] = seat
        if seat.kind not in self._kinds:
            self._kinds[seat.kind] = Alike(seat.kind)
        alike = self._kinds[seat.kind]
        # One object for all of a kind is compared in no time.
        seat.kind = alike.kind
        alike.add(seat)
        for claim in seat.claims:
            self._of_model[claim.model_id].add(seat.node_id)
            self._priorities[claim.priority] += 1

    def remove(self, node_id: NodeId) -> None:
        """Forgets the node, if it is known."""
        seat = self._seats.pop(node_id, None)
        if seat is None:
            return
        alike = self._kinds[seat.kind]
        alike.remove(seat)
        if not alike:
            del self._kinds[seat.kind]
        for claim in seat.claims:
            self._of_model[claim.model_id].discard(node_id)
            if not self._of_model[claim.model_id]:
                del self._of_model[claim.model_id]
            self._priorities[claim.priority] -= 1
            if not self._priorities[claim.priority]:
                del self._priorities[claim.priority]

    def cache(self, node_id: NodeId, digests: Collection[str]) -> None:
        """The artefacts whose files the node has, instead of what was known of them."""
        for digest in self._cached.get(node_id, ()):
            self._caching[digest].discard(node_id)
            if not self._caching[digest]:
                del self._caching[digest]
        self._cached[node_id] = frozenset(digests)
        for digest in digests:
            self._caching[digest].add(node_id)

    def seat(self, node_id: NodeId) -> Seat | None:
        """The node, if it is known."""
        return self._seats.get(node_id)

    def seats(self, node_ids: Iterable[NodeId]) -> AbstractSet[Seat]:
        """Those of the nodes that are known."""
        return {self._seats[each] for each in node_ids if each in self._seats}

    def apart(self, model_id: ModelId, digest: str) -> Sequence[AbstractSet[Seat] | None]:
        """The nodes in the order in which a model comes to them before all else; None stands for all the others.

        First those that have its files and do not run it, then the others, then those that run it once, twice, ...
        """
        running = self.seats(self._of_model.get(model_id, ()))
        caching = self.seats(self._caching.get(digest, ())) - running
        times = defaultdict[int, set[Seat]](set)
        for seat in running:
            times[seat.replicas(model_id)].add(seat)
        return [*([caching] if caching else []), None, *(times[each] for each in sorted(times))]

    def has_files(self, node_id: NodeId, model_id: ModelId, digest: str) -> bool:
        """Whether the node has the model's files already, as far as is known."""
        return node_id in self._of_model.get(model_id, ()) or node_id in self._caching.get(digest, ())
