"""Who has nothing left is answered so by a real Envoy, in the words of whoever asks, and let in when it is time."""

import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio
from aiops.inference.v1 import inference_service_pb2, inference_service_pb2_grpc
from aiops.quotas.v1 import quota_pb2
from aiops.quotas.v1 import quota_service_pb2 as pb

from tests.fakes.engine_http import Engine, running_engine
from tests.fakes.routes import policy, target
from tests.fixtures.edge import ORG, OTHER_ORG, Edge, model_route

pytestmark = pytest.mark.asyncio(loop_scope="module")
Quota = quota_pb2.Quota
FAR = 4_000_000_000.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(edge: Edge) -> AsyncIterator[Engine]:
    async with running_engine("one") as running:
        running.release.set()
        first = model_route(running)
        shown = policy("named alias", target(running, model="tiny", weight=1))
        await edge.route(first, model_route(running, org=OTHER_ORG), policies=[shown])
        await edge.until_chat(200, "named", seconds=20)
        yield running


async def spend(edge: Edge, *spent: pb.SpentQuota) -> None:
    """Publishes those who have nothing left and waits until the edge knows."""
    marker = f"marker-{time.monotonic_ns()}"
    known = pb.SpentQuota(org_id=OTHER_ORG, subject=Quota.user, subject_id=marker, message="known")
    await edge.plane.spent.set(pb.WatchSpentQuotasResponse(spent=[*spent, known]))

    async def is_known() -> bool:
        return (await edge.chat(headers=edge.bearer(sub=marker, org=OTHER_ORG))).status_code == 429

    await edge.until(is_known, seconds=20)


def spent(subject: Quota.Subject.ValueType, subject_id: str, **more: Any) -> pb.SpentQuota:
    usual = {"org_id": ORG, "until": FAR, "message": 'a "quota" \\ is spent – wait'}
    return pb.SpentQuota(**{**usual, "subject": subject, "subject_id": subject_id, **more})


async def test_a_spent_budget_is_answered_in_openais_words(edge: Edge, engine: Engine) -> None:
    await spend(edge, spent(Quota.api_key, "key-1", budget=True, until=0.0))
    seen = len(engine.seen)
    refused = await edge.chat(headers=edge.bearer(jti="key-1"))
    assert refused.status_code == 429
    assert refused.json()["error"] == {
        "message": 'a "quota" \\ is spent – wait',
        "type": "insufficient_quota",
        "param": None,
        "code": "insufficient_quota",
    }
    assert "retry-after" not in refused.headers
    assert refused.headers["x-should-retry"] == "false"
    assert len(engine.seen) == seen
    assert (await edge.chat(headers=edge.bearer(jti="key-2"))).status_code == 200


async def test_spent_tokens_say_when_to_come_again(edge: Edge, engine: Engine) -> None:
    await spend(edge, spent(Quota.user, "user-spent"), spent(Quota.organization, OTHER_ORG, until=1.0))
    refused = await edge.chat(headers=edge.bearer(sub="user-spent"))
    error = refused.json()["error"]
    assert (refused.status_code, error["type"], error["code"]) == (429, "rate_limit_error", "rate_limit_exceeded")
    assert 0 < FAR - time.time() - int(refused.headers["retry-after"]) + 10 < 20
    # The window of the other organisation has ended.
    assert (await edge.chat(headers=edge.bearer(org=OTHER_ORG))).status_code == 200


async def test_nobody_gets_around_by_headers_or_other_names(edge: Edge, engine: Engine) -> None:
    await spend(edge, spent(Quota.user, "user-sly", model="named"))
    sly = edge.bearer(sub="user-sly") | {"x-aiops-user": "user-honest", "x-aiops-model": "tiny"}
    assert [(await edge.chat(name, headers=sly)).status_code for name in ("named", "alias", "tiny")] == [429, 429, 200]


async def test_a_call_over_grpc_gets_a_status(edge: Edge, engine: Engine) -> None:
    await spend(edge, spent(Quota.organization, ORG, message="nothing is left"))
    metadata = (("authorization", f"Bearer {edge.issuer.token()}"),)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{edge.port}") as channel:
        stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await stub.Chat(inference_service_pb2.ChatRequest(model="tiny"), metadata=metadata)
    assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert error.value.details() == "nothing is left"
    protocol = await edge.client.post("/v2/models/tiny/infer", json={}, headers=edge.bearer())
    assert protocol.json() == {"error": "nothing is left"}
    await spend(edge)
    assert (await edge.chat()).status_code == 200
