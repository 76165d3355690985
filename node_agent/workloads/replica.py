"""One replica of a workload, driven from what is to what should be, however often it is asked."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from typing import Any

from mesh.errors import DomainError
from mesh.failpoints import failpoint
from mesh.loops import Backoff, Wake, run_loop
from node_agent.engines.engine import FailureReason
from node_agent.runtime.model import Ended, Runtime, RuntimeAwayError
from node_agent.workloads.adapters import RETRY, AdapterKeeper
from node_agent.workloads.condition import Condition, News
from node_agent.workloads.judgement import exit_code, judge
from node_agent.workloads.launcher import Launcher, Prepared
from node_agent.workloads.model import (
    AdapterStatus,
    Container,
    Event,
    Failure,
    Goal,
    Health,
    NeverReadyError,
    Patience,
    Process,
    Record,
    Report,
    State,
    WorkloadAdapter,
    WorkloadSpec,
    WorkloadStatus,
)
from node_agent.workloads.watch import ProcessWatch

log = logging.getLogger(__name__)

_IDLE = timedelta(minutes=1)
_AT_ONCE = timedelta(0)
_SLOW = Backoff(RETRY)
_RUNTIME_PAUSE = timedelta(seconds=2)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a replica works with. `permit` is open once the controller has said what it wants."""

    launcher: Launcher
    runtime: Runtime
    report: Report
    save: Callable[[], Awaitable[None]]
    finished: Callable[["Replica"], Awaitable[None]]
    patience: Patience
    adapters: AdapterKeeper
    permit: asyncio.Event = field(default_factory=asyncio.Event)


class Replica:
    """Runs as one task; `want` tells it what should be, at any time."""

    def __init__(self, record: Record, around: Surroundings, revision: int = 0) -> None:
        self.record = record
        self._around = around
        self._revision = revision
        self._condition = Condition(record, around.report)
        self._wake, self._adapters_changed = Wake(), Wake()
        self._scope: asyncio.Timeout | None = None
        around.launcher.hold(record.spec.artifact)
        if record.process:
            around.launcher.reserve_ports(record.spec.key, record.process.ports)

    def want(self, spec: WorkloadSpec, revision: int) -> None:
        """Takes on a specification of the same epoch or a newer one; work under way for another goal is cut short."""
        before, self._revision = self.record.spec, revision
        self._around.launcher.hold(spec.artifact)
        self._around.launcher.release(before.artifact)
        self.record = replace(self.record, spec=spec)
        if spec.epoch > before.epoch:
            self.record = replace(self.record, restarts=0, failures=0, failure=None)
        if (spec.epoch, spec.goal) != (before.epoch, before.goal):
            if self._scope:
                self._scope.reschedule(asyncio.get_running_loop().time())
            self._wake.set()
        if spec.adapters != before.adapters:
            self._adapters_changed.set()

    @property
    def wanted_adapters(self) -> tuple[WorkloadAdapter, ...]:
        """The LoRA adapters that its engine should have."""
        return self.record.spec.adapters

    def adapted(self, statuses: tuple[AdapterStatus, ...]) -> None:
        """Tells which adapters its engine has, unless that is known."""
        if statuses != self.record.adapters:
            self.record = replace(self.record, adapters=statuses)
            self._around.report(self.status())

    async def run(self) -> None:
        """Drives the replica until cancelled."""
        await run_loop(f"workload {self.record.spec.key}", self._step, interval=_IDLE, wake=self._wake)

    def status(self) -> WorkloadStatus:
        """What there is to say now, without an event."""
        return self._condition.status(self.record, self._revision)

    def container(self) -> Container:
        """The replica as it runs now, without its usage."""
        return self._condition.container(self.record)

    async def stop_process(self) -> Ended | None:
        """Ends the process, if there is one, without draining."""
        process = self.record.process
        if process is None:
            return None
        ended = await self._around.runtime.stop(process.instance, self._around.patience.stop_grace)
        self._drop(process)
        await self._around.save()
        return ended

    async def _step(self) -> timedelta | None:
        spec, process = self.record.spec, self.record.process
        if process and process.epoch < spec.epoch:
            # A newer epoch is wanted: what runs is of no use to anybody.
            ended = await self.stop_process()
            news = News(State.STOPPED, event=Event.STOPPED, process=process, exit_code=exit_code(ended))
            self._tell(news)
        try:
            async with asyncio.timeout(None) as self._scope:
                if spec.goal is Goal.RUN:
                    return await self._run()
                last = await self._end(spec)
        except TimeoutError:
            if self._scope is None or not self._scope.expired():
                raise
            return _AT_ONCE
        finally:
            self._scope = None
        return await self._finish(spec, last)

    async def _run(self) -> timedelta | None:
        if self.record.failure:
            return None
        try:
            process = await self._known(self.record.process) if self.record.process else await self._start()
            ended = await self._watch(process)
        except NeverReadyError as error:
            await self._give_up(error)
            return None
        except RuntimeAwayError as error:
            failure = Failure(self.record.spec.epoch, f"{error.message}. It starts when that is back.", error.reason)
            self._tell(News(State.STARTING, failure=failure))
            return _RUNTIME_PAUSE
        except DomainError as error:
            await self._fail(Failure(self.record.spec.epoch, error.message, error.reason))
            return None
        except (OSError, ValueError) as error:
            log.exception("workload %s cannot be started", self.record.spec.key)
            await self._fail(Failure(self.record.spec.epoch, f"It cannot start on this node: {error}", "INTERNAL"))
            return None
        return await self._ended(ended)

    async def _start(self) -> Process:
        await self._around.permit.wait()
        prepared = await self._around.launcher.prepare(self.record.spec, self._tell_phase)
        await failpoint("launch.prepared")
        await _carried_through(self._spawn(prepared))
        process = self.record.process
        assert process is not None
        await self._around.save()
        await failpoint("launch.recorded")
        self._tell(News(State.STARTING, 10, event=Event.STARTED))
        return process

    async def _spawn(self, prepared: Prepared) -> None:
        process = await self._around.launcher.spawn(prepared)
        self.record = replace(self.record, process=process, adapters=())
        await failpoint("launch.spawned")

    async def _known(self, process: Process) -> Process:
        """The process with its facts; one found without its record has none until its specification is here."""
        if process.facts is None:
            await self._around.permit.wait()
            process = await asyncio.to_thread(self._around.launcher.describe, process, self.record.spec)
            self.record = replace(self.record, process=process)
        return process

    async def _watch(self, process: Process) -> Ended:
        """Until it has ended. Raises NeverReadyError."""
        watch = ProcessWatch(process, self._around.runtime, self._around.patience)
        if not process.ready:
            ended = await watch.until_ready(lambda: self._tell_phase(State.STARTING, 60))
            if ended:
                return ended
            self.record = replace(self.record, process=replace(process, ready=True))
            # Saved before it is told: an agent that dies in between must not come back knowing less.
            await self._around.save()
            await failpoint("launch.ready")
            self._tell(News(State.RUNNING, 100, Health.HEALTHY))
        async with asyncio.TaskGroup() as group:
            keeping = group.create_task(self._keep_adapters(process))
            ended = await watch.until_ended(self._healthy, self._stable)
            keeping.cancel()
        return ended

    async def _keep_adapters(self, process: Process) -> None:
        """Until cancelled."""
        key, around = self.record.spec.key, self._around
        if self.record.spec.options.max_adapters:
            step = partial(around.adapters.step, self, process, around.launcher.adapter_directory(key))
            await run_loop(f"adapters of {key}", step, interval=_IDLE, wake=self._adapters_changed, backoff=_SLOW)

    def _healthy(self, health: Health) -> None:
        self._tell(News(State.RUNNING, 100, health))

    def _stable(self) -> None:
        self.record = replace(self.record, failures=0)

    async def _ended(self, ended: Ended) -> timedelta | None:
        """The process is gone though it should run: another try after a pause, or failure."""
        process, limit = self.record.process, self._around.patience.restart_limit
        assert process is not None
        tail = self._around.launcher.tail(self.record.spec.key, process.log_start)
        diagnosis = self._around.launcher.diagnose(process, ended.code, tail, self.record.spec.image)
        event, failure = judge(process, ended, diagnosis, tail)
        self._drop(process)
        failures = self.record.failures + 1
        self.record = replace(self.record, failures=failures)
        if failures > limit or _hopeless(failure, self.record.spec):
            await self._fail(failure, event, process)
            return None
        self.record = replace(self.record, restarts=self.record.restarts + 1)
        failure = replace(failure, error=f"{failure.error} Starting it again ({failures} of {limit}).")
        log.warning("workload %s: %s", self.record.spec.key, failure.error)
        pause = self._around.patience.restart_pause.pause(failures)
        self._tell(
            News(
                State.STARTING,
                event=event,
                process=process,
                failure=failure,
                exit_code=failure.exit_code,
                next_attempt=pause,
            )
        )
        await self._around.save()
        return pause

    async def _give_up(self, error: NeverReadyError) -> None:
        process = self.record.process
        assert process is not None
        tail = self._around.launcher.tail(self.record.spec.key, process.log_start)
        diagnosis = self._around.launcher.diagnose(process, None, tail, self.record.spec.image)
        message = f"{error.message}: {diagnosis.message}. {diagnosis.suggestion}" if diagnosis else error.message
        await self.stop_process()
        await self._fail(Failure(process.epoch, message, diagnosis.reason if diagnosis else error.reason, tail))

    async def _fail(self, failure: Failure, event: Event = Event.NONE, process: Process | None = None) -> None:
        log.error("workload %s failed: %s", self.record.spec.key, failure.error)
        self.record = replace(self.record, failure=failure)
        await self._around.save()
        self._tell(News(State.FAILED, event=event, process=process, failure=failure, exit_code=failure.exit_code))

    async def _end(self, spec: WorkloadSpec) -> News:
        """Lets running answers finish and ends the process."""
        process = self.record.process
        if process and process.ready:
            watch = ProcessWatch(process, self._around.runtime, self._around.patience)
            await watch.for_at_most(spec.drain)
        ended = await self.stop_process()
        event = Event.STOPPED if process else Event.NONE
        return News(State.STOPPED, event=event, process=process, exit_code=exit_code(ended))

    async def _finish(self, spec: WorkloadSpec, last: News) -> timedelta | None:
        """Clears up, which nothing cuts short; says so, unless the workload is wanted anew by then."""
        try:
            await asyncio.to_thread(self._around.launcher.clean, spec.key, self._around.patience.log_keep_bytes)
        except OSError:
            log.exception("cannot clear up after workload %s", spec.key)
        self._tell(last)
        if self.record.spec is not spec:
            return _AT_ONCE
        self._around.launcher.release(spec.artifact)
        await self._around.finished(self)
        return None

    def _drop(self, process: Process) -> None:
        self._around.runtime.forget(process.instance)
        self.record = replace(self.record, process=None)

    def _tell_phase(self, state: State, progress: int, detail: str = "") -> None:
        self._tell(News(state, progress, detail=detail))

    def _tell(self, news: News) -> None:
        self._condition.tell(self.record, self._revision, news)


async def _carried_through(work: Coroutine[Any, Any, None]) -> None:
    """Awaits `work`, which comes to its end also when whoever awaits it is cut short: a start must not be lost."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.gather(task, return_exceptions=True)
        raise


def _hopeless(failure: Failure, spec: WorkloadSpec) -> bool:
    """Whether starting again would change nothing. A port that the node chose may only have been lost in a race."""
    if failure.reason == FailureReason.PORT_IN_USE:
        return spec.port != 0
    return failure.reason in {FailureReason.NOT_A_MODEL, FailureReason.ENGINE_UNAVAILABLE}
