"""Bad weather on a machine's network: packets come late, out of order, and some that leave go twice.

Kernels without `netem` still have NFQUEUE: a rule hands packets to this program, which lets them go when their time has
come. It speaks nfnetlink_queue itself (linux/netfilter/nfnetlink_queue.h). What it sends a second time carries a mark,
by which the rules let it pass.
"""

import argparse
import asyncio
import random
import socket
import struct
import sys
from dataclasses import dataclass
from pathlib import Path

PROGRAM = Path(__file__).resolve()

NETLINK_NETFILTER, QUEUE = 12, 1
MARK = 7
PACKET, VERDICT, CONFIG = 0x300, 0x301, 0x302
CFG_CMD, CFG_PARAMS, CFG_MAXLEN = 1, 2, 3
PACKET_HDR, VERDICT_HDR, PAYLOAD = 1, 2, 10
BIND, COPY_PACKET, ACCEPT = 1, 2, 1
LOCAL_OUT = 3
MOST_WAITING = 20_000


@dataclass(frozen=True)
class Weather:
    """Each packet waits `delay_ms` and up to `jitter_ms` more, which is what puts them out of order."""

    delay_ms: float
    jitter_ms: float
    twice: float

    @property
    def arguments(self) -> list[str]:
        """As this program's command line has them."""
        return [str(self.delay_ms), str(self.jitter_ms), str(self.twice)]


class Queue:
    """The packets of this network namespace that rules hand over."""

    def __init__(self, weather: Weather) -> None:
        self._weather = weather
        self._netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
        self._netlink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 20)
        self._netlink.bind((0, 0))
        self._raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        self._raw.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK)
        self._chance = random.Random(QUEUE)  # noqa: S311 - repeatable
        self._send(CONFIG, _attribute(CFG_CMD, struct.pack("!BxH", BIND, socket.AF_INET)))
        self._send(CONFIG, _attribute(CFG_PARAMS, struct.pack("!IB", 0xFFFF, COPY_PACKET)))
        self._send(CONFIG, _attribute(CFG_MAXLEN, struct.pack("!I", MOST_WAITING)))

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Lets packets go from now on."""
        loop.add_reader(self._netlink, self._receive, loop)

    def _receive(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            content = self._netlink.recv(1 << 17)
        except OSError:
            # More came than the kernel would keep; TCP sends it again.
            return
        while len(content) >= 16:
            length, kind = struct.unpack_from("=IH", content)
            if kind == PACKET:
                self._take(loop, dict(_attributes(content[20:length])))
            content = content[(length + 3) & ~3 :]

    def _take(self, loop: asyncio.AbstractEventLoop, attributes: dict[int, bytes]) -> None:
        number, _, hook = struct.unpack("!IHB", attributes[PACKET_HDR][:7])
        weather = self._weather
        late = (weather.delay_ms + self._chance.random() * weather.jitter_ms) / 1000
        loop.call_later(late, self._accept, number)
        if hook == LOCAL_OUT and self._chance.random() < weather.twice:
            loop.call_later(late, self._repeat, attributes[PAYLOAD])

    def _accept(self, number: int) -> None:
        self._send(VERDICT, _attribute(VERDICT_HDR, struct.pack("!II", ACCEPT, number)))

    def _repeat(self, packet: bytes) -> None:
        self._raw.sendto(packet, (socket.inet_ntoa(packet[16:20]), 0))

    def _send(self, kind: int, attribute: bytes) -> None:
        body = struct.pack("!BBH", socket.AF_UNSPEC, 0, QUEUE) + attribute
        self._netlink.send(struct.pack("=IHHII", 16 + len(body), kind, 1, 0, 0) + body)


def _attribute(kind: int, content: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(content), kind) + content + bytes(-len(content) % 4)


def _attributes(content: bytes) -> "list[tuple[int, bytes]]":
    found = []
    while len(content) >= 4:
        length, kind = struct.unpack_from("=HH", content)
        found.append((kind & 0x3FFF, content[4:length]))
        content = content[(length + 3) & ~3 :]
    return found


async def _main(weather: Weather) -> None:
    Queue(weather).attach(asyncio.get_running_loop())
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for name in ("delay_ms", "jitter_ms", "twice"):
        parser.add_argument(name, type=float)
    asyncio.run(_main(Weather(**vars(parser.parse_args()))))
