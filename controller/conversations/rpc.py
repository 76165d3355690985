"""The servicers of conversations: for users, for gateways, and for whoever runs agents."""

from collections.abc import AsyncIterator

from aiops.conversations.v1 import conversation_feed_service_pb2 as feed_pb
from aiops.conversations.v1 import conversation_pb2
from aiops.conversations.v1 import conversation_service_pb2 as pb
from aiops.conversations.v1 import room_service_pb2 as rooms_pb
from aiops.conversations.v1.conversation_feed_service_pb2_grpc import (
    ConversationFeedServiceServicer,
    TurnServiceServicer,
)
from aiops.conversations.v1.conversation_service_pb2_grpc import ConversationServiceServicer
from aiops.conversations.v1.room_service_pb2_grpc import RoomServiceServicer

from controller.conversations.chat import Chat, SetTyping
from controller.conversations.chat_convert import (
    actions_from_proto,
    draft_from_proto,
    heard_to_proto,
    news_to_proto,
    steps_from_proto,
    turn_entry_to_proto,
)
from controller.conversations.convert import (
    conversation_to_proto,
    entry_to_proto,
    message_to_proto,
    room_to_proto,
    room_wish_from_proto,
    status_from_proto,
    wish_from_proto,
)
from controller.conversations.feed import Feed, Follower
from controller.conversations.messages import Messages
from controller.conversations.model import ConversationId, Key
from controller.conversations.news import News
from controller.conversations.service import Conversations, Rooms
from controller.conversations.turns import Turns
from mesh.identity import OrgId
from mesh.rpc.context import Context, caller
from mesh.sql.paging import PageRequest
from mesh.streams import merge

ENTRIES = 100


class RoomServicer(RoomServiceServicer):
    """Rooms as users see them."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms

    async def ListRooms(self, request: rooms_pb.ListRoomsRequest, context: Context) -> rooms_pb.ListRoomsResponse:
        page = await self._rooms.page(caller(context), PageRequest(request.page_size, request.page_token))
        return rooms_pb.ListRoomsResponse(rooms=map(room_to_proto, page.items), next_page_token=page.next_token)

    async def GetRoom(self, request: rooms_pb.GetRoomRequest, context: Context) -> rooms_pb.GetRoomResponse:
        found = await self._rooms.get(caller(context), request.room_id)
        return rooms_pb.GetRoomResponse(room=room_to_proto(found))

    async def CreateRoom(self, request: rooms_pb.CreateRoomRequest, context: Context) -> rooms_pb.CreateRoomResponse:
        made = await self._rooms.create(caller(context), room_wish_from_proto(request))
        return rooms_pb.CreateRoomResponse(room=room_to_proto(made))

    async def DeleteRoom(self, request: rooms_pb.DeleteRoomRequest, context: Context) -> rooms_pb.DeleteRoomResponse:
        gone = await self._rooms.delete(caller(context), request.room_id)
        return rooms_pb.DeleteRoomResponse(room=room_to_proto(gone))


class ConversationServicer(ConversationServiceServicer):
    """Conversations as users see them."""

    def __init__(self, conversations: Conversations, messages: Messages, chat: Chat) -> None:
        self._conversations = conversations
        self._messages = messages
        self._chat = chat

    async def ListConversations(
        self, request: pb.ListConversationsRequest, context: Context
    ) -> pb.ListConversationsResponse:
        asked = PageRequest(request.page_size, request.page_token)
        status = status_from_proto(request.status)
        page = await self._conversations.page(caller(context), asked, request.room_id, request.agent_id, status)
        return pb.ListConversationsResponse(
            conversations=map(conversation_to_proto, page.items), next_page_token=page.next_token
        )

    async def GetConversation(self, request: pb.GetConversationRequest, context: Context) -> pb.GetConversationResponse:
        asked = PageRequest(request.page_size, request.page_token)
        found, page = await self._conversations.history(caller(context), request.conversation_id, asked)
        return pb.GetConversationResponse(
            conversation=conversation_to_proto(found),
            messages=map(message_to_proto, page.items),
            next_page_token=page.next_token,
        )

    async def CreateConversation(
        self, request: pb.CreateConversationRequest, context: Context
    ) -> pb.CreateConversationResponse:
        made = await self._conversations.create(caller(context), wish_from_proto(request))
        return pb.CreateConversationResponse(conversation=conversation_to_proto(made))

    async def UpdateConversation(
        self, request: pb.UpdateConversationRequest, context: Context
    ) -> pb.UpdateConversationResponse:
        title = request.title if request.HasField("title") else None
        status = status_from_proto(request.status)
        after = await self._conversations.change(caller(context), request.conversation_id, title, status)
        return pb.UpdateConversationResponse(conversation=conversation_to_proto(after))

    async def DeleteConversation(
        self, request: pb.DeleteConversationRequest, context: Context
    ) -> pb.DeleteConversationResponse:
        gone = await self._conversations.delete(caller(context), request.conversation_id)
        return pb.DeleteConversationResponse(conversation=conversation_to_proto(gone))

    async def SendMessage(self, request: pb.SendMessageRequest, context: Context) -> pb.SendMessageResponse:
        draft = draft_from_proto(caller(context), request)
        entry = await self._messages.send(caller(context), request.conversation_id, draft)
        return pb.SendMessageResponse(entry=entry_to_proto(entry))

    async def ListMessages(self, request: pb.ListMessagesRequest, context: Context) -> pb.ListMessagesResponse:
        asked = PageRequest(request.page_size, request.page_token)
        page = await self._conversations.find(caller(context), request.conversation_id, asked, request.query)
        return pb.ListMessagesResponse(messages=map(message_to_proto, page.items), next_page_token=page.next_token)

    async def DeleteMessage(self, request: pb.DeleteMessageRequest, context: Context) -> pb.DeleteMessageResponse:
        gone = await self._messages.delete(caller(context), request.conversation_id, request.message_id)
        return pb.DeleteMessageResponse(message=message_to_proto(gone))

    async def ListEntries(self, request: pb.ListEntriesRequest, context: Context) -> pb.ListEntriesResponse:
        limit = request.page_size or ENTRIES
        found = await self._messages.after(
            caller(context), request.conversation_id, request.epoch, request.offset, limit
        )
        return pb.ListEntriesResponse(
            entries=map(entry_to_proto, found.entries),
            head=conversation_pb2.Position(epoch=found.epoch, offset=found.head),
            resumed=found.resumed,
            org_id=found.org_id,
        )

    async def SetTyping(self, request: pb.SetTypingRequest, context: Context) -> pb.SetTypingResponse:
        await self._chat.set_typing(caller(context), SetTyping(request.conversation_id, request.is_typing))
        return pb.SetTypingResponse()

    async def Chat(
        self, request_iterator: AsyncIterator[pb.ChatRequest], context: Context
    ) -> AsyncIterator[pb.ChatResponse]:
        actions = actions_from_proto(caller(context), request_iterator)
        async for heard in self._chat.take_part(caller(context), actions):
            yield heard_to_proto(heard)


class ConversationFeedServicer(ConversationFeedServiceServicer):
    """For gateways, which ask as the user before they subscribe for one."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed

    async def Follow(
        self, request_iterator: AsyncIterator[feed_pb.FollowRequest], context: Context
    ) -> AsyncIterator[feed_pb.FollowResponse]:
        with self._feed.follower() as follower:
            async for news in merge(_subscriptions(request_iterator, follower), follower.news()):
                yield news_to_proto(news)


class TurnServicer(TurnServiceServicer):
    """For whoever runs agents."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns

    async def PublishTurn(
        self, request_iterator: AsyncIterator[feed_pb.PublishTurnRequest], context: Context
    ) -> AsyncIterator[feed_pb.PublishTurnResponse]:
        async for entry in self._turns.publish(steps_from_proto(request_iterator)):
            yield turn_entry_to_proto(entry)


async def _subscriptions(requests: AsyncIterator[feed_pb.FollowRequest], follower: Follower) -> AsyncIterator[News]:
    """Does as the gateway asks; says nothing itself."""
    async for request in requests:
        asked = request.subscribe if request.HasField("subscribe") else request.unsubscribe
        key = Key(OrgId(asked.org_id), ConversationId(asked.conversation_id))
        if request.HasField("subscribe"):
            follower.subscribe(key, request.subscribe.offset)
        else:
            follower.unsubscribe(key)
    return
    yield  # an empty stream is a stream
