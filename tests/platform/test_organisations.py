"""What belongs to another organisation is not there: for every path that takes an id, and for models by name."""

import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.fixtures.engines import ENGINE_TIMEOUT_S
from tests.platform.served import Served, fetched, question

pytestmark = pytest.mark.timeout(ENGINE_TIMEOUT_S)


@pytest.fixture
async def stranger(served: Served, rest: httpx.AsyncClient) -> AsyncIterator[httpx.AsyncClient]:
    """The owner of another organisation, made over the API, who may do there whatever there is."""
    suffix = time.time_ns()
    organisation = (await rest.post("/organizations", json={"name": f"others-{suffix}"})).json()
    credentials = {"email": f"owner-{suffix}@example.org", "password": "a long enough password"}
    user = {**credentials, "roles": ["organization.owner"], "orgId": organisation["orgId"]}
    created = await rest.post("/users", json=user)
    assert created.status_code == 200, created.text
    tokens = (await rest.post("/auth/login", json=credentials)).json()
    async with served.client(tokens["accessToken"]) as client:
        yield client


# What earlier requests still add to.
COUNTED = ("requestCount", "avgLatencyMs", "lastRequestAt")


async def of_the_first(served: Served, rest: httpx.AsyncClient) -> dict[str, Any]:
    """Everything that the first organisation has and the requests below name."""
    replica = served.replicas["node-1"]
    paths = {
        "node": f"/nodes/{replica['nodeId']}",
        "model": f"/models/{replica['modelId']}",
        "deployment": f"/deployments/{replica['deploymentId']}",
        "me": "/users/me",
        "keys": "/api-keys",
    }
    found = {name: await fetched(rest, path) for name, path in paths.items()}
    for gauge in ("changedAt", "lastHeartbeat", "gpuDevices", "ramFree", "diskFree", *COUNTED):
        found["node"].pop(gauge, None)
        found["deployment"].pop(gauge, None)
    return found


def requests(served: Served, found: dict[str, Any]) -> list[tuple[str, str, dict[str, Any] | None, str]]:
    """Verb, path, body and the reason of the refusal."""
    node, model = found["node"]["nodeId"], found["model"]["modelId"]
    deployment, user = found["deployment"]["deploymentId"], found["me"]["userId"]
    key = found["keys"]["apiKeys"][0]["apiKeyId"]
    wish = {"modelId": model, "nodeId": node}
    return [
        *((verb, f"/nodes/{node}", None, "NODE_NOT_FOUND") for verb in ("GET", "DELETE")),
        ("DELETE", f"/nodes/{node}?force=true", None, "NODE_NOT_FOUND"),
        ("PATCH", f"/nodes/{node}", {"name": "mine"}, "NODE_NOT_FOUND"),
        ("POST", f"/nodes/{node}/join-token", {}, "NODE_NOT_FOUND"),
        ("POST", f"/nodes/{node}/maintenance", {}, "NODE_NOT_FOUND"),
        ("DELETE", f"/nodes/{node}/maintenance", None, "NODE_NOT_FOUND"),
        ("GET", f"/nodes/{node}/metrics", None, "NODE_NOT_FOUND"),
        ("GET", f"/nodes/{node}/containers", None, "NODE_NOT_FOUND"),
        *((verb, f"/models/{model}", None, "MODEL_NOT_FOUND") for verb in ("GET", "DELETE")),
        *((verb, f"/models/{served.model}", None, "MODEL_NOT_FOUND") for verb in ("GET", "DELETE")),
        ("GET", f"/models/{model}/files", None, "MODEL_NOT_FOUND"),
        ("POST", "/deployments", wish, "MODEL_NOT_FOUND"),
        ("POST", "/deployments", wish | {"modelId": served.model}, "MODEL_NOT_FOUND"),
        ("POST", "/deployments/plan", wish, "MODEL_NOT_FOUND"),
        *((verb, f"/deployments/{deployment}", None, "DEPLOYMENT_NOT_FOUND") for verb in ("GET", "DELETE")),
        ("GET", f"/deployments/{deployment}/logs", None, "DEPLOYMENT_NOT_FOUND"),
        ("GET", f"/deployments/{deployment}/logs/follow", None, "DEPLOYMENT_NOT_FOUND"),
        ("GET", f"/deployments/{deployment}/metrics", None, "DEPLOYMENT_NOT_FOUND"),
        *((verb, f"/users/{user}", None, "USER_NOT_FOUND") for verb in ("GET", "DELETE")),
        ("DELETE", f"/api-keys/{key}", None, "API_KEY_NOT_FOUND"),
    ]


async def test_every_id_of_another_organisation_is_not_found(
    served: Served, rest: httpx.AsyncClient, stranger: httpx.AsyncClient
) -> None:
    before = await of_the_first(served, rest)
    for verb, path, body, reason in requests(served, before):
        answer = await stranger.request(verb, path, json=body)
        fields = answer.json()
        got = (answer.status_code, fields.get("code"), fields.get("details", [{}])[0].get("reason"))
        assert got == (404, 5, reason), f"{verb} {path}: {answer.text}"
    assert await of_the_first(served, rest) == before


async def test_no_list_shows_what_another_organisation_has(stranger: httpx.AsyncClient) -> None:
    me = await fetched(stranger, "/users/me")
    for path in ("/nodes", "/models", "/deployments", "/api-keys"):
        (rows,) = [value for value in (await fetched(stranger, path)).values() if isinstance(value, list)]
        assert rows == [], path
    assert [user["userId"] for user in (await fetched(stranger, "/users"))["users"]] == [me["userId"]]
    organisations = (await fetched(stranger, "/organizations"))["organizations"]
    assert [each["orgId"] for each in organisations] == [me["owner"]["orgId"]]
    stats = await fetched(stranger, "/system/stats")
    assert [stats[name] for name in ("nodeCount", "modelCount", "deploymentCount", "userCount")] == [0, 0, 0, 1]
    assert (await stranger.post("/organizations", json={"name": "more"})).status_code == 403
    assert (await stranger.post("/system/broadcast", json={"message": "m", "severity": "low"})).status_code == 403


async def test_its_models_are_not_served_to_others(served: Served, stranger: httpx.AsyncClient) -> None:
    assert (await fetched(stranger, "/v1/models"))["data"] == []
    answer = await stranger.post("/v1/chat/completions", json=question(served.model))
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    assert "none is deployed" in answer.json()["error"]["message"]
    endpoint = served.replicas["node-1"]["endpoint"]
    for path in (endpoint, endpoint.removesuffix("v1/inference") + "v1/chat/completions"):
        assert (await stranger.post(path, json=question(served.model))).status_code == 404


async def test_an_unknown_model_is_told_which_exist(served: Served, rest: httpx.AsyncClient) -> None:
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"):
        answer = await rest.post(path, json=question("nobody-has-it"))
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (404, "model_not_found", "model")
        assert served.model in error["message"]
    assert (await rest.get("/v1/models/nobody-has-it")).json()["error"]["code"] == "model_not_found"
    before = await ids(rest)
    for path in ("/deployments", "/deployments/plan"):
        answer = await rest.post(path, json={"modelId": "nobody-has-it"})
        assert (answer.status_code, answer.json()["details"][0]["reason"]) == (404, "MODEL_NOT_FOUND")
        assert "nobody-has-it" in answer.json()["message"]
    assert await ids(rest) == before


async def ids(rest: httpx.AsyncClient) -> set[str]:
    """Every deployment there is."""
    return {each["deploymentId"] for each in (await fetched(rest, "/deployments?pageSize=1000"))["deployments"]}
