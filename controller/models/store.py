"""Models and their files in PostgreSQL."""

import base64
import json
from collections.abc import Collection
from dataclasses import asdict
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Index,
    Integer,
    Select,
    Table,
    Text,
    bindparam,
    func,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from controller.models.model import (
    Architecture,
    Framework,
    Model,
    ModelFile,
    ModelFormat,
    ModelId,
    ModelNotFoundError,
    Source,
    Task,
)
from controller.models.revision_store import revision_files
from mesh.errors import InvalidPageTokenError
from mesh.identity import Caller, OrgId, UserId
from mesh.sql.paging import Keyset, Page, PageRequest
from mesh.sql.tables import audit_columns, metadata, moment, owner_columns

models = Table(
    "models",
    metadata,
    Column("model_id", Text, primary_key=True),
    *owner_columns(),
    *audit_columns(),
    Column("name", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("source_url", Text, nullable=False),
    Column("framework", Text, nullable=False),
    Column("model_format", Text, nullable=False),
    Column("task", Text, nullable=False),
    Column("minio_path", Text, nullable=False),
    Column("size_mb", Integer, nullable=False),
    Column("version", Text, nullable=False),
    Column("min_gpu_memory", Integer, nullable=False),
    Column("min_vram", Integer, nullable=False),
    Column("parameters", BigInteger, nullable=False),
    Column("languages", ARRAY(Text), nullable=False),
    Column("license", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("weights_bytes", BigInteger, nullable=False),
    Column("architecture", JSONB(none_as_null=True), nullable=True),
    Column("tags", ARRAY(Text), nullable=False, server_default="{}"),
    Column("pickle_allowed", Boolean, nullable=False, server_default="false"),
    # Set once the objects of a deleted model are gone.
    moment("purged_at", nullable=True),
)
Index(
    "uq_models_org_id_name", models.c.org_id, models.c.name, unique=True, postgresql_where=models.c.deleted_at.is_(None)
)
Index(
    "ix_models_created_at_model_id",
    models.c.created_at,
    models.c.model_id,
    postgresql_where=models.c.deleted_at.is_(None),
)
Index(
    "ix_models_deleted_at",
    models.c.deleted_at,
    postgresql_where=models.c.deleted_at.is_not(None) & models.c.purged_at.is_(None),
)

_KEPT: ColumnElement[bool] = models.c.deleted_at.is_(None)
# In the order of Model's fields, so that a row is read by position.
_COLUMNS = [models.c[name] for name in Model.__dataclass_fields__]


class SqlModelStore:
    """Rows of models. Whoever asks sees those of their organisation; row-level security says so again."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def get(self, model: str, caller: Caller, *, lock: bool = False) -> Model:
        """The model of that id, or of that name in the caller's own organisation. ModelNotFoundError without one.

        `lock` keeps it from being deleted until the transaction ends.
        """
        named = (models.c.name == model) & (models.c.org_id == caller.org_id)
        query = select(*_COLUMNS).where(or_(models.c.model_id == model, named), _visible(caller))
        query = query.order_by((models.c.model_id == model).desc()).limit(1)
        row = (await self._connection.execute(query.with_for_update() if lock else query)).one_or_none()
        if row is None:
            raise ModelNotFoundError(model)
        return _model(row)

    async def find(self, org_id: OrgId, name: str, *, lock: bool = False) -> Model | None:
        """The organisation's model of that name, locked until the transaction ends on request."""
        query = select(*_COLUMNS).where(_KEPT, models.c.org_id == org_id, models.c.name == name)
        row = (await self._connection.execute(query.with_for_update() if lock else query)).one_or_none()
        return _model(row) if row is not None else None

    async def page(
        self, caller: Caller, page: PageRequest, framework: Framework | None = None, task: Task | None = None
    ) -> Page[Model]:
        """The models of one page, newest first."""
        keyset = Keyset(models.c.created_at, models.c.model_id, "models", framework, task)
        wanted = {"org_id": None if caller.sees_all else caller.org_id, "framework": framework, "task": task}
        given = {name: getattr(value, "value", value) for name, value in wanted.items() if value is not None}
        query = _page_query(frozenset(given), later=bool(page.token))
        rows = (await self._connection.execute(query, {**given, **keyset.parameters(page)})).all()
        return keyset.page(rows, page, _model)

    async def add(self, model: Model) -> bool:
        """A new model; False when the organisation has one of that name. Waits for a concurrent add."""
        statement = upsert(models).values(_row(model)).on_conflict_do_nothing().returning(models.c.model_id)
        return (await self._connection.execute(statement)).first() is not None

    async def save(self, model: Model) -> None:
        """The row as the model says."""
        await self._connection.execute(update(models).where(models.c.model_id == model.model_id).values(_row(model)))

    async def save_deleted(self, model: Model) -> None:
        """The model as deleted."""
        values = {"deleted_at": model.deleted_at, "changed_at": model.changed_at}
        await self._connection.execute(update(models).where(models.c.model_id == model.model_id).values(values))

    async def files(self, model_id: ModelId, digest: str, page: PageRequest) -> Page[ModelFile]:
        """The files of one page of a revision, by path."""
        table, scope = revision_files.c, f"{model_id} {digest}"
        query = select(revision_files).where(table.model_id == model_id, table.digest == digest).order_by(table.path)
        if page.token:
            query = query.where(table.path > _decode(page.token, scope))
        rows = (await self._connection.execute(query.limit(page.limit + 1))).all()
        shown = [ModelFile(row.path, row.size_bytes, row.sha256) for row in rows[: page.limit]]
        return Page(tuple(shown), _encode(scope, shown[-1].path) if len(rows) > page.limit else "")

    async def unpurged(self, limit: int) -> tuple[ModelId, ...]:
        """Deleted models whose objects may be there still."""
        query = select(models.c.model_id).where(models.c.deleted_at.is_not(None), models.c.purged_at.is_(None))
        return tuple((await self._connection.execute(query.order_by(models.c.deleted_at).limit(limit))).scalars())

    async def save_purged(self, model_id: ModelId, now: datetime) -> None:
        """The objects of a deleted model are gone."""
        await self._connection.execute(update(models).where(models.c.model_id == model_id).values(purged_at=now))

    async def known(self, model_ids: Collection[str]) -> frozenset[str]:
        """Those of the ids that are models, deleted or not."""
        query = select(models.c.model_id).where(models.c.model_id.in_(model_ids))
        return frozenset((await self._connection.execute(query)).scalars())

    async def count(self, caller: Caller) -> int:
        """How many models there are to see."""
        query = select(func.count()).select_from(models).where(_visible(caller))
        count: int = (await self._connection.execute(query)).scalar_one()
        return count


@cache
def _page_query(filters: frozenset[str], *, later: bool) -> Select[Any]:
    """The statement of a list with these filters, kept for the next call."""
    query = select(*_COLUMNS).where(_KEPT, *(models.c[name] == bindparam(name) for name in sorted(filters)))
    return Keyset(models.c.created_at, models.c.model_id).prepare(query, later=later)


def _visible(caller: Caller) -> ColumnElement[bool]:
    return _KEPT if caller.sees_all else _KEPT & (models.c.org_id == caller.org_id)


def _model(row: Any) -> Model:
    (
        model_id, name, org_id, user_id, description, source, source_url, framework, model_format, task, minio_path,
        size_mb, version, min_gpu_memory, min_vram, parameters, languages, license_name, digest, weights_bytes,
        architecture, created_at, changed_at, deleted_at, tags, pickle_allowed,
    ) = row  # fmt: skip
    return Model(
        ModelId(model_id), name, OrgId(org_id), UserId(user_id), description, Source(source), source_url,
        Framework(framework), ModelFormat(model_format), Task(task), minio_path, size_mb, version, min_gpu_memory,
        min_vram, parameters, tuple(languages), license_name, digest, weights_bytes,
        Architecture(**architecture) if architecture else None, created_at, changed_at, deleted_at,
        tuple(tags), pickle_allowed,
    )  # fmt: skip


def _row(model: Model) -> dict[str, Any]:
    return {
        **{name: getattr(model, name) for name in Model.__dataclass_fields__},
        "source": model.source.value,
        "framework": model.framework.value,
        "model_format": model.model_format.value,
        "task": model.task.value,
        "languages": list(model.languages),
        "tags": list(model.tags),
        "architecture": asdict(model.architecture) if model.architecture else None,
    }


def _encode(scope: str, path: str) -> str:
    return base64.urlsafe_b64encode(json.dumps([scope, path]).encode()).decode().rstrip("=")


def _decode(token: str, scope: str) -> str:
    try:
        owner, path = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    except (ValueError, TypeError) as error:
        raise InvalidPageTokenError("page_token is not one this list made; start again without it") from error
    if owner != scope or not isinstance(path, str):
        raise InvalidPageTokenError("page_token was made for another model; start again without it")
    return path
