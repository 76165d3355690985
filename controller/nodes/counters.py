"""What heartbeats say that engines counted since they started: told on only when it is new."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Protocol

from controller.nodes.model import Container, NodeId

# Whole numbers are exact up to here; what counts higher counts nonsense.
_LARGEST = float(2**53)


@dataclass(frozen=True, slots=True)
class EngineCount:
    """What an engine has counted since `started_at`, None where its node does not say when that was.

    What it does not count is None.
    """

    node_id: NodeId
    deployment_id: str
    epoch: int
    started_at: datetime | None
    input_tokens: int | None
    output_tokens: int | None
    requests: int | None


class CounterStore(Protocol):
    async def count(self, said: Sequence[EngineCount], now: datetime) -> None:
        """Adds what the counters grew by to the day of `now`. Does not commit."""
        ...


Said = Sequence[tuple[NodeId, Sequence[EngineCount]]]


class CounterMemory:
    """What was written last of each node's engines, so that one which did nothing since costs no statement.

    The first of a day is written in any case: it says that the engine was heard on that day.
    """

    def __init__(self) -> None:
        self._kept: dict[NodeId, tuple[date, Sequence[EngineCount]]] = {}

    def forget(self, node_id: NodeId) -> None:
        """The node's session is over here."""
        self._kept.pop(node_id, None)

    def new(self, said: Said, now: datetime) -> Sequence[EngineCount]:
        """What of this was not written today."""
        today = now.astimezone(UTC).date()
        return [each for node_id, counts in said for each in counts if not self._written(node_id, each, today)]

    def keep(self, said: Said, now: datetime) -> None:
        """It is written now."""
        today = now.astimezone(UTC).date()
        self._kept.update({node_id: (today, counts) for node_id, counts in said})

    def _written(self, node_id: NodeId, count: EngineCount, today: date) -> bool:
        day, counts = self._kept.get(node_id, (None, ()))
        return day == today and count in counts


def counts_of(node_id: NodeId, containers: Sequence[Container]) -> list[EngineCount]:
    """The counters of a node's engines, of those that have some."""
    found = []
    for each in containers:
        load = each.engine_load
        if load is None or not each.workload_id or not (load.counts_tokens or load.counts_requests):
            continue
        tokens = (load.prompt_tokens, load.generated_tokens) if load.counts_tokens else ()
        requests = (load.requests,) if load.counts_requests else ()
        if not all(0 <= number <= _LARGEST for number in (*tokens, *requests)):
            continue
        found.append(
            EngineCount(
                node_id=node_id,
                deployment_id=each.workload_id,
                epoch=each.epoch,
                started_at=each.started_at,
                input_tokens=int(load.prompt_tokens) if tokens else None,
                output_tokens=int(load.generated_tokens) if tokens else None,
                requests=int(load.requests) if requests else None,
            )
        )
    return found
