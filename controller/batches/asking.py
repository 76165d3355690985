"""How a batch's requests are asked: over the gateway, as their owner, and only as fast as it lets them in."""

import asyncio
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

import httpx

from controller.iam.model import ApiKey, ApiKeyId, User
from controller.iam.signing import Signers
from mesh.clock import Clock
from mesh.identity import Caller, UserId

API_KEY = "apikey-"
# Longer than a turn at a batch.
TOKEN_LIFETIME = timedelta(minutes=15)
CONNECT_S, ANSWER_S = 5.0, 900.0
# What says nothing about the request: another try may be answered.
BUSY = frozenset({0, 408, 429, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back. `status` 0 is nothing at all."""

    status: int
    body: bytes = b""
    request_id: str = ""
    retry_after_s: float = 0.0


class Gateway:
    """The gateway's inference API."""

    def __init__(self, url: str) -> None:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=16, keepalive_expiry=30)
        timeout = httpx.Timeout(ANSWER_S, connect=CONNECT_S)
        self._client = httpx.AsyncClient(base_url=url, timeout=timeout, limits=limits, trust_env=False)

    async def ask(self, endpoint: str, body: bytes, token: str) -> Reply:
        """One request and what came back."""
        headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
        try:
            answer = await self._client.post(endpoint, content=body, headers=headers)
        except httpx.TransportError:
            return Reply(0)
        after = answer.headers.get("retry-after", "")
        wait = float(after) if after.isdecimal() else 0.0
        return Reply(answer.status_code, answer.content, answer.headers.get("x-request-id", ""), wait)

    async def close(self) -> None:
        """Lets go of its connections."""
        await self._client.aclose()


class Users(Protocol):
    async def get(self, user_id: UserId, caller: Caller, *, lock: bool = False) -> User: ...


class ApiKeys(Protocol):
    async def get(self, api_key_id: ApiKeyId, caller: Caller) -> ApiKey: ...


class Work(Protocol):
    @property
    def users(self) -> Users: ...
    @property
    def api_keys(self) -> ApiKeys: ...


class UnitOfWork(Protocol):
    def reading(self, caller: Caller) -> AbstractAsyncContextManager[Work]: ...


class Tokens:
    """Tokens that let a batch ask in its owner's name, and do nothing else."""

    def __init__(self, unit_of_work: UnitOfWork, signers: Signers, clock: Clock) -> None:
        self._unit_of_work = unit_of_work
        self._signers = signers
        self._clock = clock

    async def of(self, owner: Caller, token_id: str) -> str:
        """A token of the owner. What was asked for with an API key counts as that key's, and ends with it.

        UserNotFoundError or ApiKeyNotFoundError when they are gone.
        """
        async with self._unit_of_work.reading(owner) as work:
            user = await work.users.get(owner.user_id, owner)
            key = await work.api_keys.get(ApiKeyId(token_id), owner) if token_id.startswith(API_KEY) else None
        now = self._clock.now()
        expires_at: datetime = min(now + TOKEN_LIFETIME, key.expires_at) if key else now + TOKEN_LIFETIME
        return self._signers.at(now).inference_token(user, token_id, now, expires_at, of_api_key=key is not None)


class Pace:
    """How many requests are open at once: one more after each round that went well, half as many when told to wait.

    Live traffic has what it needs first: a batch takes what is left (additive increase, multiplicative decrease).
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._limit = 1.0

    @property
    def room(self) -> int:
        """So many may be open."""
        return max(1, int(self._limit))

    def answered(self) -> None:
        """A request was answered."""
        self._limit = min(self._most, self._limit + 1 / self._limit)

    def refused(self) -> None:
        """A request was told to come again."""
        self._limit = max(1.0, self._limit / 2)


async def first_of(tasks: set["asyncio.Task[None]"], at_most: timedelta) -> set["asyncio.Task[None]"]:
    """Waits for one of them, or so long; those that are still open. Raises what one raised."""
    timeout = at_most.total_seconds()
    done, still_open = await asyncio.wait(tasks, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()
    return still_open
