"""`aiops demo`: two nodes, one model, two replicas, four ways to chat, a killed agent, the events of it all."""

import asyncio
import contextlib
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
from aiokafka.errors import KafkaError

from stack.demo.clients import Client, read_events, run_aiops
from stack.demo.platform import Platform, demo_model, running
from stack.demo.story import DemoFailedError, Story, expect
from stack.engine_environment import DEFAULT_CACHE, EngineEnvironmentError, ensure_engine_environment
from stack.enrollment import ADMIN_EMAIL
from stack.home import Home, Snapshot
from stack.service import Report
from stack.settings import admin_password, demo_environment, demo_home

MODEL = "demo"
QUESTION = "What is a node?"
TOPICS = ["aiops.nodes.v1", "aiops.models.v1", "aiops.deployments.v1"]
NODES_TIMEOUT_S = 30.0
DEPLOY_TIMEOUT_S = 240.0
CHATS_AFTER_KILL = 20


async def run() -> None:
    """Show the platform. Raises DemoFailedError at the first step that does not hold."""
    from openai import OpenAIError

    story = Story()
    try:
        await _tell(story)
    except (httpx.HTTPError, grpc.RpcError, OpenAIError, KafkaError, EngineEnvironmentError) as error:
        raise DemoFailedError(f"{type(error).__name__}: {error}") from error
    story.say(f"everything held, in {story.seconds:.0f} s; nothing left running")


async def _tell(story: Story) -> None:
    with _home() as home:
        story.say(f"aiops demo in {home.root}")
        with story.step("engine environment"):
            await asyncio.to_thread(_prepare_engine, story)
        environment = demo_environment(home.root)
        async with running(home, environment, nodes=2) as platform:
            await _show(story, platform, environment)


async def _show(story: Story, platform: Platform, environment: dict[str, str]) -> None:
    with story.step("stack healthy") as step:
        state = await platform.healthy(story.awaits)
        step.tell(*(_line(report) for report in state.services))
    async with httpx.AsyncClient(timeout=60) as rest:
        client = await Client.login(state.url, ADMIN_EMAIL, admin_password(platform.home.admin_password), rest)
        nodes = await _nodes(story, client)
        await _model(story, environment)
        await _replicas(story, client, nodes)
        await _chats(story, client)
        await _killed_agent(story, client, platform, nodes[0])
        await _events(story, state)
    await _stopped(story, platform)


async def _nodes(story: Story, client: Client) -> list[dict[str, Any]]:
    with story.step("two nodes registered and online") as step:
        answer = await client.until(
            "/nodes", lambda page: [node["status"] for node in page["nodes"]] == ["online"] * 2, NODES_TIMEOUT_S
        )
        nodes: list[dict[str, Any]] = sorted(answer["nodes"], key=lambda node: str(node["name"]))
        step.tell(*(f"{node['name']}  {node['nodeId']}  {node['cpuCores']} cores, {_gpus(node)}" for node in nodes))
    return nodes


async def _model(story: Story, environment: dict[str, str]) -> None:
    with story.step("model imported by the command line") as step:
        answer = await run_aiops(environment, "models", "import", str(demo_model()), "--name", MODEL)
        model = answer["model"]
        step.tell(f"{model['name']}  {model['modelId']}  {model['metadata']['parameters']:,.0f} parameters")


async def _replicas(story: Story, client: Client, nodes: list[dict[str, Any]]) -> None:
    with story.step("two replicas running on two nodes") as step:

        def awaits(deployment: dict[str, Any]) -> None:
            story.awaits(_progress(deployment))

        made = [await client.post("/deployments", {"modelId": MODEL, "nodeId": node["nodeId"]}) for node in nodes]
        paths = [f"/deployments/{deployment['deploymentId']}" for deployment in made]
        settled = [await client.until(path, _settled, DEPLOY_TIMEOUT_S, awaits) for path in paths]
        for deployment in settled:
            expect(deployment["status"] == "running", f"{deployment['errorMessage']}\n{deployment.get('logTail', '')}")
            step.tell(f"{deployment['nodeId']}  {deployment['engine']}  {deployment['endpoint']}")
        expect(len({deployment["nodeId"] for deployment in settled}) == len(nodes), "the replicas share a node")


async def _chats(story: Story, client: Client) -> None:
    with story.step("chat through REST") as step:
        step.tell(_quote(await client.chat_rest(MODEL, QUESTION)))
    with story.step("chat through a gRPC stub") as step:
        step.tell(_quote(await client.chat_grpc(MODEL, QUESTION)))
    with story.step("chat through the OpenAI SDK") as step:
        step.tell(_quote(await client.chat_openai(MODEL, QUESTION)))
    with story.step("chat through the OpenAI SDK, streamed") as step:
        pieces = await client.chat_openai_streamed(MODEL, QUESTION)
        expect(len(pieces) > 1, f"the stream came in {len(pieces)} pieces")
        step.tell(f"{_quote(''.join(pieces))} in {len(pieces)} pieces")


async def _killed_agent(story: Story, client: Client, platform: Platform, node: dict[str, Any]) -> None:
    with story.step("an agent killed with SIGKILL, the chat still answered") as step:
        path, name = f"/nodes/{node['nodeId']}/containers", str(node["name"])
        before = await client.until(path, _engines, NODES_TIMEOUT_S)
        killed = await platform.kill_agent(name)
        answers = [await client.chat_rest(MODEL, QUESTION) for _ in range(CHATS_AFTER_KILL)]
        expect(all(answers), "an answer was empty")
        step.tell(f"agent of {name} was pid {killed}; {len(answers)} of {CHATS_AFTER_KILL} chats answered")
        pid = await platform.back(name, killed)
        after = await client.until(path, _engines, NODES_TIMEOUT_S)
        expect(_engines(after) == _engines(before), f"the engine was started anew: {before} became {after}")
        step.tell(f"the agent is back as pid {pid}; its engine is still pid {_engines(after)[0]}")


async def _events(story: Story, state: Snapshot) -> None:
    with story.step("events read back from Kafka") as step:
        events = await read_events(state.service("broker").address, TOPICS)
        told = [event for event in events if event.type == "system.deploymentStatus"]
        running = {event.key for event in told if event.value["status"] == "running"}
        expect(len(running) == 2, f"{len(running)} deployments are said to run in {len(events)} events")
        counts = Counter(f"{event.topic}  {event.type}" for event in events)
        step.tell(*(f"{name}  × {count}" for name, count in sorted(counts.items())))


async def _stopped(story: Story, platform: Platform) -> None:
    with story.step("stopped, nothing left running") as step:
        processes = await platform.stop()
        remains = platform.remains(processes)
        expect(not remains, f"left behind: {', '.join(remains)}")
        step.tell(f"{len(processes)} processes ended, no socket, no listener")


def _prepare_engine(story: Story) -> Path:
    return ensure_engine_environment(DEFAULT_CACHE, lambda line: story.say(f"      {line}"))


def _engines(answer: dict[str, Any]) -> list[int]:
    """The process ids of what runs on a node."""
    return [container["pid"] for container in answer["containers"] if container["pid"]]


def _settled(deployment: dict[str, Any]) -> bool:
    return str(deployment["status"]) != "deploying"


def _progress(deployment: dict[str, Any]) -> str:
    doing = deployment.get("phase") or "not yet taken up by its node"
    return f"{deployment['deploymentId']} is {doing}, {deployment.get('progress', 0)} %"


def _line(report: Report) -> str:
    return f"{report.name:<18} {report.address:<24} {f'pid {report.pid}' if report.pid else ''}".rstrip()


def _gpus(node: dict[str, Any]) -> str:
    return ", ".join(gpu["model"] for gpu in node.get("gpuDevices", ())) or "no GPU"


def _quote(text: str) -> str:
    expect(text.strip(), "the answer is empty")
    return f"“{' '.join(text.split())}”"


@contextlib.contextmanager
def _home() -> Iterator[Home]:
    """$AIOPS_HOME where it is set; else one that goes away afterwards."""
    chosen = demo_home()
    if chosen is not None:
        yield Home(chosen)
        return
    directory = Path(tempfile.mkdtemp(prefix="aiops-demo-"))
    try:
        yield Home(directory / "home")
    finally:
        shutil.rmtree(directory, ignore_errors=True)
