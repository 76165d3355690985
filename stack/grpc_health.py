"""The gRPC health check (grpc.health.v1) by hand: one HTTP/2 request, without loading gRPC into the supervisor.

Frames: RFC 9113; header compression: RFC 7541, literals without indexing only; message framing: gRPC over HTTP/2.
"""

import asyncio
import ssl
import struct
import sys
from collections.abc import AsyncIterator
from pathlib import Path

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, GOAWAY = 0x0, 0x1, 0x3, 0x4, 0x7
END_STREAM, END_HEADERS = 0x1, 0x4
EMPTY_MESSAGE = b"\x00\x00\x00\x00\x00"
SERVING = b"\x08\x01"


async def serving_missing(port: int, tls: ssl.SSLContext | None = None) -> str:
    """What is missing until the gRPC server on the loopback port says that it serves; empty when it does."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls)
    except ssl.SSLError as error:
        return f"127.0.0.1:{port} refuses the mesh's certificate: {error.reason}"
    except OSError:
        return f"nothing listens on 127.0.0.1:{port}"
    try:
        writer.write(_request("https" if tls else "http"))
        async for kind, flags, payload in _frames(reader):
            if kind == DATA:
                serves = payload[len(EMPTY_MESSAGE) :] == SERVING
                return "" if serves else f"127.0.0.1:{port} says that it does not serve"
            if kind in {RST_STREAM, GOAWAY} or (kind == HEADERS and flags & END_STREAM):
                break
    except (OSError, asyncio.IncompleteReadError):
        pass  # said below
    finally:
        writer.close()
    return f"127.0.0.1:{port} does not answer a gRPC health check"


def client_tls(pki: Path) -> ssl.SSLContext:
    """A client context for the mesh's mutual TLS as the supervisor; gRPC wants HTTP/2 to be negotiated."""
    context = ssl.create_default_context(cafile=pki / "ca.crt")
    context.load_cert_chain(pki / "supervisor.crt", pki / "supervisor.key")
    context.set_alpn_protocols(["h2"])
    return context


def _request(scheme: str) -> bytes:
    headers = (
        b"\x83"  # :method POST, static table 3
        + (b"\x87" if scheme == "https" else b"\x86")  # :scheme, static table 7 and 6
        + b"\x04" + _text("/grpc.health.v1.Health/Check")  # :path, name from the static table
        + b"\x01" + _text("127.0.0.1")  # :authority
        + b"\x0f\x10" + _text("application/grpc")  # content-type, static table 31
        + b"\x00" + _text("te") + _text("trailers")
    )  # fmt: skip
    return (
        PREFACE
        + _frame(SETTINGS, 0, 0, b"")
        + _frame(HEADERS, END_HEADERS, 1, headers)
        + _frame(DATA, END_STREAM, 1, EMPTY_MESSAGE)
    )


def _text(value: str) -> bytes:
    return bytes([len(value)]) + value.encode()


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


async def _frames(reader: asyncio.StreamReader) -> AsyncIterator[tuple[int, int, bytes]]:
    """The frames of the answer as (type, flags, payload), until the connection ends."""
    while header := await reader.readexactly(9):
        size = int.from_bytes(header[:3], "big")
        yield header[3], header[4], await reader.readexactly(size)


def main(arguments: list[str]) -> int:
    """`python -m stack.grpc_health PORT [PKI]`: exit status 0 when the server serves, for health checks."""
    tls = client_tls(Path(arguments[1])) if len(arguments) > 1 else None
    missing = asyncio.run(serving_missing(int(arguments[0]), tls))
    if missing:
        sys.stderr.write(f"{missing}\n")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
