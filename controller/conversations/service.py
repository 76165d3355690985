"""What is done with rooms and conversations, and what that needs from storage."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from controller.conversations.model import Conversation, ConversationId, Key, Message, Room, RoomId, Scope, Status
from controller.conversations.news import ConversationChanged, Entry, RoomChanged
from controller.conversations.refusals import (
    ConversationExistsError,
    ConversationNotFoundError,
    RoomExistsError,
    RoomNotFoundError,
)
from mesh.clock import Clock
from mesh.identity import Caller, new_id
from mesh.sql.paging import Page, PageRequest


class RoomStore(Protocol):
    async def get(self, caller: Caller, room_id: str, *, lock: bool = False) -> Room: ...
    async def page(self, caller: Caller, page: PageRequest) -> Page[Room]: ...
    async def add(self, room: Room) -> bool: ...
    async def save(self, room: Room) -> None: ...


class ConversationStore(Protocol):
    async def get(self, caller: Caller, conversation_id: str, *, write: bool = False) -> Conversation: ...
    async def find(self, key: Key, *, lock: bool = False) -> Conversation: ...
    async def page(
        self, caller: Caller, page: PageRequest, *, room_id: str = "", agent_id: str = "", status: Status | None = None
    ) -> Page[Conversation]: ...
    async def add(self, conversation: Conversation) -> bool: ...
    async def save(self, conversation: Conversation) -> None: ...
    async def heads(self, keys: Sequence[Key]) -> dict[Key, int]: ...


class MessageStore(Protocol):
    async def find(self, key: Key, message_id: str) -> Message | None: ...
    async def get(self, key: Key, message_id: str) -> Message: ...
    async def page(self, key: Key, page: PageRequest, query: str = "") -> Page[Message]: ...
    async def search(self, caller: Caller, page: PageRequest, query: str) -> Page[Message]: ...
    async def add(self, message: Message) -> None: ...
    async def save(self, message: Message) -> None: ...


class EntryStore(Protocol):
    async def add(self, entry: Entry) -> None: ...
    async def after(self, conversation: Conversation, offset: int, limit: int) -> Sequence[Entry]: ...
    async def of(self, conversation: Conversation, message_id: str) -> Sequence[Entry]: ...


class Work(Protocol):
    """One transaction, or one reading connection, with the stores on it."""

    @property
    def rooms(self) -> RoomStore: ...
    @property
    def conversations(self) -> ConversationStore: ...
    @property
    def messages(self) -> MessageStore: ...
    @property
    def entries(self) -> EntryStore: ...
    async def commit(self, *events: object) -> None: ...


class UnitOfWork(Protocol):
    """Opens transactions, and connections that only read."""

    def __call__(self, caller: Caller) -> AbstractAsyncContextManager[Work]: ...
    def reading(self, caller: Caller) -> AbstractAsyncContextManager[Work]: ...


class Changes(Protocol):
    """Who is told that a conversation changed, after the commit."""

    def changed(self, key: Key) -> None: ...


@dataclass(frozen=True, slots=True)
class ConversationWish:
    """What somebody wants a conversation to be."""

    conversation_id: str = ""
    agent_id: str = ""
    room_id: str = ""
    title: str = ""
    channel: str = ""
    channel_metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RoomWish:
    """What somebody wants a room to be."""

    room_id: str
    name: str
    agent_id: str
    scope: Scope
    member_ids: tuple[str, ...]


class Rooms:
    """Where conversations are shared."""

    def __init__(self, unit_of_work: UnitOfWork, clock: Clock) -> None:
        self._unit_of_work = unit_of_work
        self._clock = clock

    async def page(self, caller: Caller, page: PageRequest) -> Page[Room]:
        """Those that the caller may enter, the newest first."""
        async with self._unit_of_work.reading(caller) as work:
            return await work.rooms.page(caller, page)

    async def get(self, caller: Caller, room_id: str) -> Room:
        """RoomNotFoundError."""
        async with self._unit_of_work.reading(caller) as work:
            return await work.rooms.get(caller, room_id)

    async def create(self, caller: Caller, wish: RoomWish) -> Room:
        """A new one. RoomExistsError."""
        now = self._clock.now()
        room_id = RoomId(wish.room_id or new_id("room"))
        room = Room(
            caller.org_id, room_id, caller.user_id, now, now, wish.name, wish.agent_id, wish.scope, wish.member_ids
        )
        async with self._unit_of_work(caller) as work:
            if not await work.rooms.add(room):
                raise RoomExistsError(room_id)
            await work.commit(RoomChanged(room, now))
        return room

    async def delete(self, caller: Caller, room_id: str) -> Room:
        """RoomNotFoundError, also for whoever did not make it."""
        async with self._unit_of_work(caller) as work:
            room = await work.rooms.get(caller, room_id, lock=True)
            if (room.org_id, room.user_id) != (caller.org_id, caller.user_id):
                raise RoomNotFoundError(room_id)
            gone = room.delete(self._clock.now())
            await work.rooms.save(gone)
            await work.commit(RoomChanged(gone, gone.changed_at))
        return gone


class Conversations:
    """Conversations as wholes."""

    def __init__(self, unit_of_work: UnitOfWork, clock: Clock, changes: Changes) -> None:
        self._unit_of_work = unit_of_work
        self._clock = clock
        self._changes = changes

    async def page(
        self, caller: Caller, page: PageRequest, room_id: str, agent_id: str, status: Status | None
    ) -> Page[Conversation]:
        """Those that the caller sees, the newest first."""
        async with self._unit_of_work.reading(caller) as work:
            return await work.conversations.page(caller, page, room_id=room_id, agent_id=agent_id, status=status)

    async def get(self, caller: Caller, conversation_id: str) -> Conversation:
        """ConversationNotFoundError."""
        async with self._unit_of_work.reading(caller) as work:
            return await work.conversations.get(caller, conversation_id)

    async def history(
        self, caller: Caller, conversation_id: str, page: PageRequest, query: str = ""
    ) -> tuple[Conversation, Page[Message]]:
        """The conversation and messages of it that have the words, the newest first. ConversationNotFoundError."""
        async with self._unit_of_work.reading(caller) as work:
            conversation = await work.conversations.get(caller, conversation_id)
            return conversation, await work.messages.page(conversation.key, page, query)

    async def find(self, caller: Caller, conversation_id: str, page: PageRequest, query: str) -> Page[Message]:
        """Messages that have the words, the newest first: of one conversation, or of all that the caller sees."""
        if conversation_id:
            return (await self.history(caller, conversation_id, page, query))[1]
        async with self._unit_of_work.reading(caller) as work:
            return await work.messages.search(caller, page, query)

    async def create(self, caller: Caller, wish: ConversationWish) -> Conversation:
        """A new one; or the one of that id, if the caller takes part. ConversationExistsError, RoomNotFoundError."""
        now = self._clock.now()
        conversation_id = ConversationId(wish.conversation_id or new_id("conversation"))
        made = Conversation(
            org_id=caller.org_id,
            conversation_id=conversation_id,
            user_id=caller.user_id,
            created_at=now,
            changed_at=now,
            epoch=new_id("epoch"),
            agent_id=wish.agent_id,
            room_id=wish.room_id,
            title=wish.title,
            channel=wish.channel,
            channel_metadata=wish.channel_metadata,
        )
        async with self._unit_of_work(caller) as work:
            if wish.room_id:
                await work.rooms.get(caller, wish.room_id)
            if not await work.conversations.add(made):
                return await self._taken(work, caller, conversation_id)
            await work.commit(ConversationChanged(made, now))
        return made

    async def change(
        self, caller: Caller, conversation_id: str, title: str | None, status: Status | None
    ) -> Conversation:
        """Another title or status. ConversationNotFoundError."""
        async with self._unit_of_work(caller) as work:
            before = await work.conversations.get(caller, conversation_id, write=True)
            after = before.change(title, status, self._clock.now())
            await work.conversations.save(after)
            await work.commit(ConversationChanged(after, after.changed_at))
        return after

    async def delete(self, caller: Caller, conversation_id: str) -> Conversation:
        """For everybody who takes part. ConversationNotFoundError, also for whoever did not begin it."""
        async with self._unit_of_work(caller) as work:
            before = await work.conversations.get(caller, conversation_id, write=True)
            if before.user_id != caller.user_id:
                raise ConversationNotFoundError(conversation_id)
            gone = before.delete(self._clock.now())
            await work.conversations.save(gone)
            await work.commit(ConversationChanged(gone, gone.changed_at))
        self._changes.changed(gone.key)
        return gone

    async def _taken(self, work: Work, caller: Caller, conversation_id: ConversationId) -> Conversation:
        try:
            return await work.conversations.get(caller, conversation_id, write=True)
        except ConversationNotFoundError:
            raise ConversationExistsError(conversation_id) from None
