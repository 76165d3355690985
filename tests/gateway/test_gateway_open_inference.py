"""The Open Inference Protocol through the real edge to a real Triton, with NVIDIA's own client too."""

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import pytest_asyncio
from aiops.inference.v1.inference_service_pb2 import TranscribeRequest
from aiops.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from aiops.routing.v1 import routing_service_pb2 as routing
from openai import AsyncOpenAI, BadRequestError, NotFoundError

from tests.fixtures.edge import ORG, OTHER_ORG, Edge
from tests.fixtures.engines import ENGINE_TIMEOUT_S
from tests.fixtures.triton import (
    CLASSIFIER,
    EXAMPLES,
    RECOGNISER,
    TritonServer,
    asked_by_client,
    binary_infer,
    outputs_of,
    serving,
)

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(ENGINE_TIMEOUT_S)]
MODEL, SPEECH = "shapes", "digits"
RECORDING = EXAMPLES / "samples" / "three-one-four.wav"
STAR = (EXAMPLES / "samples" / "star.png").read_bytes()
PICTURE = base64.b64encode(STAR).decode()
CALL: dict[str, Any] = {"model": MODEL, "input": "image", "content": PICTURE, "outputs": ["label", "score"]}


def route(server: TritonServer, instance: str = "one", **fields: Any) -> routing.ModelRoute:
    target = routing.Target(
        deployment_id=instance, instance_id=instance, node_id="n", address="127.0.0.1", port=server.spec.port,
        inference_path=server.plan.inference_path, weight=1, private_paths=server.plan.private_paths,
        grpc_port=server.plan.grpc_port,
    )  # fmt: skip
    usual: dict[str, Any] = {"org_id": ORG, "model": MODEL, "targets": [target], "created": 1_700_000_000}
    return routing.ModelRoute(**usual | fields)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(
    edge: Edge, triton_executable: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[TritonServer]:
    """The classifier as `shapes`, led to by the edge, and the speech model as `digits`."""
    with (
        serving(triton_executable, CLASSIFIER, tmp_path_factory.mktemp("run"), MODEL) as running,
        serving(triton_executable, RECOGNISER, tmp_path_factory.mktemp("run"), SPEECH) as hearing,
    ):
        await edge.route(route(running), route(hearing, "two", model=SPEECH))

        async def led_to() -> bool:
            answers = [await get(edge, f"/v2/models/{model}/ready") for model in (MODEL, SPEECH)]
            return all(answer.status_code == 200 for answer in answers)

        await edge.until(led_to)
        yield running


async def get(edge: Edge, path: str, **claims: Any) -> httpx.Response:
    return await edge.client.get(path, headers=edge.bearer(**claims))


async def classify(edge: Edge, content: bytes, path: str = f"/v2/models/{MODEL}/infer") -> httpx.Response:
    body, headers = binary_infer("image", content)
    return await edge.client.post(path, content=body, headers=headers | edge.bearer())


async def by_client(edge: Edge, executable: Path, *calls: dict[str, Any], **claims: Any) -> list[Any]:
    return await asked_by_client(executable, f"127.0.0.1:{edge.port}", edge.issuer.token(**claims), *calls)


async def test_a_picture_is_classified_by_the_models_name(edge: Edge, server: TritonServer) -> None:
    found = outputs_of(await classify(edge, STAR))
    assert found["label"][0] == "star"
    assert found["score"][0] > 0.9
    assert outputs_of(await classify(edge, STAR, f"/v2/models/{MODEL}/versions/1/infer"))["label"][0] == "star"


async def test_an_instance_is_asked_by_its_path_and_by_v1_inference(edge: Edge, server: TritonServer) -> None:
    for path in ("v1/inference", f"v2/models/{MODEL}/infer"):
        assert outputs_of(await classify(edge, STAR, f"/models/{MODEL}/one/{path}"))["label"][0] == "star"


async def test_the_model_describes_itself(edge: Edge, server: TritonServer) -> None:
    described = (await get(edge, f"/v2/models/{MODEL}")).json()
    assert described["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": [-1, 1]}]
    assert [tensor["name"] for tensor in described["outputs"]] == ["label", "score"]


async def test_the_platform_says_that_it_is_there(edge: Edge, server: TritonServer) -> None:
    assert (await get(edge, "/v2/health/live")).status_code == 200
    assert (await get(edge, "/v2/health/ready", org="org-empty")).status_code == 200
    assert (await get(edge, "/v2")).json()["name"] == "aiops"
    assert (await edge.client.get("/v2/health/ready")).status_code == 401


async def test_binary_tensors_pass_as_they_are_however_large(edge: Edge, server: TritonServer) -> None:
    """A PNG may have anything after its end: the server sees all of it, though no buffer of the edge is so large."""
    assert outputs_of(await classify(edge, STAR + bytes(range(256)) * 100_000))["label"][0] == "star"


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        ({"name": "picture", "shape": [1, 1], "datatype": "BYTES", "data": ["x"]}, "unexpected inference input"),
        ({"name": "image", "shape": [1, 2], "datatype": "BYTES", "data": ["x", "y"]}, "unexpected shape"),
        ({"name": "image", "shape": [1, 1], "datatype": "FP32", "data": [1]}, "data-type"),
        ({"name": "image", "shape": [1, 1], "datatype": "BYTES", "data": ["x"]}, "no picture of a known format"),
    ],
)
async def test_other_names_shapes_and_types_are_refused_with_the_reason(
    edge: Edge, server: TritonServer, tensor: dict[str, Any], said: str
) -> None:
    answer = await edge.client.post(f"/v2/models/{MODEL}/infer", json={"inputs": [tensor]}, headers=edge.bearer())
    assert answer.status_code == 400
    assert said in answer.json()["error"]


@pytest.mark.parametrize(
    "path",
    [
        "/v2/repository/index",
        f"/v2/repository/models/{MODEL}/unload",
        f"/v2/models/{MODEL}/trace/setting",
        "/v2/logging",
        "/v2/systemsharedmemory/region/x/register",
        f"/models/{MODEL}/one/v2/repository/models/{MODEL}/unload",
        f"/models/{MODEL}/one/v2/logging",
        f"/models/{MODEL}/one/v2/trace/setting",
        f"/models/{MODEL}/one/v2/cudasharedmemory/status",
        f"/models/{MODEL}/one/v2/models/{MODEL}/trace/setting",
        f"/models/{MODEL}/one/v2/health/%2e%2e/logging",
    ],
)
async def test_what_controls_the_server_is_not_for_clients(edge: Edge, server: TritonServer, path: str) -> None:
    answer = await edge.client.post(path, json={}, headers=edge.bearer(), follow_redirects=True)
    assert answer.status_code == 404
    assert "error" in answer.json()
    assert (await get(edge, f"/v2/models/{MODEL}/ready")).status_code == 200


async def test_another_organisation_has_no_such_model(edge: Edge, server: TritonServer) -> None:
    answer = await get(edge, f"/v2/models/{MODEL}/ready", org=OTHER_ORG)
    assert answer.status_code == 404
    assert "error" in answer.json()


async def test_an_unknown_model_is_not_found_and_the_answer_says_which_exist(edge: Edge, server: TritonServer) -> None:
    answer = await get(edge, "/v2/models/huge/ready")
    assert answer.status_code == 404
    assert answer.json()["error"].endswith("deployed are: digits, shapes")
    assert (await get(edge, f"/v2/models/{MODEL}x/ready")).status_code == 404


async def test_a_chat_with_such_a_model_says_which_protocol_it_speaks(edge: Edge, server: TritonServer) -> None:
    answer = await edge.chat(MODEL)
    assert answer.status_code == 404
    assert f"POST /v2/models/{MODEL}/infer" in answer.json()["error"]["message"]


async def test_a_recording_is_transcribed_by_openais_client(edge: Edge, server: TritonServer) -> None:
    key = edge.issuer.token()
    async with AsyncOpenAI(base_url=f"{edge.url}/v1", api_key=key, max_retries=0) as client:
        heard = await client.audio.transcriptions.create(model=SPEECH, file=RECORDING)
        assert heard.text == "three one four"
        plain = await client.audio.transcriptions.create(model=SPEECH, file=RECORDING, response_format="text")
        assert str(plain).strip() == "three one four"
        with pytest.raises(NotFoundError, match="deployed are: digits, shapes"):
            await client.audio.transcriptions.create(model="huge", file=RECORDING)
        with pytest.raises(BadRequestError, match="for model 'shapes'"):
            await client.audio.transcriptions.create(model=MODEL, file=RECORDING)
        with pytest.raises(BadRequestError, match="would ignore 'prompt'"):
            await client.audio.transcriptions.create(model=SPEECH, file=RECORDING, prompt="digits")
        with pytest.raises(BadRequestError, match="no WAV file"):
            await client.audio.transcriptions.create(model=SPEECH, file=("star.wav", STAR))


async def test_a_recording_is_transcribed_over_grpc(edge: Edge, server: TritonServer) -> None:
    token = [("authorization", f"Bearer {edge.issuer.token()}")]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{edge.port}") as channel:
        transcribe = InferenceServiceStub(channel).Transcribe
        recording = RECORDING.read_bytes()
        heard = await transcribe(TranscribeRequest(model=SPEECH, audio=recording), metadata=token, timeout=60)
        assert heard.text == "three one four"
        for request, code, message in (
            (
                TranscribeRequest(model="huge", audio=recording),
                grpc.StatusCode.NOT_FOUND,
                "deployed are: digits, shapes",
            ),
            (TranscribeRequest(model=SPEECH, audio=STAR), grpc.StatusCode.INVALID_ARGUMENT, "no WAV file"),
            (TranscribeRequest(audio=recording), grpc.StatusCode.INVALID_ARGUMENT, "names no model"),
        ):
            with pytest.raises(grpc.aio.AioRpcError, match=message) as refused:
                await transcribe(request, metadata=token, timeout=60)
            assert refused.value.code() is code


FORM = "multipart/form-data; boundary=x"
ONLY_MODEL = b'--x\r\ncontent-disposition: form-data; name="model"\r\n\r\ndigits\r\n--x--'
ONLY_FILE = b'--x\r\ncontent-disposition: form-data; name="file"\r\n\r\nRIFF\r\n--x--'


@pytest.mark.parametrize(
    ("content_type", "content"),
    [
        ("application/json", b"{}"),
        ("multipart/form-data", b""),
        (FORM, b"--x\r\n"),
        (FORM, b"--x--\r\n"),
        (FORM, ONLY_MODEL),
        (FORM, ONLY_FILE),
    ],
)
async def test_a_form_that_is_none_is_refused_in_openais_words(
    edge: Edge, server: TritonServer, content_type: str, content: bytes
) -> None:
    headers = edge.bearer() | {"content-type": content_type}
    answer = await edge.client.post("/v1/audio/transcriptions", content=content, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_body"


async def test_another_organisations_speech_model_does_not_exist(edge: Edge, server: TritonServer) -> None:
    async with AsyncOpenAI(base_url=f"{edge.url}/v1", api_key=edge.issuer.token(org=OTHER_ORG)) as client:
        with pytest.raises(NotFoundError):
            await client.audio.transcriptions.create(model=SPEECH, file=RECORDING)
    assert (await edge.client.post("/v1/audio/transcriptions", data={"model": SPEECH})).status_code == 401


async def test_nvidias_client_is_served_over_http_and_grpc(
    edge: Edge, server: TritonServer, triton_executable: Path
) -> None:
    calls = [{**CALL, "over": over, "do": do} for over in ("http", "grpc") for do in ("infer", "ready", "metadata")]
    calls.append({**CALL, "over": "grpc", "do": "stream", "times": 3})
    *single, streamed = await by_client(edge, triton_executable, *calls)
    for inferred, ready, metadata in (single[:3], single[3:]):
        assert inferred["label"][0] == "star"
        assert ready is True
        assert metadata["name"] == MODEL
    assert [each["label"][0] for each in streamed] == ["star"] * 3


async def test_a_grpc_call_that_controls_the_server_or_names_no_model_of_the_caller_is_refused(
    edge: Edge, server: TritonServer, triton_executable: Path
) -> None:
    call = {**CALL, "over": "grpc"}
    unloaded, unknown = await by_client(
        edge, triton_executable, {**call, "do": "unload"}, {**call, "do": "infer", "model": "huge"}
    )
    assert unloaded["error"].startswith("[StatusCode.UNIMPLEMENTED] this path of the engine is not for clients")
    assert "deployed are: digits, shapes" in unknown["error"]
    (foreign,) = await by_client(edge, triton_executable, {**call, "do": "infer"}, org=OTHER_ORG)
    assert "error" in foreign
    assert (await get(edge, f"/v2/models/{MODEL}/ready")).status_code == 200
