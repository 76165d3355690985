"""What is told of conversations: entries, which last and have their place, and what passes."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from controller.conversations.model import Conversation, EntryKind, Key, Message, MessageType, Room, SenderType
from mesh.identity import OrgId


@dataclass(frozen=True, slots=True)
class Entry:
    """Something that happened to a message, at its place."""

    key: Key
    epoch: str
    offset: int
    kind: EntryKind
    message: Message
    at: datetime

    @property
    def org_id(self) -> OrgId:
        """Whose the conversation is."""
        return self.key.org_id


@dataclass(frozen=True, slots=True)
class Entries:
    """What came behind a reader's position. `resumed` is False when that position is none of this conversation."""

    org_id: OrgId
    entries: Sequence[Entry]
    epoch: str
    head: int
    resumed: bool


@dataclass(frozen=True, slots=True)
class RoomChanged:
    """A room was made or deleted."""

    room: Room
    at: datetime


@dataclass(frozen=True, slots=True)
class ConversationChanged:
    """A conversation was made, changed or deleted."""

    conversation: Conversation
    at: datetime


@dataclass(frozen=True, slots=True)
class MessageStored:
    """Something has its place in a conversation."""

    entry: Entry
    at: datetime


class UserSaid(MessageStored):
    """A user said something."""


class AgentSaid(MessageStored):
    """An agent said something."""


class SystemSaid(MessageStored):
    """The platform said something."""


class ToolCalled(MessageStored):
    """An agent called a tool."""


class ToolEnded(MessageStored):
    """A tool answered."""


class MessageDeleted(MessageStored):
    """A message was deleted."""


_ENTERED = {
    EntryKind.TOOL_START: ToolCalled,
    EntryKind.TOOL_END: ToolEnded,
    EntryKind.REMOVAL: MessageDeleted,
}
_SAID = {MessageType.USER: UserSaid, MessageType.AGENT: AgentSaid, MessageType.SYSTEM: SystemSaid}


def event_of(entry: Entry) -> MessageStored:
    """What the entry tells of."""
    return (_ENTERED.get(entry.kind) or _SAID[entry.message.type])(entry, entry.at)


@dataclass(frozen=True, slots=True)
class Typing:
    """Somebody types, or has stopped."""

    sender_id: str
    sender_type: SenderType
    is_typing: bool


@dataclass(frozen=True, slots=True)
class Delta:
    """The next piece of what an agent is about to say; `index` characters of its kind came before."""

    message_id: str
    agent_id: str
    index: int
    content: str
    thinking: str


@dataclass(frozen=True, slots=True)
class AgentStatus:
    """What an agent is doing."""

    agent_id: str
    status: str
    reason: str


@dataclass(frozen=True, slots=True)
class Live:
    """Something that does not last. `at` is unix milliseconds."""

    key: Key
    at: float
    what: Typing | Delta | AgentStatus


@dataclass(frozen=True, slots=True)
class Gone:
    """A conversation was deleted."""

    key: Key


News = Entry | Live | Gone
