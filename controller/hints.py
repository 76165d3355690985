"""Hints that something changed, inside one controller and to the others; who misses one finds out by polling."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mesh.loops import Wake

_REPLICAS = "replicas"
_FLEET = "fleet"
_SETS = "sets"
_ROUTES = "routes"
_CREDENTIALS = "credentials"
_CROWD = "crowd"
_ROLLOUTS = "rollouts"
_LOADS = "loads"
_QUOTAS = "quotas"


class Hints:
    """Who waits for what. A hint is given after the commit, carries nothing, and may be lost.

    `tell_others` takes each hint as a word that another controller's `hear` understands.
    """

    def __init__(self) -> None:
        self.tell_others: Callable[[str], None] = lambda _: None
        self._waiting: defaultdict[tuple[str, str], set[Wake]] = defaultdict(set)
        # How often somebody told of a crowd of nodes at their door.
        self.crowds = 0

    def node_changed(self, node_id: str) -> None:
        """The desired state of a node changed, or the node was removed."""
        self._wake(("node", node_id))

    def replicas_changed(self) -> None:
        """The instances that may receive traffic changed."""
        self._wake((_REPLICAS, ""))

    def fleet_changed(self) -> None:
        """A node came or went, or room was made on one."""
        self._wake((_FLEET, ""))

    def sets_changed(self) -> None:
        """Something else is wanted of a replica set."""
        self._wake((_SETS, ""))

    def routes_changed(self) -> None:
        """A route was made, changed or deleted."""
        self._wake((_ROUTES, ""))

    def credentials_changed(self) -> None:
        """A credential was made, rotated or deleted."""
        self._wake((_CREDENTIALS, ""))

    def rollouts_changed(self) -> None:
        """Somebody made, paused, resumed or aborted a rollout."""
        self._wake((_ROLLOUTS, ""))

    @contextmanager
    def watching_rollouts(self) -> Iterator[Wake]:
        """A wake of the watcher's own for rollouts."""
        with self._watching((_ROLLOUTS, "")) as wake:
            yield wake

    def loads_changed(self) -> None:
        """Requests wait for a model that sleeps."""
        self._wake((_LOADS, ""))

    @contextmanager
    def watching_loads(self) -> Iterator[Wake]:
        """A wake of the watcher's own for requests that wait."""
        with self._watching((_LOADS, "")) as wake:
            yield wake

    def quotas_changed(self) -> None:
        """A quota was made, changed or deleted, or one is spent."""
        self._wake((_QUOTAS, ""))

    @contextmanager
    def watching_quotas(self) -> Iterator[Wake]:
        """A wake of the watcher's own for quotas."""
        with self._watching((_QUOTAS, "")) as wake:
            yield wake

    def crowd(self) -> None:
        """Nodes wait here for their sessions: that they are not heard is no outage of theirs."""
        self._wake((_CROWD, ""))

    @contextmanager
    def watching_credentials(self) -> Iterator[Wake]:
        """A wake of the watcher's own for credentials."""
        with self._watching((_CREDENTIALS, "")) as wake:
            yield wake

    @contextmanager
    def watching_node(self, node_id: str) -> Iterator[Wake]:
        """A wake of the watcher's own for one node."""
        with self._watching(("node", node_id)) as wake:
            yield wake

    @contextmanager
    def watching_replicas(self) -> Iterator[Wake]:
        """A wake of the watcher's own for the instances that may receive traffic."""
        with self._watching((_REPLICAS, "")) as wake:
            yield wake

    @contextmanager
    def watching_routes(self) -> Iterator[Wake]:
        """A wake of the watcher's own for where requests may go: routes, instances that may receive traffic, quotas."""
        with self._watching((_ROUTES, ""), (_REPLICAS, ""), (_QUOTAS, "")) as wake:
            yield wake

    @contextmanager
    def watching_fleet(self) -> Iterator[Wake]:
        """A wake of the watcher's own for nodes that come and go and for room on them."""
        with self._watching((_FLEET, "")) as wake:
            yield wake

    @contextmanager
    def watching_sets(self) -> Iterator[Wake]:
        """A wake of the watcher's own for all that replica sets depend on: wishes, replicas and the fleet."""
        with self._watching((_SETS, ""), (_REPLICAS, ""), (_FLEET, "")) as wake:
            yield wake

    def hear(self, word: str) -> None:
        """A hint of another controller."""
        name, _, subject = word.partition(" ")
        self._wake_here((name, subject))

    def _wake(self, topic: tuple[str, str]) -> None:
        self._wake_here(topic)
        self.tell_others(" ".join(topic))

    def _wake_here(self, topic: tuple[str, str]) -> None:
        self.crowds += topic[0] == _CROWD
        for wake in self._waiting.get(topic, ()):
            wake.set()

    @contextmanager
    def _watching(self, *topics: tuple[str, str]) -> Iterator[Wake]:
        wake = Wake()
        for topic in topics:
            self._waiting[topic].add(wake)
        try:
            yield wake
        finally:
            for topic in topics:
                self._waiting[topic].discard(wake)
                if not self._waiting[topic]:
                    del self._waiting[topic]
