"""What the agent shows on /metrics."""

from collections import Counter
from collections.abc import Iterable

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from node_agent.cache.service import ModelCache
from node_agent.session.client import SessionClient
from node_agent.session.statuses import StatusQueue
from node_agent.workloads.service import Workloads


def show(meter: Meter, session: SessionClient, workloads: Workloads, statuses: StatusQueue, cache: ModelCache) -> None:
    """Registers the gauges."""

    def open_sessions(_: CallbackOptions) -> Iterable[Observation]:
        yield Observation(int(session.open))

    def present(_: CallbackOptions) -> Iterable[Observation]:
        counts = Counter(status.state.value for status in workloads.statuses())
        return [Observation(count, {"state": state}) for state, count in counts.items()]

    def waiting(_: CallbackOptions) -> Iterable[Observation]:
        yield Observation(len(statuses))

    def fetched(_: CallbackOptions) -> Iterable[Observation]:
        yield Observation(cache.tally.from_storage, {"source": "storage"})
        yield Observation(cache.tally.from_neighbours, {"source": "nodes"})

    meter.create_observable_counter("aiops.node.model.fetched", [fetched], unit="By", description="Chunks of models.")
    meter.create_observable_gauge("aiops.node.session.open", [open_sessions], description="1 while connected.")
    meter.create_observable_gauge("aiops.node.workloads", [present], description="Workloads by state.")
    meter.create_observable_gauge("aiops.node.statuses.waiting", [waiting], description="Statuses not acknowledged.")
