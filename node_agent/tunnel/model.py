"""A tunnel: what it leads to, and how it is."""

from dataclasses import dataclass
from enum import StrEnum

from mesh.errors import DomainError, Kind


class NoEnvoyError(DomainError):
    """There is no Envoy to run."""

    kind, reason = Kind.PRECONDITION, "UNAVAILABLE"


class State(StrEnum):
    STARTING = "starting"
    CONNECTED = "connected"
    DISCONNECTED = "disconnected"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Report:
    """How the tunnel is. `version` is that of the node's Envoy; `error` says why it is not connected."""

    state: State = State.STARTING
    version: str = ""
    error: str = ""
    connections: int = 0
    gateway_address: str = ""


@dataclass(frozen=True, slots=True, order=True)
class Engine:
    """A workload's engine that may be reached: by its workload and a port it listens on, where it may speak gRPC.

    One with `single_use` closes connections that it says it keeps.
    """

    workload_id: str
    port: int
    grpc: bool = False
    single_use: bool = False


@dataclass(frozen=True, slots=True)
class Ends:
    """What a tunnel connects: this node with the gateway at `host:port`, and engines at `engine_host`."""

    node_id: str
    gateway_address: str
    engine_host: str = "127.0.0.1"
    # At least as many as the gateway's Envoy has worker threads: each of them needs one of its own.
    connections: int = 8


def no_tunnel() -> Report | None:
    """The report of a node that the gateway dials."""
    return None
