"""Small health questions over loopback, without the libraries that the services themselves use.

A question of health answers what is still missing, as words for the one who waits; nothing missing is the empty string.
"""

import asyncio
import re

SESSION_OPEN = re.compile(rb"^aiops_node_session_open(\{[^}]*\})? 1(\.0)?$", re.MULTILINE)


async def listens(port: int) -> bool:
    """Whether something accepts connections on the port."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


async def http_get(port: int, path: str) -> tuple[int, bytes]:
    """Status and body of a GET request; status 0 when nothing answers HTTP."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return 0, b""
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n".encode())
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        line = head.split(maxsplit=2)
        return (int(line[1]) if len(line) > 1 and line[1].isdigit() else 0), body
    except OSError:
        return 0, b""
    finally:
        writer.close()


async def sockets_missing(port: int) -> str:
    """What the process with the sockets lacks: it listens once it knows whose tokens to trust."""
    status, _ = await http_get(port, "/healthz")
    return "" if status == 200 else f"no sockets are served on 127.0.0.1:{port} yet"


async def session_missing(metrics_port: int) -> str:
    """What keeps a node from work: its agent says on /metrics whether its session with the controller is open."""
    status, body = await http_get(metrics_port, "/metrics")
    if status != 200:
        return f"the agent does not answer on 127.0.0.1:{metrics_port}"
    return "" if SESSION_OPEN.search(body) else "the agent has no session with the controller"
