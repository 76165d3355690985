"""Addresses as settings write them, as Envoy reads them."""

import ipaddress


def envoy_address(address: str) -> dict[str, object]:
    """`host:port` or `unix:path` as Envoy's `core.Address`."""
    if address.startswith("unix:"):
        return {"pipe": {"path": address.removeprefix("unix:")}}
    host, _, port = address.rpartition(":")
    return {"socket_address": {"address": host.strip("[]"), "port_value": int(port)}}


def is_name(address: str) -> bool:
    """Whether the host has to be looked up in DNS."""
    host = address.rpartition(":")[0]
    return not address.startswith("unix:") and any(mark.isalpha() for mark in host) and ":" not in host


def discovery(addresses: str) -> str:
    """How Envoy finds the endpoints of addresses that are separated by commas."""
    return "STRICT_DNS" if any(is_name(each) for each in _split(addresses)) else "STATIC"


def endpoints(addresses: str) -> dict[str, object]:
    """One endpoint for each of the addresses that are separated by commas."""
    return {"lb_endpoints": [{"endpoint": {"address": envoy_address(each)}} for each in _split(addresses)]}


def _split(addresses: str) -> list[str]:
    return [each.strip() for each in addresses.split(",")]


def is_ip(address: str) -> bool:
    """Whether it needs no looking up."""
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return False
    return True
