"""The platform's authority: what it signs, what it refuses, and that two starters share one."""

import asyncio
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from mesh.errors import UnauthenticatedError
from mesh.pki import (
    NODE_LIFETIME,
    Authority,
    CertificateRequestInvalidError,
    SpiffeId,
    create_request,
    ensure_authority,
    fingerprint_of,
    identity_of,
    issue_service,
    past_half_life,
    validity_of,
)

NODE = SpiffeId("node", "node-0c5m2k9v7t1hq8x4bnae")


class FixedClock:
    """A clock that stands at one moment."""

    def __init__(self, moment: datetime) -> None:
        self.moment = moment

    def now(self) -> datetime:
        return self.moment

    def monotonic(self) -> float:
        return self.moment.timestamp()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return ensure_authority(tmp_path)


def certificate_with(authority: Authority, *names: x509.GeneralName) -> bytes:
    """A certificate of the authority's with exactly these alternative names."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(authority.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC))
        .not_valid_after(datetime.now(UTC) + timedelta(hours=1))
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(authority.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def test_the_authority_stays_the_same_and_its_key_is_private(tmp_path: Path) -> None:
    first, second = ensure_authority(tmp_path), ensure_authority(tmp_path)
    assert first.pem == second.pem
    assert stat.S_IMODE((tmp_path / "ca.key").stat().st_mode) == 0o600


def test_two_starters_make_one_authority(tmp_path: Path) -> None:
    together = threading.Barrier(8)

    def start(_: int) -> bytes:
        together.wait()
        return ensure_authority(tmp_path / "pki").pem

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(start, range(8)))) == 1


def test_a_start_that_ended_between_key_and_certificate_is_completed(tmp_path: Path, authority: Authority) -> None:
    (tmp_path / "ca.crt").unlink()
    again = ensure_authority(tmp_path)
    assert again.key.private_numbers() == authority.key.private_numbers()
    again.certificate.verify_directly_issued_by(again.certificate)


def test_a_node_certificate_names_the_node_and_ends_within_a_day(authority: Authority) -> None:
    issued = authority.issue_from_request(create_request().der, NODE, NODE_LIFETIME)
    assert identity_of(issued.pem) == NODE
    start, end = validity_of(issued.pem)
    assert end == issued.expires_at
    assert end <= datetime.now(UTC) + timedelta(hours=24)
    assert start <= datetime.now(UTC)
    x509.load_pem_x509_certificate(issued.pem).verify_directly_issued_by(authority.certificate)


def test_what_the_request_claims_to_be_is_ignored(authority: Authority) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    claim = x509.SubjectAlternativeName([x509.UniformResourceIdentifier("spiffe://aiops/service/controller")])
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).add_extension(claim, critical=False)
    issued = authority.issue_from_request(
        request.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER), NODE, NODE_LIFETIME
    )
    assert identity_of(issued.pem) == NODE


def test_a_request_that_another_key_signed_is_refused(authority: Authority) -> None:
    der = bytearray(create_request().der)
    der[-1] ^= 1
    with pytest.raises(CertificateRequestInvalidError):
        authority.issue_from_request(bytes(der), NODE, NODE_LIFETIME)


@pytest.mark.parametrize("der", [b"", b"no request", b"\x30\x80" * 5000])
def test_a_request_that_is_none_is_refused(authority: Authority, der: bytes) -> None:
    with pytest.raises(CertificateRequestInvalidError, match="cannot be read"):
        authority.issue_from_request(der, NODE, NODE_LIFETIME)


def test_a_key_of_another_kind_is_refused(authority: Authority) -> None:
    key = rsa.generate_private_key(65537, 2048)
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    with pytest.raises(CertificateRequestInvalidError, match="P-256"):
        authority.issue_from_request(request.public_bytes(serialization.Encoding.DER), NODE, NODE_LIFETIME)


@pytest.mark.parametrize(
    "uri",
    [
        "spiffe://aiops/node/node-1\x00.evil",
        "spiffe://aiops/node/node-1\n",
        "spiffe://other/node/node-1",
        "spiffe://aiops/node/*",
        "spiffe://aiops/node/",
        "spiffe://aiops/node/a/b",
        "spiffe://aiops/node/../service/controller",
        "spiffe://aiops/agent/a",
        "SPIFFE://aiops/node/a",
        "https://aiops/node/a",
    ],
)
def test_a_certificate_with_a_strange_identity_is_refused(authority: Authority, uri: str) -> None:
    pem = certificate_with(authority, x509.UniformResourceIdentifier(uri))
    with pytest.raises(UnauthenticatedError):
        identity_of(pem)


def test_a_certificate_with_two_identities_or_none_is_refused(authority: Authority) -> None:
    one, two = x509.UniformResourceIdentifier(str(NODE)), x509.UniformResourceIdentifier("spiffe://aiops/service/a")
    for names in ((one, two), (one, one), (x509.DNSName("node-1"),), ()):
        with pytest.raises(UnauthenticatedError):
            identity_of(certificate_with(authority, *names))
    with pytest.raises(UnauthenticatedError):
        identity_of(b"-----BEGIN CERTIFICATE-----\nnothing\n-----END CERTIFICATE-----\n")


def test_a_service_certificate_is_kept_until_it_no_longer_fits(tmp_path: Path) -> None:
    certificate, key = issue_service(tmp_path, "controller")
    before = certificate.read_bytes()
    assert identity_of(before) == SpiffeId("service", "controller")
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    issue_service(tmp_path, "controller")
    assert certificate.read_bytes() == before
    issue_service(tmp_path, "controller", ["mesh.example.com", "10.0.0.7"])
    with_hosts = certificate.read_bytes()
    names = x509.load_pem_x509_certificate(with_hosts).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert "mesh.example.com" in names.value.get_values_for_type(x509.DNSName)
    (tmp_path / "ca.crt").unlink()
    (tmp_path / "ca.key").unlink()
    issue_service(tmp_path, "controller", ["mesh.example.com", "10.0.0.7"])
    x509.load_pem_x509_certificate(certificate.read_bytes()).verify_directly_issued_by(
        ensure_authority(tmp_path).certificate
    )


def test_a_service_certificate_is_renewed_at_half_of_its_life(tmp_path: Path, authority: Authority) -> None:
    certificate, key = issue_service(tmp_path, "router")
    old = replace(authority, clock=FixedClock(datetime.now(UTC) - timedelta(days=50)))
    loaded = serialization.load_pem_private_key(key.read_bytes(), password=None)
    assert isinstance(loaded, ec.EllipticCurvePrivateKey)
    aged = old.issue(loaded.public_key(), SpiffeId("service", "router"), timedelta(days=90), ("localhost", "127.0.0.1"))
    assert past_half_life(aged.pem, datetime.now(UTC))
    certificate.write_bytes(aged.pem)
    issue_service(tmp_path, "router")
    assert fingerprint_of(certificate.read_bytes()) != fingerprint_of(aged.pem)


async def test_the_certificates_serve_mutual_tls(tmp_path: Path, authority: Authority) -> None:
    certificate, key = issue_service(tmp_path, "controller")
    request = create_request()
    node = authority.issue_from_request(request.der, NODE, NODE_LIFETIME)
    seen: list[SpiffeId] = []

    async def answer(_: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        seen.extend(identity_of(pem) for pem in context.auth_context()["x509_pem_cert"])
        return b""

    server = grpc.aio.server()
    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {"Call": grpc.unary_unary_rpc_method_handler(answer)}
    server.add_registered_method_handlers("test.Echo", handlers)
    pair = (key.read_bytes(), certificate.read_bytes())
    credentials = grpc.ssl_server_credentials([pair], authority.pem, require_client_auth=True)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    try:
        client = grpc.ssl_channel_credentials(authority.pem, request.key_pem, node.pem)
        async with grpc.aio.secure_channel(f"127.0.0.1:{port}", client) as channel, asyncio.timeout(10):
            call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/test.Echo/Call")
            await call(b"")
    finally:
        await server.stop(None)
    assert seen == [NODE]
