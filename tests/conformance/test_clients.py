"""What clients of each protocol get from a real engine behind the real gateway."""

import json
from typing import Any

import openai
import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

from tests.conformance.served import NAME, Served
from tests.conformance.test_conformance import TOOL
from tests.fixtures.engines import ENGINE_TIMEOUT_S

pytestmark = [pytest.mark.asyncio(loop_scope="package"), pytest.mark.timeout(ENGINE_TIMEOUT_S)]
ASKED: Any = [{"role": "user", "content": "Hello!"}]
USABLE: Any = {"name": TOOL["name"], "description": "tells it", "input_schema": TOOL["parameters"]}


async def test_anthropics_client_gets_messages(served: Served) -> None:
    key = served.edge.issuer.token(typ="api_key")
    async with AsyncAnthropic(base_url=served.edge.url, api_key=key, max_retries=0, timeout=120) as client:
        asked: Any = {"model": NAME, "max_tokens": 8, "messages": ASKED, "extra_body": {"temperature": 0}}
        whole = await client.messages.create(**asked)
        assert whole.content[0].type == "text"
        async with client.messages.stream(**asked) as stream:
            told = await stream.get_final_message()
        assert told.content[0].type == "text"
        assert told.content[0].text == whole.content[0].text
        for message in (whole, told):
            assert (message.stop_reason, message.usage.output_tokens) == ("max_tokens", 8)
            assert message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0) > 1
        spoken: Any = [*ASKED, {"role": "assistant", "content": whole.content}, *ASKED]
        blocks: Any = [{"type": "text", "text": "Be kind."}, {"type": "text", "text": "Be short."}]
        again = await client.messages.create(**{**asked, "messages": spoken, "system": blocks})
        assert again.usage.output_tokens == 8
        if not served.declares("tools"):
            offered = await client.messages.create(**{**asked, "tools": [USABLE], "tool_choice": {"type": "auto"}})
            assert offered.stop_reason in {"max_tokens", "end_turn", "tool_use"}


async def test_anthropics_client_gets_the_structure_that_it_asks_for(served: Served) -> None:
    if served.declares("response_format.type"):
        pytest.skip(f"{served.engine} knows no structured output, and such requests are refused")
    # A small model goes on writing spaces inside an object.
    format_: Any = {"type": "json_schema", "schema": {"enum": ["red", "green"]}}
    async with AsyncAnthropic(base_url=served.edge.url, api_key=served.edge.issuer.token(), max_retries=0) as client:
        message = await client.messages.create(
            model=NAME, max_tokens=40, messages=ASKED, output_config={"format": format_}, timeout=120,
            extra_body={"temperature": 0},
        )  # fmt: skip
    assert message.content[0].type == "text"
    assert json.loads(message.content[0].text) in {"red", "green"}


async def test_openais_client_gets_responses_and_texts(served: Served) -> None:
    async with AsyncOpenAI(
        base_url=f"{served.edge.url}/v1", api_key=served.edge.issuer.token(), max_retries=0
    ) as client:
        text = await client.completions.create(model=NAME, prompt="It was", max_tokens=4, temperature=0)
        assert text.choices[0].text
        response = await client.responses.create(model=NAME, input="Hello!", max_output_tokens=24, timeout=120)
        assert response.output_text.startswith("Hello")
        streamed = await client.responses.create(model=NAME, input="Hello!", max_output_tokens=24, stream=True)
        kinds = [event.type async for event in streamed]
        assert kinds[0] == "response.created"
        assert kinds[-1] in {"response.completed", "response.incomplete"}
        with pytest.raises(openai.NotFoundError, match="does not answer /v1/embeddings"):
            await client.embeddings.create(model=NAME, input="x", encoding_format="float")
