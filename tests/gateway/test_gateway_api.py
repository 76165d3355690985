"""The REST API, gRPC and gRPC-Web through the real edge: what passes, what is refused, and how."""

import asyncio
from typing import Any

import grpc
import httpx
import pytest
from aiops.models.v1 import model_service_pb2, model_service_pb2_grpc

from tests.fixtures.edge import Edge

pytestmark = pytest.mark.asyncio(loop_scope="module")


def reason(response: httpx.Response) -> str:
    return next(str(each["reason"]) for each in response.json()["details"] if each["@type"].endswith("ErrorInfo"))


async def test_a_rest_call_reaches_the_method_and_is_answered_in_camel_case(edge: Edge) -> None:
    response = await edge.client.get("/models", params={"pageSize": 5}, headers=edge.bearer())
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.json()["models"][0]["name"] == "tiny"
    # Primitive fields are printed even when they hold their default.
    assert response.json()["models"][0]["sizeMb"] == 0


async def test_a_field_that_the_contract_names_as_the_response_is_answered_alone(edge: Edge) -> None:
    body = {"email": "a@b.c", "password": "right"}
    response = await edge.client.post("/auth/login", json=body)
    assert response.status_code == 200
    assert response.json()["accessToken"] == "the-token"


async def test_open_methods_need_no_token_and_a_wrong_password_says_so(edge: Edge) -> None:
    assert (await edge.client.get("/system/health")).status_code == 200
    response = await edge.client.post("/auth/login", json={"email": "a@b.c", "password": "wrong"})
    assert (response.status_code, response.json()["code"], reason(response)) == (401, 16, "UNAUTHENTICATED")


async def test_errors_of_the_service_keep_their_details(edge: Edge) -> None:
    response = await edge.client.get("/models/ghost", headers=edge.bearer())
    assert response.status_code == 404
    assert response.json()["code"] == 5
    assert response.json()["details"][0]["metadata"] == {"model_id": "ghost"}


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"bogus": 1}, "there is no field bogus"),
        ({"email": "a@b.c", "password": 5}, "password: invalid value 5"),
        ({"email": ["a@b.c"], "password": "x"}, "not repeating"),
        ([1], "Root element must be a message"),
        ("text", ""),
    ],
)
async def test_a_body_that_breaks_the_contract_is_refused_with_the_reason(edge: Edge, body: Any, says: str) -> None:
    response = await edge.client.post("/auth/login", json=body)
    assert (response.status_code, response.json()["code"], reason(response)) == (400, 3, "INVALID_REQUEST")
    assert says in response.json()["message"]


async def test_an_unknown_field_is_found_at_any_depth_and_named(edge: Edge) -> None:
    body = {"name": "n", "labels": {"any": "name"}, "config": {"workingDirectory": "/x", "mystery": {"a": [1]}}}
    response = await edge.client.post("/nodes", json=body, headers=edge.bearer())
    assert response.status_code == 400
    violations = [d["fieldViolations"][0]["field"] for d in response.json()["details"] if "fieldViolations" in d]
    assert violations == ["config.mystery"]


async def test_an_escaped_field_name_hides_nothing(edge: Edge) -> None:
    content = rb'{"emai\u006c":"a@b.c","password":"right","bo\u0067us":1}'
    response = await edge.client.post("/auth/login", content=content, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert "there is no field bogus" in response.json()["message"]


async def test_text_that_is_no_json_is_refused(edge: Edge) -> None:
    for content in (b'{"email":', b"\xff\xfe", b'{"email":"a@b.c"} trailing', b"[" * 20_000):
        response = await edge.client.post("/auth/login", content=content, headers={"content-type": "application/json"})
        assert response.status_code == 400
        assert response.json()["code"] == 3


async def test_unknown_query_parameters_are_refused_by_name(edge: Edge) -> None:
    response = await edge.client.get("/models", params={"colour": "red"}, headers=edge.bearer())
    assert (response.status_code, reason(response)) == (400, "INVALID_REQUEST")
    assert "colour" in response.json()["message"]
    response = await edge.client.get("/models", params={"pageSize": "many"}, headers=edge.bearer())
    assert response.status_code == 400


@pytest.mark.parametrize(
    ("verb", "path"), [("GET", "/nothing"), ("PUT", "/models"), ("POST", "/models/x/y"), ("DELETE", "/")]
)
async def test_a_path_that_no_method_has_is_not_found(edge: Edge, verb: str, path: str) -> None:
    response = await edge.client.request(verb, path, headers=edge.bearer())
    assert (response.status_code, response.json()["code"], reason(response)) == (404, 5, "NOT_FOUND")


async def test_methods_of_the_mesh_are_not_reachable(edge: Edge) -> None:
    for path in (
        "/aiops.routing.v1.RoutingService/WatchRoutingTable",
        "/aiops.iam.v1.TokenTrustService/WatchTokenTrust",
    ):
        response = await edge.client.post(
            path, headers=edge.bearer() | {"content-type": "application/json"}, content=b"{}"
        )
        assert response.status_code == 404
    async with grpc.aio.insecure_channel(f"127.0.0.1:{edge.port}") as channel:
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
            "/aiops.iam.v1.TokenTrustService/WatchTokenTrust"
        )
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call(b"", metadata=[("authorization", edge.bearer()["authorization"])])
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_body_over_the_limit_is_refused_before_it_is_read_to_its_end(edge: Edge) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
    head = (
        "POST /auth/login HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 1000000000\r\n\r\n"
    )
    writer.write(head.encode() + b'{"email":"')
    for _ in range(9):
        writer.write(b"a" * (512 * 1024))
    answer = await asyncio.wait_for(reader.read(4096), 5)
    assert answer.startswith(b"HTTP/1.1 413")
    assert b'"reason":"RESOURCE_EXHAUSTED"' in answer
    writer.close()


async def test_headers_that_only_the_mesh_may_set_do_not_get_in(edge: Edge) -> None:
    edge.plane.metadata.clear()
    forged = {
        "x-aiops-org": "org-two",
        "x-aiops-route": "org-two/secret",
        "x-envoy-retry-on": "5xx",
        "x-aiops-evil": "1",
    }
    await edge.client.get("/models", headers=edge.bearer() | forged)
    seen = edge.plane.metadata[-1]
    assert not set(forged) & set(seen)
    assert seen["authorization"].startswith("Bearer ")


async def test_a_header_with_an_underscore_is_refused(edge: Edge) -> None:
    assert (await edge.client.get("/healthz", headers={"x_aiops_org": "org-two"})).status_code == 400


async def test_no_spelling_of_a_path_gets_around_the_token(edge: Edge) -> None:
    for path in ("/healthz/../models", "//models", "/./models", "/docs/%2e%2e/models"):
        reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
        writer.write(f"GET {path} HTTP/1.1\r\nhost: a\r\n\r\n".encode())
        answer = await asyncio.wait_for(reader.read(4096), 5)
        assert answer.startswith((b"HTTP/1.1 401", b"HTTP/1.1 307", b"HTTP/1.1 400")), path
        writer.close()


async def test_a_stream_is_answered_as_lines_of_json(edge: Edge) -> None:
    response = await edge.client.get("/deployments/d1/logs/follow", headers=edge.bearer())
    assert response.status_code == 200
    assert response.text.split() == ['{"logs":"one\\n"}', '{"logs":"two\\n"}']


async def test_grpc_passes_through_and_its_errors_arrive_whole(edge: Edge) -> None:
    metadata = [("authorization", edge.bearer()["authorization"])]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{edge.port}") as channel:
        stub = model_service_pb2_grpc.ModelServiceStub(channel)
        answer = await stub.ListModels(model_service_pb2.ListModelsRequest(), metadata=metadata)
        assert answer.models[0].name == "tiny"
        with pytest.raises(grpc.aio.AioRpcError) as missing:
            await stub.GetModel(model_service_pb2.GetModelRequest(model_id="ghost"), metadata=metadata)
        assert missing.value.code() is grpc.StatusCode.NOT_FOUND
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.ListModels(model_service_pb2.ListModelsRequest())
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert refused.value.details() == "Jwt is missing"


async def test_an_upload_streams_past_every_body_limit(edge: Edge) -> None:
    edge.plane.uploaded = 0
    metadata = [("authorization", edge.bearer()["authorization"])]

    def chunks() -> Any:
        for _ in range(40):
            yield model_service_pb2.ImportModelRequest(chunk=b"x" * 1_000_000)

    async with grpc.aio.insecure_channel(f"127.0.0.1:{edge.port}") as channel:
        stub = model_service_pb2_grpc.ModelServiceStub(channel)
        answer = await stub.ImportModel(chunks(), metadata=metadata)
    assert answer.model.name == "uploaded"
    assert edge.plane.uploaded == 40_000_000


async def test_grpc_web_from_a_browser_of_another_origin(edge: Edge) -> None:
    origin = {"origin": "https://console.example"}
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,x-grpc-web"}
    path = "/aiops.models.v1.ModelService/ListModels"
    preflight = await edge.client.request("OPTIONS", path, headers=origin | asked)
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == "https://console.example"
    headers = edge.bearer() | origin | {"content-type": "application/grpc-web+proto", "x-grpc-web": "1"}
    response = await edge.client.post(path, headers=headers, content=b"\x00\x00\x00\x00\x00")
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/grpc-web+proto"
    assert b"tiny" in response.content
    assert b"grpc-status:0" in response.content


async def test_envoy_answers_its_own_pages(edge: Edge) -> None:
    assert (await edge.client.get("/healthz")).json() == {"status": "healthy"}
    contract = await edge.client.get("/openapi.json")
    assert contract.json()["openapi"] == "3.1.0"
    page = await edge.client.get("/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "http" not in page.text.replace("https://", "http").partition("src=")[2]


async def test_http2_without_tls_is_spoken_on_the_same_port(edge: Edge) -> None:
    # gRPC is HTTP/2; REST over HTTP/1.1 was used by every other test.
    async with grpc.aio.insecure_channel(f"127.0.0.1:{edge.port}") as channel:
        stub = model_service_pb2_grpc.ModelServiceStub(channel)
        metadata = [("authorization", edge.bearer()["authorization"])]
        assert await stub.ListModels(model_service_pb2.ListModelsRequest(), metadata=metadata)
