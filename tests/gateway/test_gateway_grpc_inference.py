"""Inference over gRPC: Envoy turns the call into the engine's JSON and back."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio
from aiops.inference.v1 import inference_service_pb2 as pb
from aiops.inference.v1 import inference_service_pb2_grpc
from aiops.routing.v1 import routing_service_pb2 as routing

from tests.fakes.engine_http import Engine, running_engine
from tests.fakes.provider import Provider, Reply, chunks, running_provider
from tests.fakes.routes import outside, policy, target
from tests.fixtures.edge import Edge, model_route

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def provider() -> AsyncIterator[Provider]:
    async with running_provider() as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(edge: Edge, provider: Provider) -> AsyncIterator[Engine]:
    async with running_engine("a") as running:
        running.release.set()
        ignores = [routing.RefusedField(path="seed", harmless_values=["null"])]
        named = policy("alias", target(Engine("gone", port=1), weight=1), target(running), fallbacks="a")
        await edge.route(model_route(running, refused=ignores), policies=[named, policy("far", outside(provider.port))])
        await edge.until_chat(200)
        yield running


async def chat(edge: Edge, text: str, *, model: str = "tiny", token: str | None = None, **more: int) -> pb.ChatResponse:
    request = pb.ChatRequest(model=model, messages=[pb.ChatMessage(role="user", content=text)], **more)  # type: ignore[arg-type]
    metadata = [("authorization", f"Bearer {token or edge.issuer.token()}")]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{edge.port}") as channel:
        answer = await inference_service_pb2_grpc.InferenceServiceStub(channel).Chat(
            request, metadata=metadata, timeout=10
        )
    assert isinstance(answer, pb.ChatResponse)
    return answer


async def failure(edge: Edge, text: str = "hi", **more: object) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await chat(edge, text, **more)  # type: ignore[arg-type]
    return caught.value


async def test_a_chat_is_answered_by_the_engine(edge: Edge, engine: Engine) -> None:
    answer = await chat(edge, "hello", max_tokens=5)
    assert answer.choices[0].message.content == "a: hello"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == 5
    assert engine.seen[-1].path == "/v1/chat/completions"
    assert b'"max_tokens":5' in engine.seen[-1].body


async def test_a_chat_goes_where_a_route_leads(edge: Edge, engine: Engine) -> None:
    answer = await chat(edge, "hello", model="alias")
    assert answer.choices[0].message.content == "a: hello"
    assert b'"model":"a-model"' in engine.seen[-1].body


async def test_a_long_chat_passes_whole(edge: Edge, engine: Engine) -> None:
    await chat(edge, "x" * 700_000)
    assert len(engine.seen[-1].body) > 700_000


async def test_refusals_are_status_codes_with_a_message_for_people(edge: Edge, engine: Engine) -> None:
    unknown = await failure(edge, model="huge")
    assert unknown.code() is grpc.StatusCode.NOT_FOUND
    assert unknown.details() == "there is no such model; deployed are: alias, far, tiny"
    missing = await failure(edge, model="")
    assert missing.code() is grpc.StatusCode.INVALID_ARGUMENT
    ignored = await failure(edge, seed=7)
    assert ignored.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "'seed'" in str(ignored.details())


async def test_an_engines_refusal_keeps_its_meaning(edge: Edge, engine: Engine) -> None:
    refused = await failure(edge, "refuse")
    assert refused.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.details() == "the prompt is too long"


async def test_a_bad_token_is_refused(edge: Edge, engine: Engine) -> None:
    assert (await failure(edge, token="nonsense")).code() is grpc.StatusCode.UNAUTHENTICATED
    other = await failure(edge, token=edge.issuer.token(org="org-empty"))
    assert other.code() is grpc.StatusCode.NOT_FOUND


async def test_grpc_web_can_chat(edge: Edge, engine: Engine) -> None:
    message = pb.ChatRequest(model="tiny", messages=[pb.ChatMessage(role="user", content="web")]).SerializeToString()
    headers = edge.bearer() | {"content-type": "application/grpc-web+proto"}
    frame = b"\x00" + len(message).to_bytes(4, "big") + message
    response = await edge.client.post("/aiops.inference.v1.InferenceService/Chat", content=frame, headers=headers)
    assert b"a: web" in response.content
    assert b"grpc-status:0" in response.content


async def call(edge: Edge, name: str, request: Any) -> Any:
    """The answer of one of the service's methods."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{edge.port}") as channel:
        method = getattr(inference_service_pb2_grpc.InferenceServiceStub(channel), name)
        return await method(request, metadata=[("authorization", f"Bearer {edge.issuer.token()}")], timeout=10)


async def test_a_text_is_continued(edge: Edge, engine: Engine, provider: Provider) -> None:
    text = {"index": 0, "text": " and so on", "finish_reason": "length", "logprobs": None}
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    provider.script(Reply({"id": "c", "object": "text_completion", "created": 1, "choices": [text], "usage": usage}))
    answer = await call(edge, "Complete", pb.CompleteRequest(model="far", prompt="It was", max_tokens=5, stop=["."]))
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == (" and so on", "length")
    assert answer.usage.total_tokens == 5
    assert provider.seen[-1].path == "/proxy/v1/completions"
    assert provider.asked() == {"model": "far", "prompt": "It was", "max_tokens": 5, "stop": ["."]}


async def test_texts_become_vectors(edge: Edge, engine: Engine, provider: Provider) -> None:
    data = [{"object": "embedding", "index": n, "embedding": [0.5, -1e-3 * n]} for n in range(2)]
    usage = {"prompt_tokens": 3, "total_tokens": 3}
    provider.script(Reply({"object": "list", "data": data, "model": "far", "usage": usage}))
    answer = await call(edge, "Embed", pb.EmbedRequest(model="far", input=["a", "b"]))
    assert [list(each.embedding) for each in answer.data] == [[0.5, 0.0], [0.5, -1e-3]]
    assert (provider.seen[-1].path, provider.asked()["input"]) == ("/proxy/v1/embeddings", ["a", "b"])


async def streamed(edge: Edge, name: str, request: Any) -> list[Any]:
    """Every part of a stream."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{edge.port}") as channel:
        method = getattr(inference_service_pb2_grpc.InferenceServiceStub(channel), name)
        answers = method(request, metadata=[("authorization", f"Bearer {edge.issuer.token()}")], timeout=10)
        return [each async for each in answers]


async def broken(edge: Edge, request: pb.StreamChatRequest) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await streamed(edge, "StreamChat", request)
    return caught.value


def asking(model: str = "far", text: str = "hi", **more: Any) -> pb.StreamChatRequest:
    return pb.StreamChatRequest(model=model, messages=[pb.ChatMessage(role="user", content=text)], **more)


async def test_a_chat_is_streamed(edge: Edge, engine: Engine, provider: Provider) -> None:
    provider.script(
        Reply(events=chunks({"role": "assistant", "content": ""}, {"content": "Grü"}, {"content": "ße 😀"}))
    )
    asked = asking(text='say "hi" ü\n', temperature=0.25, seed=-3, max_tokens=300, stop=["a", "b"])
    told = await streamed(edge, "StreamChat", asked)
    assert "".join(choice.delta.content for part in told for choice in part.choices) == "Grüße 😀"
    assert (told[0].model, told[0].created) == ("far", 1.0)
    assert told[-2].choices[0].finish_reason == "stop"
    assert told[-1].usage.total_tokens == 18
    assert provider.asked() == {
        "model": "far", "messages": [{"role": "user", "content": 'say "hi" ü\n'}], "temperature": 0.25, "seed": -3,
        "max_tokens": 300, "stop": ["a", "b"], "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip


async def test_the_parts_of_a_stream_come_as_they_are_made(edge: Edge, engine: Engine) -> None:
    engine.release.clear()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{edge.port}") as channel:
        stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
        token = [("authorization", f"Bearer {edge.issuer.token()}")]
        answers = aiter(stub.StreamChat(asking("tiny", "one two"), metadata=token, timeout=10))
        assert (await anext(answers)).choices[0].delta.content == "one"
        engine.release.set()
        assert [each.choices[0].delta.content async for each in answers if each.choices] == ["two"]


async def test_a_text_is_continued_in_parts(edge: Edge, engine: Engine, provider: Provider) -> None:
    parts = [{"id": "c", "created": 1.5, "choices": [{"index": 0, "text": text}]} for text in ("and ", "so on")]
    provider.script(Reply(events=[*parts, "[DONE]"]))
    told = await streamed(edge, "StreamComplete", pb.StreamCompleteRequest(model="far", prompt="It was"))
    assert [(part.created, part.choices[0].text) for part in told] == [(1.5, "and "), (1.5, "so on")]


async def test_refusals_of_streams_are_status_codes(edge: Edge, engine: Engine, provider: Provider) -> None:
    unknown = await broken(edge, asking("huge"))
    assert unknown.code() is grpc.StatusCode.NOT_FOUND
    assert unknown.details() == "there is no such model; deployed are: alias, far, tiny"
    limit = Reply({"error": {"message": "zu schnell: größer"}}, status=400)
    provider.script(limit)
    refused = await broken(edge, asking())
    assert (refused.code(), refused.details()) == (grpc.StatusCode.INVALID_ARGUMENT, "zu schnell: größer")
    provider.script(Reply(events=[*chunks({"content": "he"})[:1], {"error": {"message": "out of memory"}}]))
    midst = await broken(edge, asking())
    assert (midst.code(), midst.details()) == (grpc.StatusCode.INTERNAL, "out of memory")
    ignored = await broken(edge, asking("tiny", seed=7))
    assert ignored.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "'seed'" in str(ignored.details())
    provider.script(Reply(events=chunks({"content": "he"})[:1], cut=True))
    assert (await broken(edge, asking())).code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL)


async def test_a_stream_asks_for_a_token(edge: Edge, engine: Engine) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{edge.port}") as channel:
        stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.StreamChat(asking(), timeout=10).read()
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
