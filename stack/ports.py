"""Loopback ports: which are free, and who holds the one that is not."""

import contextlib
import random
import socket

import psutil

# Below Linux's range for outgoing connections, so that no client socket takes a port between choice and use.
FIRST, LAST = 15_000, 32_000
ATTEMPTS = 200


class NoFreePortError(RuntimeError):
    """Not one of the tried loopback ports could be bound."""


def is_free(port: int) -> bool:
    """Whether a server could listen on the loopback port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """A loopback port that nothing listens on."""
    for _ in range(ATTEMPTS):
        port = random.randint(FIRST, LAST)  # noqa: S311 - a choice, no secret
        if is_free(port):
            return port
    raise NoFreePortError(f"no free port in {FIRST}-{LAST} after {ATTEMPTS} attempts")


def preferred_or_free(port: int) -> int:
    """`port` where it is free, another free one otherwise."""
    return port if is_free(port) else free_port()


def holder(port: int) -> str:
    """Who listens on the port, as far as this user may know: `name (pid 1)` or `another process`."""
    with contextlib.suppress(psutil.Error):
        for connection in psutil.net_connections(kind="tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port:
                return _describe(connection.pid)
    return "another process"


def _describe(pid: int | None) -> str:
    return "another process" if pid is None else f"{psutil.Process(pid).name()} (pid {pid})"
