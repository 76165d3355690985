"""Routes in PostgreSQL. Each of a route's names is a row of its own, so that no two routes share one."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from sqlalchemy import Column, ColumnElement, Index, Integer, Row, Table, Text, delete, insert, or_, select, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.dialects.postgresql import insert as insert_new
from sqlalchemy.ext.asyncio import AsyncConnection

from controller.routing.balancing import Affinity, Balancing
from controller.routing.model import (
    Capability,
    Prices,
    Provider,
    Resilience,
    Route,
    RouteId,
    RouteNameTakenError,
    RouteNotFoundError,
    Strategy,
    Target,
    Visibility,
    Wish,
)
from mesh.identity import Caller, OrgId, UserId
from mesh.sql.paging import Keyset, Page, PageRequest
from mesh.sql.snapshot import Snapshot, changed_since
from mesh.sql.tables import audit_columns, metadata, owner_columns

EVERYBODY = "*"

routes = Table(
    "routes",
    metadata,
    Column("route_id", Text, primary_key=True),
    *owner_columns(),
    *audit_columns(),
    Column("name", Text, nullable=False),
    Column("visibility", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("wish", JSONB, nullable=False),
    Column("rollout_id", Text, nullable=False, server_default=""),
)
_KEPT: ColumnElement[bool] = routes.c.deleted_at.is_(None)
Index("ix_routes_created_at_route_id", routes.c.created_at, routes.c.route_id)

route_names = Table(
    "route_names",
    metadata,
    # An organisation, or `*` for names that every organisation may use.
    Column("scope", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("route_id", Text, nullable=False, index=True),
    Column("org_id", Text, nullable=False),
)


class SqlRouteStore:
    """Rows of routes. Whoever asks sees those of their organisation; row-level security says so again."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def get(self, reference: str, caller: Caller, *, lock: bool = False) -> Route:
        """The route of that id, deleted or not, or of that name. RouteNotFoundError."""
        named = _KEPT & (routes.c.name == reference) & _visible(caller)
        query = select(routes).where(or_((routes.c.route_id == reference) & _visible(caller), named))
        rows = (await self._connection.execute(query.with_for_update() if lock else query)).all()
        found = [row for row in rows if row.route_id == reference] or rows
        if len(found) != 1:
            # Who sees every organisation may find a name twice; then only an id will do.
            raise RouteNotFoundError(reference)
        return _route(found[0])

    async def page(self, caller: Caller, page: PageRequest) -> Page[Route]:
        """The routes of one page, newest first."""
        keyset = Keyset(routes.c.created_at, routes.c.route_id, "routes")
        query = keyset.apply(select(routes).where(_visible(caller), _KEPT), page)
        return keyset.page((await self._connection.execute(query)).all(), page, _route)

    async def all(self) -> tuple[Route, ...]:
        """Every route that is not deleted, of every organisation that the connection sees."""
        query = select(routes).where(_KEPT).order_by(routes.c.route_id)
        return tuple(_route(row) for row in (await self._connection.execute(query)).all())

    async def changed(self, since: Snapshot | None) -> tuple[Route, ...]:
        """The routes that changed since then, deleted ones too; every route that is kept without a snapshot."""
        query = select(routes).where(_KEPT if since is None else changed_since(routes, since))
        return tuple(_route(row) for row in (await self._connection.execute(query)).all())

    async def own_name(self, name: str, org_id: OrgId) -> str:
        """The first name of the route that an organisation calls by this one; empty when there is none."""
        scoped = route_names.c.scope.in_([org_id, EVERYBODY]) & (route_names.c.name == name)
        query = select(routes.c.name).join(route_names, route_names.c.route_id == routes.c.route_id).where(scoped)
        # An organisation's own routes stand before everybody's.
        found = await self._connection.scalars(query.order_by(route_names.c.scope == EVERYBODY))
        return found.first() or ""

    async def using(self, credential_id: str) -> tuple[str, ...]:
        """The names of routes with a target that needs the credential."""
        needed = routes.c.wish.contains({"targets": [{"credential_id": credential_id}]})
        return tuple(await self._connection.scalars(select(routes.c.name).where(_KEPT, needed).order_by(routes.c.name)))

    async def add(self, route: Route) -> None:
        """A new row. RouteNameTakenError."""
        await self._connection.execute(insert(routes).values(_row(route)))
        await self._name(route)

    async def save(self, route: Route) -> None:
        """The row as the route says. RouteNameTakenError."""
        key = routes.c.route_id == route.route_id
        await self._connection.execute(update(routes).where(key).values(_row(route)))
        await self._connection.execute(delete(route_names).where(route_names.c.route_id == route.route_id))
        if route.deleted_at is None:
            await self._name(route)

    async def _name(self, route: Route) -> None:
        scope = EVERYBODY if route.wish.visibility is Visibility.UNIVERSE else route.org_id
        rows = [
            {"scope": scope, "name": name, "route_id": route.route_id, "org_id": route.org_id}
            for name in route.wish.names
        ]
        booked = insert_new(route_names).values(rows).on_conflict_do_nothing().returning(route_names.c.name)
        taken = set(route.wish.names) - set(await self._connection.scalars(booked))
        if taken:
            raise RouteNameTakenError(taken)


def _visible(caller: Caller) -> ColumnElement[bool]:
    return routes.c.org_id == caller.org_id if not caller.sees_all else routes.c.org_id.is_not(None)


def _route(row: Row[Any]) -> Route:
    return Route(
        route_id=RouteId(row.route_id),
        org_id=OrgId(row.org_id),
        user_id=UserId(row.user_id),
        created_at=row.created_at,
        changed_at=row.changed_at,
        deleted_at=row.deleted_at,
        version=row.version,
        rollout_id=row.rollout_id,
        wish=_wish(row.wish),
    )


def _row(route: Route) -> dict[str, Any]:
    plain = ("route_id", "org_id", "user_id", "created_at", "changed_at", "deleted_at", "name", "version", "rollout_id")
    wish = asdict(route.wish)
    wish["targets"] = [{**target, "provider": target["provider"].value} for target in wish["targets"]]
    wish["capabilities"] = [each.value for each in route.wish.capabilities]
    wish["balancing"]["affinity"] = route.wish.balancing.affinity.value
    wish["strategies"] = [each.value for each in route.wish.strategies]
    wish["visibility"] = route.wish.visibility.value
    return {**{name: getattr(route, name) for name in plain}, "visibility": wish["visibility"], "wish": wish}


def _wish(row: Mapping[str, Any]) -> Wish:
    resilience = {**row["resilience"], "retry_statuses": tuple(row["resilience"]["retry_statuses"])}
    return Wish(
        name=row["name"],
        aliases=tuple(row["aliases"]),
        targets=tuple(Target(**{**target, "provider": Provider(target["provider"])}) for target in row["targets"]),
        fallbacks=tuple(row["fallbacks"]),
        capabilities=tuple(Capability(each) for each in row["capabilities"]),
        max_tokens=row["max_tokens"],
        prices=Prices(**row["prices"]),
        visibility=Visibility(row["visibility"]),
        resilience=Resilience(**resilience),
        balancing=_balancing(row.get("balancing", {})),
        strategies=tuple(Strategy(each) for each in row.get("strategies", ())),
        degraded_answer=row.get("degraded_answer", ""),
    )


def _balancing(row: Mapping[str, Any]) -> Balancing:
    return Balancing(**{**row, "affinity": Affinity(row.get("affinity", Affinity.NONE.value))})
