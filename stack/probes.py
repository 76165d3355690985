"""Small health questions over loopback, without the libraries that the services themselves use."""

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


async def has_session(metrics_port: int) -> bool:
    """Whether a node's agent says on /metrics that its session with the controller is open."""
    status, body = await http_get(metrics_port, "/metrics")
    return status == 200 and SESSION_OPEN.search(body) is not None
