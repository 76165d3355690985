"""A real engine with the demo model behind the real gateway: what a client of either sees."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import httpx
from aiops.routing.v1 import routing_service_pb2 as routing

from mesh.loops import Wake
from node_agent.engines.engine import LaunchPlan, Probe
from node_agent.engines.prepare import prepare
from node_agent.workloads.probe import missing_of
from tests.fakes.eventually import LOOK_EVERY
from tests.fixtures.edge import ORG, Edge
from tools.demo_model.gguf import converted

NAME = "demo"
START_S = 300.0
# The demo model's own template, and one sentence for the tools.
TOOLS = "{% if tools %}<|system|>{{ tools | tojson }} <tool_call><|end|>{% endif %}"


@dataclass
class Served:
    """The engine called `engine`, as its launch plan says, on `port` and behind `edge`."""

    engine: str
    plan: LaunchPlan
    port: int
    edge: Edge
    direct: httpx.AsyncClient
    process: asyncio.subprocess.Process
    route: routing.ModelRoute

    def behaves(self, behaviour: str) -> bool:
        """Whether the page of engines says that this one does."""
        return declared()[behaviour][self.engine]

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def chat(self, text: str = "Hello!", **fields: Any) -> httpx.Response:
        """A chat through the gateway, with the likeliest tokens unless asked otherwise."""
        return await self.edge.client.post(
            "/v1/chat/completions", json=self._body(text, fields), headers=self.edge.bearer(), timeout=120
        )

    async def raw_chat(self, text: str = "Hello!", **fields: Any) -> httpx.Response:
        """The same, past the gateway."""
        return await self.direct.post("/v1/chat/completions", json=self._body(text, fields))

    async def stream(self, text: str = "Hello!", **fields: Any) -> list[str]:
        """What each event of a stream holds."""
        answer = await self.chat(text, stream=True, **fields)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = answer.text.split("\n")
        assert all(line.startswith("data: ") for line in lines if line.strip()), answer.text
        return [line.removeprefix("data: ").strip() for line in lines if line.strip()]

    def declares(self, path: str) -> bool:
        """Whether the plan says that the engine ignores the field."""
        return any(each.path == path for each in self.plan.unsupported_fields)

    def _body(self, text: str, fields: dict[str, Any]) -> dict[str, Any]:
        messages = [{"role": "user", "content": text}]
        return {"model": NAME, "messages": messages, "temperature": 0, "max_tokens": 12, **fields}


@cache
def declared() -> dict[str, dict[str, bool]]:
    """The table of docs/engines.md: by behaviour and engine, whether it is so."""
    page = (Path(__file__).parents[2] / "docs" / "engines.md").read_text()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("|")]
    engines = rows[0][1:]
    return {row[0]: {name: cell == "yes" for name, cell in zip(engines, row[1:], strict=True)} for row in rows[2:]}


def tool_model(demo_model: Path, directory: Path) -> Path:
    """The demo model with a chat template that knows tools."""
    directory.mkdir()
    for file in demo_model.iterdir():
        if file.name != "chat_template.jinja":
            (directory / file.name).symlink_to(file)
    template = (demo_model / "chat_template.jinja").read_text()
    (directory / "chat_template.jinja").write_text(template.replace("{{ bos_token }}", "{{ bos_token }}" + TOOLS))
    return directory


def tool_gguf(model: Path, directory: Path) -> Path:
    """That model as a GGUF file, which holds its template; answers the directory that it is alone in."""
    directory.mkdir()
    (directory / "demo.gguf").write_bytes(converted(model))
    return directory


@asynccontextmanager
async def serving(engine: str, plan: LaunchPlan, port: int, edge: Edge) -> AsyncIterator[Served]:
    """The engine, running and routed."""
    async with running(plan) as process, httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=120) as direct:
        await until_ready(plan, process)
        target = routing.Target(
            deployment_id="dep-1",
            instance_id="one",
            node_id="node-1",
            address="127.0.0.1",
            port=port,
            inference_path=plan.inference_path,
            weight=1,
            private_paths=plan.private_paths,
            single_use_connections=plan.single_use_connections,
        )
        refused = [
            routing.RefusedField(path=each.path, harmless_values=each.harmless_values)
            for each in plan.unsupported_fields
        ]
        route = routing.ModelRoute(org_id=ORG, model=NAME, targets=[target], refused_fields=refused)
        await edge.route(route)
        served = Served(engine, plan, port, edge, direct, process, route)

        async def is_routed() -> bool:
            # Of one token: what is said without a limit may take a busy machine minutes.
            return (await served.chat(max_tokens=1)).status_code == 200

        await edge.until(is_routed, seconds=60)
        try:
            yield served
        finally:
            # A test may have put another process in its place.
            await end(served.process)


@asynccontextmanager
async def running(plan: LaunchPlan) -> AsyncIterator[asyncio.subprocess.Process]:
    """The plan's process, which is ended with all that it started."""
    process = await started(plan)
    try:
        yield process
    finally:
        await end(process)


async def started(plan: LaunchPlan) -> asyncio.subprocess.Process:
    """The plan's process, on its way."""
    prepare(plan)
    with log_of(plan).open("wb") as log:
        return await asyncio.create_subprocess_exec(
            *plan.argv, env=dict(plan.env), cwd=plan.cwd, stdout=log, stderr=log
        )


async def end(process: asyncio.subprocess.Process) -> None:
    """Ends a process; one that has ended stays so."""
    if process.returncode is not None:
        return
    process.terminate()
    try:
        await asyncio.wait_for(process.wait(), 20)
    except TimeoutError:
        process.kill()
        await process.wait()


async def until_ready(plan: LaunchPlan, process: asyncio.subprocess.Process) -> None:
    """Waits until the plan's process serves."""
    for probe in (plan.health, plan.ready):
        await until_answered(probe, process, plan)


def log_of(plan: LaunchPlan) -> Path:
    """Where the process writes."""
    return plan.cwd / "engine.log"


async def until_answered(probe: Probe, process: asyncio.subprocess.Process, plan: LaunchPlan) -> None:
    """Waits until the engine answers as it should; says why it does not."""
    missing = "it was not asked yet"
    try:
        async with asyncio.timeout(START_S):
            while missing := await missing_of(probe):
                assert process.returncode is None, log_of(plan).read_text()[-4000:]
                await Wake().wait(LOOK_EVERY)
    except TimeoutError as error:
        said = log_of(plan).read_text()[-4000:]
        raise AssertionError(f"the engine was not ready within {START_S:.0f} s: {missing}\n{said}") from error


def chunks(events: list[str]) -> list[dict[str, Any]]:
    """The stream's pieces, without its end."""
    return [json.loads(event) for event in events if event != "[DONE]"]


def text_of(events: list[str]) -> str:
    """What the stream says."""
    pieces = (choice["delta"] for chunk in chunks(events) for choice in chunk["choices"])
    return "".join(piece.get("content") or "" for piece in pieces)
