"""What each request used reaches Kafka through the real edge: who asked, what was counted, and nothing twice."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from aiokafka import AIOKafkaConsumer
from aiops.inference.v1.inference_service_pb2 import ChatMessage, ChatRequest, StreamChatRequest
from aiops.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from aiops.routing.v1 import routing_service_pb2 as routing
from aiops.usage.v1.usage_events_pb2 import UsageRecorded
from google.protobuf import json_format

from stack.broker import Broker
from stack.ports import free_port
from tests.fakes.engine_http import Engine, running_engine
from tests.fakes.eventually import eventually
from tests.fakes.provider import Reply, chunks, message, message_events, running_provider
from tests.fakes.routes import outside, policy, target
from tests.fixtures.broker import start_broker
from tests.fixtures.edge import ORG, OTHER_ORG, Edge, model_route, running_edge

pytestmark = pytest.mark.asyncio(loop_scope="module")
TOPIC = "aiops.usage.v1"
INSTANCE = "/models/tiny/a/v1/"


class Heard:
    """The usage of one gateway's requests, as a consumer of the topic sees it."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge
        self.every: list[UsageRecorded] = []

    @property
    def mine(self) -> list[UsageRecorded]:
        identity = json.loads((self._edge.home / "usage" / "position").read_text())["identity"]
        return [used for used in self.every if used.usage_id.startswith(identity)]

    async def follow(self, consumer: AIOKafkaConsumer) -> None:
        async for record in consumer:
            attributes = dict(record.headers)
            used = json_format.Parse(record.value, UsageRecorded())
            assert attributes["ce_id"].decode() == record.key.decode() == used.usage_id
            assert attributes["ce_type"] == b"usage.recorded"
            self.every.append(used)

    async def until(self, wanted: Callable[[UsageRecorded], bool]) -> UsageRecorded:
        """Waits for the one that is wanted."""

        async def heard() -> bool:
            return any(wanted(used) for used in self.mine)

        await eventually(heard, 20)
        (found,) = (used for used in self.mine if wanted(used))
        return found


@asynccontextmanager
async def hearing(edge: Edge, kafka: str) -> AsyncIterator[Heard]:
    """Hears of usage while the block lasts."""
    heard = Heard(edge)
    consumer = AIOKafkaConsumer(TOPIC, bootstrap_servers=kafka, auto_offset_reset="earliest")
    await consumer.start()
    following = asyncio.ensure_future(heard.follow(consumer))
    try:
        yield heard
    finally:
        following.cancel()
        await consumer.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def counted_edge(tmp_path_factory: pytest.TempPathFactory, broker: Broker) -> AsyncIterator[Edge]:
    settings = {"AIOPS_KAFKA": broker.bootstrap_servers}
    async with running_edge(tmp_path_factory.mktemp("counted"), settings) as edge:
        yield edge


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def heard(counted_edge: Edge, broker: Broker) -> AsyncIterator[Heard]:
    async with hearing(counted_edge, broker.bootstrap_servers) as heard:
        yield heard


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(counted_edge: Edge) -> AsyncIterator[Engine]:
    async with running_engine("a") as engine:
        engine.release.set()
        await counted_edge.route(model_route(engine))
        await counted_edge.until_chat(200)
        yield engine


async def test_a_chat_is_told_with_who_asked_and_what_the_engine_counted(
    counted_edge: Edge, engine: Engine, heard: Heard
) -> None:
    forged = {"x-aiops-org": OTHER_ORG, "x-aiops-user": "somebody"}
    answer = await counted_edge.chat(headers=counted_edge.bearer(sub="user-7") | forged)
    used = await heard.until(lambda used: used.request_id == answer.headers["x-request-id"])
    assert (used.org_id, used.user_id, used.api_key_id) == (ORG, "user-7", "")
    assert (used.model, used.instance_id, used.deployment_id) == ("tiny", "a", "a")
    assert (used.endpoint, used.status, used.streamed, used.attempts) == ("/v1/chat/completions", 200, False, 1)
    assert (used.counted, used.input_tokens, used.output_tokens, used.cached_tokens) == (True, 3, 2, 0)
    assert 0 < used.first_byte_ms <= used.duration_ms < 10_000
    assert used.request_bytes > 0
    assert used.response_bytes == len(answer.content)


async def test_an_api_key_is_named(counted_edge: Edge, engine: Engine, heard: Heard) -> None:
    answer = await counted_edge.chat(headers=counted_edge.bearer(typ="api_key", jti="key-9"))
    used = await heard.until(lambda used: used.request_id == answer.headers["x-request-id"])
    assert used.api_key_id == "key-9"


async def test_the_engine_is_told_nothing_of_the_caller(counted_edge: Edge, engine: Engine, heard: Heard) -> None:
    engine.seen.clear()
    await counted_edge.chat()
    assert not {"x-aiops-org", "x-aiops-user", "x-aiops-token-id", "x-aiops-token-type"} & set(engine.seen[-1].headers)


async def test_a_streams_tokens_are_those_of_its_last_word(counted_edge: Edge, engine: Engine, heard: Heard) -> None:
    answer = await counted_edge.chat(text="one two three", stream=True, stream_options={"include_usage": True})
    assert answer.text.endswith("data: [DONE]\n\n")
    used = await heard.until(lambda used: used.request_id == answer.headers["x-request-id"])
    assert (used.streamed, used.counted, used.input_tokens, used.output_tokens) == (True, True, 4, 3)


async def test_a_message_in_anthropics_words_is_counted_like_a_chat(
    counted_edge: Edge, engine: Engine, heard: Heard
) -> None:
    for streamed, tokens in ((False, (3, 2)), (True, (3, 2))):
        body = {"model": "tiny", "stream": streamed, "messages": [{"role": "user", "content": "one two"}]}
        answer = await counted_edge.client.post(
            "/v1/messages", json=body, headers=counted_edge.bearer(sub="by-message")
        )
        used = await heard.until(lambda used, answer=answer: used.request_id == answer.headers["request-id"])  # type: ignore[misc]
        assert (used.model, used.user_id, used.endpoint) == ("tiny", "by-message", "/v1/messages")
        assert (used.streamed, used.counted, used.input_tokens, used.output_tokens) == (streamed, True, *tokens)


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/v1/completions", f"{INSTANCE}chat/completions", f"{INSTANCE}inference"]
)
@pytest.mark.parametrize("options", [{}, {"stream_options": {"include_usage": False}}])
async def test_a_stream_is_counted_though_its_client_does_not_ask(
    counted_edge: Edge, engine: Engine, heard: Heard, path: str, options: dict[str, Any]
) -> None:
    body = {"model": "tiny", "stream": True, "messages": [{"role": "user", "content": "one two"}], **options}
    headers = {**counted_edge.bearer(), "accept-encoding": "gzip"}
    answer = await counted_edge.client.post(path, json=body, headers=headers)
    told = [json.loads(line[6:]) for line in answer.text.split("\n\n") if line.startswith("data: {")]
    assert [each["choices"][0]["delta"]["content"] for each in told] == ["one", "two"]
    assert answer.text.endswith("\n\ndata: [DONE]\n\n")
    assert json.loads(engine.seen[-1].body) == {**body, "stream_options": {"include_usage": True}}
    used = await heard.until(lambda used: used.request_id == answer.headers["x-request-id"])
    assert (used.streamed, used.counted, used.input_tokens, used.output_tokens) == (True, True, 3, 2)


async def test_a_stream_of_a_model_that_refuses_to_count_says_so(
    counted_edge: Edge, engine: Engine, heard: Heard
) -> None:
    async with running_engine("mute") as mute:
        mute.release.set()
        refused = [routing.RefusedField(path="stream_options.include_usage", harmless_values=["false"])]
        await counted_edge.route(model_route(engine), model_route(mute, model="mute", refused=refused))
        await counted_edge.until_chat(200, "mute")
        answer = await counted_edge.chat("mute", stream=True)
        assert b"stream_options" not in mute.seen[-1].body
    used = await heard.until(lambda used: used.request_id == answer.headers["x-request-id"])
    assert (used.streamed, used.counted, used.output_tokens) == (True, False, 0)


async def test_targets_outside_are_asked_for_counts_only_if_they_take_that(
    counted_edge: Edge, engine: Engine, heard: Heard
) -> None:
    gone = Engine("gone", port=1)
    async with running_provider() as provider:
        strict, knowing = outside(provider.port), outside(provider.port, name="knowing", stream_usage=True)
        await counted_edge.route(
            model_route(engine),
            policies=[
                policy("strict", strict, failure_threshold=1000),
                policy("knowing", knowing, failure_threshold=1000),
                policy(
                    "mixed",
                    target(gone, weight=1),
                    outside(provider.port, weight=0),
                    fallbacks="outside",
                    failure_threshold=1000,
                ),
            ],
        )
        await counted_edge.until(lambda: _routed(counted_edge, "mixed"))
        for name, takes in (("strict", False), ("knowing", True), ("mixed", False)):
            *said, counts, done = chunks({"content": "hi"})
            provider.script(Reply(events=[*said, counts, done] if takes else [*said, done]))
            answer = await counted_edge.chat(name, stream=True)
            assert ("stream_options" in provider.asked()) is takes
            assert (answer.status_code, "usage" in answer.text) == (200, False)
            used = await heard.until(lambda used, answer=answer: used.request_id == answer.headers["x-request-id"])  # type: ignore[misc]
            assert (used.counted, used.output_tokens) == (takes, 7 if takes else 0)


async def test_an_instances_path_and_grpc_are_told_too(counted_edge: Edge, engine: Engine, heard: Heard) -> None:
    direct = await counted_edge.client.post(
        "/models/tiny/a/v1/inference?x=1", json={"messages": []}, headers=counted_edge.bearer()
    )
    used = await heard.until(lambda used: used.request_id == direct.headers["x-request-id"])
    assert (used.model, used.endpoint, used.output_tokens) == ("tiny", "/models/tiny/a/v1/inference", 2)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{counted_edge.port}") as channel:
        request = ChatRequest(model="tiny", messages=[ChatMessage(role="user", content="hi")])
        await InferenceServiceStub(channel).Chat(
            request, metadata=[("authorization", counted_edge.bearer(sub="by-grpc")["authorization"])]
        )
    used = await heard.until(lambda used: used.user_id == "by-grpc")
    assert (used.endpoint, used.status, used.output_tokens) == ("/v1/chat/completions", 200, 2)


async def test_a_stream_over_grpc_is_told_as_what_the_engine_gave(
    counted_edge: Edge, engine: Engine, heard: Heard
) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{counted_edge.port}") as channel:
        stream = InferenceServiceStub(channel).StreamChat
        for text, sub, told in (
            ("one two", "grpc-stream", (200, True, 3, 2)),
            ("refuse", "grpc-no", (400, False, 0, 0)),
        ):
            request = StreamChatRequest(model="tiny", messages=[ChatMessage(role="user", content=text)])
            token = [("authorization", counted_edge.bearer(sub=sub)["authorization"])]
            with contextlib.suppress(grpc.aio.AioRpcError):
                _ = [part async for part in stream(request, metadata=token)]
            used = await heard.until(lambda used, sub=sub: used.user_id == sub)  # type: ignore[misc]
            assert (used.status, used.streamed, used.input_tokens, used.output_tokens) == told


async def test_a_refused_prompt_counts_and_a_model_that_is_not_there_does_not(
    counted_edge: Edge, engine: Engine, heard: Heard
) -> None:
    nobody = await counted_edge.chat("nobody")
    refused = await counted_edge.chat(text="refuse")
    used = await heard.until(lambda used: used.request_id == refused.headers["x-request-id"])
    assert (used.status, used.counted) == (400, False)
    assert nobody.status_code == 404
    assert nobody.headers.get("x-request-id", "-") not in {used.request_id for used in heard.mine}


async def test_an_answer_of_megabytes_comes_whole_and_is_counted(
    counted_edge: Edge, engine: Engine, heard: Heard
) -> None:
    answer = await counted_edge.chat(text="vectors 3000000")
    assert len(answer.json()["data"]) == 3_000_000
    used = await heard.until(lambda used: used.request_id == answer.headers["x-request-id"])
    assert (used.input_tokens, used.response_bytes) == (8, len(answer.content))


async def test_a_client_that_leaves_is_told_with_the_reason(counted_edge: Edge, heard: Heard) -> None:
    async with running_engine("slow") as slow:
        await counted_edge.route(model_route(slow, model="slow"))
        await counted_edge.until(lambda: _routed(counted_edge, "slow"))
        body = {"model": "slow", "messages": [{"content": "one two"}], "stream": True}
        async with counted_edge.client.stream(
            "POST", "/v1/chat/completions", json=body, headers=counted_edge.bearer()
        ) as response:
            await anext(response.aiter_lines())
        used = await heard.until(lambda used: used.model == "slow" and used.streamed)
        assert used.flags == "DC"


async def test_a_policys_target_and_its_deployment_are_named(counted_edge: Edge, heard: Heard) -> None:
    gone = Engine("gone", port=1)
    async with running_engine("b") as other:
        chain = policy("chain", target(gone, weight=1), target(other), fallbacks="b", failure_threshold=1000)
        await counted_edge.route(policies=[chain])
        await counted_edge.until_chat(200, "chain")
        answer = await counted_edge.chat("chain")
    assert not {"x-aiops-deployment", "x-aiops-instance"} & set(answer.headers)
    used = await heard.until(lambda used: used.request_id == answer.headers["x-request-id"])
    assert (used.model, used.target, used.degraded) == ("chain", "b", True)
    assert (used.route_id, used.intended_target, used.mirrored) == ("route-chain", "gone", False)
    assert (used.deployment_id, used.instance_id, used.output_tokens) == ("b", "b", 2)


async def test_prices_are_told_with_each_request_by_whichever_name(counted_edge: Edge, heard: Heard) -> None:
    async with running_engine("c") as engine:
        route = policy("priced", target(engine, weight=1))
        route.names.append("priced-too")
        route.prices.input_token, route.prices.output_token = "0.000001", "0.25"
        await counted_edge.route(policies=[route])
        await counted_edge.until_chat(200, "priced-too")
        answer = await counted_edge.chat("priced-too")
        used = await heard.until(lambda used: used.request_id == answer.headers["x-request-id"])
        assert (used.model, used.route_name) == ("priced-too", "priced")
        assert (used.input_price, used.output_price, used.cached_price) == ("0.000001", "0.25", "")
        route.prices.output_token = "0.5"
        await counted_edge.route(policies=[route])

        async def told() -> bool:
            again = await counted_edge.chat("priced")
            after = await heard.until(lambda used: used.request_id == again.headers["x-request-id"])
            return after.output_price == "0.5"

        await counted_edge.until(told, seconds=20)


async def test_what_a_target_counts_in_anthropics_words_is_counted(counted_edge: Edge, heard: Heard) -> None:
    async with running_provider() as provider:
        far = policy("claude", outside(provider.port, protocol=routing.External.messages))
        await counted_edge.route(policies=[far])
        await counted_edge.until(lambda: _routed(counted_edge, "claude"))
        for streamed, reply in (
            (False, Reply(message())),
            (True, Reply(events=message_events({"type": "text", "text": "hello"}))),
        ):
            provider.script(reply)
            answer = await counted_edge.chat("claude", stream=streamed)
            used = await heard.until(lambda used, answer=answer: used.request_id == answer.headers["x-request-id"])  # type: ignore[misc]
            assert (used.streamed, used.counted, used.target) == (streamed, True, "outside")
            assert (used.input_tokens, used.output_tokens, used.cached_tokens) == (11, 7, 3)


async def test_what_happens_while_the_broker_is_away_is_told_when_it_comes(tmp_path: Path) -> None:
    late = Broker(free_port())
    async with (
        running_edge(tmp_path, {"AIOPS_KAFKA": late.bootstrap_servers}) as edge,
        running_engine("a") as engine,
    ):
        await edge.route(model_route(engine))
        await edge.until_chat(200)
        asked = [(await edge.chat()).headers["x-request-id"] for _ in range(20)]
        # Nobody reads, and nobody is called: Envoy writes on.
        await edge.stop_gateway(kill=True)
        asked += [(await edge.chat()).headers["x-request-id"] for _ in range(20)]
        await edge.start_gateway()
        asked += [(await edge.chat()).headers["x-request-id"] for _ in range(20)]
        process = start_broker(late, tmp_path / "broker.log")
        try:
            async with hearing(edge, late.bootstrap_servers) as heard:
                await eventually(lambda: _all_heard(heard, asked), 30)
                told = [used.usage_id for used in heard.mine]
                assert len(set(told)) == len({used.request_id for used in heard.mine})
        finally:
            process.terminate()
            process.wait(10)


async def _routed(edge: Edge, model: str) -> bool:
    listed = (await edge.client.get("/v1/models", headers=edge.bearer())).json()
    return any(each["id"] == model for each in listed["data"])


async def _all_heard(heard: Heard, asked: list[str]) -> bool:
    return set(asked) <= {used.request_id for used in heard.mine}
