"""Callers are known by the certificate of their connection or by their token."""

from datetime import timedelta
from pathlib import Path

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from mesh.errors import UnauthenticatedError
from mesh.identity import ANONYMOUS, Caller, CallerKind
from mesh.pki import SpiffeId, ensure_authority, issue_service
from mesh.rpc.authenticator import PeerAuthenticator, TokenAuthenticator
from mesh.rpc.call import PeerCertificate
from mesh.tokens import TokenTrust, TokenVerifier
from tests.fakes.clock import ManualClock

KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def service(tmp_path: Path) -> PeerCertificate:
    """The certificate of the service `gateway`."""
    return PeerCertificate(issue_service(tmp_path, "gateway")[0].read_bytes())


def token(clock: ManualClock) -> str:
    now = int(clock.now().timestamp())
    claims = {"iss": "aiops", "aud": "aiops", "typ": "access", "sub": "user-1", "org": "org-1", "jti": "token-1"}
    times = {"iat": now, "nbf": now, "exp": now + 900}
    return jwt.encode({**claims, **times, "roles": []}, KEY, algorithm="RS256", headers={"kid": "key-1"})


def authenticator(clock: ManualClock) -> TokenAuthenticator:
    verifier = TokenVerifier(clock, TokenTrust({"key-1": KEY.public_key()}))
    return TokenAuthenticator(verifier, PeerAuthenticator(clock))


async def test_a_service_and_a_node_are_known_by_their_certificate(
    clock: ManualClock, service: PeerCertificate, tmp_path: Path
) -> None:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    issued = ensure_authority(tmp_path).issue(key, SpiffeId("node", "node-1"), timedelta(hours=1), ())
    peers = PeerAuthenticator(clock)
    assert await peers.authenticate({}, service) == Caller(CallerKind.SERVICE, subject="gateway")
    assert await peers.authenticate({}, PeerCertificate(issued.pem)) == Caller(CallerKind.NODE, subject="node-1")


async def test_a_certificate_that_ran_out_during_the_connection_is_refused(
    clock: ManualClock, service: PeerCertificate
) -> None:
    peers = PeerAuthenticator(clock)
    await peers.authenticate({}, service)
    clock.advance(timedelta(days=365))
    with pytest.raises(UnauthenticatedError):
        await peers.authenticate({}, service)


@pytest.mark.parametrize(
    "uris",
    [
        [],
        ["spiffe://aiops/service/gateway", "spiffe://aiops/node/node-1"],
        ["spiffe://elsewhere/service/gateway"],
        ["spiffe://aiops/admin/root"],
        ["spiffe://aiops/service/gateway/../controller"],
        ["https://aiops/service/gateway"],
    ],
    ids=str,
)
async def test_a_certificate_must_name_exactly_one_identity_of_the_mesh(clock: ManualClock, uris: list[str]) -> None:
    with pytest.raises(UnauthenticatedError):
        await PeerAuthenticator(clock).authenticate({}, PeerCertificate(certificate_naming(clock, uris)))


async def test_what_is_no_certificate_is_refused(clock: ManualClock) -> None:
    with pytest.raises(UnauthenticatedError):
        await PeerAuthenticator(clock).authenticate({}, PeerCertificate(b"no certificate"))


async def test_no_credential_is_nobody(clock: ManualClock) -> None:
    assert await authenticator(clock).authenticate({}, None) is ANONYMOUS


async def test_a_token_comes_before_the_certificate(clock: ManualClock, service: PeerCertificate) -> None:
    metadata = {"authorization": f"Bearer {token(clock)}"}
    assert (await authenticator(clock).authenticate(metadata, service)).subject == "user-1"
    assert (await authenticator(clock).authenticate({}, service)).subject == "gateway"


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Basic dXNlcjpwYXNz", "token", "Bearer forged"])
async def test_a_wrong_credential_is_refused_even_with_a_certificate(
    clock: ManualClock, service: PeerCertificate, header: str
) -> None:
    with pytest.raises(UnauthenticatedError):
        await authenticator(clock).authenticate({"authorization": header}, service)


def certificate_naming(clock: ManualClock, uris: list[str]) -> bytes:
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    names: list[x509.GeneralName] = [x509.DNSName("localhost"), *map(x509.UniformResourceIdentifier, uris)]
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(clock.now())
        .not_valid_after(clock.now() + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
    )
    return built.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)
