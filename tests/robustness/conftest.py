"""The cluster that all scenarios share, and the seed that repeats one of them."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from functools import partial

import httpx
import pytest

from mesh.loops import Wake
from tests.fakes.eventually import LOOK_EVERY
from tests.robustness import network
from tests.robustness.cluster import PASSWORD, Cluster
from tests.robustness.final import question
from tests.robustness.history import History
from tests.robustness.scenario import Scenario, scenario
from tests.robustness.traffic import STEADY, WORK, Traffic

Scenarios = Callable[..., AbstractAsyncContextManager[Scenario]]
DEFAULT_SEED = 7
SETTLE_S = 60


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--seed N` chooses the victims, moments and orders of every scenario."""
    parser.addoption("--seed", type=int, default=DEFAULT_SEED, help="seed of tests/robustness")


@pytest.fixture(scope="session")
def seed(request: pytest.FixtureRequest) -> int:
    chosen = request.config.getoption("--seed", DEFAULT_SEED)
    assert isinstance(chosen, int)
    return chosen


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes that serve one model all the time. Skips, with the reason, where no network can be made."""
    problem = network.missing()
    if problem:
        pytest.skip(problem)
    yield from _cluster(Cluster(), tmp_path_factory)


@pytest.fixture(scope="module")
def small_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two nodes, for a platform that is made worse on purpose."""
    problem = network.missing()
    if problem:
        pytest.skip(problem)
    yield from _cluster(Cluster(nodes=2), tmp_path_factory)


def _cluster(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    try:
        cluster.start()
        with History(tmp_path_factory.mktemp("settle") / "history.jsonl") as history:
            asyncio.run(_settle(cluster, history))
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def scenarios(cluster: Cluster, seed: int) -> Scenarios:
    """Opens scenarios on the shared cluster: `async with scenarios("name", …) as now`."""
    return partial(scenario, cluster, seed)


async def _settle(cluster: Cluster, history: History) -> None:
    """The models, and a replica of the one that is always there on each node."""
    cluster.token = await _token(cluster)
    traffic = Traffic(cluster.url, cluster.token, history, "settle", 0)
    for name in (STEADY, WORK):
        assert (await traffic.import_model("settle", name)).result == "ok", history.operations[-1]
    async with traffic.client() as rest:
        for node in (await rest.get("/nodes")).json()["nodes"]:
            answer = await rest.post("/deployments", json={"modelId": STEADY, "nodeId": node["nodeId"]})
            assert answer.status_code == 200, answer.text
        async with asyncio.timeout(SETTLE_S):
            while not await _all_run(rest):
                await Wake().wait(LOOK_EVERY)


async def _all_run(rest: httpx.AsyncClient) -> bool:
    """Whether everything runs and is routed."""
    deployments = (await rest.get("/deployments")).json()["deployments"]
    answers = [await rest.post(each["endpoint"], json=question(STEADY)) for each in deployments]
    return all(answer.status_code == 200 for answer in answers)


async def _token(cluster: Cluster) -> str:
    """An API key of the first user, which outlives every scenario."""
    async with httpx.AsyncClient(base_url=cluster.url, timeout=30, trust_env=False) as rest:
        login = await rest.post("/auth/login", json={"email": "admin@localhost", "password": PASSWORD})
        rest.headers["authorization"] = f"Bearer {login.json()['accessToken']}"
        return str((await rest.post("/api-keys", json={"name": "robustness"})).json()["secret"])
