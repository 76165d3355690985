"""Nodes as sources of model files for other nodes."""

from dataclasses import dataclass

from controller.nodes.model import NodeId

# A node that fetches reads from some others, not from all; which ones differs from question to question.
MOST_PEERS = 16


@dataclass(frozen=True, slots=True)
class Peer:
    """A node that has files of a model or fetches them, and `host:port` where it offers them."""

    node_id: NodeId
    address: str
