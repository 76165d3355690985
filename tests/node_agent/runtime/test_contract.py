"""What every runtime promises, asked of each: real processes, and real containers on a real Docker Engine."""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from node_agent.runtime.docker.runtime import DockerRuntime
from node_agent.runtime.model import LaunchError
from tests.fakes.eventually import eventually
from tests.node_agent.runtime.conftest import Bench

AT_ONCE = timedelta()
A_WHILE = timedelta(seconds=20)


async def test_a_program_runs_with_its_words_and_its_output_is_in_the_log(bench: Bench) -> None:
    instance = await bench.start("say", "hello", "world")
    assert (await bench.runtime.wait(instance)).code == 0
    assert await bench.until_logged("world") == "hello world\n"


@pytest.mark.parametrize(("words", "code"), [(("exit", "0"), 0), (("exit", "7"), 7), (("kill", "11"), -signal.SIGSEGV)])
async def test_the_end_is_told_with_its_code(bench: Bench, words: tuple[str, ...], code: int) -> None:
    instance = await bench.start(*words)
    ended = await bench.runtime.wait(instance)
    assert (ended.code, ended.out_of_memory) == (code, False)


async def test_a_stop_lets_a_program_end_by_itself(bench: Bench) -> None:
    instance = await bench.start("obey")
    await bench.until_logged("ready")
    assert (await bench.runtime.stop(instance, A_WHILE)).code == 0
    assert not bench.running()


async def test_a_program_that_ignores_the_stop_is_forced_with_all_it_started(bench: Bench) -> None:
    instance = await bench.start("stubborn")
    await bench.until_logged("ready")
    assert bench.running()
    ended = await bench.runtime.stop(instance, timedelta(seconds=1))
    assert (ended.code, ended.out_of_memory) == (-signal.SIGKILL, False)
    await eventually(none_running(bench))


async def test_a_stop_of_what_has_ended_answers_how_it_ended(bench: Bench) -> None:
    instance = await bench.start("exit", "3")
    await bench.runtime.wait(instance)
    assert (await bench.runtime.stop(instance, AT_ONCE)).code == 3


async def test_two_may_wait_for_the_same_end_and_one_may_give_up(bench: Bench) -> None:
    instance = await bench.start("obey")
    await bench.until_logged("ready")
    gives_up, waits = (asyncio.create_task(bench.runtime.wait(instance)) for _ in range(2))
    await asyncio.sleep(0)
    gives_up.cancel()
    await bench.runtime.stop(instance, A_WHILE)
    assert (await waits).code == 0


async def test_an_instance_outlives_its_agent_and_is_adopted(bench: Bench) -> None:
    instance = await bench.start("obey")
    await bench.until_logged("ready")
    await bench.restart()
    assert [each.instance for each in await bench.runtime.marked(bench.owner)] == [instance]
    assert await bench.runtime.adopt(instance)
    assert await bench.runtime.adopt(instance)
    assert len(bench.running()) == 1
    await bench.runtime.stop(instance, A_WHILE)
    assert not bench.running()


async def test_what_ended_while_no_agent_watched_is_not_adopted(bench: Bench) -> None:
    instance = await bench.start("obey")
    await bench.until_logged("ready")
    earlier = bench.runtime
    await bench.restart()
    await earlier.stop(instance, A_WHILE)
    assert not await bench.runtime.adopt(instance)
    assert (await bench.runtime.wait(instance)).code in {None, 0}


async def test_an_exit_code_outlives_the_agent_where_the_runtime_keeps_it(bench: Bench) -> None:
    instance = await bench.start("exit", "7")
    await bench.runtime.wait(instance)
    await bench.restart()
    assert not await bench.runtime.adopt(instance)
    known = 7 if isinstance(bench.runtime, DockerRuntime) else None
    assert (await bench.runtime.wait(instance)).code == known


async def test_the_log_goes_on_over_an_agents_death_without_a_gap(bench: Bench) -> None:
    instance = await bench.start("count")
    await bench.until_logged("00000020")
    await bench.restart()
    assert await bench.runtime.adopt(instance)
    last = (await bench.until_logged("00000001")).splitlines()[-1]
    text = await bench.until_logged(f"{int(last) + 100:08d}")
    numbers = [int(line) for line in text.splitlines()[:-1]]
    # A piece may come twice where the agent died between writing it and remembering that it had.
    assert sorted(set(numbers)) == list(range(max(numbers) + 1))
    assert len(numbers) - len(set(numbers)) <= 2


async def test_usage_shows_memory_and_processor(bench: Bench) -> None:
    instance = await bench.start("eat", "60")
    await bench.until_logged("full")

    async def shown() -> bool:
        usage = bench.runtime.usage(instance)
        return usage.memory_mb >= 55 and usage.cpu_percent > 10

    await eventually(shown, 20)


async def test_marks_tell_one_owner_from_another(bench: Bench) -> None:
    await bench.start("obey")
    await bench.start("obey", name="other")
    await bench.until_logged("ready")
    await bench.until_logged("ready", name="other")
    marks = {each.mark for each in await bench.runtime.marked(bench.owner)}
    assert marks == {f"{bench.owner}w/0/1/custom/0", f"{bench.owner}other/0/1/custom/0"}
    assert not await bench.runtime.marked("/another/home#")


async def test_nothing_is_left_of_what_was_stopped_and_forgotten(bench: Bench) -> None:
    stopped = await bench.start("obey")
    died = await bench.start("exit", "1", name="died")
    await bench.runtime.stop(stopped, A_WHILE)
    await bench.runtime.wait(died)
    for instance in (stopped, died):
        bench.runtime.forget(instance)

    async def nothing() -> bool:
        return not bench.left()

    await eventually(nothing)


async def test_the_same_workload_can_be_started_again(bench: Bench) -> None:
    for _ in range(3):
        instance = await bench.start("exit", "1")
        await bench.runtime.wait(instance)
        bench.runtime.forget(instance)
    again = await bench.start("obey")
    await bench.until_logged("ready")
    assert again in [each.instance for each in await bench.runtime.marked(bench.owner)]


async def test_a_program_that_is_not_there_is_told_at_once_or_by_a_shells_code(bench: Bench) -> None:
    missing: dict[str, Any] = {"argv": ("/no/such/program",)}
    if isinstance(bench.runtime, DockerRuntime):
        instance = await bench.start("say", **missing)
        assert (await bench.runtime.wait(instance)).code == 127
        assert "/no/such/program" in await bench.until_logged("No such file")
        return
    with pytest.raises(LaunchError, match="/no/such/program"):
        await bench.start("say", **missing)
    assert not bench.left()


async def test_tidying_leaves_what_is_known_alone(bench: Bench) -> None:
    instance = await bench.start("obey")
    await bench.until_logged("ready")
    await bench.runtime.tidy(())
    assert len(bench.running()) == 1
    await bench.runtime.stop(instance, A_WHILE)


async def test_a_runtime_says_whether_it_can_hold_a_memory_limit(bench: Bench) -> None:
    assert bench.runtime.limits_memory == isinstance(bench.runtime, DockerRuntime)
    assert bench.runtime.readiness().trouble == ""


def none_running(bench: Bench) -> Callable[[], Awaitable[bool]]:
    """Waits out the kernel, which reaps a killed child a moment later."""

    async def none() -> bool:
        return not bench.running()

    return none
