"""The JSON of sockets: entries and what passes as the platform's message types, and what users send."""

import json
import time
from typing import Any

from aiops.conversations.v1 import conversation_pb2 as pb
from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct

from gateway.realtime.outgoing import Frame, Kind

Json = dict[str, Any]


class BadFrameError(ValueError):
    """What a socket sent is no frame of the protocol; says why."""


def now_ms() -> int:
    """The `timestamp` of a frame."""
    return int(time.time() * 1000)


def topic_of(conversation_id: str) -> str:
    """What frames of a conversation are about."""
    return f"conversation/{conversation_id}"


def read(text: str | bytes) -> Json:
    """A frame that a socket sent. BadFrameError."""
    if isinstance(text, bytes):
        raise BadFrameError("frames are text")
    try:
        frame = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadFrameError("the frame is no JSON") from error
    if not isinstance(frame, dict) or not isinstance(frame.get("type"), str):
        raise BadFrameError("a frame is a JSON object with a `type`")
    return frame


def text_of(frame: Json, name: str, *, required: bool = True) -> str:
    """A member that is a text. BadFrameError."""
    value = frame.get(name, "")
    if not isinstance(value, str) or (required and not value):
        raise BadFrameError(f"`{name}` is a text in {frame['type']}")
    return value


def offset_of(frame: Json) -> int:
    """The offset that a reader has come to. BadFrameError."""
    value = frame.get("offset", 0)
    if type(value) is not int or not 0 <= value < 2**31:
        raise BadFrameError("`offset` is a whole number")
    return value


def critical(content: Json) -> Frame:
    """A frame that must arrive."""
    return Frame(Kind.CRITICAL, _encoded(content))


def entry_frame(entry: pb.Entry) -> Frame:
    """Something that lasts, with its place."""
    place = {
        "topic": topic_of(entry.conversation_id),
        "epoch": entry.position.epoch,
        "offset": entry.position.offset,
        "timestamp": int(entry.timestamp),
    }
    return critical({**_entry(entry), **place})


def live_frame(live: pb.Live) -> Frame:
    """Something that passes."""
    common = {
        "conversationId": live.conversation_id,
        "topic": topic_of(live.conversation_id),
        "timestamp": int(live.timestamp),
    }
    match live.WhichOneof("kind"):
        case "delta":
            delta = live.delta
            said = {"messageId": delta.message_id, "agentId": delta.agent_id, "index": delta.index}
            content = {"content": delta.content} if delta.content else {"thinking": delta.thinking}
            return Frame(Kind.TELEMETRY, _encoded({"type": "agent.message.delta", **common, **said, **content}))
        case "agent_status":
            status = live.agent_status
            fields = {"agentId": status.agent_id, "status": status.status}
            why = {"reason": status.reason} if status.reason else {}
            frame = {"type": "agent.statusChange", **common, **fields, **why}
            return Frame(Kind.STATE, _encoded(frame), f"status {common['topic']} {status.agent_id}")
    typing = live.typing
    of_agent = typing.sender_type == pb.Sender.agent
    who = {"agentId" if of_agent else "userId": typing.sender_id, "isTyping": typing.is_typing}
    kind = "agent.typing" if of_agent else "user.typing"
    return Frame(Kind.STATE, _encoded({"type": kind, **common, **who}), f"typing {common['topic']} {typing.sender_id}")


def error_frame(code: str, message: str, conversation_id: str = "", message_id: str = "") -> Frame:
    """`system.error`."""
    context = {"conversationId": conversation_id, "messageId": message_id}
    known = {name: value for name, value in context.items() if value}
    content: Json = {"type": "system.error", "errorCode": code, "message": message, "timestamp": now_ms()}
    return critical({**content, "context": known} if known else content)


def _entry(entry: pb.Entry) -> Json:
    said = entry.content
    common: Json = {"messageId": said.message_id, "conversationId": entry.conversation_id}
    match entry.kind:
        case pb.Entry.tool_start:
            tool = {"toolName": said.tool_name, "toolInput": _object(said.tool_input)}
            return {"type": "agent.toolCall.start", **common, "agentId": said.sender_id, **tool}
        case pb.Entry.tool_end:
            return {"type": "agent.toolCall.end", **common, "agentId": said.sender_id, **_tool_end(said)}
        case pb.Entry.removal:
            return {"type": "system.messageDeleted", **common}
    if said.type == pb.Message.system:
        return {"type": "system.message", **common, "content": said.content}
    files = {"files": [_file(each) for each in said.files]} if said.files else {}
    if said.type == pb.Message.user:
        return {"type": "user.message", **common, "userId": said.sender_id, "content": said.content, **files}
    thinking = {"thinking": said.thinking} if said.thinking else {}
    answer = {"agentId": said.sender_id, "content": said.content}
    return {"type": "agent.message", **common, **answer, **thinking, **files}


def _tool_end(said: pb.Message) -> Json:
    output = {"toolOutput": _object(said.tool_output)} if said.HasField("tool_output") else {}
    error = {"error": said.tool_error} if said.tool_error else {}
    status = pb.ToolCall.Status.Name(said.tool_status)
    return {"toolName": said.tool_name, **output, "status": status, **error, "durationMs": said.duration_ms}


def _file(file: pb.FileReference) -> Json:
    size = {"size": int(file.size)} if file.size else {}
    return {"url": file.url, "filename": file.filename, "mimetype": file.mimetype, **size}


def _object(content: Struct) -> Json:
    fields: Json = MessageToDict(content)
    return fields


def _encoded(content: Json) -> bytes:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
