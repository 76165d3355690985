"""What nodes are told of where files are: at each other's, and in object storage."""

import re
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import Protocol

from controller.distribution.model import ADDRESS_LIFETIME, MOST_CACHED, Address, Cached, FileNotNamedError, Peer
from controller.models.model import ModelFile, ModelId
from controller.nodes.model import NodeId
from controller.nodes.standing import Standing, present
from mesh.identity import SYSTEM, Caller

_DIGEST = re.compile("[0-9a-f]{64}")


class Standings(Protocol):
    async def get(self, node_id: NodeId, *, lock: bool = False) -> Standing | None: ...


class PeerStore(Protocol):
    async def address(self, node_id: NodeId) -> str: ...
    async def announce(self, node_id: NodeId, org_id: str, address: str) -> None: ...
    async def peers(self, node_id: NodeId, model_id: ModelId) -> Sequence[Peer]: ...
    async def keep_cached(self, cached: Cached, org_id: str) -> None: ...


class Work(Protocol):
    """One transaction, or one reading connection, with the stores on it."""

    @property
    def standings(self) -> Standings: ...
    @property
    def peers(self) -> PeerStore: ...
    async def commit(self, *events: object) -> None: ...


class UnitOfWork(Protocol):
    """Opens transactions, and connections that only read."""

    def __call__(self, caller: Caller) -> AbstractAsyncContextManager[Work]: ...
    def reading(self, caller: Caller) -> AbstractAsyncContextManager[Work]: ...


class Wishes(Protocol):
    """What nodes are to run."""

    async def file_on(self, node_id: NodeId, sha256: str) -> tuple[str, ModelFile] | None:
        """A file that the node's desired state names, and the URL that its object lies below; None for any other."""
        ...


class Storage(Protocol):
    """Object storage, with the credentials that nodes do not have."""

    async def sign(self, url: str, key: str, lifetime: timedelta) -> str:
        """Where anybody can read the object `key` below a URL, for so long."""
        ...


class Distribution:
    """The use cases of nodes that read model files from each other, and from object storage."""

    def __init__(
        self, unit_of_work: UnitOfWork, wishes: Wishes, storage: Storage, lifetime: timedelta = ADDRESS_LIFETIME
    ) -> None:
        self._unit_of_work, self._wishes, self._storage, self._lifetime = unit_of_work, wishes, storage, lifetime
        # What each node last said here; a row is only written when it says something else.
        self._announced: dict[NodeId, str] = {}
        self._cached: dict[NodeId, Cached] = {}

    async def announce(self, node_id: NodeId, address: str) -> None:
        """The node offers files at `host:port`, or none when empty."""
        if self._announced.get(node_id) == address:
            return
        async with self._unit_of_work.reading(SYSTEM) as work:
            known = await work.peers.address(node_id)
        if known != address:
            async with self._unit_of_work(SYSTEM) as work:
                node = present(await work.standings.get(node_id), node_id)
                await work.peers.announce(node_id, node.org_id, address)
                await work.commit()
        self._announced[node_id] = address

    async def keep_cached(self, node_id: NodeId, digests: Sequence[str]) -> None:
        """The node has the files of these models: placement prefers it for them."""
        known = Cached(node_id, tuple(sorted(filter(_DIGEST.fullmatch, digests))[:MOST_CACHED]))
        if self._cached.get(node_id) == known:
            return
        async with self._unit_of_work(SYSTEM) as work:
            node = present(await work.standings.get(node_id), node_id)
            await work.peers.keep_cached(known, node.org_id)
            await work.commit()
        self._cached[node_id] = known

    async def peers(self, node_id: NodeId, model_id: ModelId) -> Sequence[Peer]:
        """Who else has files of the model, or fetches them."""
        async with self._unit_of_work.reading(SYSTEM) as work:
            return await work.peers.peers(node_id, model_id)

    async def sign(self, node_id: NodeId, sha256: str) -> Address:
        """Where the node can read a file in object storage. FileNotNamedError, StorageUnavailableError."""
        found = await self._wishes.file_on(node_id, sha256)
        if found is None:
            raise FileNotNamedError(node_id, sha256)
        url, file = found
        return Address(await self._storage.sign(url, file.object_path or file.path, self._lifetime), self._lifetime)
