"""Conversations that somebody here has joined: heard once from the controllers, passed on to every socket."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Protocol

import grpc
from aiops.conversations.v1 import conversation_feed_service_pb2 as pb
from aiops.conversations.v1.conversation_feed_service_pb2_grpc import ConversationFeedServiceStub

from gateway.realtime.frames import entry_frame, live_frame
from gateway.realtime.outgoing import Frame
from mesh.loops import Backoff, Wake
from mesh.rpc.addresses import Addresses, follow
from mesh.rpc.channel import ClientTls

log = logging.getLogger(__name__)
RETRY = Backoff(first=timedelta(milliseconds=50), limit=timedelta(milliseconds=500))
Key = tuple[str, str]


class Listener(Protocol):
    """Somebody who has joined conversations."""

    def hear_entry(self, conversation_id: str, offset: int, frame: Frame) -> None: ...
    def hear_live(self, frame: Frame) -> None: ...
    def hear_gone(self, conversation_id: str) -> None: ...


@dataclass(slots=True)
class _Topic:
    offset: int
    listeners: set[Listener] = field(default_factory=set)


class Hub:
    """One stream to a controller; after a break it goes on behind the last entry that came."""

    def __init__(self, controllers: Addresses, tls: Callable[[], ClientTls]) -> None:
        self._controllers = controllers
        self._tls = tls
        self._topics: dict[Key, _Topic] = {}
        self._asked: asyncio.Queue[pb.FollowRequest] = asyncio.Queue()
        self._failures = 0
        self.wake = Wake()

    def join(self, key: Key, offset: int, listener: Listener) -> int:
        """Entries behind the answered offset are heard; earlier ones are the listener's to read."""
        topic = self._topics.get(key)
        if topic is None:
            topic = self._topics[key] = _Topic(offset)
            self._ask(subscribe=_subscription(key, offset))
        topic.listeners.add(listener)
        return topic.offset

    def leave(self, key: Key, listener: Listener) -> None:
        """The conversation is of no interest to the listener any more."""
        topic = self._topics.get(key)
        if topic is None:
            return
        topic.listeners.discard(listener)
        if not topic.listeners:
            del self._topics[key]
            self._ask(unsubscribe=pb.FollowRequest.Unsubscribe(org_id=key[0], conversation_id=key[1]))

    async def step(self) -> timedelta:
        """Follows one stream to its end; answers how long to wait before the next."""
        try:
            async for response in follow(self._controllers, self._tls(), self._open):
                self._failures = 0
                self._take(response)
        except grpc.aio.AioRpcError as error:
            self._failures += 1
            if self._failures == 1:
                log.warning("the feed of conversations is away: %s", error.details())
        return RETRY.pause(max(self._failures, 1))

    def _open(self, channel: grpc.aio.Channel) -> Any:
        # What was asked of the stream before is asked anew, from where it ended.
        self._asked = asyncio.Queue()
        for key, topic in self._topics.items():
            self._ask(subscribe=_subscription(key, topic.offset))
        return ConversationFeedServiceStub(channel).Follow(_requests(self._asked))

    def _ask(self, **action: Any) -> None:
        self._asked.put_nowait(pb.FollowRequest(**action))

    def _take(self, response: pb.FollowResponse) -> None:
        match response.WhichOneof("news"):
            case "entry":
                self._take_entry(response)
            case "live":
                heard = self._topics.get((response.org_id, response.live.conversation_id))
                passing = live_frame(response.live)
                for listener in heard.listeners if heard else ():
                    listener.hear_live(passing)
            case "gone":
                gone = response.gone.conversation_id
                topic = self._topics.pop((response.org_id, gone), None)
                for listener in topic.listeners if topic else ():
                    listener.hear_gone(gone)

    def _take_entry(self, response: pb.FollowResponse) -> None:
        entry = response.entry
        topic = self._topics.get((response.org_id, entry.conversation_id))
        if topic is None or entry.position.offset <= topic.offset:
            return
        topic.offset = entry.position.offset
        frame = entry_frame(entry)
        for listener in topic.listeners:
            listener.hear_entry(entry.conversation_id, entry.position.offset, frame)


def _subscription(key: Key, offset: int) -> pb.FollowRequest.Subscribe:
    return pb.FollowRequest.Subscribe(org_id=key[0], conversation_id=key[1], offset=offset)


async def _requests(asked: "asyncio.Queue[pb.FollowRequest]") -> AsyncIterator[pb.FollowRequest]:
    while True:
        yield await asked.get()
