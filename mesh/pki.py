"""The platform's own certificate authority: who a machine or a service is, proven by mutual TLS.

Identities are SPIFFE ids in the one URI SAN of a certificate: `spiffe://aiops/node/<id>`, `spiffe://aiops/service/<name>`.
"""

import fcntl
import hashlib
import ipaddress
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mesh.clock import Clock, SystemClock
from mesh.errors import DomainError, Kind, UnauthenticatedError
from mesh.names import TRUST_DOMAIN

AUTHORITY_LIFETIME = timedelta(days=3650)
SERVICE_LIFETIME = timedelta(days=90)
NODE_LIFETIME = timedelta(hours=24)
LOOPBACK_HOSTS = ("localhost", "127.0.0.1")
# Clocks of two machines differ a little; a certificate is valid from slightly before it was issued.
SKEW = timedelta(minutes=1)
_ID = re.compile(rf"spiffe://{TRUST_DOMAIN}/(node|service)/([a-z0-9][a-z0-9._-]{{0,127}})")


class CertificateRequestInvalidError(DomainError):
    """A certificate request that cannot be read, is not signed by its own key, or uses another kind of key."""

    kind, reason = Kind.INVALID, "CERTIFICATE_REQUEST_INVALID"


@dataclass(frozen=True, slots=True)
class SpiffeId:
    """A workload identity of the mesh; `kind` is "node" or "service"."""

    kind: str
    name: str

    @classmethod
    def parse(cls, text: str) -> "SpiffeId":
        """The identity that `text` spells exactly; UnauthenticatedError for anything else."""
        match = _ID.fullmatch(text)
        if match is None:
            raise UnauthenticatedError("the certificate names no identity of this mesh")
        return cls(match[1], match[2])

    def __str__(self) -> str:
        return f"spiffe://{TRUST_DOMAIN}/{self.kind}/{self.name}"


@dataclass(frozen=True, slots=True)
class IssuedCertificate:
    """A signed certificate and when it ends."""

    pem: bytes
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class CertificateRequest:
    """A private key (PEM) that stays where it was made, and the request (PKCS #10, DER) to have it signed."""

    key_pem: bytes
    der: bytes


@dataclass(frozen=True, slots=True)
class Authority:
    """The authority with its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)
    clock: Clock = field(default_factory=SystemClock)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def issue_from_request(
        self, request_der: bytes, identity: SpiffeId, lifetime: timedelta, hosts: Sequence[str] = ()
    ) -> IssuedCertificate:
        """Sign the request's key for `identity`; whatever subject or extensions the request carries are ignored."""
        return self.issue(_requested_key(request_der), identity, lifetime, hosts)

    def issue(
        self, key: ec.EllipticCurvePublicKey, identity: SpiffeId, lifetime: timedelta, hosts: Sequence[str]
    ) -> IssuedCertificate:
        """Sign `key` for `identity`, as a client everywhere and as a server on `hosts` when there are any."""
        now = self.clock.now()
        expires_at = (now + lifetime).replace(microsecond=0)
        # A node answers the gateway's requests over the connection that it has opened itself: it is a server there.
        serves = bool(hosts) or identity.kind == "node"
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH] + ([ExtendedKeyUsageOID.SERVER_AUTH] if serves else [])
        names = [x509.UniformResourceIdentifier(str(identity)), *(_host_name(host) for host in hosts)]
        certificate = (
            _builder(identity.name, key, now - SKEW, expires_at)
            .issuer_name(self.certificate.subject)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        return IssuedCertificate(certificate.public_bytes(serialization.Encoding.PEM), expires_at)


def ensure_authority(directory: Path) -> Authority:
    """The authority kept in `directory` (`ca.crt`, `ca.key`), made by the first that asks. Safe to call at once."""
    clock = SystemClock()
    with _locked(directory):
        key = _ensure_key(directory / "ca.key")
        path = directory / "ca.crt"
        if not path.exists():
            _write(path, _self_signed(key, clock.now()).public_bytes(serialization.Encoding.PEM), mode=0o644)
        return Authority(x509.load_pem_x509_certificate(path.read_bytes()), key, clock)


def issue_service(directory: Path, name: str, hosts: Sequence[str] = ()) -> tuple[Path, Path]:
    """The paths of the service's certificate and key, issued anew when missing, unfit or past half of its life.

    `hosts` are the names and addresses that clients dial, besides the loopback ones.
    """
    authority = ensure_authority(directory)
    certificate_path, key_path = directory / f"{name}.crt", directory / f"{name}.key"
    wanted = tuple(dict.fromkeys((*LOOPBACK_HOSTS, *hosts)))
    with _locked(directory):
        key = _ensure_key(key_path)
        if not _fit(certificate_path, authority, key, wanted):
            issued = authority.issue(key.public_key(), SpiffeId("service", name), SERVICE_LIFETIME, wanted)
            _write(certificate_path, issued.pem, mode=0o644)
    return certificate_path, key_path


def create_request() -> CertificateRequest:
    """A new key and its certificate request; the subject is empty, for the authority decides who it is."""
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return CertificateRequest(_key_pem(key), request.public_bytes(serialization.Encoding.DER))


def requested_by(request_der: bytes) -> str:
    """Names the key that a certificate request is for: the SHA-256 of it in hex. CertificateRequestInvalidError."""
    key = _requested_key(request_der)
    public = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(public).hexdigest()


def identity_of(certificate_pem: bytes) -> SpiffeId:
    """Who a peer is by its certificate, which TLS has verified; UnauthenticatedError unless it names exactly one id."""
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        identities = names.get_values_for_type(x509.UniformResourceIdentifier)
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension) as error:
        raise UnauthenticatedError("the peer's certificate cannot be read") from error
    if len(identities) != 1:
        raise UnauthenticatedError("the peer's certificate must name exactly one identity")
    return SpiffeId.parse(identities[0])


def validity_of(certificate_pem: bytes) -> tuple[datetime, datetime]:
    """When a certificate starts and ends."""
    certificate = x509.load_pem_x509_certificate(certificate_pem)
    return certificate.not_valid_before_utc, certificate.not_valid_after_utc


def past_half_life(certificate_pem: bytes, now: datetime) -> bool:
    """Whether it is time to renew."""
    start, end = validity_of(certificate_pem)
    return now >= start + (end - start) / 2


def fingerprint_of(certificate_pem: bytes) -> str:
    """SHA-256 of the certificate, in hex."""
    return x509.load_pem_x509_certificate(certificate_pem).fingerprint(hashes.SHA256()).hex()


def _requested_key(request_der: bytes) -> ec.EllipticCurvePublicKey:
    try:
        request = x509.load_der_x509_csr(request_der)
        signed = request.is_signature_valid
        key = request.public_key()
    except (ValueError, TypeError, InvalidSignature) as error:
        raise CertificateRequestInvalidError("the certificate request cannot be read") from error
    if not signed:
        raise CertificateRequestInvalidError("the certificate request is not signed by its own key")
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise CertificateRequestInvalidError("the certificate request must hold an EC P-256 key")
    return key


def _fit(path: Path, authority: Authority, key: ec.EllipticCurvePrivateKey, hosts: Sequence[str]) -> bool:
    try:
        pem = path.read_bytes()
        certificate = x509.load_pem_x509_certificate(pem)
        certificate.verify_directly_issued_by(authority.certificate)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (FileNotFoundError, ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return False
    return (
        not past_half_life(pem, authority.clock.now())
        and certificate.public_key() == key.public_key()
        and all(_host_name(host) in names for host in hosts)
    )


def _self_signed(key: ec.EllipticCurvePrivateKey, now: datetime) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "aiops authority")])
    return (
        _builder("aiops authority", key.public_key(), now - SKEW, now + AUTHORITY_LIFETIME)
        .issuer_name(name)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )


def _builder(
    name: str, key: ec.EllipticCurvePublicKey, not_before: datetime, not_after: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])]))
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_after)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _host_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _ensure_key(path: Path) -> ec.EllipticCurvePrivateKey:
    if not path.exists():
        _write(path, _key_pem(ec.generate_private_key(ec.SECP256R1())), mode=0o600)
    key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError(f"{path} holds no elliptic-curve key")
    return key


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(path: Path, content: bytes, mode: int) -> None:
    """Write a file that a reader sees whole or not at all."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """One process at a time creates files here; the lock ends with the process that holds it."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (directory / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
