"""What is said on the streams of conversations, as protobuf messages."""

from collections.abc import AsyncIterable, AsyncIterator

from aiops.conversations.v1 import conversation_feed_service_pb2 as feed_pb
from aiops.conversations.v1 import conversation_pb2
from aiops.conversations.v1 import conversation_service_pb2 as pb

from controller.conversations.chat import (
    Action,
    Heard,
    Join,
    Joined,
    Leave,
    Left,
    Refused,
    Send,
    SetTyping,
    Stored,
)
from controller.conversations.convert import dict_from_struct, entry_to_proto, files_from_proto, live_to_proto
from controller.conversations.model import ConversationId, Draft, Key, MessageType, SenderType, ToolEnd, ToolStatus
from controller.conversations.news import Entry, Gone, Live, News
from controller.conversations.turns import Begin, IsTyping, Piece, Say, Stands, Step, ToolStart
from mesh.errors import FieldViolation, InvalidRequestError
from mesh.identity import Caller, OrgId


def draft_from_proto(caller: Caller, message: pb.SendMessageRequest) -> Draft:
    """What a user says. InvalidRequestError when it is nothing."""
    if not message.content and not message.files:
        raise InvalidRequestError(FieldViolation("content", "say something, or send a file"))
    for number, file in enumerate(message.files):
        if not (file.url and len(file.url) <= 2048 and len(file.filename) <= 255 and len(file.mimetype) <= 255):
            raise InvalidRequestError(FieldViolation(f"files[{number}]", "it needs a url, short names, a mimetype"))
    return Draft(
        message_id=message.message_id,
        type=MessageType.USER,
        sender_id=caller.user_id,
        sender_type=SenderType.USER,
        content=message.content,
        files=files_from_proto(message.files),
    )


async def actions_from_proto(caller: Caller, requests: AsyncIterable[pb.ChatRequest]) -> AsyncIterator[Action]:
    """What somebody does on their stream."""
    async for request in requests:
        match request.WhichOneof("action"):
            case "join":
                place = request.join.position
                yield Join(request.join.conversation_id, place.epoch, place.offset)
            case "leave":
                yield Leave(request.leave.conversation_id)
            case "send":
                yield Send(request.send.conversation_id, draft_from_proto(caller, request.send))
            case "typing":
                yield SetTyping(request.typing.conversation_id, request.typing.is_typing)


def heard_to_proto(heard: Heard) -> pb.ChatResponse:
    """What is told on somebody's stream."""
    match heard:
        case Joined():
            place = conversation_pb2.Position(epoch=heard.epoch, offset=heard.offset)
            joined = pb.ChatResponse.Joined(
                conversation_id=heard.conversation_id, position=place, resumed=heard.resumed
            )
            return pb.ChatResponse(joined=joined)
        case Left():
            left = pb.ChatResponse.Left(conversation_id=heard.conversation_id, reason=heard.reason)
            return pb.ChatResponse(left=left)
        case Stored():
            return pb.ChatResponse(stored=_stored(heard.entry))
        case Refused():
            return pb.ChatResponse(refused=_refused(heard))
        case Entry():
            return pb.ChatResponse(entry=entry_to_proto(heard))
        case Live():
            return pb.ChatResponse(live=live_to_proto(heard))


def _stored(entry: Entry) -> pb.ChatResponse.Stored:
    return pb.ChatResponse.Stored(
        conversation_id=entry.key.conversation_id,
        message_id=entry.message.message_id,
        position=conversation_pb2.Position(epoch=entry.epoch, offset=entry.offset),
    )


def _refused(refused: Refused) -> pb.ChatResponse.Refused:
    message_id = refused.action.draft.message_id if isinstance(refused.action, Send) else ""
    return pb.ChatResponse.Refused(
        conversation_id=refused.action.conversation_id,
        message_id=message_id,
        reason=refused.error.reason,
        message=refused.error.message,
    )


def news_to_proto(news: News) -> feed_pb.FollowResponse:
    """What a gateway is told."""
    match news:
        case Entry():
            return feed_pb.FollowResponse(org_id=news.key.org_id, entry=entry_to_proto(news))
        case Live():
            return feed_pb.FollowResponse(org_id=news.key.org_id, live=live_to_proto(news))
        case Gone():
            gone = feed_pb.FollowResponse.Gone(conversation_id=news.key.conversation_id)
            return feed_pb.FollowResponse(org_id=news.key.org_id, gone=gone)


async def steps_from_proto(requests: AsyncIterable[feed_pb.PublishTurnRequest]) -> AsyncIterator[Step]:
    """What an agent does."""
    async for request in requests:
        yield _step(request)


def _step(request: feed_pb.PublishTurnRequest) -> Step:
    match request.WhichOneof("step"):
        case "begin":
            begin = request.begin
            return Begin(Key(OrgId(begin.org_id), ConversationId(begin.conversation_id)), begin.agent_id)
        case "delta":
            return Piece(request.delta.message_id, request.delta.content, request.delta.thinking)
        case "tool_start":
            start = request.tool_start
            return ToolStart(start.message_id, start.tool_name, dict_from_struct(start.tool_input))
        case "tool_end":
            return _tool_end(request.tool_end)
        case "say":
            say = request.say
            return Say(say.message_id, say.content, say.thinking, files_from_proto(say.files))
        case "typing":
            return IsTyping(request.typing.is_typing)
    return Stands(request.agent_status.status, request.agent_status.reason)


def _tool_end(end: feed_pb.PublishTurnRequest.ToolEnd) -> ToolEnd:
    return ToolEnd(
        message_id=end.message_id,
        output=dict_from_struct(end.tool_output) if end.HasField("tool_output") else None,
        status=ToolStatus(conversation_pb2.ToolCall.Status.Name(end.status)),
        error=end.error,
        duration_ms=end.duration_ms,
    )


def turn_entry_to_proto(entry: Entry) -> feed_pb.PublishTurnResponse:
    """That something is stored."""
    place = conversation_pb2.Position(epoch=entry.epoch, offset=entry.offset)
    stored = feed_pb.PublishTurnResponse.Stored(message_id=entry.message.message_id, position=place)
    return feed_pb.PublishTurnResponse(stored=stored)
