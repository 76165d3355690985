"""The gateway with a provider that answers as told, and an engine of the platform, for the SDKs of others."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio
from aiops.routing.v1 import routing_service_pb2 as routing

from tests.fakes.engine_http import Engine, running_engine
from tests.fakes.provider import Provider, Reply, call, chat, chunks, message, message_events, running_provider
from tests.fakes.routes import outside, policy
from tests.fixtures.edge import Edge, model_route, running_edge


@dataclass
class Gateway:
    """Models `tiny` (of the platform), `far` (who speaks OpenAI's protocol) and `claude` (Anthropic's)."""

    edge: Edge
    engine: Engine
    provider: Provider

    @property
    def key(self) -> str:
        """An API key of the platform."""
        return self.edge.issuer.token(typ="api_key")

    @staticmethod
    def answers(model: str, text: str) -> Reply:
        """The provider says this, in the words that it speaks as this model."""
        return Reply(message({"type": "text", "text": text})) if model == "claude" else Reply(chat(text))

    @staticmethod
    def calls(model: str, *, streamed: bool = False) -> Reply:
        """It wants the weather of Cologne."""
        asked = {"city": "Köln"}
        if model == "claude":
            block = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": asked}
            events = message_events(block, stop="tool_use")
            return Reply(events=events) if streamed else Reply(message(block, stop="tool_use"))
        called = call("weather", asked)
        if streamed:
            return Reply(events=chunks({"tool_calls": [{"index": 0, **called}]}, finish="tool_calls"))
        return Reply(chat(None, calls=[called], finish="tool_calls"))

    @staticmethod
    def breaks(model: str) -> Reply:
        """It begins a stream and fails."""
        fault = {"type": "server_error", "message": "out of memory"}
        if model == "claude":
            return Reply(events=[message_events()[0], {"type": "error", "error": fault}])
        return Reply(events=[chunks({"content": "he"})[0], {"error": fault}])


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def running_gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    """One for all SDKs; what is wrong is told at once, so that the SDK's own patience is seen."""
    async with (
        running_edge(tmp_path_factory.mktemp("clients")) as edge,
        running_provider() as provider,
        running_engine("tiny") as engine,
    ):
        engine.release.set()
        far = policy("far", outside(provider.port), max_attempts=1)
        claude = policy("claude", outside(provider.port, protocol=routing.External.messages), max_attempts=1)
        await edge.route(model_route(engine), policies=[far, claude])
        provider.script(Reply(chat()))
        await edge.until_chat(200, "far")
        yield Gateway(edge, engine, provider)


@pytest_asyncio.fixture(loop_scope="package")
async def gateway(running_gateway: Gateway) -> Gateway:
    """The same, with nobody kept waiting."""
    running_gateway.provider.release.clear()
    return running_gateway
