"""Hashes passwords with argon2id, a few at a time, outside of the event loop."""

import asyncio
import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from mesh.errors import ExhaustedError

# 19 MiB, 2 passes, 1 lane: OWASP Password Storage Cheat Sheet, argon2id.
MEMORY_KIB, PASSES, LANES = 19 * 1024, 2, 1
PARALLEL_HASHES = max(1, min(4, os.cpu_count() or 1))
LONGEST_QUEUE = 256


class Passwords:
    """Makes and checks password hashes. At most `parallel` run at once, so memory stays within `parallel` × 19 MiB."""

    def __init__(self, *, parallel: int = PARALLEL_HASHES) -> None:
        self._hasher = PasswordHasher(time_cost=PASSES, memory_cost=MEMORY_KIB, parallelism=LANES)
        self._threads = ThreadPoolExecutor(parallel, thread_name_prefix="argon2")
        self._free = asyncio.Semaphore(parallel)
        self._waiting = 0
        # What the password of an unknown user is compared with, so that the answer takes as long.
        self._nobody = self._hasher.hash(os.urandom(16))

    def close(self) -> None:
        """Ends the threads."""
        self._threads.shutdown()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Waits for a free place to hash in. ExhaustedError when too many wait already."""
        if self._waiting >= LONGEST_QUEUE:
            raise ExhaustedError("too many passwords are being checked; try again in a moment")
        self._waiting += 1
        try:
            await self._free.acquire()
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._free.release()

    async def hash(self, password: str) -> str:
        """A new hash of a password, with its parameters and salt. Takes a turn of its own."""
        async with self.turn():
            return await self.rehash(password)

    async def rehash(self, password: str) -> str:
        """The same, within a turn that the caller holds."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._hasher.hash, password)

    async def matches(self, password_hash: str | None, password: str) -> bool:
        """Whether it is the password of the hash; False, and as slow, without a hash. Within a turn of the caller."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._check, password_hash or self._nobody, password)

    def outdated(self, password_hash: str) -> bool:
        """Whether the hash was made with other parameters than today's."""
        return self._hasher.check_needs_rehash(password_hash)

    def _check(self, password_hash: str, password: str) -> bool:
        try:
            return self._hasher.verify(password_hash, password)
        except (VerificationError, InvalidHashError):
            return False
