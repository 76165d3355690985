"""Saying things: stored in order before anybody hears of them, and once however often they are sent."""

from dataclasses import replace

from controller.conversations.model import (
    Conversation,
    Draft,
    EntryKind,
    Key,
    Message,
    MessageType,
    Status,
    ToolEnd,
    ToolStatus,
    may_delete,
    message_of,
)
from controller.conversations.news import Entries, Entry, event_of
from controller.conversations.refusals import ConversationArchivedError, MessageIdReusedError, MessageNotFoundError
from controller.conversations.service import Changes, UnitOfWork, Work
from mesh.clock import Clock
from mesh.identity import SYSTEM, Caller, new_id


class Messages:
    """What is said in conversations. Writers of one conversation take turns by its row."""

    def __init__(self, unit_of_work: UnitOfWork, clock: Clock, changes: Changes) -> None:
        self._unit_of_work = unit_of_work
        self._clock = clock
        self._changes = changes

    async def send(self, caller: Caller, conversation_id: str, draft: Draft) -> Entry:
        """A user says something. The same id again answers what is stored.

        ConversationNotFoundError, ConversationArchivedError, MessageIdReusedError.
        """
        async with self._unit_of_work(caller) as work:
            conversation = await work.conversations.get(caller, conversation_id, write=True)
            return await self._say(work, conversation, draft)

    async def say(self, key: Key, draft: Draft) -> Entry:
        """An agent or the system says something, or a tool is called. The same id again answers what is stored."""
        async with self._unit_of_work(SYSTEM) as work:
            return await self._say(work, await work.conversations.find(key, lock=True), draft)

    async def end_tool(self, key: Key, end: ToolEnd) -> Entry:
        """A tool answered; the second answer of one call changes nothing. MessageNotFoundError."""
        async with self._unit_of_work(SYSTEM) as work:
            conversation = await work.conversations.find(key, lock=True)
            called = await work.messages.get(key, end.message_id)
            if called.type is not MessageType.TOOL:
                raise MessageNotFoundError(end.message_id)
            if called.tool_status is not ToolStatus.PENDING:
                return (await work.entries.of(conversation, end.message_id))[1]
            after = conversation.follow(self._clock.now(), said=False)
            ended = called.end(end, after.changed_at)
            await work.messages.save(ended)
            return await self._enter(work, after, ended, EntryKind.TOOL_END)

    async def delete(self, caller: Caller, conversation_id: str, message_id: str) -> Message:
        """Forgets what was said. MessageNotFoundError, also for whoever may not."""
        async with self._unit_of_work(caller) as work:
            conversation = await work.conversations.get(caller, conversation_id, write=True)
            before = await work.messages.get(conversation.key, message_id)
            if not may_delete(caller, conversation, before):
                raise MessageNotFoundError(message_id)
            after = conversation.follow(self._clock.now(), said=False)
            gone = before.delete(after.changed_at)
            await work.messages.save(gone)
            after = replace(after, message_count=after.message_count - 1)
            await self._enter(work, after, gone, EntryKind.REMOVAL)
            return gone

    async def after(self, caller: Caller, conversation_id: str, epoch: str, offset: int, limit: int) -> Entries:
        """What came behind a reader's position, the oldest first; from the beginning when it is none of here."""
        async with self._unit_of_work.reading(caller) as work:
            conversation = await work.conversations.get(caller, conversation_id)
            known = not epoch or (epoch == conversation.epoch and offset <= conversation.offset)
            found = await work.entries.after(conversation, offset if known and epoch else 0, limit)
        # Reading is two statements: what was entered between them is there already.
        head = max(conversation.offset, found[-1].offset if found else 0)
        return Entries(conversation.org_id, found, conversation.epoch, head, resumed=known)

    async def _say(self, work: Work, conversation: Conversation, draft: Draft) -> Entry:
        draft = draft if draft.message_id else replace(draft, message_id=new_id("message"))
        draft.check()
        known = await work.messages.find(conversation.key, draft.message_id)
        if known is not None:
            if not known.repeats(draft):
                raise MessageIdReusedError(draft.message_id)
            return (await work.entries.of(conversation, draft.message_id))[0]
        if conversation.status is Status.ARCHIVED:
            raise ConversationArchivedError(conversation.conversation_id)
        after = conversation.follow(self._clock.now(), said=True)
        message = message_of(after, draft)
        await work.messages.add(message)
        kind = EntryKind.TOOL_START if draft.type is MessageType.TOOL else EntryKind.MESSAGE
        return await self._enter(work, after, message, kind)

    async def _enter(self, work: Work, after: Conversation, message: Message, kind: EntryKind) -> Entry:
        entry = Entry(after.key, after.epoch, after.offset, kind, message, after.changed_at)
        await work.conversations.save(after)
        await work.entries.add(entry)
        await work.commit(event_of(entry))
        self._changes.changed(after.key)
        return entry
