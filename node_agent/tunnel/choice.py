"""Which way the gateway reaches this node: by an address that it dials, or through a tunnel that the node opens."""

import ipaddress
from enum import StrEnum

from mesh.errors import DomainError, Kind


class NoGatewayError(DomainError):
    """A tunnel is wanted, and nobody has said where to."""

    kind, reason = Kind.PRECONDITION, "UNAVAILABLE"


class Way(StrEnum):
    """The setting."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


def wants_tunnel(way: Way, address: str, gateway_address: str) -> bool:
    """Whether to open a tunnel to `gateway_address`, given the `address` that was set for the gateway to dial, if any.

    Left to itself, a node opens one when nobody gave it an address and the gateway is on another machine. Raises
    NoGatewayError.
    """
    if way is Way.ON and not gateway_address:
        raise NoGatewayError(
            "AIOPS_NODE_TUNNEL is on, but the platform names no address for tunnels: set AIOPS_PUBLIC_NODE_ADDRESS "
            "there and join again, or set AIOPS_NODE_GATEWAY here"
        )
    if way is not Way.AUTO:
        return way is Way.ON
    return bool(gateway_address) and not address and not _is_this_machine(gateway_address)


def _is_this_machine(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
