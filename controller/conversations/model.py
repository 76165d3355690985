"""Rooms, conversations, messages, and the entries that put what happens to messages in order."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum
from typing import Any, NewType

from controller.conversations.refusals import LARGEST_MESSAGE_BYTES, AnswerTooLongError
from mesh.identity import Caller, OrgId, UserId

ConversationId = NewType("ConversationId", str)
RoomId = NewType("RoomId", str)


class Scope(Enum):
    """Who may enter a room."""

    ORG = "org"
    PRIVATE = "private"


class Status(Enum):
    """Whether a conversation goes on."""

    ACTIVE = "active"
    ARCHIVED = "archived"


class MessageType(Enum):
    """What a message is."""

    USER = "user"
    AGENT = "agent"
    SYSTEM = "system"
    TOOL = "tool"


class SenderType(Enum):
    """Who says something."""

    USER = "user"
    AGENT = "agent"
    SYSTEM = "system"


class ToolStatus(Enum):
    """How far a tool call is."""

    PENDING = "pending"
    SUCCESS = "success"
    ERROR = "error"


class EntryKind(Enum):
    """What happened to a message."""

    MESSAGE = "message"
    TOOL_START = "tool_start"
    TOOL_END = "tool_end"
    REMOVAL = "removal"


@dataclass(frozen=True, slots=True)
class Room:
    """Where conversations are shared."""

    org_id: OrgId
    room_id: RoomId
    user_id: UserId
    created_at: datetime
    changed_at: datetime
    name: str
    agent_id: str
    scope: Scope
    member_ids: tuple[str, ...]
    deleted_at: datetime | None = None

    def delete(self, now: datetime) -> "Room":
        return replace(self, changed_at=now, deleted_at=now)


@dataclass(frozen=True, slots=True)
class Key:
    """What a conversation is known by: ids are unique in their organisation alone."""

    org_id: OrgId
    conversation_id: ConversationId


@dataclass(frozen=True, slots=True)
class Conversation:
    """`offset` counts its entries and `sequence` its messages; `epoch` names the count."""

    org_id: OrgId
    conversation_id: ConversationId
    user_id: UserId
    created_at: datetime
    changed_at: datetime
    epoch: str
    agent_id: str = ""
    room_id: str = ""
    connection_id: str = ""
    title: str = ""
    channel: str = ""
    channel_metadata: Mapping[str, Any] = field(default_factory=dict)
    status: Status = Status.ACTIVE
    offset: int = 0
    sequence: int = 0
    message_count: int = 0
    last_message_at: datetime | None = None
    deleted_at: datetime | None = None

    @property
    def key(self) -> Key:
        return Key(self.org_id, self.conversation_id)

    def change(self, title: str | None, status: Status | None, now: datetime) -> "Conversation":
        """Other words above it, or another status; None leaves what is."""
        return replace(self, title=self.title if title is None else title, status=status or self.status, changed_at=now)

    def delete(self, now: datetime) -> "Conversation":
        return replace(self, changed_at=now, deleted_at=now)

    def follow(self, now: datetime, *, said: bool) -> "Conversation":
        """One entry further; `said` when it is a message's first. Time does not run backwards in a conversation."""
        at = max(now, self.last_message_at or now)
        return replace(
            self,
            offset=self.offset + 1,
            sequence=self.sequence + said,
            message_count=self.message_count + said,
            last_message_at=at if said else self.last_message_at,
            changed_at=at,
        )


@dataclass(frozen=True, slots=True)
class FileReference:
    """A file that a message speaks of."""

    url: str
    filename: str
    mimetype: str
    size: int


@dataclass(frozen=True, slots=True)
class Draft:
    """What is to be said, before it has its place."""

    message_id: str
    type: MessageType
    sender_id: str
    sender_type: SenderType
    content: str = ""
    files: tuple[FileReference, ...] = ()
    thinking: str = ""
    tool_name: str = ""
    tool_input: Mapping[str, Any] | None = None

    def check(self) -> None:
        """AnswerTooLongError."""
        texts = (self.content, self.thinking, json.dumps(self.tool_input))
        if sum(len(json.dumps(text)) for text in texts) > LARGEST_MESSAGE_BYTES:
            raise AnswerTooLongError(self.message_id)


@dataclass(frozen=True, slots=True)
class Message:
    """What was said, or the call of a tool."""

    org_id: OrgId
    conversation_id: ConversationId
    message_id: str
    user_id: UserId
    created_at: datetime
    changed_at: datetime
    sequence: int
    type: MessageType
    sender_id: str
    sender_type: SenderType
    content: str = ""
    files: tuple[FileReference, ...] = ()
    thinking: str = ""
    tool_name: str = ""
    tool_input: Mapping[str, Any] | None = None
    tool_output: Mapping[str, Any] | None = None
    tool_status: ToolStatus | None = None
    tool_error: str = ""
    duration_ms: int | None = None
    deleted_at: datetime | None = None

    def repeats(self, draft: Draft) -> bool:
        """Whether the draft is this message, sent again. What was deleted cannot be compared any more."""
        mine = (self.type, self.sender_id, self.sender_type)
        theirs = (draft.type, draft.sender_id, draft.sender_type)
        if mine != theirs or self.deleted_at is not None:
            return mine == theirs
        return (self.content, self.files, self.tool_name, self.tool_input) == (
            draft.content,
            draft.files,
            draft.tool_name,
            draft.tool_input,
        )

    def end(self, end: "ToolEnd", now: datetime) -> "Message":
        """The tool answered. AnswerTooLongError."""
        if len(json.dumps(end.output)) > LARGEST_MESSAGE_BYTES:
            raise AnswerTooLongError(self.message_id)
        return replace(
            self,
            tool_output=end.output,
            tool_status=end.status,
            tool_error=end.error,
            duration_ms=end.duration_ms,
            changed_at=now,
        )

    def delete(self, now: datetime) -> "Message":
        """It stays known that there was one; what it said is forgotten."""
        return replace(
            self,
            content="",
            files=(),
            thinking="",
            tool_input=None,
            tool_output=None,
            tool_error="",
            changed_at=now,
            deleted_at=now,
        )


@dataclass(frozen=True, slots=True)
class ToolEnd:
    """What came of a tool call."""

    message_id: str
    output: Mapping[str, Any] | None
    status: ToolStatus
    error: str
    duration_ms: int


def message_of(conversation: Conversation, draft: Draft) -> Message:
    """The draft at the place that `follow` gave it."""
    at = conversation.last_message_at or conversation.changed_at
    return Message(
        org_id=conversation.org_id,
        conversation_id=conversation.conversation_id,
        message_id=draft.message_id,
        user_id=conversation.user_id,
        created_at=at,
        changed_at=at,
        sequence=conversation.sequence,
        type=draft.type,
        sender_id=draft.sender_id,
        sender_type=draft.sender_type,
        content=draft.content,
        files=draft.files,
        thinking=draft.thinking,
        tool_name=draft.tool_name,
        tool_input=draft.tool_input,
        tool_status=ToolStatus.PENDING if draft.type is MessageType.TOOL else None,
    )


def may_delete(caller: Caller, conversation: Conversation, message: Message) -> bool:
    """Whoever said it, and whoever began the conversation."""
    mine = message.sender_type is SenderType.USER and message.sender_id == caller.user_id
    return mine or conversation.user_id == caller.user_id
