"""How a node is reached, as whoever routes requests sees it."""

from dataclasses import dataclass

from controller.nodes.model import NodeId


@dataclass(frozen=True, slots=True)
class Reached:
    """A host or IP to dial, or its own tunnel instead. What runs on one that is not live may get no traffic."""

    node_id: NodeId
    address: str
    tunnel: bool
    live: bool
