"""Channels to other services."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc

MIB = 1024 * 1024

OPTIONS: list[tuple[str, int]] = [
    ("grpc.keepalive_time_ms", 1_500),
    ("grpc.keepalive_timeout_ms", 2_000),
    ("grpc.http2.ping_timeout_ms", 2_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", 64 * MIB),
    ("grpc.max_send_message_length", 4 * MIB),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
]


@dataclass(frozen=True, slots=True)
class ClientTls:
    """PEM files of a TLS client. Without certificate and key only the server proves itself."""

    authority: Path
    certificate: Path | None = None
    key: Path | None = None


def open_channel(
    target: str, tls: ClientTls | None = None, *, options: Sequence[tuple[str, str | int]] = ()
) -> grpc.aio.Channel:
    """A channel to `host:port` or `unix:/path`. A peer that is gone without a word is found within 4 s."""
    settings = [*OPTIONS, *options]
    if tls is None:
        return grpc.aio.insecure_channel(target, options=settings)
    credentials = grpc.ssl_channel_credentials(
        root_certificates=tls.authority.read_bytes(),
        private_key=tls.key.read_bytes() if tls.key else None,
        certificate_chain=tls.certificate.read_bytes() if tls.certificate else None,
    )
    return grpc.aio.secure_channel(target, credentials, options=settings)


def called(name: str) -> list[tuple[str, str | int]]:
    """Options for a server that calls itself `name` in its certificate, whatever address it is dialled at."""
    return [("grpc.ssl_target_name_override", name)]
