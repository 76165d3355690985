"""How busy the engines of this machine are, asked of each at a steady rate and remembered for the next heartbeat."""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import replace

from mesh.clock import Clock
from node_agent.engines.engine import Probe
from node_agent.engines.live import EngineLoad, Gauges
from node_agent.workloads.model import Process, WorkloadKey
from node_agent.workloads.probe import ask

# An engine that takes longer to say how it is says nothing this time.
PATIENCE_S = 2.0
# What was heard so long ago says nothing of now.
STALE_S = 20.0


class Loads:
    """Asks each running engine once a step, all at the same time; nobody waits for a slow one but the next step."""

    def __init__(self, by_engine: Mapping[str, Gauges], clock: Clock) -> None:
        self._by_engine = by_engine
        self._clock = clock
        self._heard: dict[WorkloadKey, tuple[float, EngineLoad]] = {}

    async def step(self, running: Iterable[tuple[WorkloadKey, Process]]) -> None:
        """Hears what the engines that run now say of themselves."""
        asked = {key: process for key, process in running if process.ready and process.engine in self._by_engine}
        answers = await asyncio.gather(*(self._ask(process) for process in asked.values()))
        kept = {key: each for key, each in self._heard.items() if key in asked}
        fresh = {key: (self._clock.monotonic(), load) for key, load in zip(asked, answers, strict=True) if load}
        self._heard = kept | fresh

    def of(self, key: WorkloadKey) -> EngineLoad | None:
        """What the workload's engine said last; None when it said nothing lately."""
        when, load = self._heard.get(key, (0.0, None))
        return load if load and self._clock.monotonic() - when < STALE_S else None

    async def _ask(self, process: Process) -> EngineLoad | None:
        gauges = self._by_engine[process.engine]
        origin = process.readiness.health_url.rpartition("/")[0]
        request: Probe = replace(gauges.request(origin), timeout_s=PATIENCE_S)
        try:
            status, answer = await ask(request)
        except (OSError, TimeoutError, ValueError):
            return None
        return gauges.load(answer) if status == 200 else None
