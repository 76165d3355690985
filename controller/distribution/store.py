"""Where nodes offer files, in PostgreSQL."""

from collections.abc import Sequence

from sqlalchemy import Column, ForeignKey, Table, Text, func, select
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from controller.deployments.model import ACTIVE
from controller.deployments.store import deployments
from controller.deployments.workload import Goal
from controller.distribution.model import MOST_PEERS, Cached, Peer
from controller.models.model import ModelId
from controller.nodes.model import NodeId, NodeStatus
from controller.nodes.store import nodes
from mesh.sql.snapshot import Snapshot, changed_since
from mesh.sql.tables import metadata

node_peers = Table(
    "node_peers",
    metadata,
    Column("node_id", Text, ForeignKey("nodes.node_id"), primary_key=True),
    Column("org_id", Text, nullable=False),
    Column("address", Text, nullable=False),
)
node_caches = Table(
    "node_caches",
    metadata,
    Column("node_id", Text, ForeignKey("nodes.node_id"), primary_key=True),
    Column("org_id", Text, nullable=False),
    Column("digests", ARRAY(Text), nullable=False),
)


class SqlPeerStore:
    """Rows of nodes that offer files."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def address(self, node_id: NodeId) -> str:
        """Where the node offers files; empty when it does not."""
        query = select(node_peers.c.address).where(node_peers.c.node_id == node_id)
        return (await self._connection.execute(query)).scalar_one_or_none() or ""

    async def announce(self, node_id: NodeId, org_id: str, address: str) -> None:
        """Keeps where the node offers files."""
        row = insert(node_peers).values(node_id=node_id, org_id=org_id, address=address)
        key = [node_peers.c.node_id]
        query = row.on_conflict_do_update(index_elements=key, set_={"address": row.excluded.address})
        await self._connection.execute(query)

    async def keep_cached(self, cached: Cached, org_id: str) -> None:
        """Keeps what files the node has."""
        row = insert(node_caches).values(node_id=cached.node_id, org_id=org_id, digests=cached.digests)
        key = [node_caches.c.node_id]
        query = row.on_conflict_do_update(
            index_elements=key,
            set_={"digests": row.excluded.digests},
            where=node_caches.c.digests != row.excluded.digests,
        )
        await self._connection.execute(query)

    async def cached_changed(self, since: Snapshot | None) -> Sequence[Cached]:
        """What files nodes have that told of others since then; of every node without a snapshot."""
        query = select(node_caches).where(changed_since(node_caches, since))
        rows = await self._connection.execute(query)
        return [Cached(NodeId(row.node_id), tuple(row.digests)) for row in rows]

    async def peers(self, node_id: NodeId, model_id: ModelId) -> Sequence[Peer]:
        """Other nodes of the organisation that are there and run or deploy the model; some, when there are many."""
        own = select(nodes.c.org_id).where(nodes.c.node_id == node_id).scalar_subquery()
        query = (
            select(node_peers.c.node_id, node_peers.c.address)
            .join(nodes, nodes.c.node_id == node_peers.c.node_id)
            .where(
                nodes.c.org_id == own,
                nodes.c.node_id != node_id,
                nodes.c.status != NodeStatus.OFFLINE.value,
                nodes.c.deleted_at.is_(None),
                node_peers.c.address != "",
                select(deployments.c.deployment_id)
                .where(
                    deployments.c.node_id == nodes.c.node_id,
                    deployments.c.model_id == model_id,
                    deployments.c.goal == Goal.RUN.value,
                    deployments.c.status.in_([each.value for each in ACTIVE]),
                )
                .exists(),
            )
            .order_by(func.random())
            .limit(MOST_PEERS)
        )
        return [Peer(NodeId(row.node_id), row.address) for row in await self._connection.execute(query)]
