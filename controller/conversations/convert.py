"""Rooms, conversations and messages as protobuf messages and events."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from aiops.conversations.v1 import conversation_events_pb2 as events_pb
from aiops.conversations.v1 import conversation_pb2 as pb
from aiops.conversations.v1 import conversation_service_pb2 as service_pb
from aiops.conversations.v1 import room_service_pb2 as rooms_pb
from aiops.types.v1 import owner_pb2
from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from controller.conversations.model import Conversation, FileReference, Message, Room, Scope, Status
from controller.conversations.news import (
    AgentSaid,
    AgentStatus,
    ConversationChanged,
    Delta,
    Entry,
    Live,
    MessageDeleted,
    MessageStored,
    RoomChanged,
    SystemSaid,
    ToolCalled,
    ToolEnded,
    Typing,
    UserSaid,
)
from controller.conversations.service import ConversationWish, RoomWish
from controller.events import Encoding, Encodings
from mesh.clock import unix_ms

TOPIC = "aiops.conversations.v1"


def room_to_proto(room: Room) -> pb.Room:
    """The room."""
    message = pb.Room(
        room_id=room.room_id,
        name=room.name,
        agent_id=room.agent_id,
        scope=pb.Room.Scope.Value(room.scope.value),
        member_ids=room.member_ids,
        owner=owner_pb2.Owner(org_id=room.org_id, user_id=room.user_id),
        is_deleted=room.deleted_at is not None,
    )
    _stamp(message, room, "created_at", "changed_at", "deleted_at")
    return message


def conversation_to_proto(conversation: Conversation) -> pb.Conversation:
    """The conversation."""
    message = pb.Conversation(
        conversation_id=conversation.conversation_id,
        agent_id=conversation.agent_id,
        user_id=conversation.user_id,
        connection_id=conversation.connection_id,
        room_id=conversation.room_id,
        title=conversation.title,
        channel=conversation.channel,
        channel_metadata=_struct(conversation.channel_metadata),
        message_count=conversation.message_count,
        status=pb.Conversation.Status.Value(conversation.status.value),
        owner=owner_pb2.Owner(org_id=conversation.org_id, user_id=conversation.user_id),
        is_deleted=conversation.deleted_at is not None,
        position=pb.Position(epoch=conversation.epoch, offset=conversation.offset),
    )
    _stamp(message, conversation, "created_at", "changed_at", "deleted_at", "last_message_at")
    return message


def message_to_proto(said: Message) -> pb.Message:
    """The message."""
    message = pb.Message(
        message_id=said.message_id,
        conversation_id=said.conversation_id,
        type=pb.Message.Type.Value(said.type.value),
        sender_id=said.sender_id,
        sender_type=pb.Sender.Type.Value(said.sender_type.value),
        content=said.content,
        files=[
            pb.FileReference(url=each.url, filename=each.filename, mimetype=each.mimetype, size=each.size)
            for each in said.files
        ],
        tool_name=said.tool_name,
        tool_error=said.tool_error,
        duration_ms=said.duration_ms,
        thinking=said.thinking,
        owner=owner_pb2.Owner(org_id=said.org_id, user_id=said.user_id),
        is_deleted=said.deleted_at is not None,
        sequence=said.sequence,
    )
    if said.tool_status is not None:
        message.tool_status = pb.ToolCall.Status.Value(said.tool_status.value)
    for name in ("tool_input", "tool_output"):
        if (value := getattr(said, name)) is not None:
            getattr(message, name).CopyFrom(_struct(value))
    _stamp(message, said, "created_at", "changed_at", "deleted_at")
    return message


def entry_to_proto(entry: Entry) -> pb.Entry:
    """The entry with its message."""
    return pb.Entry(
        conversation_id=entry.key.conversation_id,
        position=pb.Position(epoch=entry.epoch, offset=entry.offset),
        kind=pb.Entry.Kind.Value(entry.kind.value),
        content=message_to_proto(entry.message),
        timestamp=unix_ms(entry.at),
    )


def live_to_proto(live: Live) -> pb.Live:
    """What does not last."""
    message = pb.Live(conversation_id=live.key.conversation_id, timestamp=live.at)
    match live.what:
        case Typing() as typing:
            kind = pb.Sender.Type.Value(typing.sender_type.value)
            message.typing.sender_id, message.typing.sender_type = typing.sender_id, kind
            message.typing.is_typing = typing.is_typing
        case Delta() as delta:
            message.delta.message_id, message.delta.agent_id = delta.message_id, delta.agent_id
            message.delta.index = delta.index
            message.delta.content, message.delta.thinking = delta.content, delta.thinking
        case AgentStatus() as status:
            message.agent_status.agent_id, message.agent_status.status = status.agent_id, status.status
            message.agent_status.reason = status.reason
    return message


def room_wish_from_proto(message: rooms_pb.CreateRoomRequest) -> RoomWish:
    """What a room is to be."""
    scope = Scope(pb.Room.Scope.Name(message.scope)) if message.scope else Scope.ORG
    return RoomWish(message.room_id, message.name, message.agent_id, scope, tuple(message.member_ids))


def wish_from_proto(message: service_pb.CreateConversationRequest) -> ConversationWish:
    """What a conversation is to be."""
    return ConversationWish(
        conversation_id=message.conversation_id,
        agent_id=message.agent_id,
        room_id=message.room_id,
        title=message.title,
        channel=message.channel,
        channel_metadata=dict_from_struct(message.channel_metadata),
    )


def status_from_proto(value: pb.Conversation.Status.ValueType) -> Status | None:
    """The status; None when it is left out."""
    return Status(pb.Conversation.Status.Name(value)) if value else None


def files_from_proto(message: Any) -> tuple[FileReference, ...]:
    """The files of a message."""
    return tuple(FileReference(each.url, each.filename, each.mimetype, int(each.size)) for each in message)


def dict_from_struct(message: Struct) -> dict[str, Any]:
    """A JSON object."""
    content: dict[str, Any] = MessageToDict(message)
    return content


def _struct(content: Mapping[str, Any]) -> Struct:
    message = Struct()
    message.update(content)
    return message


def _stamp(message: Any, entity: object, *names: str) -> None:
    for name in names:
        moment: datetime | None = getattr(entity, name)
        if moment is not None:
            stamp = Timestamp()
            stamp.FromDatetime(moment)
            getattr(message, name).CopyFrom(stamp)


def _room_changed(event: RoomChanged) -> events_pb.RoomChanged:
    return events_pb.RoomChanged(type="system.roomChanged", room=room_to_proto(event.room), timestamp=unix_ms(event.at))


def _conversation_changed(event: ConversationChanged) -> events_pb.ConversationChanged:
    return events_pb.ConversationChanged(
        type="system.conversationChanged",
        conversation=conversation_to_proto(event.conversation),
        timestamp=unix_ms(event.at),
    )


def _stored_as(kind: str) -> Encoding:
    def message(event: MessageStored) -> events_pb.MessageStored:
        return events_pb.MessageStored(
            type=kind,
            org_id=event.entry.key.org_id,
            entry=entry_to_proto(event.entry),
            timestamp=unix_ms(event.at),
        )

    return Encoding(kind, TOPIC, lambda event: event.entry.key.conversation_id, message)


EVENTS: Encodings = {
    RoomChanged: Encoding("system.roomChanged", TOPIC, lambda event: event.room.room_id, _room_changed),
    ConversationChanged: Encoding(
        "system.conversationChanged", TOPIC, lambda event: event.conversation.conversation_id, _conversation_changed
    ),
    UserSaid: _stored_as("user.message"),
    AgentSaid: _stored_as("agent.message"),
    SystemSaid: _stored_as("system.message"),
    ToolCalled: _stored_as("agent.toolCall.start"),
    ToolEnded: _stored_as("agent.toolCall.end"),
    MessageDeleted: _stored_as("system.messageDeleted"),
}
