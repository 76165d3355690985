"""Several addresses of one service, of which one is used until it fails."""

from collections.abc import AsyncGenerator, AsyncIterable, Callable, Sequence
from typing import TypeVar

import grpc

from mesh.rpc.channel import ClientTls, open_channel

Message = TypeVar("Message")

# A connection that does not come about in this time is given up, so that the next address has its turn.
PATIENCE: list[tuple[str, str | int]] = [("grpc.min_reconnect_backoff_ms", 5_000)]


class Addresses:
    """`host:port` of each replica of a service, separated by commas."""

    def __init__(self, text: str) -> None:
        self._all = split(text)
        self._turn = 0

    @property
    def now(self) -> str:
        """The one to dial."""
        return self._all[self._turn % len(self._all)]

    def turn(self) -> None:
        """The next one is to be dialled from now on."""
        self._turn += 1

    def __len__(self) -> int:
        return len(self._all)

    def __str__(self) -> str:
        return self.now


def split(text: str) -> Sequence[str]:
    """The addresses of a list that is separated by commas; ValueError for an empty one."""
    addresses = [each.strip() for each in text.split(",") if each.strip()]
    if not addresses:
        raise ValueError("there is no address in an empty list of addresses")
    return addresses


async def follow(
    addresses: Addresses, tls: ClientTls, open_stream: Callable[[grpc.aio.Channel], AsyncIterable[Message]]
) -> AsyncGenerator[Message]:
    """What a stream from the present address says; however it ends, the next address has its turn after it."""
    try:
        async with open_channel(addresses.now, tls, options=PATIENCE) as channel:
            async for message in open_stream(channel):
                yield message
    finally:
        addresses.turn()
