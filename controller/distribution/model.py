"""Nodes as sources of model files for other nodes."""

from dataclasses import dataclass, field
from datetime import timedelta

from controller.nodes.model import NodeId
from mesh.errors import DomainError, Kind

# A node that fetches reads from some others, not from all; which ones differs from question to question.
MOST_PEERS = 16
# Long enough for a slow link to read a large file's chunk, short enough for an address that got out.
ADDRESS_LIFETIME = timedelta(minutes=15)


# A node that tells of more models than this is believed so many.
MOST_CACHED = 256


class FileNotNamedError(DomainError):
    """The node asks for a file that it was not told to have."""

    kind, reason = Kind.NOT_FOUND, "FILE_NOT_NAMED"

    def __init__(self, node_id: NodeId, sha256: str) -> None:
        super().__init__(f"nothing that {node_id} is to run has the file {sha256}", node_id=node_id, sha256=sha256)


@dataclass(frozen=True, slots=True)
class Peer:
    """A node that has files of a model or fetches them, and `host:port` where it offers them."""

    node_id: NodeId
    address: str


@dataclass(frozen=True, slots=True)
class Cached:
    """The models whose files a node has, by the digests of their manifests."""

    node_id: NodeId
    digests: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Address:
    """Where one file can be read for a while, by whoever has this."""

    url: str = field(repr=False)
    lifetime: timedelta
