"""Clients that chat without a pause, and what each of their requests got."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import httpx

from tests.fakes.eventually import eventually
from tests.fixtures.edge import Edge

CLIENTS = 8


@dataclass(slots=True)
class Load:
    """Every answer so far: its status, who gave it, and when."""

    answers: list[tuple[int, str, float]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    stopping: bool = False

    async def served_by(self, name: str, times: int = 20) -> None:
        """Returns when the target has given so many more answers in a row, from every client's view."""
        start = len(self.answers)

        async def moved() -> bool:
            last = [who for _, who, _ in self.answers[start:]][-times:]
            return len(last) == times and set(last) == {name}

        await eventually(moved, 40, every=timedelta(milliseconds=5))


@asynccontextmanager
async def load(edge: Edge, model: str, clients: int = CLIENTS, **fields: Any) -> AsyncIterator[Load]:
    """Clients that chat one request after the other while the block lasts."""
    seen = Load()

    async def chat() -> None:
        while not seen.stopping:
            try:
                answer = await edge.chat(model, "hello", **fields)
            except httpx.TransportError as error:
                seen.failed.append(repr(error))
                continue
            seen.answers.append((answer.status_code, answer.headers.get("x-aiops-target", ""), time.monotonic()))
            if answer.status_code != 200:
                seen.failed.append(answer.text)

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(chat())
        try:
            yield seen
        finally:
            seen.stopping = True
