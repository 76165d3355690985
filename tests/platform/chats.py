"""Clients that go on chatting while something happens, and remember every answer."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx

from tests.fakes.eventually import eventually
from tests.platform.served import question

LONGEST_S = 60.0


@dataclass(frozen=True)
class Answer:
    """What a chat was answered, and when, on the clock of `time.monotonic`."""

    status: int
    text: str
    began: float
    ended: float


@dataclass
class Chats:
    """The answers so far, in the order in which they came."""

    answers: list[Answer] = field(default_factory=list)

    async def more(self, count: int) -> list[Answer]:
        """So many further answers to chats that were begun from now on."""
        since = time.monotonic()

        async def came() -> bool:
            return len(self.begun_after(since)) >= count

        await eventually(came, LONGEST_S)
        return self.begun_after(since)

    async def go_on(self, seconds: float) -> None:
        """Return when chats that were begun so much later than now are answered."""
        moment = time.monotonic() + seconds

        async def came() -> bool:
            return bool(self.begun_after(moment))

        await eventually(came, seconds + LONGEST_S)

    def begun_after(self, moment: float) -> list[Answer]:
        return [answer for answer in self.answers if answer.began > moment]

    @property
    def failed(self) -> list[Answer]:
        return [answer for answer in self.answers if answer.status != 200]

    @property
    def slowest_s(self) -> float:
        return max(answer.ended - answer.began for answer in self.answers)


@asynccontextmanager
async def chatting(
    rest: httpx.AsyncClient, model: str, path: str = "/v1/chat/completions", clients: int = 2
) -> AsyncIterator[Chats]:
    """Clients that chat without a pause until the block ends; then the last answers are waited for."""
    chats, over = Chats(), asyncio.Event()

    async def client() -> None:
        while not over.is_set():
            began = time.monotonic()
            answer = await rest.post(path, json=question(model))
            chats.answers.append(Answer(answer.status_code, answer.text, began, time.monotonic()))

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client())
        try:
            yield chats
        finally:
            over.set()
