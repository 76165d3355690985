"""One scenario: traffic, a fault, healing, quiet, then the checkers; what it saw is kept when one of them objects."""

import asyncio
import json
import os
import random
import shutil
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import grpc
import httpx
from aiops.iam.v1 import auth_service_pb2
from aiops.iam.v1.auth_service_pb2_grpc import AuthServiceStub
from aiops.nodes.v1 import node_service_pb2
from aiops.nodes.v1.node_service_pb2_grpc import NodeServiceStub

from mesh.loops import Wake
from tests.fakes.eventually import LOOK_EVERY
from tests.fakes.model_files import Files
from tests.robustness.checkers import chats, convergence, limits, linearizable, mutations, outbox
from tests.robustness.cluster import API, PASSWORD, Cluster
from tests.robustness.database import locked
from tests.robustness.final import Final, newest_event, query, read_final
from tests.robustness.history import History, Operation, of
from tests.robustness.member import Member
from tests.robustness.samples import Samples, sampling
from tests.robustness.tap import Heard, Tap, listening
from tests.robustness.traffic import DEADLINE_S, STEADY, WORK, Traffic, running

REPORTS = Path(os.environ.get("AIOPS_ROBUSTNESS_REPORTS", "/tmp/aiops-robustness-reports"))


WHOLE_S = 30.0
# The nodes that do not serve.
LACKING = """SELECT coalesce(json_agg(n.name || ' is ' || n.status), '[]') FROM nodes n WHERE n.deleted_at IS NULL AND
(n.status <> 'online' OR NOT EXISTS (SELECT FROM deployments d
WHERE d.node_id = n.node_id AND d.model_name = :'steady' AND d.status = 'running'))"""


@dataclass
class Load:
    """How many clients there are."""

    deployers: int = 2
    chatters: int = 2
    importers: int = 0


@dataclass
class Expectations:
    """What the checkers are to allow: failed chats, a pause between answers, the time to heal, and caps."""

    failed_chats: int = 0
    chat_pause_s: float = 5.0
    converge_s: float = 60.0
    caps: limits.Caps = field(default_factory=limits.Caps)


@dataclass
class Scenario:
    """What a test works with while its fault lasts."""

    cluster: Cluster
    seed: int
    history: History
    traffic: Traffic
    tap: Tap
    samples: Samples
    rest: httpx.AsyncClient
    expect: Expectations
    since: int
    # When the scenario began, by the database's clock.
    began: str
    # The ids of all earlier events.
    before: set[str]
    chance: random.Random
    deployed: int = 0

    def choose(self, members: Sequence[Member]) -> Member:
        """The victim that the seed chooses next; the history has its name."""
        chosen = self.chance.choice(members)
        self.history.note("victim", member=chosen.name)
        return chosen

    async def until(self, what: str, check: Callable[[], object], within_s: float) -> float:
        """Waits until something holds; how long it took. AssertionError saying what did not come about."""
        began = time.monotonic()
        last: object = None
        while time.monotonic() - began < within_s:
            answer = check()
            last = await answer if asyncio.iscoroutine(answer) else answer
            if last:
                return time.monotonic() - began
            await Wake().wait(LOOK_EVERY)
        raise AssertionError(f"waited {within_s:.0f} s for {what}; last seen: {last!r}")

    async def start(self, member: Member, **environment: str) -> None:
        """Starts a member and waits until it works, while the traffic goes on; one that runs is killed before."""
        await asyncio.to_thread(member.restart, **environment)

    async def revive(self, member: Member) -> None:
        """Starts a member if the fault has ended it."""
        if not member.alive:
            await self.start(member)

    async def deploy(self, name: str, node: str = "", files: Files | None = None) -> str:
        """Imports a small model where it is missing and deploys it, on a certain node or on any; the id."""
        deployment_id = await self.try_deploy(name, node, files)
        assert deployment_id, self.history.operations[-1]
        return deployment_id

    async def try_deploy(self, name: str, node: str = "", files: Files | None = None) -> str:
        """The same; nothing when it is refused."""
        if name != WORK:
            assert (await self.traffic.import_model("test", name, files)).result == "ok", self.history.operations[-1]
        self.deployed += 1
        body = {"modelId": name, "requestId": f"{self.traffic.name}-{name}-{self.deployed}"}
        if node:
            body["nodeId"] = await self.node_id(node)
        with self.history.operation("test", "create", request_id=body["requestId"]) as operation:
            answer = await self.rest.post("/deployments", json=body)
            if answer.status_code == 200:
                operation.done("ok", deployment_id=answer.json()["deploymentId"])
            elif answer.status_code < 500:
                operation.done("fail", error=answer.text)
        return str(operation.value.get("deployment_id", ""))

    async def stop(self, deployment_id: str) -> None:
        """Stops a deployment."""
        with self.history.operation("test", "stop", deployment_id=deployment_id) as operation:
            answer = await self.rest.delete(f"/deployments/{deployment_id}")
            assert answer.status_code == 200, answer.text
            operation.done("ok")

    def sessions(self) -> dict[str, int]:
        """The epoch of each node's session."""
        return {name: int(self.node_row(name)["session_epoch"]) for name in self.cluster.node_names}

    async def invite(self, name: str) -> node_service_pb2.RegisterNodeResponse:
        """A new node, with its join token."""
        answer = await self.rest.post("/nodes", json={"name": name})
        assert answer.status_code == 200, answer.text
        return node_service_pb2.RegisterNodeResponse(join_token=answer.json()["joinToken"])

    async def remove_node(self, node_id: str) -> bool:
        """Whether the node is gone by now, with all that it has."""
        try:
            answer = await self.rest.delete(f"/nodes/{node_id}", params={"force": True})
        except httpx.HTTPError:
            return False
        return answer.status_code in {200, 404}

    async def sign_in(self, controller: Member) -> str:
        """An access token of the first user, from a certain controller."""
        assert controller.machine is not None
        async with grpc.aio.insecure_channel(f"{controller.machine.address}:{API}") as channel:
            request = auth_service_pb2.LoginRequest(email="admin@localhost", password=PASSWORD)
            return str((await AuthServiceStub(channel).Login(request, timeout=DEADLINE_S)).tokens.access_token)

    async def is_taken(self, token: str) -> bool:
        """Whether the first controller takes a token."""
        assert self.cluster.controller.machine is not None
        async with grpc.aio.insecure_channel(f"{self.cluster.controller.machine.address}:{API}") as channel:
            call = NodeServiceStub(channel).ListNodes(
                node_service_pb2.ListNodesRequest(), metadata=[("authorization", f"Bearer {token}")], timeout=DEADLINE_S
            )
            return bool(await call.code() == grpc.StatusCode.OK)

    @asynccontextmanager
    async def crowd_behind_a_lock(self, callers: int) -> AsyncIterator[None]:
        """Two tables are locked, and so many callers want to read them; the block ends the lock."""
        async with asyncio.TaskGroup() as group, locked(self.cluster.postgres, "deployments", "nodes"):
            # Calls that ask for the same share one reading.
            for size in range(1, callers + 1):
                group.create_task(self._look(size))
            yield

    async def _look(self, page_size: int) -> None:
        with self.history.operation("onlooker", "list") as operation:
            try:
                answer = await self.rest.get("/deployments", params={"pageSize": page_size})
                operation.done("ok" if answer.status_code == 200 else "fail", status=answer.status_code)
            except httpx.HTTPError as error:
                operation.done("fail", error=repr(error))

    def node_row(self, name: str) -> dict[str, Any]:
        """A node as it is stored."""
        found = query(
            self.cluster.postgres,
            "SELECT to_json(n) FROM nodes n WHERE name = :'name' AND deleted_at IS NULL",
            name=name,
        )
        assert isinstance(found, dict)
        return found

    async def deployment(self, deployment_id: str) -> dict[str, Any]:
        """A deployment as the API shows it."""
        found: dict[str, Any] = (await self.rest.get(f"/deployments/{deployment_id}")).json()
        return found

    async def has_status(self, deployment_id: str, status: str) -> bool:
        """Whether the deployment has the status."""
        return bool((await self.deployment(deployment_id)).get("status") == status)

    def told(self, kind: str, key: str = "") -> list[dict[str, Any]]:
        """The events of a kind that were heard since the scenario began, each once; of one entity or of all."""
        return list({e.event_id: e.value for e in self.fresh() if e.type == kind and key in {"", e.key}}.values())

    def fresh(self) -> list[Heard]:
        """What was heard since the scenario began."""
        return [each for each in self.tap.records if each.event_id not in self.before]

    async def go_on(self, seconds: float) -> None:
        """Lets the traffic go on for a while: until chats are answered that began so much later."""
        moment = time.monotonic() + seconds

        def came() -> bool:
            return any(each.call > moment for each in self.history.operations if each.op == "chat")

        await self.until(f"chats that began {seconds} s from now", came, seconds + DEADLINE_S * 2)

    def acknowledged(self) -> list[Operation]:
        """The changes that were answered with success so far."""
        return [each for each in of(self.history.operations, "create", "stop", "import") if each.result == "ok"]

    def one_more_acknowledged(self) -> Callable[[], bool]:
        """A check that holds once a change that is not acknowledged yet is."""
        before = len(self.acknowledged())
        return lambda: len(self.acknowledged()) > before

    async def node(self, name: str) -> dict[str, object]:
        """A node as the API shows it."""
        answer = await self.rest.get("/nodes")
        found: dict[str, object] = next(each for each in answer.json()["nodes"] if each["name"] == name)
        return found

    async def node_id(self, name: str) -> str:
        """The id of a node."""
        return str((await self.node(name))["nodeId"])

    async def node_is(self, name: str, *statuses: str) -> bool:
        """Whether the API answers, and says that the node has one of the statuses."""
        try:
            return (await self.node(name))["status"] in statuses
        except (httpx.HTTPError, KeyError, ValueError):
            return False

    async def engines(self, node: str, model: str = STEADY) -> dict[int, str]:
        """The marks of the processes that serve a model on a node, by pid."""
        page = (await self.rest.get(f"/deployments?modelId={model}&pageSize=1000")).json()
        ids = {each["deploymentId"] for each in page.get("deployments", ())}
        home = f"{self.cluster.home.node(node)}#"
        marks = {pid: mark for pid, mark in self.cluster.engines().items() if mark.startswith(home)}
        return {pid: mark for pid, mark in marks.items() if mark.removeprefix(home).split("/")[0] in ids}

    def violations(self, final: Final, earlier: int) -> list[str]:
        """What the checkers say; `earlier` records were heard before the final state was read."""
        operations, records = self.history.operations, self.tap.records
        return [
            *mutations.acknowledged_is_final(operations, final),
            *mutations.final_was_attempted(operations, final),
            *mutations.effects_once(operations, final),
            *outbox.published_is_committed(final, records, earlier),
            *outbox.keys_keep_their_order(final, records),
            *linearizable.deployments_are_registers(operations),
            *chats.answers_go_on(operations, allowed=self.expect.failed_chats, pause_s=self.expect.chat_pause_s),
            *chats.epochs_only_grow(operations),
            *chats.one_instance_at_a_time(operations),
            *limits.within_caps(self.samples, self.expect.caps),
            *limits.calls_end(operations, DEADLINE_S),
            *self.unsettled(final),
        ]

    def unsettled(self, final: Final) -> list[str]:
        """What has not come to rest yet."""
        waiting = [row for row in final.outbox if not row["published_at"]]
        unheard = {row["event_id"] for row in final.outbox} - self.tap.ids()
        return [
            *([f"{len(waiting)} events wait"] if waiting else []),
            *([f"{len(unheard)} events were not heard"] if unheard else []),
            *convergence.desired_is_observed(final),
            *convergence.nothing_is_left_over(final),
        ]


@asynccontextmanager
async def scenario(
    cluster: Cluster,
    seed: int,
    name: str,
    *,
    load: Load | None = None,
    expect: Expectations | None = None,
    reports: Path = REPORTS,
    judged: bool = True,
) -> AsyncIterator[Scenario]:
    """Runs the block under traffic, heals, waits until all is quiet, and raises AssertionError with every violation."""
    clients, report = load or Load(), _report(reports, name, seed)
    async with AsyncExitStack() as stack:
        history = stack.enter_context(History(report / "history.jsonl"))
        traffic = Traffic(cluster.url, cluster.token, history, f"{name}-{time.time_ns():x}", seed)
        rest = await stack.enter_async_context(traffic.client())
        await traffic.clear()
        await _until_whole(cluster)
        tap = await stack.enter_async_context(listening(cluster.kafka))
        samples = await stack.enter_async_context(sampling(cluster))
        began = str(query(cluster.postgres, "SELECT to_json(now())"))
        before = set(query(cluster.postgres, "SELECT coalesce(json_agg(event_id), '[]') FROM outbox"))
        since, chance = newest_event(cluster.postgres), random.Random(seed)  # noqa: S311 - repeatable
        now = Scenario(
            cluster, seed, history, traffic, tap, samples, rest, expect or Expectations(), since, began, before, chance
        )
        try:
            async with running(
                traffic, deployers=clients.deployers, chatters=clients.chatters, importers=clients.importers
            ):
                yield now
                await asyncio.to_thread(cluster.heal)
            if judged:
                await _judge(now, report)
            else:
                await asyncio.to_thread(cluster.heal)
        except BaseException:
            _keep(cluster, now, report)
            await asyncio.to_thread(cluster.heal)
            raise
    shutil.rmtree(report)


async def _until_whole(cluster: Cluster) -> None:
    """Returns when every node is there and serves the model that is always there; what came before may have hurt it."""
    deadline = time.monotonic() + WHOLE_S
    while lacking := query(cluster.postgres, LACKING, steady=STEADY):
        assert time.monotonic() < deadline, f"after {WHOLE_S:.0f} s the cluster is not whole: {', '.join(lacking)}"
        await Wake().wait(LOOK_EVERY)


async def _judge(now: Scenario, report: Path) -> None:
    began, final, earlier = time.monotonic(), None, 0
    while time.monotonic() - began < now.expect.converge_s:
        earlier = len(now.tap.records)
        final = await read_final(now.cluster, now.rest, now.since, now.began)
        if not now.unsettled(final):
            break
        await Wake().wait(LOOK_EVERY * 5)
    assert final is not None
    found = now.violations(final, earlier)
    (report / "final.json").write_text(json.dumps(asdict(final), indent=1))
    if found:
        waited = time.monotonic() - began
        text = "\n".join(dict.fromkeys(found))
        (report / "violations.txt").write_text(text + "\n")
        raise AssertionError(f"{waited:.0f} s after healing:\n{text}\nseed {now.seed}; everything is in {report}")


def _report(reports: Path, name: str, seed: int) -> Path:
    report = reports / f"{name}-{seed}-{os.getpid()}"
    shutil.rmtree(report, ignore_errors=True)
    report.mkdir(parents=True)
    return report


def _keep(cluster: Cluster, now: Scenario, report: Path) -> None:
    """What a reader of a failure wants beside the history: events, samples and logs."""
    (report / "events.json").write_text(json.dumps(now.tap.as_json(), indent=1))
    (report / "samples.json").write_text(json.dumps(now.samples.as_json()))
    shutil.copytree(cluster.home.logs, report / "logs", dirs_exist_ok=True)
