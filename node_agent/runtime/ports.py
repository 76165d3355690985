"""TCP ports of this machine: which are free, and who holds the one that is not."""

import contextlib
import random
import socket
from collections.abc import Collection

import psutil

from mesh.errors import DomainError, Kind

# Below Linux's range for outgoing connections, so that no client socket takes a port between choice and use.
FIRST, LAST = 15_000, 32_000
ATTEMPTS = 500


class PortInUseError(DomainError):
    """Somebody else listens on the port that was asked for, or no port is free at all."""

    kind, reason = Kind.PRECONDITION, "PORT_IN_USE"


def claim_port(host: str, wanted: int, taken: Collection[int], preferred: int = 0) -> int:
    """The wanted port, or any free one for 0: `preferred`, if it can be had. Raises PortInUseError.

    `taken` are promised to others.
    """
    if wanted:
        if wanted in taken:
            raise _in_use(wanted, "another workload of this node")
        if not is_free(host, wanted):
            raise _in_use(wanted, holder(wanted))
        return wanted
    if preferred and preferred not in taken and is_free(host, preferred):
        return preferred
    for _ in range(ATTEMPTS):
        port = random.randint(FIRST, LAST)  # noqa: S311 - a choice, no secret
        if port not in taken and is_free(host, port):
            return port
    raise PortInUseError(f"no free port between {FIRST} and {LAST} after {ATTEMPTS} attempts")


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there now."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def bind_host(address: str) -> str:
    """Where engines listen so that `address` reaches them: the address where it is this machine's own, else any."""
    with contextlib.suppress(OSError):
        host = socket.gethostbyname(address)
        if is_free(host, 0):
            return host
    return "0.0.0.0"  # noqa: S104 - the address is translated on its way here


def holder(port: int) -> str:
    """Who listens on the port, as far as this user may know."""
    with contextlib.suppress(psutil.Error):
        for connection in psutil.net_connections(kind="tcp"):
            listens = connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port
            if listens and connection.pid:
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
    return "another process"


def _in_use(port: int, who: str) -> PortInUseError:
    return PortInUseError(
        f"port {port} is in use by {who}; ask for another port, or for 0 to get a free one", port=str(port), holder=who
    )
