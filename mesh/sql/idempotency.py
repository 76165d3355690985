"""Repeated requests: a create that is sent again with the same request_id answers the first one's object (AIP-155)."""

import hashlib
from datetime import timedelta

from sqlalchemy import Column, Table, Text, delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.errors import RequestIdReusedError
from mesh.identity import OrgId
from mesh.sql.tables import metadata, moment

KEPT_FOR = timedelta(days=1)

request_ids = Table(
    "request_ids",
    metadata,
    Column("org_id", Text, primary_key=True),
    Column("method", Text, primary_key=True),
    Column("request_id", Text, primary_key=True),
    Column("digest", Text, nullable=False),
    Column("object_id", Text, nullable=False),
    moment("created_at"),
)


class RequestIds:
    """The request ids of the last day, per organisation and method. Part of the transaction that creates the object."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def claim(self, org_id: OrgId, method: str, request_id: str, digest: str, object_id: str) -> str:
        """Book `object_id` for the request and answer it, or answer the object that an earlier call booked.

        A concurrent call with the same id waits for the first one's transaction. An empty request id books nothing.
        RequestIdReusedError when the earlier call asked for something else.
        """
        if not request_id:
            return object_id
        await self._forget_old(org_id)
        key = {"org_id": org_id, "method": method, "request_id": request_id}
        row = {**key, "digest": digest, "object_id": object_id, "created_at": func.now()}
        booked = await self._connection.execute(
            insert(request_ids).values(row).on_conflict_do_nothing().returning(request_ids.c.object_id)
        )
        if booked.first() is not None:
            return object_id
        query = select(request_ids.c.digest, request_ids.c.object_id).filter_by(**key)
        earlier = (await self._connection.execute(query)).one()
        if earlier.digest != digest:
            raise RequestIdReusedError(
                "request_id was used for another request; send a new one", method=method, request_id=request_id
            )
        return str(earlier.object_id)

    async def _forget_old(self, org_id: OrgId) -> None:
        old = request_ids.c.created_at < func.now() - KEPT_FOR
        await self._connection.execute(delete(request_ids).where(request_ids.c.org_id == org_id, old))


def digest_of(*parts: object) -> str:
    """A fingerprint of what a request asks for: plain values and frozen dataclasses, whose repr says everything."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()
