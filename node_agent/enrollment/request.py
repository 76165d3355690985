"""The node's key and the certificate requests that it signs. Loaded only when one is needed: cryptography is large."""

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


def new_key() -> bytes:
    """An EC P-256 private key in PEM."""
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def certificate_request(key_pem: bytes) -> bytes:
    """A PKCS #10 request in DER over the key; the subject is empty, for the controller decides the identity."""
    key = serialization.load_pem_private_key(key_pem, None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("the node's key is not an EC key")
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.DER)


def authority_pem(text: str) -> bytes:
    """A certificate given as PEM or as base64 of its DER, in PEM. Raises ValueError."""
    import base64

    if "BEGIN CERTIFICATE" in text:
        certificate = x509.load_pem_x509_certificate(text.encode())
    else:
        certificate = x509.load_der_x509_certificate(base64.b64decode(text, validate=True))
    return certificate.public_bytes(serialization.Encoding.PEM)
