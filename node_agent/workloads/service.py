"""All workloads of this machine: what is wanted of them, what they are, and how they outlive the agent."""

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from mesh.errors import DomainError
from mesh.failpoints import failpoint
from mesh.loops import run_loop
from node_agent.journal.journal import Journal, JournalWriteError
from node_agent.runtime.model import Marked, Runtime, RuntimeReadiness, Usage
from node_agent.runtime.output import trim_log
from node_agent.workloads.adapters import AdapterKeeper
from node_agent.workloads.launcher import Launcher
from node_agent.workloads.loads import Loads
from node_agent.workloads.model import (
    Acknowledgement,
    Container,
    Decision,
    DesiredState,
    DesiredStateGapError,
    Goal,
    Patience,
    Record,
    Report,
    StaleEpochError,
    WorkloadId,
    WorkloadKey,
    WorkloadSpec,
    WorkloadStatus,
)
from node_agent.workloads.record import record_from_json, record_to_json
from node_agent.workloads.replica import Replica, Surroundings

log = logging.getLogger(__name__)

# A container engine that is away cannot end anything; an agent that ends does not wait for it for ever.
_LAST_WAIT = timedelta(seconds=10)


class Workloads:
    """Use from one event loop; `run` must be running for anything to happen."""

    def __init__(
        self,
        launcher: Launcher,
        runtime: Runtime,
        journal: Journal,
        report: Report,
        owner: str,
        patience: Patience,
        adapters: AdapterKeeper,
        loads: Loads,
    ) -> None:
        self._launcher, self._runtime, self._journal, self._owner = launcher, runtime, journal, owner
        self._around = Surroundings(launcher, runtime, report, self._save, self._finished, patience, adapters)
        self._loads = loads
        self._replicas: dict[WorkloadKey, Replica] = {}
        self._tasks: dict[WorkloadKey, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None
        self.revision = 0

    async def adopt(self) -> None:
        """Takes up what an earlier agent left running. Call once, before `run`."""
        document = self._journal.load()
        self.revision = int((document or {}).get("revision", 0))
        for each in (document or {}).get("workloads", ()):
            record = record_from_json(each)
            if record.process and not await self._runtime.adopt(record.process.instance):
                log.warning("workload %s ended while no agent was watching", record.spec.key)
            self._add(record)
        known = {replica.record.process.instance for replica in self._replicas.values() if replica.record.process}
        for marked in await self._runtime.marked(self._owner):
            if marked.instance not in known:
                await self._take_up(marked)

    async def run(self) -> None:
        """Drives every workload until cancelled; processes go on."""
        async with asyncio.TaskGroup() as self._group:
            for replica in self._replicas.values():
                self._drive(replica)
            self._group.create_task(run_loop("loads", self._hear, interval=self._around.patience.load_interval))
            self._group.create_task(self._runtime.watch())
            self._group.create_task(run_loop("tidying", self._tidy, interval=self._around.patience.tidy_interval))
            await run_loop("logs", self._trim_logs, interval=self._around.patience.log_interval)

    async def apply(self, desired: DesiredState, decisions: Sequence[Decision] | None = None) -> list[Acknowledgement]:
        """Takes on the desired state; a change that is late or came before does nothing.

        With `decisions` it is the one that opens a session: the truth, even where it is older than what is known.
        Raises DesiredStateGapError when an earlier change is missing.
        """
        opening = decisions is not None
        if not opening and desired.revision <= self.revision:
            return []
        if not desired.snapshot and not opening and desired.base_revision > self.revision:
            raise DesiredStateGapError(
                f"the change is one to revision {desired.base_revision}, but {self.revision} is the last one here"
            )
        answers = [self._want(spec, desired.revision) for spec in desired.workloads]
        if desired.snapshot or opening:
            adopted = {each.key for each in decisions or () if each.adopt}
            self._end_all_but(adopted | {spec.key for spec in desired.workloads}, desired.revision)
        self.revision = desired.revision
        self._around.permit.set()
        await failpoint("agent.wanted")
        await self._save()
        await failpoint("agent.recorded")
        return [each for each in answers if each.request_id]

    def runtimes(self) -> RuntimeReadiness:
        """What can run workloads now."""
        return self._runtime.readiness()

    def images(self) -> Mapping[str, str]:
        """The images that this node's settings name, by engine."""
        return self._launcher.images()

    def statuses(self) -> list[WorkloadStatus]:
        """What there is to say of every workload now."""
        return [replica.status() for replica in self._replicas.values()]

    async def containers(self) -> list[Container]:
        """Every workload as it runs now, with what it takes."""
        return await asyncio.to_thread(self._measure, [replica.container() for replica in self._replicas.values()])

    def log_path(self, workload_id: WorkloadId) -> Path | None:
        """The log of the workload, also for a while after its end; None when there never was one here."""
        path = self._launcher.log_path(WorkloadKey(workload_id, 0))
        return path if path.exists() else None

    async def stop_all(self) -> None:
        """Ends everything at once, without draining; what is wanted stays remembered. Call after `run` has ended."""
        limit = self._around.patience.stop_grace + _LAST_WAIT
        try:
            async with asyncio.timeout(limit.total_seconds()):
                await asyncio.gather(*(replica.stop_process() for replica in self._replicas.values()))
        except TimeoutError:
            left = [str(key) for key, replica in self._replicas.items() if replica.record.process]
            log.error("after %s these still run, and are left: %s", limit, ", ".join(left))

    async def _take_up(self, marked: Marked) -> None:
        """Matches a process that the journal does not know; one that fits nowhere is left alone."""
        recognised = self._launcher.recognise(marked)
        if recognised is None or not await self._runtime.adopt(marked.instance):
            log.warning(
                "process %d (%s) is none of the known workloads; it is left alone", marked.instance.pid, marked.mark
            )
            return
        key, process = recognised
        known = self._replicas.get(key)
        if known is None:
            log.warning("workload %s runs as process %d without a journal entry; taken up", key, process.instance.pid)
            self._add(Record(WorkloadSpec(key, process.epoch, Goal.RUN), process))
        elif known.record.process is None:
            known.record = replace(known.record, process=process)
        else:
            log.warning("workload %s runs twice; process %d is left alone", key, process.instance.pid)

    def _want(self, spec: WorkloadSpec, revision: int) -> Acknowledgement:
        replica = self._replicas.get(spec.key)
        try:
            if replica is None:
                self._add(Record(spec), revision)
            elif spec.epoch < replica.record.spec.epoch:
                raise StaleEpochError(
                    f"epoch {spec.epoch} of {spec.key} is over; {replica.record.spec.epoch} is known here"
                )
            else:
                replica.want(spec, revision)
        except DomainError as error:
            log.warning("refused: %s", error.message)
            return Acknowledgement(spec.request_id, error.message)
        return Acknowledgement(spec.request_id)

    def _end_all_but(self, keys: Iterable[WorkloadKey], revision: int) -> None:
        for key in self._replicas.keys() - set(keys):
            replica = self._replicas[key]
            log.info("workload %s is not wanted any more", key)
            replica.want(replace(replica.record.spec, goal=Goal.END, drain=timedelta()), revision)

    def _add(self, record: Record, revision: int = 0) -> None:
        replica = Replica(record, self._around, revision)
        self._replicas[record.spec.key] = replica
        if self._group:
            self._drive(replica)

    def _drive(self, replica: Replica) -> None:
        assert self._group is not None
        self._tasks[replica.record.spec.key] = self._group.create_task(replica.run())

    async def _finished(self, replica: Replica) -> None:
        key = replica.record.spec.key
        del self._replicas[key]
        task = self._tasks.pop(key)
        await self._save()
        task.cancel()

    def _measure(self, containers: Sequence[Container]) -> list[Container]:
        return [
            replace(
                each,
                memory_mb=usage.memory_mb,
                cpu_percent=usage.cpu_percent,
                load=self._loads.of(each.record.spec.key),
            )
            for each in containers
            for usage in (self._runtime.usage(each.record.process.instance) if each.record.process else Usage(),)
        ]

    async def _hear(self) -> None:
        """Asks the engines how busy they are."""
        processes = ((key, each.record.process) for key, each in self._replicas.items())
        await self._loads.step([(key, process) for key, process in processes if process])

    async def _trim_logs(self) -> None:
        """Whatever an engine writes, it never fills the disk."""
        for key in list(self._replicas):
            await asyncio.to_thread(trim_log, self._launcher.log_path(key), self._around.patience.log_keep_bytes)

    async def _tidy(self) -> None:
        """Once the controller has said what it wants, whatever else is left of this node's is nobody's."""
        await self._around.permit.wait()
        images = {replica.record.spec.image for replica in self._replicas.values()}
        await self._runtime.tidy(images | set(self._launcher.images().values()))

    async def _save(self) -> None:
        records = [record_to_json(replica.record) for replica in self._replicas.values()]
        try:
            await self._journal.save({"revision": self.revision, "workloads": records})
        except JournalWriteError as error:
            # Serving goes on: a process is also known by the mark it carries.
            log.error("%s", error.message)
