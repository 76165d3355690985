"""Keeps the node's Envoy running and tells it what it may lead to."""

import asyncio
import hashlib
import json
import logging
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path

from mesh.clock import Clock
from mesh.loops import Backoff, Wake, run_loop
from node_agent.runtime.model import Instance, Launch, LaunchError, Runtime
from node_agent.runtime.output import trim_log
from node_agent.tunnel import admin, config
from node_agent.tunnel.files import write_document
from node_agent.tunnel.model import Ends, Engine, Report, State

log = logging.getLogger(__name__)

LOOK = timedelta(seconds=2)
LOOK_SOON = timedelta(milliseconds=200)
GRACE = timedelta(seconds=3)
# A run that lasted so long is no failure.
STABLE_S = 30.0
LOG_KEEP_BYTES = 1024 * 1024
LAST_WORDS = 300


class Tunnel:
    """One Envoy for one node. It outlives the agent, as engines do; the next agent takes it up again.

    `engines` answers what may be reached through it now; `wake` hints that this has changed.
    """

    def __init__(
        self,
        home: Path,
        ends: Ends,
        program: Path,
        runtime: Runtime,
        engines: Callable[[], Iterable[Engine]],
        clock: Clock,
    ) -> None:
        self._home, self._directory, self._ends, self._program = home, home / "tunnel", ends, program
        self._runtime, self._engines, self._clock = runtime, engines, clock
        self._backoff = Backoff(timedelta(milliseconds=200), timedelta(seconds=10))
        self._instance: Instance | None = None
        self._others: list[Instance] = []
        self._failures = 0
        self._version = ""
        self._published: frozenset[Engine] | None = None
        self.wake = Wake()
        self.report = Report(gateway_address=ends.gateway_address)

    @property
    def log_path(self) -> Path:
        """What Envoy says."""
        return self._directory / "envoy.log"

    @property
    def runs(self) -> bool:
        """Whether there is an Envoy of this tunnel, as far as is known."""
        return self._instance is not None

    async def adopt(self) -> None:
        """Takes up an Envoy that an earlier agent left running with the same start-up file. Call once, before `run`."""
        owner = self._mark("")
        for marked in await self._runtime.marked(owner):
            if not await self._runtime.adopt(marked.instance):
                continue
            if marked.mark == self._mark(self._fingerprint()) and self._instance is None:
                log.info("the node's Envoy goes on as process %d", marked.instance.pid)
                self._instance = marked.instance
            else:
                self._others.append(marked.instance)

    async def run(self) -> None:
        """Keeps it until cancelled; Envoy goes on."""
        self._prepare()
        await self._publish()
        async with asyncio.TaskGroup() as group:
            group.create_task(run_loop("tunnel", self._keep, interval=timedelta(0)))
            group.create_task(run_loop("tunnel's routes", self._look, interval=LOOK, wake=self.wake))

    async def stop(self) -> None:
        """Ends Envoy. Call after `run` has ended."""
        if self._instance is not None:
            await self._runtime.stop(self._instance, GRACE)
            self._instance = None

    async def _keep(self) -> timedelta | None:
        """One life of Envoy; how long to wait before the next."""
        while self._others:
            log.info("the node's Envoy starts anew, because its start-up file is another one now")
            await self._runtime.stop(self._others[-1], GRACE)
            self._others.pop()
        began = self._clock.monotonic()
        try:
            instance = self._instance or await self._start()
        except LaunchError as error:
            return self._failed(error.message)
        self._instance = instance
        self.wake.set()
        ended = await self._runtime.wait(instance)
        self._runtime.forget(instance)
        self._instance = None
        if self._clock.monotonic() - began > STABLE_S:
            self._failures = 0
        return self._failed(f"Envoy {ended}{self._last_words()}")

    async def _start(self) -> Instance:
        options = ("--disable-hot-restart", "--concurrency", "1", "--log-level", "warning")
        launch = Launch(
            argv=(str(self._program), "--config-path", str(self._directory / config.BOOTSTRAP), *options),
            environment={},
            directory=self._directory,
            log=self.log_path,
            mark=self._mark(self._fingerprint()),
        )
        # A socket that a killed Envoy left would be in the way.
        (self._directory / config.ADMIN).unlink(missing_ok=True)
        return await self._runtime.start(launch)

    def _failed(self, error: str) -> timedelta:
        self._failures += 1
        pause = self._backoff.pause(self._failures)
        log.error("the tunnel is down: %s; next try in %.1f s", error, pause.total_seconds())
        self.report = self._reported(State.FAILED, error=error)
        return pause

    async def _look(self) -> timedelta | None:
        """Publishes what changed and finds out how the tunnel is."""
        await self._publish()
        await asyncio.to_thread(trim_log, self.log_path, LOG_KEEP_BYTES)
        if self._instance is None:
            return LOOK_SOON
        self._version = self._version or await admin.version(self._directory)
        open_now = await admin.connections(self._directory)
        before = self.report.state
        if open_now:
            self.report = self._reported(State.CONNECTED, connections=open_now)
        elif before is not State.STARTING and before is not State.FAILED:
            self.report = self._reported(State.DISCONNECTED, error=f"{self._ends.gateway_address} cannot be reached")
        if self.report.state is not before:
            log.info("the tunnel to %s is %s", self._ends.gateway_address, self.report.state)
        return LOOK if open_now else LOOK_SOON

    async def _publish(self) -> None:
        """Clusters first: a route to a cluster that is not there yet would refuse requests."""
        engines = frozenset(self._engines())
        if engines == self._published:
            return
        both = ((config.CLUSTERS, config.clusters), (config.ROUTES, config.routes))
        for name, render in both if self._published is None or engines - self._published else reversed(both):
            await asyncio.to_thread(write_document, self._directory / name, render(self._ends, engines))
        self._published = engines

    def _prepare(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_document(self._directory / config.BOOTSTRAP, config.bootstrap(self._ends, self._directory))
        certificate, key, authority = (self._home / name for name in ("node.crt", "node.key", "ca.crt"))
        write_document(self._directory / config.IDENTITY, config.identity(certificate, key))
        write_document(self._directory / config.TRUST, config.trust(authority))

    def _reported(self, state: State, *, error: str = "", connections: int = 0) -> Report:
        return Report(state, self._version, error, connections, self._ends.gateway_address)

    def _mark(self, fingerprint: str) -> str:
        # Not below the mark of workloads: nobody shall take it for one.
        return f"{self._home}!tunnel:{fingerprint}"

    def _fingerprint(self) -> str:
        """Of all that an Envoy is started with: another one means another start."""
        built = json.dumps(config.bootstrap(self._ends, self._directory), sort_keys=True)
        program = self._program.stat()
        return hashlib.sha256(f"{built}{self._program}{program.st_size}{program.st_mtime_ns}".encode()).hexdigest()[:16]

    def _last_words(self) -> str:
        try:
            said = self.log_path.read_text(errors="replace").splitlines()
        except OSError:
            return ""
        lines = [line for line in said if "[critical]" in line]
        return f": {lines[-1][-LAST_WORDS:]}" if lines else ""
