"""Revisions and their files in PostgreSQL."""

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Integer,
    Table,
    Text,
    UniqueConstraint,
    delete,
    func,
    insert,
    or_,
    select,
    tuple_,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.ext.asyncio import AsyncConnection

from controller.models.model import Model, ModelFile, ModelId
from controller.models.revision import (
    ModelRevisionNotFoundError,
    Revision,
    facts_from_json,
    facts_to_json,
)
from mesh.identity import OrgId, UserId
from mesh.sql.paging import Keyset, Page, PageRequest
from mesh.sql.tables import metadata, moment

# Rows of every organisation: equal files are stored once, whoever brought them. Only the service itself reads this.
blobs = Table(
    "blobs",
    metadata,
    Column("sha256", Text, primary_key=True),
    Column("size_bytes", BigInteger, nullable=False),
    # Below the storage's URL; of this upload alone, so that removing one never hits a later one of the same content.
    Column("object_path", Text, nullable=False, unique=True),
    # The imports on their way that count on it, and until when at most.
    Column("pins", ARRAY(Text), nullable=False),
    moment("pinned_until"),
    moment("created_at"),
)
revisions = Table(
    "model_revisions",
    metadata,
    Column("model_id", Text, ForeignKey("models.model_id"), primary_key=True),
    Column("digest", Text, primary_key=True),
    Column("number", Integer, nullable=False),
    Column("org_id", Text, nullable=False),
    Column("user_id", Text, nullable=False),
    moment("created_at"),
    Column("facts", JSONB, nullable=False),
    UniqueConstraint("model_id", "number", name="uq_model_revisions_model_id_number"),
)
revision_files = Table(
    "model_revision_files",
    metadata,
    Column("model_id", Text, primary_key=True),
    Column("digest", Text, primary_key=True),
    Column("path", Text, primary_key=True),
    Column("org_id", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("sha256", Text, ForeignKey("blobs.sha256"), nullable=False, index=True),
    ForeignKeyConstraint(
        ["model_id", "digest"],
        ["model_revisions.model_id", "model_revisions.digest"],
        name="fk_model_revision_files_model_id",
    ),
)


class SqlRevisionStore:
    """Rows of revisions; they are added and never changed."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add(self, revision: Revision, files: Sequence[ModelFile]) -> None:
        """A new revision with its files, which object storage holds."""
        plain = {name: getattr(revision, name) for name in ("model_id", "digest", "number", "org_id", "user_id")}
        row = {**plain, "created_at": revision.created_at, "facts": facts_to_json(revision.facts)}
        await self._connection.execute(insert(revisions).values(row))
        key = {"model_id": revision.model_id, "digest": revision.digest, "org_id": revision.org_id}
        rows = [{**key, "path": file.path, "size_bytes": file.size_bytes, "sha256": file.sha256} for file in files]
        await self._connection.execute(insert(revision_files), rows)

    async def find(self, model_id: ModelId, digest: str) -> Revision | None:
        """The model's revision with that digest."""
        query = select(revisions).where(revisions.c.model_id == model_id, revisions.c.digest == digest)
        row = (await self._connection.execute(query)).one_or_none()
        return _revision(row) if row is not None else None

    async def get(self, model: Model, name: str) -> Revision:
        """The revision of that number or digest. ModelRevisionNotFoundError without one."""
        table = revisions.c
        named = or_(table.digest == name, table.number == int(name)) if _is_number(name) else table.digest == name
        row = (await self._connection.execute(select(revisions).where(table.model_id == model.model_id, named))).first()
        if row is None:
            raise ModelRevisionNotFoundError(model.name, name)
        return _revision(row)

    async def latest_number(self, model_id: ModelId) -> int:
        """How many there are, the deleted ones with them."""
        query = select(func.coalesce(func.max(revisions.c.number), 0)).where(revisions.c.model_id == model_id)
        number: int = (await self._connection.execute(query)).scalar_one()
        return number

    async def page(self, model_id: ModelId, page: PageRequest) -> Page[Revision]:
        """The revisions of one page, newest first."""
        keyset = Keyset(revisions.c.created_at, revisions.c.digest, "revisions", model_id)
        query = select(revisions).where(revisions.c.model_id == model_id)
        rows = (await self._connection.execute(keyset.apply(query, page))).all()
        return keyset.page(rows, page, _revision)

    async def files(self, wanted: Collection[tuple[ModelId, str]]) -> dict[tuple[ModelId, str], tuple[ModelFile, ...]]:
        """Every file of some revisions, each with the object that holds it."""
        table = revision_files.c
        query = select(revision_files, blobs.c.object_path).join(blobs, blobs.c.sha256 == table.sha256)
        query = query.where(tuple_(table.model_id, table.digest).in_(wanted)).order_by(table.path)
        found: dict[tuple[ModelId, str], list[ModelFile]] = {each: [] for each in wanted}
        for row in (await self._connection.execute(query)).all():
            file = ModelFile(row.path, row.size_bytes, row.sha256, row.object_path)
            found[ModelId(row.model_id), row.digest].append(file)
        return {key: tuple(files) for key, files in found.items()}

    async def forget_files(self, model_id: ModelId) -> None:
        """The files of a deleted model are needed no more."""
        await self._connection.execute(delete(revision_files).where(revision_files.c.model_id == model_id))


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdecimal() and len(name) < 10


def _revision(row: Any) -> Revision:
    return Revision(
        ModelId(row.model_id),
        row.digest,
        row.number,
        OrgId(row.org_id),
        UserId(row.user_id),
        row.created_at,
        facts_from_json(row.facts),
    )
