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


class ReservedPorts:
    """Ports that no other stack of this machine chooses until they are released.

    Between choice and use nothing listens on a port, so each is also claimed by an abstract socket of its name, which
    leaves no file and ends with the process (unix(7)).
    """

    def __init__(self) -> None:
        self._claims: list[socket.socket] = []

    def take(self, preferred: int = 0) -> int:
        """The preferred port where it is free and unclaimed, any other such port otherwise."""
        if preferred and self.claim(preferred):
            return preferred
        for _ in range(ATTEMPTS):
            port = free_port()
            if self.claim(port):
                return port
        raise NoFreePortError(f"every port that was tried in {FIRST}-{LAST} is claimed")

    def claim(self, port: int) -> bool:
        """Claim exactly this port, if it is free and unclaimed."""
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            claim.bind(f"\0aiops-port-{port}")
        except OSError:
            claim.close()
            return False
        if not is_free(port):
            claim.close()
            return False
        self._claims.append(claim)
        return True

    def release(self) -> None:
        """Give up all claims."""
        while self._claims:
            self._claims.pop().close()


def holder(port: int) -> str:
    """Who listens on the port, as far as this user may know: `name (pid 1)` or `another process`."""
    with contextlib.suppress(psutil.Error):
        for connection in psutil.net_connections(kind="tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port:
                return _describe(connection.pid)
    return "another process"


def _describe(pid: int | None) -> str:
    return "another process" if pid is None else f"{psutil.Process(pid).name()} (pid {pid})"
