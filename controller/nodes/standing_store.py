"""What sessions read and write of nodes in PostgreSQL: few columns, and those of many nodes at once."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Text, bindparam, delete, func, select, tuple_, update
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from controller.nodes.model import Container, NodeId, NodeStatus
from controller.nodes.rows import GAUGES, container_row, gauges_row
from controller.nodes.standing import Renewal, Standing
from controller.nodes.store import node_containers, nodes
from mesh.identity import OrgId

_STANDING = select(
    nodes.c.node_id,
    nodes.c.org_id,
    nodes.c.status,
    nodes.c.in_maintenance,
    nodes.c.session_epoch,
    nodes.c.session_started_at,
    nodes.c.lease_expires_at,
    nodes.c.desired_revision,
).where(nodes.c.deleted_at.is_(None))
_ONE = _STANDING.where(nodes.c.node_id == bindparam("of_node"))
_ONE_LOCKED = _ONE.with_for_update(key_share=True)
# In one order for everybody, so that two who lock several never wait for each other.
_ALL_LOCKED = (
    _STANDING.where(nodes.c.node_id == func.any(bindparam("of_nodes", type_=ARRAY(Text))))
    .order_by(nodes.c.node_id)
    .with_for_update(key_share=True)
)
_DISCONNECT = update(nodes).where(nodes.c.node_id == bindparam("of_node")).values(websocket_connected=False)

_OF_EACH = ("node_id", "status", "lease_expires_at", "applied_revision", *GAUGES)
_SAID = (
    func.unnest(*(bindparam(f"all_{name}", type_=ARRAY(nodes.c[name].type, dimensions=1)) for name in _OF_EACH))
    .table_valued(*_OF_EACH, name="said")
    .render_derived()
)
_RENEW = (
    update(nodes)
    .where(nodes.c.node_id == _SAID.c.node_id)
    .values(
        {name: _SAID.c[name] for name in _OF_EACH[1:]}
        | {"websocket_connected": True, "last_heartbeat": bindparam("now")}
    )
)
_NAMED = (
    func.unnest(bindparam("of_nodes", type_=ARRAY(Text)), bindparam("of_containers", type_=ARRAY(Text)))
    .table_valued("node_id", "container_id", name="named")
    .render_derived()
)
_KEY = tuple_(node_containers.c.node_id, node_containers.c.container_id)
_FORGET_UNNAMED = delete(node_containers).where(
    node_containers.c.node_id == func.any(bindparam("speaking", type_=ARRAY(Text))),
    _KEY.not_in(select(_NAMED.c.node_id, _NAMED.c.container_id)),
)


class SqlStandingStore:
    """Rows of nodes that are part of the fleet, for sessions, which see every organisation."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def get(self, node_id: NodeId, *, lock: bool = False) -> Standing | None:
        """The node's, locked until the transaction ends on request."""
        rows = await self._connection.execute(_ONE_LOCKED if lock else _ONE, {"of_node": node_id})
        row = rows.one_or_none()
        return _standing(row) if row else None

    async def lock_all(self, node_ids: Sequence[NodeId]) -> dict[NodeId, Standing]:
        """Those that there are of these nodes, locked until the transaction ends."""
        found = await self._connection.execute(_ALL_LOCKED, {"of_nodes": list(node_ids)})
        return {NodeId(row.node_id): _standing(row) for row in found}

    async def renew(self, renewals: Sequence[Renewal], now: datetime) -> None:
        """New leases and readings of nodes that are locked."""
        if not renewals:
            return
        rows = [_renewal_row(each, now) for each in renewals]
        values = {f"all_{name}": [row[name] for row in rows] for name in _OF_EACH}
        await self._connection.execute(_RENEW, {**values, "now": now})

    async def disconnect(self, node_id: NodeId) -> None:
        """The stream ended."""
        await self._connection.execute(_DISCONNECT, {"of_node": node_id})

    async def save_containers(self, running: Sequence[tuple[Standing, Sequence[Container]]], now: datetime) -> None:
        """What runs on these nodes, instead of what was said of them before."""
        rows = [row for standing, containers in running for row in _container_rows(standing, containers, now)]
        if not running:
            return
        named = {
            "speaking": [standing.node_id for standing, _ in running],
            "of_nodes": [row["node_id"] for row in rows],
            "of_containers": [row["container_id"] for row in rows],
        }
        await self._connection.execute(_FORGET_UNNAMED, named)
        if not rows:
            return
        statement = insert(node_containers).values(rows)
        content = statement.excluded.content
        await self._connection.execute(
            statement.on_conflict_do_update(
                index_elements=["node_id", "container_id"],
                set_={"content": content},
                where=node_containers.c.content.is_distinct_from(content),
            )
        )


def _standing(row: Any) -> Standing:
    return Standing(
        NodeId(row.node_id),
        OrgId(row.org_id),
        NodeStatus(row.status),
        row.in_maintenance,
        row.session_epoch,
        row.session_started_at,
        row.lease_expires_at,
        row.desired_revision,
    )


def _renewal_row(renewal: Renewal, now: datetime) -> dict[str, Any]:
    standing = renewal.standing
    return {
        "node_id": standing.node_id,
        "status": standing.status.value,
        "lease_expires_at": standing.lease_expires_at,
        "applied_revision": renewal.applied_revision,
        **gauges_row(renewal.gauges),
        "measured_at": renewal.gauges.measured_at or now,
    }


def _container_rows(standing: Standing, containers: Sequence[Container], now: datetime) -> list[dict[str, Any]]:
    named = {each.container_id or each.container_name: each for each in containers}
    return [container_row(standing.node_id, standing.org_id, key, named[key], now) for key in named]
