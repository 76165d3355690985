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

import httpx

from mesh.loops import Wake
from tests.fakes.eventually import LOOK_EVERY
from tests.robustness.checkers import chats, convergence, limits, linearizable, mutations, outbox
from tests.robustness.cluster import Cluster
from tests.robustness.final import Final, newest_event, read_final
from tests.robustness.history import History, Operation, of
from tests.robustness.member import Member
from tests.robustness.samples import Samples, sampling
from tests.robustness.tap import Tap, listening
from tests.robustness.traffic import DEADLINE_S, STEADY, Traffic, running

REPORTS = Path(os.environ.get("AIOPS_ROBUSTNESS_REPORTS", "/tmp/aiops-robustness-reports"))


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
    converge_s: float = 30.0
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
    chance: random.Random

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

    def violations(self, final: Final) -> list[str]:
        """What the checkers say."""
        operations, records = self.history.operations, self.tap.records
        return [
            *mutations.acknowledged_is_final(operations, final),
            *mutations.final_was_attempted(operations, final),
            *mutations.effects_once(operations, final),
            *outbox.published_is_committed(final, records),
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
) -> AsyncIterator[Scenario]:
    """Runs the block under traffic, heals, waits until all is quiet, and raises AssertionError with every violation."""
    clients, report = load or Load(), _report(name, seed)
    async with AsyncExitStack() as stack:
        history = stack.enter_context(History(report / "history.jsonl"))
        traffic = Traffic(cluster.url, cluster.token, history, f"{name}-{time.time_ns():x}", seed)
        rest = await stack.enter_async_context(traffic.client())
        tap = await stack.enter_async_context(listening(cluster.kafka))
        samples = await stack.enter_async_context(sampling(cluster))
        since, chance = newest_event(cluster.postgres), random.Random(seed)  # noqa: S311 - repeatable
        now = Scenario(cluster, seed, history, traffic, tap, samples, rest, expect or Expectations(), since, chance)
        try:
            async with running(
                traffic, deployers=clients.deployers, chatters=clients.chatters, importers=clients.importers
            ):
                yield now
                await asyncio.to_thread(cluster.heal)
            await _judge(now, report)
        except BaseException:
            _keep(cluster, now, report)
            raise
    shutil.rmtree(report)


async def _judge(now: Scenario, report: Path) -> None:
    began, final = time.monotonic(), None
    while time.monotonic() - began < now.expect.converge_s:
        final = await read_final(now.cluster, now.rest, now.since)
        if not now.unsettled(final):
            break
        await Wake().wait(LOOK_EVERY * 5)
    assert final is not None
    found = now.violations(final)
    (report / "final.json").write_text(json.dumps(asdict(final), indent=1))
    if found:
        waited = time.monotonic() - began
        text = "\n".join(dict.fromkeys(found))
        (report / "violations.txt").write_text(text + "\n")
        raise AssertionError(f"{waited:.0f} s after healing:\n{text}\nseed {now.seed}; everything is in {report}")


def _report(name: str, seed: int) -> Path:
    report = REPORTS / f"{name}-{seed}-{os.getpid()}"
    shutil.rmtree(report, ignore_errors=True)
    report.mkdir(parents=True)
    return report


def _keep(cluster: Cluster, now: Scenario, report: Path) -> None:
    """What a reader of a failure wants beside the history: events, samples and logs."""
    (report / "events.json").write_text(json.dumps(now.tap.as_json(), indent=1))
    (report / "samples.json").write_text(json.dumps(now.samples.as_json()))
    shutil.copytree(cluster.home.logs, report / "logs", dirs_exist_ok=True)
