"""The addresses that files can be read at for a while. Whoever has one can read: none is logged, kept or shown."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta

from mesh.clock import Clock
from node_agent.cache.model import ArtifactFile, StorageUnavailableError

# A new address is asked for when so much of the old one's life is over: what is begun then still comes through.
_WORN_OUT = 0.8


@dataclass(slots=True)
class Address:
    """Where a file can be read. `good_until` is of this machine's own clock; one that was refused is not used again."""

    url: str = field(repr=False)
    good_until: float
    refused: bool = False


@dataclass(frozen=True, slots=True)
class Signed:
    """A fresh address, and how long it is good from now on."""

    url: str = field(repr=False)
    lifetime: timedelta


Sign = Callable[[ArtifactFile], Awaitable[Signed]]
"""Asks the controller for a file's address. Raises FileMissingError, StorageUnavailableError."""


async def nobody_signs(file: ArtifactFile) -> Signed:
    """For a node without a controller."""
    raise StorageUnavailableError(f"nobody says where {file.path} can be read", path=file.path)


class Addresses:
    """Each file's address, asked for once while it is good. Use from one event loop."""

    def __init__(self, sign: Sign, clock: Clock) -> None:
        self._sign, self._clock = sign, clock
        self._known: dict[tuple[str, str], Address] = {}
        self._asking: defaultdict[tuple[str, str], asyncio.Lock] = defaultdict(asyncio.Lock)

    async def of(self, url: str, file: ArtifactFile) -> Address:
        """Where a file below the URL can be read now. Raises FileMissingError, StorageUnavailableError."""
        key = (url, file.sha256)
        async with self._asking[key]:
            address = self._known.get(key)
            if address is None or address.refused or self._clock.monotonic() >= address.good_until:
                asked_at = self._clock.monotonic()
                signed = await self._sign(file)
                self._forget_old()
                address = Address(signed.url, asked_at + _WORN_OUT * signed.lifetime.total_seconds())
                self._known[key] = address
            return address

    def _forget_old(self) -> None:
        now = self._clock.monotonic()
        self._known = {key: each for key, each in self._known.items() if now < each.good_until}
        for key in [key for key, lock in self._asking.items() if key not in self._known and not lock.locked()]:
            del self._asking[key]
