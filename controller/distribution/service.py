"""What nodes are told of each other's files."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from controller.distribution.model import Peer
from controller.models.model import ModelId
from controller.nodes.model import Node, NodeId
from mesh.identity import SYSTEM, Caller


class NodeStore(Protocol):
    async def get(self, node_id: NodeId, caller: Caller, *, lock: bool = False) -> Node: ...


class PeerStore(Protocol):
    async def announce(self, node_id: NodeId, org_id: str, address: str) -> bool: ...
    async def peers(self, node_id: NodeId, model_id: ModelId) -> Sequence[Peer]: ...


class Work(Protocol):
    """One transaction, or one reading connection, with the stores on it."""

    @property
    def nodes(self) -> NodeStore: ...
    @property
    def peers(self) -> PeerStore: ...
    async def commit(self, *events: object) -> None: ...


class UnitOfWork(Protocol):
    """Opens transactions, and connections that only read."""

    def __call__(self, caller: Caller) -> AbstractAsyncContextManager[Work]: ...
    def reading(self, caller: Caller) -> AbstractAsyncContextManager[Work]: ...


class Distribution:
    """The use cases of nodes that read model files from each other."""

    def __init__(self, unit_of_work: UnitOfWork) -> None:
        self._unit_of_work = unit_of_work
        # What each node last said here; a row is only written when it says something else.
        self._announced: dict[NodeId, str] = {}

    async def announce(self, node_id: NodeId, address: str) -> None:
        """The node offers files at `host:port`, or none when empty."""
        if self._announced.get(node_id) == address:
            return
        async with self._unit_of_work(SYSTEM) as work:
            node = await work.nodes.get(node_id, SYSTEM)
            if await work.peers.announce(node_id, node.org_id, address):
                await work.commit()
        self._announced[node_id] = address

    async def peers(self, node_id: NodeId, model_id: ModelId) -> Sequence[Peer]:
        """Who else has files of the model, or fetches them."""
        async with self._unit_of_work.reading(SYSTEM) as work:
            return await work.peers.peers(node_id, model_id)
