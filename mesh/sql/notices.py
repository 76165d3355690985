"""Short words between processes over one database: PostgreSQL's LISTEN and NOTIFY. They may be lost, never delayed."""

import asyncio
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from sqlalchemy import text

from mesh.identity import new_id
from mesh.loops import Wake
from mesh.sql.database import Database

# NOTIFY takes payloads of less than 8,000 bytes.
LARGEST_BYTES = 7_000
# A connection that died in silence is found by asking it something now and then.
CHECK_EVERY = timedelta(seconds=10)
# Words that come together travel together.
COMPANY_S = 0.005
_NOTIFY = text("SELECT pg_notify(:channel, :payload)")


class Notices:
    """Says words to every other process that listens on the channel, and hears theirs; run `step` in a loop.

    What is said while the database is away is dropped: whoever listens has to look by itself now and then anyway.
    """

    def __init__(self, database: Database, channel: str, hear: Callable[[str], None]) -> None:
        self._database, self._channel, self._hear = database, channel, hear
        self._name = new_id("process")
        self._said: dict[str, None] = {}
        self._wake = Wake()
        self.listening = False

    def say(self, word: str) -> None:
        """The word goes out soon, in its turn; once, however often it was said by then."""
        if self.listening:
            self._said.setdefault(word)
            self._wake.set()

    async def step(self) -> None:
        """Listens and speaks until the connection fails, by raising."""
        async with self._database.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            raw: Any = (await connection.get_raw_connection()).driver_connection
            ended = asyncio.Event()
            raw.add_termination_listener(lambda _: ended.set())
            await raw.add_listener(self._channel, self._heard)
            self.listening = True
            try:
                while not ended.is_set():
                    if await self._wake.wait(CHECK_EVERY):
                        await asyncio.sleep(COMPANY_S)
                    for payload in self._payloads():
                        await connection.execute(_NOTIFY, {"channel": self._channel, "payload": payload})
                    await connection.execute(text("SELECT 1"))
            finally:
                self.listening = False
                if not raw.is_closed():
                    await raw.remove_listener(self._channel, self._heard)

    def _payloads(self) -> list[str]:
        """What was said, in as few payloads as it takes."""
        words, self._said = list(self._said), {}
        payloads: list[list[str]] = []
        size = LARGEST_BYTES
        for word in words:
            size += len(word.encode()) + 4
            if size > LARGEST_BYTES:
                payloads.append([])
                size = len(word.encode()) + 4
            payloads[-1].append(word)
        return [json.dumps([self._name, *each]) for each in payloads]

    def _heard(self, connection: object, pid: int, channel: str, payload: str) -> None:
        sender, *words = json.loads(payload)
        if sender != self._name:
            for word in words:
                self._hear(word)
