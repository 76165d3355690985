"""What an agent does while it answers: pieces of text that pass by, and messages and tool calls that are stored."""

from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import dataclass, field, replace

from controller.conversations.feed import Feed
from controller.conversations.messages import Messages
from controller.conversations.model import Draft, FileReference, Key, MessageType, SenderType, ToolEnd
from controller.conversations.news import AgentStatus, Delta, Entry, Live, Typing
from mesh.clock import Clock, unix_ms
from mesh.errors import DomainError, Kind

LONGEST_ANSWER = 131_072


class TurnNotBegunError(DomainError):
    """The first step of a turn says whose it is."""

    kind, reason = Kind.INVALID, "TURN_NOT_BEGUN"

    def __init__(self) -> None:
        super().__init__("the first step of a turn is `begin`, and it comes once")


class EndlessAnswerError(DomainError):
    """The pieces of a message are too many."""

    kind, reason = Kind.EXHAUSTED, "ANSWER_TOO_LONG"

    def __init__(self, message_id: str) -> None:
        super().__init__(
            f"the pieces of message {message_id} are more than {LONGEST_ANSWER} characters", message_id=message_id
        )


@dataclass(frozen=True, slots=True)
class Begin:
    """Whose turn it is, and where."""

    key: Key
    agent_id: str


@dataclass(frozen=True, slots=True)
class Piece:
    """The next piece of an answer."""

    message_id: str
    content: str
    thinking: str


@dataclass(frozen=True, slots=True)
class ToolStart:
    """A tool is called."""

    message_id: str
    tool_name: str
    tool_input: dict[str, object]


@dataclass(frozen=True, slots=True)
class Say:
    """What the agent says in the end; empty means: what its pieces were."""

    message_id: str
    content: str
    thinking: str
    files: tuple[FileReference, ...]


@dataclass(frozen=True, slots=True)
class IsTyping:
    """Whether the agent is at it."""

    is_typing: bool


@dataclass(frozen=True, slots=True)
class Stands:
    """How the agent is."""

    status: str
    reason: str


Step = Begin | Piece | ToolStart | ToolEnd | Say | IsTyping | Stands


@dataclass(slots=True)
class _Answer:
    """The pieces of a message so far."""

    content: list[str] = field(default_factory=list)
    thinking: list[str] = field(default_factory=list)
    content_length: int = 0
    thinking_length: int = 0


class Turns:
    """Takes in what agents do."""

    def __init__(self, messages: Messages, feed: Feed, clock: Clock) -> None:
        self._messages = messages
        self._feed = feed
        self._clock = clock

    async def publish(self, steps: AsyncIterable[Step]) -> AsyncIterator[Entry]:
        """One turn; answers each entry once it is stored. TurnNotBegunError, EndlessAnswerError, and more."""
        turn: _Turn | None = None
        async for step in steps:
            if (turn is None) != isinstance(step, Begin):
                raise TurnNotBegunError
            if isinstance(step, Begin):
                turn = _Turn(step, self._messages, self._feed, self._clock)
            elif turn is not None and (entry := await turn.take(step)) is not None:
                yield entry


class _Turn:
    def __init__(self, begin: Begin, messages: Messages, feed: Feed, clock: Clock) -> None:
        self._key, self._agent_id = begin.key, begin.agent_id
        self._messages, self._feed, self._clock = messages, feed, clock
        self._answers: dict[str, _Answer] = {}

    async def take(self, step: Step) -> Entry | None:
        match step:
            case Piece():
                self._pass_on(step)
            case IsTyping():
                self._show(Typing(self._agent_id, SenderType.AGENT, step.is_typing))
            case Stands():
                self._show(AgentStatus(self._agent_id, step.status, step.reason))
            case ToolStart():
                return await self._messages.say(self._key, self._called(step))
            case ToolEnd():
                return await self._messages.end_tool(self._key, step)
            case Say():
                return await self._messages.say(self._key, self._said(step))
        return None

    def _pass_on(self, piece: Piece) -> None:
        answer = self._answers.setdefault(piece.message_id, _Answer())
        index = answer.content_length if piece.content else answer.thinking_length
        answer.content.append(piece.content)
        answer.thinking.append(piece.thinking)
        answer.content_length += len(piece.content)
        answer.thinking_length += len(piece.thinking)
        if max(answer.content_length, answer.thinking_length) > LONGEST_ANSWER:
            raise EndlessAnswerError(piece.message_id)
        self._show(Delta(piece.message_id, self._agent_id, index, piece.content, piece.thinking))

    def _called(self, start: ToolStart) -> Draft:
        draft = Draft(start.message_id, MessageType.TOOL, self._agent_id, SenderType.AGENT)
        return replace(draft, tool_name=start.tool_name, tool_input=start.tool_input)

    def _said(self, say: Say) -> Draft:
        answer = self._answers.pop(say.message_id, _Answer())
        draft = Draft(say.message_id, MessageType.AGENT, self._agent_id, SenderType.AGENT)
        content, thinking = say.content or "".join(answer.content), say.thinking or "".join(answer.thinking)
        return replace(draft, content=content, thinking=thinking, files=say.files)

    def _show(self, what: Typing | Delta | AgentStatus) -> None:
        self._feed.pass_on(Live(self._key, unix_ms(self._clock.now()), what))
