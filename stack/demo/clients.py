"""The clients of the demonstration: REST, gRPC stubs, the OpenAI SDK, a Kafka consumer and the command line."""

import asyncio
import json
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
import httpx
from aiokafka import AIOKafkaConsumer
from aiops.inference.v1.inference_service_pb2 import ChatMessage, ChatRequest
from aiops.inference.v1.inference_service_pb2_grpc import InferenceServiceStub

from stack.demo.story import DemoFailedError, expect

CALL_TIMEOUT_S = 60.0
POLL_S = 0.3
QUIET_MS = 1_000
CHAT_ROUTE = "/v1/chat/completions"
MAX_TOKENS = 40


@dataclass(frozen=True, slots=True)
class Event:
    """A CloudEvent as a plain Kafka consumer sees it."""

    topic: str
    type: str
    key: str
    value: dict[str, Any]


class Client:
    """A signed-in user of the platform."""

    def __init__(self, url: str, token: str, rest: httpx.AsyncClient) -> None:
        self._url = url
        self._token = token
        self._rest = rest

    @classmethod
    async def login(cls, url: str, email: str, password: str, rest: httpx.AsyncClient) -> "Client":
        """Sign in over REST."""
        answer = await rest.post(f"{url}/auth/login", json={"email": email, "password": password})
        expect(answer.status_code == httpx.codes.OK, f"login answered {answer.status_code}: {answer.text}")
        return cls(url, answer.json()["accessToken"], rest)

    async def get(self, path: str) -> dict[str, Any]:
        """GET over REST."""
        return _json(await self._rest.get(f"{self._url}{path}", headers=self._headers))

    async def post(self, path: str, body: Mapping[str, object]) -> dict[str, Any]:
        """POST over REST."""
        return _json(await self._rest.post(f"{self._url}{path}", json=body, headers=self._headers))

    async def until(
        self,
        path: str,
        done: Callable[[dict[str, Any]], object],
        timeout_s: float,
        awaits: Callable[[dict[str, Any]], None] = lambda _: None,
    ) -> dict[str, Any]:
        """GET until the answer is as wanted, telling of each that is not."""
        deadline = time.monotonic() + timeout_s
        while not done(answer := await self.get(path)):
            if time.monotonic() > deadline:
                raise DemoFailedError(f"GET {path} still answers {json.dumps(answer)[:2000]} after {timeout_s:.0f} s")
            awaits(answer)
            await asyncio.sleep(POLL_S)
        return answer

    async def chat_rest(self, model: str, text: str) -> str:
        """A chat over plain REST."""
        answer = await self.post(CHAT_ROUTE, {"model": model, "messages": _said(text), "max_tokens": MAX_TOKENS})
        return str(answer["choices"][0]["message"]["content"])

    async def chat_grpc(self, model: str, text: str) -> str:
        """A chat through the generated gRPC stub, on the same port."""
        message = ChatMessage(role="user", content=text)
        request = ChatRequest(model=model, messages=[message], max_tokens=MAX_TOKENS)
        metadata = (("authorization", f"Bearer {self._token}"),)
        async with grpc.aio.insecure_channel(self._url.removeprefix("http://")) as channel:
            answer = await InferenceServiceStub(channel).Chat(request, timeout=CALL_TIMEOUT_S, metadata=metadata)
        return str(answer.choices[0].message.content)

    async def chat_openai(self, model: str, text: str) -> str:
        """A chat through the OpenAI SDK."""
        from openai import AsyncOpenAI

        async with AsyncOpenAI(base_url=f"{self._url}/v1", api_key=self._token) as client:
            answer = await client.chat.completions.create(
                model=model, messages=[{"role": "user", "content": text}], max_tokens=MAX_TOKENS
            )
        return answer.choices[0].message.content or ""

    async def chat_openai_streamed(self, model: str, text: str) -> list[str]:
        """A streamed chat through the OpenAI SDK; answers the pieces."""
        from openai import AsyncOpenAI

        async with AsyncOpenAI(base_url=f"{self._url}/v1", api_key=self._token) as client:
            stream = await client.chat.completions.create(
                model=model, messages=[{"role": "user", "content": text}], max_tokens=MAX_TOKENS, stream=True
            )
            pieces = [chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices]
        return [piece for piece in pieces if piece]

    @property
    def _headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self._token}"}


async def run_aiops(environment: Mapping[str, str], *arguments: str) -> Any:
    """A command of the `aiops` command line with `-o json`; answers what it printed."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cli.main", *arguments, "-o", "json"), env=dict(environment), stdout=PIPE, stderr=PIPE
    )
    out, complaint = await child.communicate()
    expect(child.returncode == 0, f"aiops {' '.join(arguments)} ended with {child.returncode}: {complaint.decode()}")
    return json.loads(out)


async def read_events(servers: str, topics: list[str]) -> list[Event]:
    """Everything in the topics, by a consumer that knows nothing of this platform."""
    consumer = AIOKafkaConsumer(*topics, bootstrap_servers=servers, auto_offset_reset="earliest")
    events: list[Event] = []
    async with consumer:
        while batches := await consumer.getmany(timeout_ms=QUIET_MS):
            for record in (record for batch in batches.values() for record in batch):
                headers = {name: raw.decode() for name, raw in record.headers}
                value = json.loads(record.value)
                events.append(Event(record.topic, headers["ce_type"], record.key.decode(), value))
    return events


def _said(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def _json(answer: httpx.Response) -> dict[str, Any]:
    request = answer.request
    expect(answer.is_success, f"{request.method} {request.url.path} answered {answer.status_code}: {answer.text}")
    fields: dict[str, Any] = answer.json()
    return fields
