"""Messages and entries in PostgreSQL."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Computed,
    Index,
    Integer,
    Row,
    Table,
    Text,
    and_,
    func,
    insert,
    literal_column,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB, TSVECTOR
from sqlalchemy.ext.asyncio import AsyncConnection

from controller.conversations.model import (
    Conversation,
    ConversationId,
    EntryKind,
    FileReference,
    Key,
    Message,
    MessageType,
    SenderType,
    ToolStatus,
)
from controller.conversations.news import Entry
from controller.conversations.refusals import MessageNotFoundError
from controller.conversations.store import conversations, sees
from mesh.identity import Caller, OrgId, UserId
from mesh.sql.paging import Countdown, Keyset, Page, PageRequest
from mesh.sql.tables import audit_columns, metadata, moment

messages = Table(
    "messages",
    metadata,
    Column("org_id", Text, primary_key=True),
    Column("conversation_id", Text, primary_key=True),
    Column("message_id", Text, primary_key=True),
    Column("user_id", Text, nullable=False),
    *audit_columns(),
    Column("sequence", Integer, nullable=False),
    Column("type", Text, nullable=False),
    Column("sender_id", Text, nullable=False),
    Column("sender_type", Text, nullable=False),
    Column("content", Text, nullable=False),
    Column("files", JSONB, nullable=False),
    Column("thinking", Text, nullable=False),
    Column("tool_name", Text, nullable=False),
    Column("tool_input", JSONB(none_as_null=True), nullable=True),
    Column("tool_output", JSONB(none_as_null=True), nullable=True),
    Column("tool_status", Text, nullable=True),
    Column("tool_error", Text, nullable=False),
    Column("duration_ms", Integer, nullable=True),
    # The words as they are, of whatever language.
    Column("words", TSVECTOR, Computed("to_tsvector('simple'::regconfig, content)", persisted=True)),
)
Index("uq_messages_sequence", messages.c.org_id, messages.c.conversation_id, messages.c.sequence, unique=True)
Index("ix_messages_words", messages.c.words, postgresql_using="gin")
Index("ix_messages_created_at", messages.c.org_id, messages.c.created_at)

entries = Table(
    "conversation_entries",
    metadata,
    Column("org_id", Text, primary_key=True),
    Column("conversation_id", Text, primary_key=True),
    Column("offset", Integer, primary_key=True),
    Column("message_id", Text, nullable=False),
    Column("kind", Text, nullable=False),
    moment("at"),
)
Index("ix_conversation_entries_message", entries.c.org_id, entries.c.conversation_id, entries.c.message_id)
_COLUMNS = [column for column in messages.c if column.name != "words"]


class SqlMessageStore:
    """Rows of messages."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def find(self, key: Key, message_id: str) -> Message | None:
        """The message of that id, deleted or not."""
        query = select(*_COLUMNS).where(_of(messages, key), messages.c.message_id == message_id)
        row = (await self._connection.execute(query)).first()
        return _message(row) if row is not None else None

    async def get(self, key: Key, message_id: str) -> Message:
        """The message of that id. MessageNotFoundError."""
        message = await self.find(key, message_id)
        if message is None or message.deleted_at is not None:
            raise MessageNotFoundError(message_id)
        return message

    async def page(self, key: Key, page: PageRequest, query: str = "") -> Page[Message]:
        """Those of one conversation that are kept and have the words, the newest first."""
        countdown = Countdown(messages.c.sequence, "messages", key.org_id, key.conversation_id, query)
        wanted = select(*_COLUMNS).where(_of(messages, key), messages.c.deleted_at.is_(None), *_matching(query))
        return countdown.page((await self._connection.execute(countdown.apply(wanted, page))).all(), page, _message)

    async def search(self, caller: Caller, page: PageRequest, query: str) -> Page[Message]:
        """Those of every conversation that the caller sees, the newest first."""
        keyset = Keyset(messages.c.created_at, messages.c.message_id, "messages", query)
        same = and_(
            conversations.c.org_id == messages.c.org_id, conversations.c.conversation_id == messages.c.conversation_id
        )
        wanted = (
            select(*_COLUMNS)
            .join(conversations, same)
            .where(sees(caller), messages.c.deleted_at.is_(None), *_matching(query))
        )
        return keyset.page((await self._connection.execute(keyset.apply(wanted, page))).all(), page, _message)

    async def add(self, message: Message) -> None:
        """A new row."""
        await self._connection.execute(insert(messages).values(_row(message)))

    async def save(self, message: Message) -> None:
        """The row as the message says."""
        key = Key(message.org_id, message.conversation_id)
        same = and_(_of(messages, key), messages.c.message_id == message.message_id)
        await self._connection.execute(update(messages).where(same).values(_row(message)))


class SqlEntryStore:
    """Rows of entries."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add(self, entry: Entry) -> None:
        """A new row."""
        values = {
            "org_id": entry.key.org_id,
            "conversation_id": entry.key.conversation_id,
            "offset": entry.offset,
            "message_id": entry.message.message_id,
            "kind": entry.kind.value,
            "at": entry.at,
        }
        await self._connection.execute(insert(entries).values(values))

    async def after(self, conversation: Conversation, offset: int, limit: int) -> Sequence[Entry]:
        """Those behind an offset, the oldest first."""
        return await self._read(conversation, entries.c.offset > offset, limit)

    async def of(self, conversation: Conversation, message_id: str) -> Sequence[Entry]:
        """All that happened to one message, the oldest first."""
        return await self._read(conversation, entries.c.message_id == message_id, 10)

    async def _read(self, conversation: Conversation, which: ColumnElement[bool], limit: int) -> Sequence[Entry]:
        same = and_(_of(messages, conversation.key), messages.c.message_id == entries.c.message_id)
        own = [entries.c.offset.label("at_offset"), entries.c.kind, entries.c.at]
        query = (
            select(*_COLUMNS, *own)
            .join(entries, same)
            .where(_of(entries, conversation.key), which)
            .order_by(entries.c.offset)
            .limit(limit)
        )
        return [
            Entry(conversation.key, conversation.epoch, row.at_offset, EntryKind(row.kind), _message(row), row.at)
            for row in (await self._connection.execute(query)).all()
        ]


def _of(table: Table, key: Key) -> ColumnElement[bool]:
    return and_(table.c.org_id == key.org_id, table.c.conversation_id == key.conversation_id)


def _matching(query: str) -> list[ColumnElement[bool]]:
    if not query:
        return []
    words: ColumnElement[Any] = func.websearch_to_tsquery(literal_column("'simple'::regconfig"), query)
    return [messages.c.words.op("@@")(words)]


_PLAIN = (
    "message_id",
    "created_at",
    "changed_at",
    "deleted_at",
    "sequence",
    "sender_id",
    "content",
    "thinking",
    "tool_name",
    "tool_input",
    "tool_output",
    "tool_error",
    "duration_ms",
)


def _message(row: Row[Any]) -> Message:
    return Message(
        org_id=OrgId(row.org_id),
        conversation_id=ConversationId(row.conversation_id),
        user_id=UserId(row.user_id),
        type=MessageType(row.type),
        sender_type=SenderType(row.sender_type),
        files=tuple(FileReference(**each) for each in row.files),
        tool_status=ToolStatus(row.tool_status) if row.tool_status else None,
        **{name: row._mapping[name] for name in _PLAIN},
    )


def _row(message: Message) -> dict[str, Any]:
    return {
        **{name: getattr(message, name) for name in ("org_id", "conversation_id", "user_id", *_PLAIN)},
        "type": message.type.value,
        "sender_type": message.sender_type.value,
        "files": [asdict(each) for each in message.files],
        "tool_status": message.tool_status.value if message.tool_status else None,
    }
