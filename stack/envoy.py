"""The embedded Envoy: its command line, its readiness, and how it drains before it stops."""

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path

from stack.installed import package_directory
from stack.probes import http_get, listens

CONCURRENCY = 2
# How long a line of the access log may be in Envoy's memory alone.
FLUSH_LOG_MS = 200
DRAIN_S = 5


@dataclass(frozen=True, slots=True)
class Envoy:
    """One Envoy process that gets everything but its bootstrap from the gateway service."""

    bootstrap: Path
    port: int
    admin_port: int

    def command(self) -> list[str]:
        """Envoy in the foreground; without hot restart it needs no shared memory, no socket and no base id."""
        program = package_directory("envoy") / "_bin" / "envoy"
        options = ["--disable-hot-restart", "--concurrency", str(CONCURRENCY), "--log-level", "warning"]
        options += ["--file-flush-interval-msec", str(FLUSH_LOG_MS)]
        drain = ["--drain-time-s", str(DRAIN_S), "--drain-strategy", "immediate"]
        return [str(program), "--config-path", str(self.bootstrap), *options, *drain]

    def environment(self) -> dict[str, str]:
        return {"PATH": os.defpath}

    async def missing(self) -> str:
        """What Envoy lacks until it serves: its configuration, and connections on the public port."""
        status, _ = await http_get(self.admin_port, "/ready")
        if not status:
            return f"Envoy's admin does not answer on 127.0.0.1:{self.admin_port}"
        if status != 200:
            return "Envoy waits for the gateway's configuration"
        return "" if await listens(self.port) else f"nothing listens on 127.0.0.1:{self.port}"


async def drain(admin_port: int, seconds: float) -> None:
    """Tell clients to go elsewhere, and give requests that run some time to end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", admin_port)
    writer.write(
        b"POST /drain_listeners?graceful HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    )
    await reader.read()
    writer.close()
    await asyncio.sleep(seconds)
