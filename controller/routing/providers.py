"""What is looked at before requests go outside: whether the address may be asked, and the authorities are some."""

import ipaddress
from collections.abc import Iterator
from urllib.parse import urlsplit

from cryptography import x509

from controller.routing.model import Provider, Wish
from mesh.errors import FieldViolation, InvalidRequestError

_LOCAL_SUFFIXES = (".localhost", ".local", ".internal")


def check_providers(wish: Wish, *, private: bool) -> None:
    """Raises InvalidRequestError naming the fields at fault. `private` lets addresses of one's own network be asked."""
    found = list(_faults(wish, private))
    if found:
        raise InvalidRequestError(*found)


def _faults(wish: Wish, private: bool) -> Iterator[FieldViolation]:
    for number, target in enumerate(wish.targets):
        if target.provider is Provider.INTERNAL:
            continue
        path = f"route.targets[{number}]"
        if not private and target.base_url and _is_private(target.base_url):
            text = "is an address of the platform's own network; AIOPS_PRIVATE_PROVIDERS=on lets it be asked"
            yield FieldViolation(f"{path}.base_url", text)
        if target.ca_pem and not _are_certificates(target.ca_pem):
            yield FieldViolation(f"{path}.ca_pem", "holds no certificate that can be read")


def _is_private(base_url: str) -> bool:
    host = (urlsplit(base_url).hostname or "").rstrip(".")
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        # A number in another spelling is an address to those who resolve names.
        return host == "localhost" or host.endswith(_LOCAL_SUFFIXES) or not any(mark.isalpha() for mark in host)


def _are_certificates(pem: str) -> bool:
    try:
        return bool(x509.load_pem_x509_certificates(pem.encode()))
    except ValueError:
        return False
