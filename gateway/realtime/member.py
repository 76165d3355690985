"""Who sits at a socket: what they may hear and say in conversations, and where they are in each."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiops.conversations.v1 import conversation_pb2
from aiops.conversations.v1 import conversation_service_pb2 as pb

from gateway.realtime.connection import Connection
from gateway.realtime.controllers import Controllers, RefusedError
from gateway.realtime.cursor import Cursor
from gateway.realtime.frames import (
    BadFrameError,
    Json,
    critical,
    entry_frame,
    error_frame,
    now_ms,
    offset_of,
    text_of,
    topic_of,
)
from gateway.realtime.hub import Hub
from gateway.realtime.outgoing import Frame
from mesh.loops import attempt
from mesh.tokens import Claims

PAGE = 200


@dataclass(slots=True)
class _Joined:
    key: tuple[str, str]
    epoch: str
    cursor: Cursor[Frame]
    reading: asyncio.Task[object] | None = None


class Member:
    """A user at `/ws/agent`."""

    def __init__(self, claims: Claims, token: str, connection: Connection, hub: Hub, controllers: Controllers) -> None:
        self._claims = claims
        self._token = token
        self._connection = connection
        self._hub = hub
        self._controllers = controllers
        self._joined: dict[str, _Joined] = {}
        self._doing: dict[str, Callable[[Json], Awaitable[None]]] = {
            "user.joinConversation": self._join,
            "user.leaveConversation": self._leave,
            "user.message": self._say,
            "user.typing": self._type,
        }

    async def take(self, frame: Json) -> None:
        """Does what a frame asks for; what cannot be done is answered, and the socket goes on."""
        conversation = frame.get("conversationId", "")
        try:
            act = self._doing.get(frame["type"])
            if act is None:
                raise BadFrameError(f"{frame['type']} is nothing that users send")
            if (user := frame.get("userId", self._claims.user_id)) != self._claims.user_id:
                raise BadFrameError(f"you are not {user}")
            await act(frame)
        except BadFrameError as error:
            self._refuse("INVALID_REQUEST", str(error), conversation, frame)
        except RefusedError as error:
            self._refuse(error.reason, error.message, conversation, frame)

    def close(self) -> None:
        """Leaves every conversation."""
        for joined in self._joined.values():
            self._hub.leave(joined.key, self)
            if joined.reading is not None:
                joined.reading.cancel()
        self._joined.clear()

    def hear_entry(self, conversation_id: str, offset: int, frame: Frame) -> None:
        """Something that lasts: sent when everything before it was."""
        joined = self._joined.get(conversation_id)
        if joined is not None:
            for due in joined.cursor.offer(offset, frame):
                self._connection.send(due)
            self._catch_up(conversation_id, joined)

    def hear_live(self, frame: Frame) -> None:
        """Something that passes."""
        self._connection.send(frame)

    def hear_gone(self, conversation_id: str) -> None:
        """The conversation was deleted."""
        if self._joined.pop(conversation_id, None) is not None:
            self._connection.send(_left(conversation_id, "deleted"))

    async def _join(self, frame: Json) -> None:
        conversation_id = text_of(frame, "conversationId")
        epoch, offset = text_of(frame, "epoch", required=False), offset_of(frame)
        agent_id = text_of(frame, "agentId", required=False)
        await self._leave_quietly(conversation_id)
        asked = pb.ListEntriesRequest(conversation_id=conversation_id, epoch=epoch, offset=offset, page_size=PAGE)
        begin = pb.CreateConversationRequest(conversation_id=conversation_id, agent_id=agent_id, channel="web-sdk")
        found = await self._find(asked, begin)
        resumed = bool(epoch) and found.resumed
        start = offset if resumed else found.head.offset
        self._connection.send(_joined_frame(conversation_id, found, start, lost=bool(epoch) and not resumed))
        joined = _Joined((found.org_id, conversation_id), found.head.epoch, Cursor(start))
        self._joined[conversation_id] = joined
        if resumed:
            self._pass_on(joined, found)
        joined.cursor.tell(self._hub.join(joined.key, joined.cursor.offset, self))
        self._catch_up(conversation_id, joined)

    async def _find(self, asked: pb.ListEntriesRequest, begin: pb.CreateConversationRequest) -> pb.ListEntriesResponse:
        """What there is to be heard. Whoever joins for the first time may begin the conversation by that."""
        try:
            return await self._controllers.entries(self._token, asked)
        except RefusedError as error:
            if error.reason != "CONVERSATION_NOT_FOUND" or asked.epoch:
                raise
        await self._controllers.ask(self._token, lambda stub, options: stub.CreateConversation(begin, **options))
        return await self._controllers.entries(self._token, asked)

    async def _leave(self, frame: Json) -> None:
        conversation_id = text_of(frame, "conversationId")
        await self._leave_quietly(conversation_id)
        self._connection.send(_left(conversation_id))

    async def _leave_quietly(self, conversation_id: str) -> None:
        joined = self._joined.pop(conversation_id, None)
        if joined is not None:
            self._hub.leave(joined.key, self)
            if joined.reading is not None:
                joined.reading.cancel()

    async def _say(self, frame: Json) -> None:
        request = pb.SendMessageRequest(
            conversation_id=text_of(frame, "conversationId"),
            message_id=text_of(frame, "messageId"),
            content=text_of(frame, "content", required=False),
            files=_files(frame),
        )
        stored = await self._controllers.ask(self._token, lambda stub, options: stub.SendMessage(request, **options))
        place = stored.entry.position
        self._connection.send(
            critical(
                {
                    "type": "system.messageStored",
                    "messageId": stored.entry.content.message_id,
                    "conversationId": request.conversation_id,
                    "topic": topic_of(request.conversation_id),
                    "epoch": place.epoch,
                    "offset": place.offset,
                    "timestamp": int(stored.entry.timestamp),
                }
            )
        )

    async def _type(self, frame: Json) -> None:
        typing = frame.get("isTyping")
        if not isinstance(typing, bool):
            raise BadFrameError("`isTyping` is true or false")
        request = pb.SetTypingRequest(conversation_id=text_of(frame, "conversationId"), is_typing=typing)
        await self._controllers.ask(self._token, lambda stub, options: stub.SetTyping(request, **options))

    def _catch_up(self, conversation_id: str, joined: _Joined) -> None:
        """Reads what nobody will bring; one reader at a time."""
        if joined.cursor.behind and joined.reading is None:
            joined.reading = asyncio.ensure_future(self._read(conversation_id, joined))

    async def _read(self, conversation_id: str, joined: _Joined) -> None:
        error = await attempt(self._read_on(conversation_id, joined))
        joined.reading = None
        if error is not None and self._joined.get(conversation_id) is joined:
            # Without what is missing nothing later may be sent: the reader has to join again.
            await self._leave_quietly(conversation_id)
            self._connection.send(_left(conversation_id, str(error)))

    async def _read_on(self, conversation_id: str, joined: _Joined) -> None:
        while joined.cursor.behind:
            asked = pb.ListEntriesRequest(
                conversation_id=conversation_id, epoch=joined.epoch, offset=joined.cursor.offset, page_size=PAGE
            )
            found = await self._controllers.entries(self._token, asked)
            if not found.resumed or not found.entries:
                raise RefusedError("CONVERSATION_CHANGED", "what is missing is not there any more")
            self._pass_on(joined, found)

    def _pass_on(self, joined: _Joined, found: pb.ListEntriesResponse) -> None:
        for entry in found.entries:
            for due in joined.cursor.offer(entry.position.offset, entry_frame(entry)):
                self._connection.send(due)

    def _refuse(self, code: str, message: str, conversation_id: object, frame: Json) -> None:
        message_id = frame.get("messageId", "")
        named = [each if isinstance(each, str) else "" for each in (conversation_id, message_id)]
        self._connection.send(error_frame(code, message, *named))


def _files(frame: Json) -> list[conversation_pb2.FileReference]:
    files = frame.get("files", [])
    if not isinstance(files, list) or not all(isinstance(each, dict) for each in files):
        raise BadFrameError("`files` is a list of objects")
    try:
        return [
            conversation_pb2.FileReference(**{name: each[name] for name in _FILE if name in each}) for each in files
        ]
    except (TypeError, ValueError) as error:
        raise BadFrameError("a file has a url, a filename, a mimetype and a size") from error


_FILE = ("url", "filename", "mimetype", "size")


def _joined_frame(conversation_id: str, found: pb.ListEntriesResponse, offset: int, *, lost: bool) -> Frame:
    content: Json = {
        "type": "system.conversationJoined",
        "conversationId": conversation_id,
        "topic": topic_of(conversation_id),
        "epoch": found.head.epoch,
        "offset": offset,
        "resumed": not lost,
        "timestamp": now_ms(),
    }
    why = "the position is none of this conversation; read its history" if lost else ""
    return critical({**content, "reason": why} if why else content)


def _left(conversation_id: str, reason: str = "") -> Frame:
    content: Json = {"type": "system.conversationLeft", "conversationId": conversation_id, "timestamp": now_ms()}
    return critical({**content, "topic": topic_of(conversation_id), **({"reason": reason} if reason else {})})
