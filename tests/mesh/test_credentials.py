"""A listener shows the certificate that its files hold, also after a renewal, without being started again."""

import asyncio
import ssl
from datetime import timedelta
from pathlib import Path

from mesh.clock import SystemClock
from mesh.pki import SpiffeId, create_request, ensure_authority
from mesh.rpc.authenticator import PeerAuthenticator
from mesh.rpc.credentials import ServerTls
from mesh.rpc.server import Listener, serve
from mesh.telemetry import Telemetry


def renew(pki: Path) -> bytes:
    """Writes a new key and certificate; answers the certificate as a client sees it."""
    request = create_request()
    issued = ensure_authority(pki).issue_from_request(
        request.der, SpiffeId("service", "shown"), timedelta(hours=1), ("127.0.0.1",)
    )
    (pki / "shown.key").write_bytes(request.key_pem)
    (pki / "shown.crt").write_bytes(issued.pem)
    return ssl.PEM_cert_to_DER_cert(issued.pem.decode())


async def shown(port: int, pki: Path) -> bytes | None:
    """The certificate that the listener shows to who connects now."""
    context = ssl.create_default_context(cafile=pki / "ca.crt")
    context.set_alpn_protocols(["h2"])
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    certificate: bytes | None = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return certificate


async def test_a_renewed_certificate_is_shown_to_who_connects_next(tmp_path: Path, telemetry: Telemetry) -> None:
    first = renew(tmp_path)
    tls = ServerTls(tmp_path / "shown.crt", tmp_path / "shown.key")
    authenticator = PeerAuthenticator(SystemClock())
    async with serve([Listener("127.0.0.1:0", tls)], [], authenticator, telemetry.rpc, grace=0) as server:
        assert await shown(server.ports[0], tmp_path) == first
        second = renew(tmp_path)
        assert await shown(server.ports[0], tmp_path) == second
        (tmp_path / "shown.crt").unlink()
        assert await shown(server.ports[0], tmp_path) == second
