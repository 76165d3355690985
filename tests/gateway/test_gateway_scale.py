"""Two thousand models are routed, one more of them too, and none once they are gone.

How long that takes is measured by `benchmarks.fleet`.
"""

import pytest

from tests.fakes.engine_http import running_engine
from tests.fixtures.edge import Edge, model_route

pytestmark = pytest.mark.asyncio(loop_scope="module")
MODELS = 2000


async def test_two_thousand_models_and_one_more(edge: Edge) -> None:
    async with running_engine("a") as engine:
        routes = [model_route(engine, model=f"model-{number:04}") for number in range(MODELS)]
        await edge.route(*routes)
        await edge.until_chat(200, f"model-{MODELS - 1}", seconds=60)
        assert await edge.metric("gateway_refusals_total") == 0
        await edge.route(*routes, model_route(engine, model="one-more"))
        await edge.until_chat(200, "one-more", seconds=60)
        for number in (0, MODELS // 2, MODELS - 1):
            assert (await edge.chat(f"model-{number:04}")).status_code == 200
        listed = (await edge.client.get("/v1/models", headers=edge.bearer())).json()["data"]
        assert len(listed) == MODELS + 1
        message = (await edge.chat("nothing")).json()["error"]["message"]
        assert message.endswith(f"and {MODELS + 1 - 50} more")
        await edge.route(model_route(engine, model="one-more"))
        await edge.until_chat(404, "model-0000", seconds=60)
