"""TLS of a listener whose certificate is renewed while it listens."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ServerTls:
    """PEM files of a TLS listener. With `authority`, clients must show a certificate that it signed."""

    certificate: Path
    key: Path
    authority: Path | None = None


def server_credentials(tls: ServerTls) -> grpc.ServerCredentials:
    """Credentials that follow the files: whoever connects after a renewal sees the new certificate."""
    followed = _Followed(tls)
    return grpc.dynamic_ssl_server_credentials(
        followed.read(), followed.changed, require_client_authentication=tls.authority is not None
    )


class _Followed:
    """The files, and how they were when they were last read."""

    def __init__(self, tls: ServerTls) -> None:
        self._tls = tls
        self._seen: tuple[int, ...] = ()

    def read(self) -> grpc.ServerCertificateConfiguration:
        """The certificate as it is now. Raises OSError."""
        self._seen = self._signature()
        authority = self._tls.authority.read_bytes() if self._tls.authority else None
        pair = (self._tls.key.read_bytes(), self._tls.certificate.read_bytes())
        return grpc.ssl_server_certificate_configuration([pair], root_certificates=authority)

    def changed(self) -> Any:  # the stub leaves out that nothing may be answered
        """The certificate when it is another one; asked with each handshake, in a thread of gRPC's."""
        try:
            return None if self._signature() == self._seen else self.read()
        except OSError as error:
            log.warning("keeping the certificate that was read before: %s", error)
            return None

    def _signature(self) -> tuple[int, ...]:
        files = (self._tls.certificate, self._tls.key, self._tls.authority)
        return tuple(path.stat().st_mtime_ns for path in files if path is not None)
