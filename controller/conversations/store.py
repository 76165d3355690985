"""Rooms and conversations in PostgreSQL."""

from collections.abc import Collection
from typing import Any

from sqlalchemy import (
    ARRAY,
    Column,
    ColumnElement,
    Index,
    Integer,
    Row,
    Table,
    Text,
    and_,
    any_,
    exists,
    literal,
    or_,
    select,
    true,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from controller.conversations.model import Conversation, ConversationId, Key, Room, RoomId, Scope, Status
from controller.conversations.refusals import ConversationNotFoundError, RoomNotFoundError
from mesh.identity import Caller, OrgId, UserId
from mesh.sql.paging import Keyset, Page, PageRequest
from mesh.sql.tables import audit_columns, metadata, moment

rooms = Table(
    "rooms",
    metadata,
    Column("org_id", Text, primary_key=True),
    Column("room_id", Text, primary_key=True),
    Column("user_id", Text, nullable=False),
    *audit_columns(),
    Column("name", Text, nullable=False),
    Column("agent_id", Text, nullable=False),
    Column("scope", Text, nullable=False),
    Column("member_ids", ARRAY(Text), nullable=False),
)
conversations = Table(
    "conversations",
    metadata,
    Column("org_id", Text, primary_key=True),
    Column("conversation_id", Text, primary_key=True),
    Column("user_id", Text, nullable=False),
    *audit_columns(),
    Column("epoch", Text, nullable=False),
    Column("agent_id", Text, nullable=False),
    Column("room_id", Text, nullable=False),
    Column("connection_id", Text, nullable=False),
    Column("title", Text, nullable=False),
    Column("channel", Text, nullable=False),
    Column("channel_metadata", JSONB, nullable=False),
    Column("status", Text, nullable=False),
    Column("offset", Integer, nullable=False),
    Column("sequence", Integer, nullable=False),
    Column("message_count", Integer, nullable=False),
    moment("last_message_at", nullable=True),
)
Index("ix_conversations_user", conversations.c.org_id, conversations.c.user_id, conversations.c.created_at)
Index("ix_conversations_room", conversations.c.org_id, conversations.c.room_id)


class SqlRoomStore:
    """Rows of rooms."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def get(self, caller: Caller, room_id: str, *, lock: bool = False) -> Room:
        """The room, if the caller may enter it. RoomNotFoundError."""
        query = select(rooms).where(rooms.c.room_id == room_id, _enters(caller))
        found = (await self._connection.execute(query.with_for_update() if lock else query)).all()
        own = [row for row in found if row.org_id == caller.org_id] or found
        if len(own) != 1:
            raise RoomNotFoundError(room_id)
        return _room(own[0])

    async def page(self, caller: Caller, page: PageRequest) -> Page[Room]:
        """Those that the caller may enter, the newest first."""
        keyset = Keyset(rooms.c.created_at, rooms.c.room_id, "rooms")
        query = keyset.apply(select(rooms).where(_enters(caller)), page)
        return keyset.page((await self._connection.execute(query)).all(), page, _room)

    async def add(self, room: Room) -> bool:
        """A new row; False when the id is taken. A deleted room's id is free again."""
        values = _room_row(room)
        statement = (
            upsert(rooms)
            .values(values)
            .on_conflict_do_update(
                index_elements=["org_id", "room_id"], set_=values, where=rooms.c.deleted_at.is_not(None)
            )
        )
        return (await self._connection.execute(statement)).rowcount == 1

    async def save(self, room: Room) -> None:
        """The row as the room says."""
        same = and_(rooms.c.org_id == room.org_id, rooms.c.room_id == room.room_id)
        await self._connection.execute(update(rooms).where(same).values(_room_row(room)))


class SqlConversationStore:
    """Rows of conversations. Who sees one: who began it, who may enter its room, and who sees every organisation."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def get(self, caller: Caller, conversation_id: str, *, write: bool = False) -> Conversation:
        """The conversation; with `write` locked, and only as one of those who take part. ConversationNotFoundError."""
        query = select(conversations).where(
            conversations.c.conversation_id == conversation_id, _takes_part(caller) if write else _sees(caller)
        )
        found = (await self._connection.execute(query.with_for_update() if write else query)).all()
        own = [row for row in found if row.org_id == caller.org_id] or found
        if len(own) != 1:
            raise ConversationNotFoundError(conversation_id)
        return _conversation(own[0])

    async def find(self, key: Key, *, lock: bool = False) -> Conversation:
        """The conversation, whoever takes part in it. ConversationNotFoundError."""
        query = select(conversations).where(_is(key), _KEPT)
        row = (await self._connection.execute(query.with_for_update() if lock else query)).first()
        if row is None:
            raise ConversationNotFoundError(key.conversation_id)
        return _conversation(row)

    async def page(
        self, caller: Caller, page: PageRequest, *, room_id: str = "", agent_id: str = "", status: Status | None = None
    ) -> Page[Conversation]:
        """Those that the caller sees, the newest first; of one room, agent or status."""
        wanted = status.value if status else ""
        keyset = Keyset(
            conversations.c.created_at, conversations.c.conversation_id, "conversations", room_id, agent_id, wanted
        )
        filters = {"room_id": room_id, "agent_id": agent_id, "status": wanted}
        narrowed = [conversations.c[name] == value for name, value in filters.items() if value]
        query = keyset.apply(select(conversations).where(_sees(caller), *narrowed), page)
        return keyset.page((await self._connection.execute(query)).all(), page, _conversation)

    async def add(self, conversation: Conversation) -> bool:
        """A new row; False when the id is taken. What was deleted keeps its id: its readers must not mix the two."""
        statement = upsert(conversations).values(_row(conversation)).on_conflict_do_nothing()
        return (await self._connection.execute(statement)).rowcount == 1

    async def save(self, conversation: Conversation) -> None:
        """The row as the conversation says."""
        await self._connection.execute(update(conversations).where(_is(conversation.key)).values(_row(conversation)))

    async def heads(self, keys: Collection[Key]) -> dict[Key, int]:
        """How far conversations have come; those that are gone are left out."""
        wanted = [(key.org_id, key.conversation_id) for key in keys]
        identity = tuple_(conversations.c.org_id, conversations.c.conversation_id)
        query = select(conversations.c.org_id, conversations.c.conversation_id, conversations.c.offset)
        rows = (await self._connection.execute(query.where(identity.in_(wanted), _KEPT))).all() if wanted else []
        return {Key(OrgId(row[0]), ConversationId(row[1])): int(row[2]) for row in rows}


_KEPT: ColumnElement[bool] = conversations.c.deleted_at.is_(None)


def _is(key: Key) -> ColumnElement[bool]:
    return and_(conversations.c.org_id == key.org_id, conversations.c.conversation_id == key.conversation_id)


def _enters(caller: Caller) -> ColumnElement[bool]:
    return rooms.c.deleted_at.is_(None) & (true() if caller.sees_all else _is_member(caller))


def _is_member(caller: Caller) -> ColumnElement[bool]:
    mine = or_(
        rooms.c.scope == Scope.ORG.value,
        rooms.c.user_id == caller.user_id,
        literal(str(caller.user_id)) == any_(rooms.c.member_ids),
    )
    return and_(rooms.c.org_id == caller.org_id, mine)


def _sees(caller: Caller) -> ColumnElement[bool]:
    return _KEPT & (true() if caller.sees_all else _takes_part(caller))


def _takes_part(caller: Caller) -> ColumnElement[bool]:
    entered = exists().where(
        rooms.c.org_id == conversations.c.org_id,
        rooms.c.room_id == conversations.c.room_id,
        rooms.c.deleted_at.is_(None),
        _is_member(caller),
    )
    mine = or_(conversations.c.user_id == caller.user_id, entered)
    return and_(conversations.c.org_id == caller.org_id, _KEPT, mine)


def sees(caller: Caller) -> ColumnElement[bool]:
    """Whether the caller sees the row of `conversations`."""
    return _sees(caller)


_ROOM = ("created_at", "changed_at", "deleted_at", "name", "agent_id")


def _room(row: Row[Any]) -> Room:
    return Room(
        org_id=OrgId(row.org_id),
        room_id=RoomId(row.room_id),
        user_id=UserId(row.user_id),
        scope=Scope(row.scope),
        member_ids=tuple(row.member_ids),
        **{name: row._mapping[name] for name in _ROOM},
    )


def _room_row(room: Room) -> dict[str, Any]:
    plain = {name: getattr(room, name) for name in ("org_id", "room_id", "user_id", *_ROOM)}
    return {**plain, "scope": room.scope.value, "member_ids": list(room.member_ids)}


_PLAIN = (
    "created_at",
    "changed_at",
    "deleted_at",
    "epoch",
    "agent_id",
    "room_id",
    "connection_id",
    "title",
    "channel",
    "channel_metadata",
    "offset",
    "sequence",
    "message_count",
    "last_message_at",
)


def _conversation(row: Row[Any]) -> Conversation:
    return Conversation(
        org_id=OrgId(row.org_id),
        conversation_id=ConversationId(row.conversation_id),
        user_id=UserId(row.user_id),
        status=Status(row.status),
        **{name: row._mapping[name] for name in _PLAIN},
    )


def _row(conversation: Conversation) -> dict[str, Any]:
    plain = {name: getattr(conversation, name) for name in ("org_id", "conversation_id", "user_id", *_PLAIN)}
    return {**plain, "channel_metadata": dict(conversation.channel_metadata), "status": conversation.status.value}
