"""Ten bugs that the platform does not have are planted one by one, and a scenario finds each."""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial

import pytest

from tests.fakes.agent import hello, join
from tests.robustness.checkers import mutations
from tests.robustness.cluster import JOIN, LEASE_S, MESH, Cluster
from tests.robustness.distortion import distortion
from tests.robustness.final import Final, query, read_final
from tests.robustness.history import Operation
from tests.robustness.plants import planted
from tests.robustness.scenario import Expectations, Scenario, scenario
from tests.robustness.test_disk_faults import flip

pytestmark = pytest.mark.timeout(300)

WITHIN_S, SHOWS_S, CALLERS = 40.0, 60.0, 60
# What should have been heard by now.
PUBLISHED = """SELECT coalesce(json_agg(event_id), '[]') FROM outbox
WHERE id > :since AND published_at < now() - interval '3 s'"""
# Who looks for a bug does not wait long for a sound end.
IMPATIENT = Expectations(failed_chats=1000, chat_pause_s=60, converge_s=6)
Trial = Callable[..., AbstractAsyncContextManager[Scenario]]


@pytest.fixture
def trial(small_cluster: Cluster, seed: int, tmp_path_factory: pytest.TempPathFactory) -> Trial:
    """A scenario on the cluster that is made worse; its reports go away with the test."""
    reports = tmp_path_factory.mktemp("reports")
    return partial(scenario, small_cluster, seed, expect=IMPATIENT, reports=reports)


async def test_no_fencing_is_found_by_the_process_that_a_returning_node_keeps(trial: Trial) -> None:
    with pytest.raises(AssertionError, match="which nobody wants"):
        async with trial("planted-fencing") as now:
            deployment_id = await now.deploy("planted-move")
            await now.until("it to run", partial(now.has_status, deployment_id, "running"), WITHIN_S)
            home = (await now.deployment(deployment_id))["nodeId"]
            agent = next(each for each in now.cluster.nodes if now.node_row(each.name)["node_id"] == home)
            await now.start(agent, **planted(agent, "stale_workloads_live_on"))
            with now.cluster.machines[agent.name].silent_to(*now.cluster.controllers):
                await now.until("it to move", partial(has_left, now, deployment_id, home), 2 * WITHIN_S)


async def test_an_answer_before_the_commit_is_found_by_what_is_not_there(trial: Trial) -> None:
    with pytest.raises(AssertionError, match=r"was acknowledged and dep-.* is not there"):
        async with trial("planted-early-answer") as now:
            await worse(now, "acknowledged_before_commit", mutations.acknowledged_is_final)


async def test_an_event_before_the_commit_is_found_by_what_it_tells_of(trial: Trial) -> None:
    with pytest.raises(AssertionError, match="was told of and is not there"):
        async with trial("planted-early-event") as now:
            await worse(
                now,
                "published_before_commit",
                mutations.final_was_attempted,
                AIOPS_FAILPOINTS="commit.before=error:unavailable%30",
            )


async def test_request_ids_that_are_not_looked_up_are_found_by_a_second_deployment(trial: Trial) -> None:
    with pytest.raises(AssertionError, match=r"request .* made \["):
        async with trial("planted-request-ids") as now:
            await worse(
                now, "no_request_ids", mutations.effects_once, AIOPS_FAILPOINTS="commit.done=error:unavailable%30"
            )


async def test_connections_without_a_bound_are_found_by_their_number(trial: Trial) -> None:
    with pytest.raises(AssertionError, match="the database had"):
        async with trial("planted-connections") as now:
            await worse(now, "unbounded_connections")
            async with now.crowd_behind_a_lock(CALLERS):
                most = now.expect.caps.connections
                await now.until("too many connections", lambda: max(now.samples.connections) > most, WITHIN_S)


async def test_tokens_for_somebody_else_are_refused_and_taken_only_with_the_bug(trial: Trial) -> None:
    async with trial("planted-audience", judged=False) as now:
        second = now.cluster.members["ctl-2"]
        await now.start(second, **planted(second, "tokens_for_another_audience"))
        token = await now.sign_in(second)
        assert not await now.is_taken(token)
        await worse(now, "audience_ignored")
        assert await now.is_taken(token)


async def test_an_old_sessions_end_that_counts_for_the_new_is_found_by_the_nodes_state(trial: Trial) -> None:
    async with trial("planted-cleanup", judged=False) as now:
        assert await stays_connected_when_an_old_session_ends(now, "twice")
        await worse(now, "old_session_removes_the_new")
        assert not await stays_connected_when_an_old_session_ends(now, "twice-more")


async def test_liveness_by_the_wall_clock_is_found_by_a_jump(trial: Trial) -> None:
    async with trial("planted-clock", judged=False) as now:
        agent = now.choose(now.cluster.nodes)
        twisted = distortion(now.cluster.directory, agent.name)
        await now.start(agent, **planted(agent, "wall_clock,liveness_by_wall_clock", **twisted.environment))
        session = now.node_row(agent.name)["session_epoch"]
        twisted.set(wall_s=300)
        await now.until("a new session", lambda: now.node_row(agent.name)["session_epoch"] > session, 3 * LEASE_S)
        twisted.set()


async def test_checksums_that_nobody_reads_are_found_by_a_model_that_is_not_what_it_was(trial: Trial) -> None:
    async with trial("planted-checksums", judged=False) as now:
        agent = now.choose(now.cluster.nodes)
        cache = now.cluster.home.node(agent.name) / "cache"
        first = await now.deploy("planted-model", agent.name)
        await now.until("it to run", partial(now.has_status, first, "running"), WITHIN_S)
        agent.kill()
        for blob in (cache / "blobs").iterdir():
            flip(blob)
        await now.start(agent, **planted(agent, "checksums_unread"))
        second = await now.deploy("planted-model-again", agent.name)
        await now.until("it to run", partial(now.has_status, second, "running"), WITHIN_S)
        assert not list((cache / "quarantine").iterdir())


async def test_marks_before_publishing_are_found_by_events_that_nobody_heard(trial: Trial) -> None:
    with pytest.raises(AssertionError, match="counts as published and was never heard"):
        async with trial("planted-marks") as now:
            await worse(now, "marked_before_published", AIOPS_FAILPOINTS="relay.claimed=error:unavailable%50")
            await now.until("an event that is marked and not told", partial(has_unheard, now), SHOWS_S)


Checker = Callable[[Sequence[Operation], Final], list[str]]


async def worse(now: Scenario, bug: str, shown_by: Checker | None = None, **environment: str) -> None:
    """The controller with the bug, under traffic until the bug shows."""
    controller = now.cluster.controller
    await now.start(controller, **planted(controller, bug, **environment))

    # What is on its way while a state is read may look like the bug; the next state has it.
    before: set[str] = set()

    async def shows() -> bool:
        final = await read_final(now.cluster, now.rest, now.since, now.began)
        found = set(shown_by(now.history.operations, final)) if shown_by is not None else {bug}
        lasting = found if shown_by is None else found & before
        before.clear()
        before.update(found)
        return bool(lasting)

    await now.until(f"{bug} to show", shows, SHOWS_S)


def has_unheard(now: Scenario) -> bool:
    """Whether an event counts as published for a while that nobody has heard."""
    published = query(now.cluster.postgres, PUBLISHED, since=str(now.since))
    return not set(published) <= now.tap.ids()


async def has_left(now: Scenario, deployment_id: str, node_id: str) -> bool:
    """Whether the deployment has another place."""
    return bool((await now.deployment(deployment_id))["nodeId"] != node_id)


async def stays_connected_when_an_old_session_ends(now: Scenario, name: str) -> bool:
    """Whether a node counts as connected when its first session ends after its second has begun."""
    controller = now.cluster.machines["ctl-1"].address
    machine = await join(await now.invite(name), f"{controller}:{JOIN}", now.cluster.directory / name)
    # Without an engine nobody's deployment is put there.
    greeting = hello(machine.node_id, engines=[])
    try:
        async with machine.session(f"{controller}:{MESH}", greeting) as first:
            await first.welcome()
            async with machine.session(f"{controller}:{MESH}", greeting) as second:
                await second.welcome()
                # It is superseded, and told so when all that its end does is done.
                await first.call.code()
                # Neither has a heartbeat: the lease itself ends soon after.
                with suppress(AssertionError):
                    await now.until("an end that counts", lambda: not is_connected(now, name), LEASE_S * 0.6)
                    return False
                return True
    finally:
        await now.until(f"{name} to be removed", partial(now.remove_node, machine.node_id), WITHIN_S)


def is_connected(now: Scenario, name: str) -> bool:
    """Whether the node counts as connected."""
    return bool(now.node_row(name)["websocket_connected"])
