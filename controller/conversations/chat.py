"""Taking part in conversations over one stream: what is joined is heard, what is said is acknowledged."""

from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import dataclass

from controller.conversations.feed import Feed, Follower
from controller.conversations.messages import Messages
from controller.conversations.model import Conversation, Draft, Key, SenderType
from controller.conversations.news import Entry, Gone, Live, Typing
from controller.conversations.service import Conversations
from mesh.clock import Clock, unix_ms
from mesh.errors import DomainError
from mesh.identity import Caller
from mesh.streams import merge


@dataclass(frozen=True, slots=True)
class Join:
    """Hear a conversation; from behind an offset, if an epoch is given."""

    conversation_id: str
    epoch: str
    offset: int


@dataclass(frozen=True, slots=True)
class Leave:
    """Hear it no more."""

    conversation_id: str


@dataclass(frozen=True, slots=True)
class Send:
    """Say something."""

    conversation_id: str
    draft: Draft


@dataclass(frozen=True, slots=True)
class SetTyping:
    """Tell the others that one types."""

    conversation_id: str
    is_typing: bool


Action = Join | Leave | Send | SetTyping


@dataclass(frozen=True, slots=True)
class Joined:
    """What follows is behind this position."""

    conversation_id: str
    epoch: str
    offset: int
    resumed: bool


@dataclass(frozen=True, slots=True)
class Left:
    """The conversation is heard no more; `reason` unless that was asked for."""

    conversation_id: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Stored:
    """What was said has its place."""

    entry: Entry


@dataclass(frozen=True, slots=True)
class Refused:
    """An action was refused; the stream goes on."""

    action: Action
    error: DomainError


Heard = Joined | Left | Stored | Refused | Entry | Live


class Chat:
    """The use case."""

    def __init__(self, conversations: Conversations, messages: Messages, feed: Feed, clock: Clock) -> None:
        self._conversations = conversations
        self._messages = messages
        self._feed = feed
        self._clock = clock

    async def take_part(self, caller: Caller, actions: AsyncIterable[Action]) -> AsyncIterator[Heard]:
        """Answers each action, and tells what happens in what was joined."""
        with self._feed.follower() as follower:
            async for heard in merge(self._answers(caller, actions, follower), _news(follower)):
                yield heard

    async def set_typing(self, caller: Caller, action: SetTyping) -> None:
        """Tells those who are there. ConversationNotFoundError."""
        conversation = await self._conversations.get(caller, action.conversation_id)
        typing = Typing(caller.user_id, SenderType.USER, action.is_typing)
        self._feed.pass_on(Live(conversation.key, unix_ms(self._clock.now()), typing))

    async def _answers(
        self, caller: Caller, actions: AsyncIterable[Action], follower: Follower
    ) -> AsyncIterator[Heard]:
        keys: dict[str, Key] = {}
        async for action in actions:
            try:
                match action:
                    case Join():
                        conversation = await self._conversations.get(caller, action.conversation_id)
                        joined = _place(conversation, action)
                        yield joined
                        # Now that it is known to have been joined, it may be heard of.
                        keys[action.conversation_id] = conversation.key
                        follower.subscribe(conversation.key, joined.offset)
                    case Leave():
                        if action.conversation_id in keys:
                            follower.unsubscribe(keys.pop(action.conversation_id))
                        yield Left(action.conversation_id)
                    case Send():
                        yield Stored(await self._messages.send(caller, action.conversation_id, action.draft))
                    case SetTyping():
                        await self.set_typing(caller, action)
            except DomainError as error:
                yield Refused(action, error)


def _place(conversation: Conversation, action: Join) -> Joined:
    """Behind the reader's position if it is one of this conversation; behind everything otherwise."""
    known = action.epoch == conversation.epoch and action.offset <= conversation.offset
    offset = action.offset if known else conversation.offset
    return Joined(action.conversation_id, conversation.epoch, offset, resumed=known or not action.epoch)


async def _news(follower: Follower) -> AsyncIterator[Heard]:
    async for each in follower.news():
        yield Left(each.key.conversation_id, "deleted") if isinstance(each, Gone) else each
