"""Downloads in PostgreSQL, and who works at them: a lease with a token that every worker has to name."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Float,
    Index,
    Integer,
    Table,
    Text,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from controller.models.download import (
    UNFINISHED,
    Download,
    DownloadId,
    DownloadNotFoundError,
    DownloadState,
    Progress,
    Wanted,
)
from controller.models.model import Framework, ModelId
from mesh.identity import Caller, OrgId, UserId
from mesh.sql.paging import Keyset, Page, PageRequest
from mesh.sql.tables import metadata, moment, owner_columns

model_downloads = Table(
    "model_downloads",
    metadata,
    Column("download_id", Text, primary_key=True),
    *owner_columns(),
    moment("created_at"),
    moment("changed_at"),
    Column("repo", Text, nullable=False),
    Column("revision", Text, nullable=False),
    Column("framework", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("allow_pickle", Boolean, nullable=False),
    Column("sealed_token", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("commit", Text, nullable=False),
    Column("bytes_total", BigInteger, nullable=False),
    Column("bytes_done", BigInteger, nullable=False),
    Column("bytes_per_second", Float, nullable=False),
    Column("files_total", Integer, nullable=False),
    Column("files_done", Integer, nullable=False),
    Column("failures", Integer, nullable=False),
    Column("error", Text, nullable=False),
    Column("error_reason", Text, nullable=False),
    Column("license", Text, nullable=False),
    Column("skipped_files", ARRAY(Text), nullable=False),
    Column("model_id", Text, nullable=False),
    moment("next_try_at", nullable=True),
    moment("finished_at", nullable=True),
    Column("lease_token", Text, nullable=False, server_default=""),
    moment("lease_until", nullable=True),
    Column("quantization", Text, nullable=False, server_default=""),
)
_IS_UNFINISHED: ColumnElement[bool] = model_downloads.c.state.in_([each.value for each in UNFINISHED])
Index("ix_model_downloads_unfinished", model_downloads.c.created_at, postgresql_where=_IS_UNFINISHED)
Index("ix_model_downloads_created_at_download_id", model_downloads.c.created_at, model_downloads.c.download_id)
# What makes two calls the same job.
Index(
    "uq_model_downloads_org_id_name_unfinished",
    model_downloads.c.org_id,
    model_downloads.c.name,
    unique=True,
    postgresql_where=_IS_UNFINISHED,
)
_PROGRESS = tuple(each.name for each in fields(Progress))
_SPECIAL = ("framework", "state", "progress", "skipped_files")
_PLAIN = tuple(each.name for each in fields(Download) if each.name not in _SPECIAL)


class SqlDownloadStore:
    """Rows of downloads. Whoever asks sees those of their organisation; row-level security says so again."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def now(self) -> datetime:
        """The database's clock, by which leases run."""
        now: datetime = (await self._connection.execute(select(func.now()))).scalar_one()
        return now

    async def get(self, download_id: DownloadId, caller: Caller, *, lock: bool = False) -> Download:
        """The download, locked until the transaction ends on request. DownloadNotFoundError without one to see."""
        query = select(model_downloads).where(model_downloads.c.download_id == download_id)
        if not caller.sees_all:
            query = query.where(model_downloads.c.org_id == caller.org_id)
        row = (await self._connection.execute(query.with_for_update() if lock else query)).one_or_none()
        if row is None:
            raise DownloadNotFoundError(download_id)
        return _download(row)

    async def latest_of(self, org_id: OrgId, wanted: Wanted) -> Download | None:
        """The newest download of the organisation that was asked for the same, locked."""
        table = model_downloads.c
        same = (table.repo == wanted.repo) & (table.revision == wanted.revision) & (table.name == wanted.name)
        same &= (table.framework == wanted.framework.value) & (table.quantization == wanted.quantization)
        query = select(model_downloads).where(table.org_id == org_id, same)
        query = query.order_by(table.created_at.desc()).limit(1).with_for_update()
        row = (await self._connection.execute(query)).one_or_none()
        return _download(row) if row is not None else None

    async def unfinished_of(self, org_id: OrgId, name: str) -> Download | None:
        """What is being downloaded under that name."""
        table = model_downloads.c
        query = select(model_downloads).where(table.org_id == org_id, table.name == name, _IS_UNFINISHED)
        row = (await self._connection.execute(query)).one_or_none()
        return _download(row) if row is not None else None

    async def page(self, caller: Caller, page: PageRequest, state: DownloadState | None) -> Page[Download]:
        """The downloads of one page, newest first."""
        table = model_downloads.c
        keyset = Keyset(table.created_at, table.download_id, "downloads", state)
        query = select(model_downloads)
        if not caller.sees_all:
            query = query.where(table.org_id == caller.org_id)
        if state is not None:
            query = query.where(table.state == state.value)
        rows = (await self._connection.execute(keyset.apply(query, page))).all()
        return keyset.page(rows, page, _download)

    async def add(self, download: Download) -> None:
        """A new row."""
        await self._connection.execute(insert(model_downloads).values(_row(download)))

    async def save(self, download: Download) -> None:
        """The row as the download says, and nobody's any more."""
        key = model_downloads.c.download_id == download.download_id
        values = {**_row(download), "lease_token": "", "lease_until": None}
        await self._connection.execute(update(model_downloads).where(key).values(values))

    async def claim(self, lease_token: str, lease: timedelta) -> Download | None:
        """The oldest download that is due and that nobody works at, for as long as the lease."""
        table = model_downloads.c
        free = or_(table.lease_until.is_(None), table.lease_until < func.now())
        due = or_(table.next_try_at.is_(None), table.next_try_at <= func.now())
        oldest = select(table.download_id).where(_IS_UNFINISHED, free, due).order_by(table.created_at).limit(1)
        statement = (
            update(model_downloads)
            .where(table.download_id.in_(oldest.with_for_update(skip_locked=True)))
            .values(lease_token=lease_token, lease_until=func.now() + lease)
            .returning(model_downloads)
        )
        row = (await self._connection.execute(statement)).one_or_none()
        return _download(row) if row is not None else None

    async def save_leased(self, download: Download, lease_token: str, lease: timedelta | None) -> bool:
        """The row as its worker says, and the lease anew, or given back; False when it is the worker's no more."""
        held = (model_downloads.c.download_id == download.download_id) & (model_downloads.c.lease_token == lease_token)
        until = {"lease_until": func.now() + lease} if lease else {"lease_until": None, "lease_token": ""}
        statement = update(model_downloads).where(held, _IS_UNFINISHED).values({**_row(download), **until})
        done = await self._connection.execute(statement.returning(model_downloads.c.download_id))
        return done.first() is not None

    async def release(self, lease_token: str) -> None:
        """Gives back what a worker holds, at its end."""
        held = model_downloads.c.lease_token == lease_token
        await self._connection.execute(update(model_downloads).where(held).values(lease_token="", lease_until=None))

    async def unfinished_among(self, download_ids: frozenset[str], since: datetime) -> frozenset[str]:
        """Those of the ids that work, or that failed since and may be taken up."""
        table = model_downloads.c
        kept = or_(_IS_UNFINISHED, (table.state == DownloadState.FAILED.value) & (table.changed_at >= since))
        found = await self._connection.execute(
            select(table.download_id).where(table.download_id.in_(download_ids), kept)
        )
        return frozenset(found.scalars())


def _row(download: Download) -> dict[str, Any]:
    return {
        **{name: getattr(download, name) for name in _PLAIN},
        **asdict(download.progress),
        "framework": download.framework.value,
        "state": download.state.value,
        "skipped_files": list(download.skipped_files),
    }


def _download(row: Any) -> Download:
    values: Mapping[str, Any] = row._mapping
    plain = {name: values[name] for name in _PLAIN}
    return Download(
        **{
            **plain,
            "download_id": DownloadId(plain["download_id"]),
            "org_id": OrgId(plain["org_id"]),
            "user_id": UserId(plain["user_id"]),
            "model_id": ModelId(plain["model_id"]),
        },
        framework=Framework(values["framework"]),
        state=DownloadState(values["state"]),
        skipped_files=tuple(values["skipped_files"]),
        progress=Progress(**{name: values[name] for name in _PROGRESS}),
    )
