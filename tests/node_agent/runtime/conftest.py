"""Both runtimes, each with what a test needs to look at it from outside."""

import asyncio
import contextlib
import shutil
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
from docker import APIClient

from mesh.clock import SystemClock
from node_agent.runtime.docker.container import MARK, OWNER, Limits
from node_agent.runtime.docker.engine import DockerEngine
from node_agent.runtime.docker.images import ImageRules, Images
from node_agent.runtime.docker.runtime import DockerRuntime
from node_agent.runtime.model import Containment, Instance, Launch, Runtime
from node_agent.runtime.process import MARK as PROCESS_MARK
from node_agent.runtime.process import ProcessRuntime
from tests.fakes.eventually import eventually
from tests.fixtures.docker_engine import IMAGE_TIMEOUT_S

PROGRAM = Path(__file__).parents[2] / "fakes" / "program.py"
USER = 10_001


@dataclass
class Bench:
    """A runtime as one agent has it. `restart` leaves what runs alone, as an agent does that dies."""

    directory: Path
    owner: str
    runtime: Runtime
    watching: "asyncio.Task[None]"
    started: list[Instance] = field(default_factory=list)

    def launch(self, *words: str, name: str = "w", **changes: object) -> Launch:
        """A launch of the test program."""
        work = self.directory / name / "work"
        if not work.exists():
            work.mkdir(parents=True)
            shutil.copy(PROGRAM, work)
            work.chmod(0o777)
        return replace(
            Launch(
                argv=("/usr/bin/python3", "-S", "-E", f"{work}/program.py", *words),
                environment={"PATH": "/usr/bin:/bin", "GREETING": "hello"},
                directory=work,
                log=self.directory / name / "engine.log",
                mark=f"{self.owner}{name}/0/1/custom/0",
            ),
            **changes,  # type: ignore[arg-type]
        )

    async def start(self, *words: str, name: str = "w", **changes: object) -> Instance:
        instance = await self.runtime.start(self.launch(*words, name=name, **changes))
        self.started.append(instance)
        return instance

    async def until_logged(self, text: str, name: str = "w") -> str:
        """The log once it holds the text."""
        log = self.directory / name / "engine.log"

        async def there() -> bool:
            return log.exists() and text in log.read_text()

        await eventually(there, 20)
        return log.read_text()

    async def restart(self) -> None:
        """Another agent takes over; the earlier one has died."""
        await self._end_watching()
        self.runtime = self.another()
        self.watching = asyncio.create_task(self.runtime.watch())

    async def close(self) -> None:
        for instance in self.started:
            await self.runtime.adopt(instance)
            await self.runtime.stop(instance, timedelta())
        await self._end_watching()

    async def _end_watching(self) -> None:
        self.watching.cancel()
        await asyncio.gather(self.watching, return_exceptions=True)

    def another(self) -> Runtime:
        raise NotImplementedError

    def running(self) -> Sequence[str]:
        """The marks of all that runs, seen without the runtime."""
        raise NotImplementedError

    def left(self) -> Sequence[str]:
        """The marks of all that is left of anything, running or not."""
        return self.running()


class ProcessBench(Bench):
    def another(self) -> Runtime:
        return ProcessRuntime()

    def running(self) -> Sequence[str]:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                mark = process.environ().get(PROCESS_MARK, "")
                if mark.startswith(self.owner) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(mark)
        return found


@dataclass
class DockerBench(Bench):
    client: APIClient | None = None
    url: str = ""
    image: str = ""
    unique: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    engines: list[DockerEngine] = field(default_factory=list)

    def launch(self, *words: str, name: str = "w", **changes: object) -> Launch:
        bounds: dict[str, object] = {each: changes.pop(each) for each in ("memory_mb", "ports") if each in changes}
        launch = super().launch(*words, name=name, **changes)
        box = Containment(self.image, f"aiops-{self.unique}-{name}", "127.0.0.1")
        box = replace(box, writable=(launch.directory,), **bounds)  # type: ignore[arg-type]
        return replace(launch, containment=launch.containment or box)

    def another(self) -> Runtime:
        self.engines.append(DockerEngine(self.url))
        engine = self.engines[-1]
        images = Images(engine, self.directory / "images.json", ImageRules(("*",)), SystemClock())
        return DockerRuntime(engine, images, self.owner, Limits(f"{USER}:{USER}", pids=64))

    def running(self) -> Sequence[str]:
        return self._marks(every=False)

    def left(self) -> Sequence[str]:
        return self._marks(every=True)

    def _marks(self, *, every: bool) -> Sequence[str]:
        assert self.client is not None
        found = self.client.containers(all=every, filters={"label": f"{OWNER}={self.owner}"})
        return [each["Labels"][MARK] for each in found]

    async def close(self) -> None:
        await super().close()
        for engine in self.engines:
            engine.close()


@pytest.fixture
async def process_bench(tmp_path: Path) -> AsyncIterator[ProcessBench]:
    """The runtime of processes."""
    runtime = ProcessRuntime()
    bench = ProcessBench(tmp_path, f"{tmp_path}#", runtime, asyncio.create_task(runtime.watch()))
    yield bench
    await bench.close()


@pytest.fixture
async def docker_bench(
    tmp_path: Path, docker_url: str, docker_client: APIClient, base_image: str
) -> AsyncIterator[DockerBench]:
    """The runtime of containers on a real Docker Engine."""
    bench = docker_bench_of(tmp_path, docker_url, docker_client, base_image)
    yield bench
    await bench.close()


def docker_bench_of(directory: Path, url: str, client: APIClient, image: str) -> DockerBench:
    """A bench on any Engine."""
    directory.chmod(0o755)
    nothing = asyncio.create_task(asyncio.sleep(0))
    bench = DockerBench(directory, f"{directory}#", ProcessRuntime(), nothing, client=client, url=url, image=image)
    bench.runtime = bench.another()
    bench.watching = asyncio.create_task(bench.runtime.watch())
    return bench


@pytest.fixture(
    params=["process", pytest.param("docker", marks=pytest.mark.timeout(IMAGE_TIMEOUT_S))],
)
def bench(request: pytest.FixtureRequest) -> Bench:
    """Each runtime in turn."""
    found: Bench = request.getfixturevalue(f"{request.param}_bench")
    return found
