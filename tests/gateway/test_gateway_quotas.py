"""Quotas at a real Envoy: exactly so many requests are let in, whoever a client says it is."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import pytest_asyncio
from aiops.inference.v1 import inference_service_pb2, inference_service_pb2_grpc
from aiops.quotas.v1 import quota_pb2
from aiops.quotas.v1 import quota_service_pb2 as pb
from aiops.routing.v1 import routing_service_pb2 as routing
from google.protobuf import json_format

from gateway.edge.addresses import envoy_address
from gateway.edge.limits import MINUTE, Limit, Period, buckets
from gateway.edge.messages import packed, typed
from stack.envoy import Envoy
from stack.ports import free_port
from tests.fakes.engine_http import Engine, running_engine
from tests.fakes.eventually import eventually
from tests.fakes.routes import policy, target
from tests.fixtures.edge import ORG, OTHER_ORG, Edge, healthy, model_route, running_edge

pytestmark = pytest.mark.asyncio(loop_scope="module")
Quota = quota_pb2.Quota
CLIENTS = 50


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine() -> AsyncIterator[Engine]:
    async with running_engine("one") as running:
        running.release.set()
        yield running


def rule(subject: Quota.Subject.ValueType, subject_id: str, *, org: str = ORG, **limits: Any) -> routing.QuotaRule:
    return routing.QuotaRule(org_id=org, subject=subject, subject_id=subject_id, **limits)


async def limit(edge: Edge, engine: Engine, *rules: routing.QuotaRule) -> str:
    """Publishes the rules and waits until the edge has them; the models of both organisations are there.

    Answers a user of the other organisation who is let in once a day.
    """
    edge.version += 1
    routes = [model_route(engine), model_route(engine, org=OTHER_ORG), model_route(engine, model="large")]
    shown = policy("named alias", target(engine, model="tiny", weight=1))
    # Whether the marker is in force tells whether the others are.
    marker = f"marker-{edge.version}"
    table = routing.RoutingTable(version=edge.version, routes=routes, policies=[shown])
    table.quotas.rules.extend(rules)
    for period in ("minute", "hour", "day"):
        table.quotas.rules.append(
            rule(Quota.user, f"{marker}-{period}", org=OTHER_ORG, **{f"requests_per_{period}": 1})
        )
    await edge.plane.table.set(table)
    for period in ("minute", "hour", "day"):
        headers = edge.bearer(sub=f"{marker}-{period}", org=OTHER_ORG)

        async def held() -> bool:
            return (await edge.chat(headers=headers)).status_code == 429  # noqa: B023 - asked at once

        await edge.until(held, seconds=20)
    return f"{marker}-day"


async def crowd(edge: Edge, number: int, model: str = "tiny", **claims: Any) -> Counter[int]:
    """What so many clients are answered at once."""
    waiting = [edge.chat(model, headers=edge.bearer(**claims)) for _ in range(number)]
    return Counter(answer.status_code for answer in await asyncio.gather(*waiting))


@pytest.mark.parametrize(
    ("subject", "claim"), [(Quota.user, "sub"), (Quota.organization, "org"), (Quota.api_key, "jti")]
)
async def test_exactly_so_many_are_let_in(
    edge: Edge, engine: Engine, subject: Quota.Subject.ValueType, claim: str
) -> None:
    org = "org-crowd" if claim == "org" else ORG
    someone = {"sub": "user-crowd", "jti": "key-crowd", "org": org}
    await limit(edge, engine, rule(subject, someone[claim], org=org, requests_per_day=CLIENTS - 13))
    model = "tiny" if org == ORG else "nowhere"
    answers = await crowd(edge, CLIENTS, model, **someone)
    assert answers[429] == 13
    assert answers.total() - answers[429] == CLIENTS - 13
    other = {**someone, claim: "somebody-else"} if claim != "org" else {**someone, "org": OTHER_ORG}
    assert (await crowd(edge, 3, **other))[200] == 3


async def test_a_refusal_says_when_to_come_again(edge: Edge, engine: Engine) -> None:
    await limit(edge, engine, rule(Quota.user, "user-late", requests_per_day=1))
    headers = edge.bearer(sub="user-late")
    assert (await edge.chat(headers=headers)).status_code == 200
    before = _left_of_the_day()
    refused = await edge.chat(headers=headers)
    error = refused.json()["error"]
    assert (refused.status_code, error["type"], error["code"]) == (429, "rate_limit_error", "rate_limit_exceeded")
    assert error["param"] is None
    again = int(refused.headers["retry-after"])
    assert again in range(_left_of_the_day() - 1, before + 2) or before < 30
    assert str(again) in error["message"]
    assert refused.headers["x-ratelimit-window"] == "day"


async def test_a_call_over_grpc_is_told_so_in_its_own_words(edge: Edge, engine: Engine) -> None:
    await limit(edge, engine, rule(Quota.user, "user-grpc", requests_per_hour=1))
    metadata = (("authorization", f"Bearer {edge.issuer.token(sub='user-grpc')}"),)
    request = inference_service_pb2.ChatRequest(model="tiny")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{edge.port}") as channel:
        stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
        codes = []
        for _ in range(3):
            try:
                await stub.Chat(request, metadata=metadata)
                codes.append(grpc.StatusCode.OK)
            except grpc.aio.AioRpcError as error:
                codes.append(error.code())
                assert "limit of requests for this hour" in (error.details() or "")
    # The hour may have ended between two of them.
    assert grpc.StatusCode.RESOURCE_EXHAUSTED in codes
    assert codes[0] == grpc.StatusCode.OK


async def test_a_quota_is_one_for_every_protocol(edge: Edge, engine: Engine) -> None:
    await limit(edge, engine, rule(Quota.user, "user-polyglot", requests_per_day=2))
    token = edge.issuer.token(sub="user-polyglot")
    assert (await edge.chat(headers={"authorization": f"Bearer {token}"})).status_code == 200
    body = {"model": "tiny", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
    asked = [await edge.client.post("/v1/messages", json=body, headers={"x-api-key": token}) for _ in range(2)]
    assert [answer.status_code for answer in asked] == [200, 429]
    refused = asked[-1].json()
    assert (refused["type"], refused["error"]["type"]) == ("error", "rate_limit_error")
    assert "limit of requests for this day" in refused["error"]["message"]
    assert int(asked[-1].headers["retry-after"]) > 0
    async with grpc.aio.insecure_channel(f"127.0.0.1:{edge.port}") as channel:
        stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError, match="limit of requests for this day") as over:
            request = inference_service_pb2.StreamChatRequest(model="tiny")
            await stub.StreamChat(request, metadata=[("authorization", f"Bearer {token}")], timeout=10).read()
    assert over.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_headers_that_clients_make_up_change_nothing(edge: Edge, engine: Engine) -> None:
    await limit(edge, engine, rule(Quota.user, "user-sly", requests_per_day=2))
    sly = edge.bearer(sub="user-sly") | {
        "x-aiops-user": "user-honest", "x-aiops-org": "org-honest", "x-aiops-token-id": "key-honest",
        "x-aiops-model": "other", "x-aiops-route": "other/other", "x-aiops-token-type": "none",
    }  # fmt: skip
    answers = [(await edge.chat(headers=sly)).status_code for _ in range(4)]
    assert answers == [200, 200, 429, 429]


async def test_a_model_is_counted_by_whichever_name_it_is_asked_for(edge: Edge, engine: Engine) -> None:
    await limit(edge, engine, rule(Quota.user, "user-names", model="named", requests_per_day=2))
    headers = edge.bearer(sub="user-names")
    answers = [(await edge.chat(name, headers=headers)).status_code for name in ("named", "alias", "alias", "named")]
    assert answers == [200, 200, 429, 429]
    assert (await edge.chat("large", headers=headers)).status_code == 200


async def test_the_path_of_an_instance_is_no_way_around(edge: Edge, engine: Engine) -> None:
    await limit(edge, engine, rule(Quota.user, "user-around", model="tiny", requests_per_day=1))
    headers = edge.bearer(sub="user-around")
    path, body = f"/models/tiny/{engine.name}/v1/inference", {"model": "tiny", "messages": []}
    answers = [(await edge.client.post(path, json=body, headers=headers)).status_code for _ in range(3)]
    assert answers == [200, 429, 429]


async def test_of_several_quotas_each_has_to_let_a_request_in(edge: Edge, engine: Engine) -> None:
    rules = [
        rule(Quota.organization, ORG, requests_per_day=5),
        rule(Quota.user, "user-one", requests_per_hour=3),
        rule(Quota.api_key, "key-one", requests_per_day=2),
    ]
    await limit(edge, engine, *rules)
    assert (await crowd(edge, 9, sub="user-one", jti="key-one"))[200] == 2
    assert (await crowd(edge, 9, sub="user-two", jti="key-two"))[200] == 3


async def test_a_bucket_is_full_again_in_the_next_window(tmp_path: Path) -> None:
    second = Period("second", "second", 1, f"({MINUTE.number}) * 60 + request.time.getSeconds()", "1")
    port, admin_port = free_port(), free_port()
    (tmp_path / "envoy.json").write_text(_one_filter(port, admin_port, second, Limit("user", "user-1", "", 2)))
    envoy = Envoy(tmp_path / "envoy.json", port, admin_port)
    process = await asyncio.create_subprocess_exec(*envoy.command(), env=envoy.environment())
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            await eventually(healthy(envoy), 20)
            seen, started = list[int](), time.monotonic()

            async def renewed_twice() -> bool:
                headers = {"x-aiops-org": ORG, "x-aiops-user": "user-1"}
                seen.append((await client.get("/", headers=headers)).status_code)
                changes = [pair for pair in pairwise(seen) if pair == (429, 200)]
                return len(changes) == 2

            await eventually(renewed_twice, 20, every=timedelta(milliseconds=5))
    finally:
        process.kill()
        await process.wait()
    windows = int(time.monotonic() - started) + 2
    assert 5 <= Counter(seen)[200] <= 2 * windows


def _one_filter(port: int, admin_port: int, period: Period, *limits: Limit) -> str:
    """The bootstrap of an Envoy that answers everything with 200 behind the buckets of one organisation."""
    found = json_format.MessageToDict(packed(buckets(period, {ORG: limits})))
    answer = {"match": {"prefix": "/"}, "direct_response": {"status": 200}}
    connections = typed(
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="s",
        route_config={"virtual_hosts": [{"name": "v", "domains": ["*"], "routes": [answer]}]},
        http_filters=[
            {"name": "quotas", "typed_config": found},
            {"name": "router", "typed_config": typed("envoy.extensions.filters.http.router.v3.Router")},
        ],
    )
    listener = {
        "name": "l",
        "address": envoy_address(f"127.0.0.1:{port}"),
        "filter_chains": [{"filters": [{"name": "h", "typed_config": connections}]}],
    }
    admin = {"address": envoy_address(f"127.0.0.1:{admin_port}")}
    return json.dumps({"admin": admin, "static_resources": {"listeners": [listener]}})


async def test_without_quotas_nothing_is_counted(edge: Edge, engine: Engine) -> None:
    await limit(edge, engine)
    assert (await crowd(edge, CLIENTS, sub="user-free"))[200] == CLIENTS


async def test_several_envoys_let_in_as_many_each_until_the_ledger_closes_all(tmp_path: Path, engine: Engine) -> None:
    async with running_edge(tmp_path) as own, own.second_envoy():
        marker = await limit(own, engine, rule(Quota.user, "user-both", requests_per_day=5))
        await own.until(lambda: _closed(own, marker, org=OTHER_ORG), seconds=30)
        # Whatever is away, the buckets are there.
        await own.stop_gateway()
        answers = Counter([await _anew(own, "user-both") for _ in range(60)])
        assert 5 <= answers[200] <= 10
        assert answers[200] + answers[429] == 60
        await own.start_gateway()
        spent = pb.SpentQuota(org_id=ORG, subject=Quota.user, subject_id="user-other", message="closed")
        await own.plane.spent.set(pb.WatchSpentQuotasResponse(spent=[spent]))
        await own.until(lambda: _closed(own, "user-other"), seconds=30)


async def _closed(edge: Edge, user: str, org: str = ORG) -> bool:
    """Whether both Envoys refuse a user."""
    return {await _anew(edge, user, org) for _ in range(20)} == {429}


async def _anew(edge: Edge, user: str, org: str = ORG) -> int:
    """What a connection of its own is answered, at whichever Envoy it arrives."""
    return (await edge.chat(headers=edge.bearer(sub=user, org=org) | {"connection": "close"})).status_code


def _left_of_the_day() -> int:
    now = datetime.now(UTC)
    return 86400 - (now.hour * 3600 + now.minute * 60 + now.second)
