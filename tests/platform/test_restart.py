"""What was deployed is served again after the platform was stopped and started in the same home, without any call."""

import httpx
import pytest

from stack.demo.platform import demo_model
from tests.fakes.eventually import eventually
from tests.fixtures.engines import ENGINE_TIMEOUT_S
from tests.fixtures.platform import Platform
from tests.platform.served import START_S, question

pytestmark = pytest.mark.timeout(ENGINE_TIMEOUT_S)

MODEL = "lasting"


async def test_rows_keys_and_models_survive_and_the_model_is_served_again(new_platform: Platform) -> None:
    new_platform.start(nodes=1)
    new_platform.aiops_json("models", "import", str(demo_model()), "--name", MODEL)
    deployment = new_platform.aiops_json("deploy", MODEL, "--wait")
    async with httpx.AsyncClient(base_url=new_platform.url, timeout=30, trust_env=False) as rest:
        credentials = {"email": "admin@localhost", "password": new_platform.admin_password}
        tokens = (await rest.post("/auth/login", json=credentials)).json()
        rest.headers["authorization"] = f"Bearer {tokens['accessToken']}"
        key = (await rest.post("/api-keys", json={"name": "lasting"})).json()
        rest.headers["authorization"] = f"Bearer {key['secret']}"
        before = {path: (await rest.get(path)).json() for path in ("/models", "/users", "/api-keys", "/organizations")}
        assert (await rest.post("/v1/chat/completions", json=question(MODEL))).status_code == 200

        assert new_platform.stop() == 0
        new_platform.start(nodes=1)

        async def is_answered() -> bool:
            return (await rest.post("/v1/chat/completions", json=question(MODEL))).status_code == 200

        await eventually(is_answered, START_S)
        assert {path: (await rest.get(path)).json() for path in before} == before
        renewed = await rest.post("/auth/refresh", json={"refreshToken": tokens["refreshToken"]})
        assert renewed.status_code == 200
        (now,) = (await rest.get("/deployments")).json()["deployments"]
    same = ("deploymentId", "instanceId", "nodeId", "endpoint", "createdAt", "deployedBy")
    assert {name: now[name] for name in same} == {name: deployment[name] for name in same}
    assert now["status"] == "running"
    assert new_platform.stop() == 0
