"""What users do meanwhile: create, look at and stop deployments, import models, chat; each by a seed of its own."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import grpc
import httpx
from aiops.models.v1.model_service_pb2_grpc import ModelServiceStub

from mesh.loops import Wake
from tests.fakes.model_files import Files, tiny_model, upload
from tests.robustness.final import question
from tests.robustness.history import History, Operation

STEADY, WORK = "steady", "work"
# Every call of a client ends within this time, whatever happens to the platform (the edge's own limit is shorter).
DEADLINE_S = 10.0
MOST_LIVE = 2
TRIES = 12
CLEAR_S = 30.0
# What a gateway makes of a call that ended on its way: it may have had its effect.
CANCELLED = 499
PAUSE = timedelta(milliseconds=300)


@dataclass
class Traffic:
    """The clients of one scenario."""

    url: str
    token: str
    history: History
    name: str
    seed: int
    over: asyncio.Event = field(default_factory=asyncio.Event)

    def client(self) -> httpx.AsyncClient:
        """A client of the REST API, signed in."""
        headers = {"authorization": f"Bearer {self.token}"}
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=DEADLINE_S, trust_env=False)

    async def deploy(self, client: str) -> None:
        """Creates and stops until it is over; a call whose outcome is unknown is sent again with its request id."""
        choose, live, number = random.Random(f"{self.seed} {client}"), list[str](), 0  # noqa: S311 - repeatable
        async with self.client() as rest:
            while not self.over.is_set():
                if len(live) < MOST_LIVE and (not live or choose.random() < 0.6):
                    number += 1
                    deployment_id = await self._create(rest, client, f"{self.name}-{client}-{number}")
                    live += [deployment_id] if deployment_id else []
                elif choose.random() < 0.5:
                    await self._stop(rest, client, live.pop(choose.randrange(len(live))))
                else:
                    await self._look(rest, client, choose.choice(live))
                await Wake().wait(PAUSE)

    async def clear(self) -> None:
        """Stops what earlier scenarios left running; it ends while this one goes on."""
        async with self.client() as rest, asyncio.timeout(CLEAR_S):
            while left := await _left(rest):
                for deployment_id in left:
                    await rest.delete(f"/deployments/{deployment_id}")

    async def chat(self, client: str) -> None:
        """Chats with the model that is always there."""
        async with self.client() as rest:
            while not self.over.is_set():
                await self.ask(rest, client, "/v1/chat/completions", STEADY)
                await Wake().wait(PAUSE / 3)

    async def ask(self, rest: httpx.AsyncClient, client: str, path: str, model: str) -> Operation:
        """One chat; who answered is in its value."""
        with self.history.operation(client, "chat", path=path, model=model) as operation:
            answer = await _call(operation, rest, "POST", path, question(model))
            if answer is not None and operation.result == "ok":
                operation.done("ok", **answer.json().get("served_by", {}))
        return operation

    async def bring(self, client: str) -> None:
        """Imports one small model after another."""
        number = 0
        while not self.over.is_set():
            number += 1
            await self.import_model(client, f"{self.name}-{client}-{number}")
            await Wake().wait(PAUSE * 3)

    async def import_model(self, client: str, name: str, files: Files | None = None) -> Operation:
        """One import over gRPC; the same one again finds the model that is there."""
        target = self.url.removeprefix("http://")
        with self.history.operation(client, "import", name=name) as operation:
            async with grpc.aio.insecure_channel(target) as channel:
                metadata = [("authorization", f"Bearer {self.token}")]
                call = ModelServiceStub(channel).ImportModel(
                    upload(name, files or tiny_model()), metadata=metadata, timeout=DEADLINE_S
                )
                try:
                    answer = await call
                    operation.done("ok", model_id=answer.model.model_id)
                except grpc.aio.AioRpcError as error:
                    certain = error.code() in {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.ALREADY_EXISTS}
                    operation.done("fail" if certain else "unknown", error=f"{error.code().name} {error.details()}")
        return operation

    async def _create(self, rest: httpx.AsyncClient, client: str, request_id: str) -> str:
        for _ in range(TRIES):
            with self.history.operation(client, "create", request_id=request_id) as operation:
                body = {"modelId": WORK, "requestId": request_id}
                answer = await _call(operation, rest, "POST", "/deployments", body)
                if answer is not None and operation.result == "ok":
                    operation.done("ok", deployment_id=answer.json()["deploymentId"])
            if operation.result == "ok":
                return str(operation.value["deployment_id"])
            if operation.result == "fail":
                return ""
            await Wake().wait(PAUSE)
        return ""

    async def _stop(self, rest: httpx.AsyncClient, client: str, deployment_id: str) -> None:
        for _ in range(TRIES):
            with self.history.operation(client, "stop", deployment_id=deployment_id) as operation:
                await _call(operation, rest, "DELETE", f"/deployments/{deployment_id}")
            if operation.result != "unknown":
                return
            await Wake().wait(PAUSE)

    async def _look(self, rest: httpx.AsyncClient, client: str, deployment_id: str) -> None:
        with self.history.operation(client, "get", deployment_id=deployment_id) as operation:
            answer = await _call(operation, rest, "GET", f"/deployments/{deployment_id}")
            if answer is not None and operation.result == "ok":
                fields = answer.json()
                operation.done("ok", status=fields["status"], epoch=fields.get("epoch", 0))


@asynccontextmanager
async def running(
    traffic: Traffic, *, deployers: int = 2, chatters: int = 2, importers: int = 0
) -> AsyncIterator[None]:
    """So many clients until the block ends; their last calls are waited for."""
    clients = [traffic.deploy(f"deployer-{number}") for number in range(deployers)]
    clients += [traffic.chat(f"chatter-{number}") for number in range(chatters)]
    clients += [traffic.bring(f"importer-{number}") for number in range(importers)]
    working = asyncio.gather(*clients)
    try:
        yield
    finally:
        traffic.over.set()
        await working


async def _left(rest: httpx.AsyncClient) -> list[str]:
    """What is to run, but for the model that is always there."""
    found = list[str]()
    for status in ("running", "deploying", "failed"):
        page = await rest.get(f"/deployments?status={status}&pageSize=1000")
        assert page.status_code == 200, page.text
        deployments = page.json().get("deployments", ())
        found += [each["deploymentId"] for each in deployments if each["modelName"] != STEADY]
    return found


async def _call(
    operation: Operation, rest: httpx.AsyncClient, method: str, path: str, body: object = None
) -> httpx.Response | None:
    """One call, judged: 2xx is ok, a refusal changed nothing, everything else may have had its effect."""
    try:
        async with asyncio.timeout(DEADLINE_S):
            answer = await rest.request(method, path, json=body)
    except (httpx.HTTPError, TimeoutError) as error:
        operation.done("unknown", error=repr(error))
        return None
    if answer.status_code == 200:
        operation.done("ok")
    elif answer.status_code < 500 and answer.status_code != CANCELLED:
        operation.done("fail", status=answer.status_code, error=answer.text[:300])
    else:
        operation.done("unknown", status=answer.status_code, error=answer.text[:300])
    return answer
