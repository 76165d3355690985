"""Conversations over WebSocket through Envoy: what is said arrives, once and in order, whoever is killed meanwhile."""

import asyncio
from typing import Any

import pytest
from aiops.conversations.v1.conversation_service_pb2_grpc import ConversationServiceStub
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from mesh.rpc.channel import open_channel
from tests.fakes.eventually import eventually
from tests.fixtures.conversations import Hearing
from tests.fixtures.realtime import Person, SocketStack

# Five processes start for each of these tests, on a machine that may be busy.
pytestmark = pytest.mark.timeout(300)


async def test_what_is_said_by_rest_and_sockets_is_heard_by_sockets(socket_stack: SocketStack) -> None:
    admin = await socket_stack.sign_in()
    ann = await socket_stack.person(admin, "ann")
    org_id = (await ann.rest.get("/users/me")).json()["owner"]["orgId"]
    bob, stranger = await socket_stack.person(admin, "bob", org_id), await socket_stack.person(admin, "stranger")
    assert (await ann.rest.post("/rooms", json={"roomId": "room:agent-1", "name": "Support"})).status_code == 200
    for who in (ann, stranger):
        wish = {"conversationId": "conv-1", "agentId": "agent-1"} | ({"roomId": "room:agent-1"} if who is ann else {})
        assert (await who.rest.post("/conversations", json=wish)).status_code == 200
    async with (
        socket_stack.socket(ann) as one,
        socket_stack.socket(bob) as two,
        socket_stack.socket(stranger) as other,
    ):
        for each in (one, two, other):
            joined = await each.join("conv-1")
            assert (joined["offset"], joined["resumed"]) == (0, True)
        said = {"messageId": "m1", "content": "What's the weather in Paris?"}
        stored = await ann.rest.post("/conversations/conv-1/messages", json=said)
        assert stored.json()["position"]["offset"] == 1, stored.text
        for socket in (one, two):
            heard = await socket.next("user.message")
            place = {"topic": "conversation/conv-1", "epoch": joined_epoch(socket.heard), "offset": 1}
            expected = {**said, "conversationId": "conv-1", "userId": ann.user_id, **place}
            assert expected.items() <= heard.items()
        files = [{"url": "https://minio/files/image.png", "filename": "screenshot.png", "mimetype": "image/png"}]
        await two.send("user.message", messageId="m2", conversationId="conv-1", content="see", files=files)
        assert (await two.next("system.messageStored", messageId="m2"))["offset"] == 2
        assert (await one.next("user.message", messageId="m2"))["files"] == files
        await two.send("user.typing", conversationId="conv-1", userId=bob.user_id, isTyping=True)
        assert (await one.next("user.typing"))["userId"] == bob.user_id
        await two.send("user.message", messageId="m2", conversationId="conv-1", content="another")
        assert (await two.next("system.error"))["errorCode"] == "MESSAGE_ID_REUSED"
        await two.send("user.message", messageId="m3", conversationId="conv-1", userId=ann.user_id, content="x")
        assert (await two.next("system.error"))["errorCode"] == "INVALID_REQUEST"
        await other.send("user.message", messageId="m1", conversationId="conv-1", content="mine")
        assert (await other.next("user.message"))["content"] == "mine"
        assert not [frame for frame in other.heard if frame.get("content") not in (None, "mine")]
        # Whoever joins where there is nothing begins it; what is somebody else's is not there.
        assert (await other.join("conv-new"))["offset"] == 0
        await two.send("user.joinConversation", conversationId="own", agentId="agent-1")
        await two.next("system.conversationJoined")
        await one.send("user.joinConversation", conversationId="own", agentId="agent-1")
        assert (await one.next("system.error"))["errorCode"] == "CONVERSATION_EXISTS"
    history = (await bob.rest.get("/conversations/conv-1")).json()
    assert [each["messageId"] for each in history["messages"]] == ["m2", "m1"]
    assert history["messages"][1]["type"] == "user"
    await the_same_by_other_ways(socket_stack, bob)
    await refused_sockets(socket_stack, ann.token)
    await system_sockets(socket_stack, admin, ann, stranger)


def joined_epoch(heard: list[dict[str, Any]]) -> str:
    """The epoch that a socket was told when it joined."""
    return next(str(frame["epoch"]) for frame in heard if frame["type"] == "system.conversationJoined")


async def refused_sockets(stack: SocketStack, token: str) -> None:
    """Sockets without a token, with a wrong one, at a wrong path, and with too long a frame."""
    for first in ('{"type":"user.connect","token":"none"}', '{"type":"user.message"}', "no JSON"):
        async with connect(stack.socket_url, proxy=None) as socket:
            await socket.send(first)
            with pytest.raises(ConnectionClosed) as ended:
                await socket.recv()
            assert ended.value.rcvd is not None
            assert ended.value.rcvd.code == 3000
    with pytest.raises(InvalidStatus):
        await connect(stack.socket_url + "/other", proxy=None)
    headers = {"authorization": f"Bearer {token}"}
    async with connect(stack.socket_url, proxy=None, additional_headers=headers) as socket:
        assert "system.connectionEstablished" in str(await socket.recv())
        await socket.send("x" * (64 * 1024 + 1))
        with pytest.raises(ConnectionClosed) as ended:
            await socket.recv()
        assert ended.value.rcvd is not None
        assert ended.value.rcvd.code == 1009


async def the_same_by_other_ways(stack: SocketStack, bob: Person) -> None:
    """The gRPC stream through Envoy, and the command line."""
    metadata = (("authorization", f"Bearer {bob.token}"),)
    async with open_channel(f"127.0.0.1:{stack.port}") as channel:
        hearing = Hearing(ConversationServiceStub(channel).Chat(metadata=metadata))
        joined = await hearing.join("conv-1")
        said = await bob.aiops(stack.url, "say", "conv-1", "by command", "--message-id", "m9")
        (heard,) = await hearing.entries(1)
        assert (heard.content.content, heard.position.offset) == ("by command", joined.position.offset + 1)
        hearing.call.cancel()
    assert said["messageId"] == "m9"
    found = await bob.aiops(stack.url, "history", "conv-1", "--query", "command")
    assert [each["messageId"] for each in found] == ["m9"]
    made = await bob.aiops(stack.url, "create", "by-command", "--title", "Support")
    assert (made["conversationId"], made["title"]) == ("by-command", "Support")
    assert await bob.aiops(stack.url, "list", "--limit", "1") == [made]
    assert (await bob.aiops(stack.url, "delete", "by-command"))["deleted"]


async def system_sockets(stack: SocketStack, admin: Person, ann: Person, stranger: Person) -> None:
    """What happens on the platform is told to whom it concerns, also to those who were away meanwhile."""
    async with stack.socket(ann, stack.system_url) as one, stack.socket(stranger, stack.system_url) as other:
        position = one.welcome["positions"]
        for socket in (one, other):
            await announce(admin, "at five we rest")
            told = await socket.next("system.broadcast", message="at five we rest")
            assert (told["severity"], told["topic"].partition("/")[0]) == ("low", "aiops.system.v1")
        node = await admin.rest.post("/nodes", json={"name": "far"})
        assert node.status_code == 200, node.text
        await announce(admin, "the end")
        for socket in (one, other):
            await socket.next("system.broadcast", message="the end")
        assert not [frame for frame in other.heard if frame["type"].startswith("system.node")]
    stack.kill_realtime(stack.realtime_ports[0])
    async with stack.socket(ann, stack.system_url, positions=position) as again:
        assert (await again.next("system.resumed"))["resumed"]
        await again.next("system.broadcast", message="the end")
        missed = [frame["message"] for frame in again.heard if frame["type"] == "system.broadcast"]
        assert missed == ["at five we rest", "at five we rest", "the end"]
    forgotten = [{**each, "epoch": "event-unknown", "offset": 0} for each in position]
    async with stack.socket(ann, stack.system_url, positions=forgotten) as late:
        answer = await late.next("system.resumed")
        assert not answer["resumed"]
        assert answer["lost"] == [each["topic"] for each in position]


async def announce(admin: Person, message: str) -> None:
    """Tells everybody."""
    answer = await admin.rest.post("/system/broadcast", json={"message": message, "severity": "low"})
    assert answer.status_code == 200, answer.text


async def listen(
    stack: SocketStack, person: Any, offsets: list[int], until: int, joins: list[int], breaks: list[int]
) -> None:
    """Hears a conversation up to an offset, connecting again and resuming whenever the socket breaks."""
    position: dict[str, Any] = {}
    while not offsets or offsets[-1] < until:
        try:
            async with stack.socket(person) as socket:
                joined = await socket.join("conv-1", **position)
                assert joined["resumed"], joined
                joins.append(joined["offset"])
                position = {"epoch": joined["epoch"], "offset": joined["offset"]}
                while not offsets or offsets[-1] < until:
                    frame = await socket.next("user.message")
                    offsets.append(frame["offset"])
                    position["offset"] = frame["offset"]
        except (ConnectionClosed, InvalidStatus, OSError, EOFError):
            breaks.append(1)
            await asyncio.sleep(0.05)


async def test_a_hundred_sockets_lose_and_double_nothing_when_their_process_or_the_controller_is_killed(
    socket_stack: SocketStack,
) -> None:
    admin = await socket_stack.sign_in()
    await admin.rest.post("/conversations", json={"conversationId": "conv-1"})
    said, people, joins, breaks = 60, 100, list[int](), list[int]()
    heard: list[list[int]] = [[] for _ in range(people)]
    async with asyncio.TaskGroup() as group, asyncio.timeout(200):
        for offsets in heard:
            group.create_task(listen(socket_stack, admin, offsets, said, joins, breaks))

        async def all_are_there() -> bool:
            return len(joins) >= people

        await eventually(all_are_there, 100)
        for number in range(1, said + 1):
            body = {"messageId": f"m{number}", "content": f"message {number}"}
            if number == 20:
                socket_stack.kill_realtime(socket_stack.realtime_ports[0])
            if number == 40:
                socket_stack.controller.kill()
                await asyncio.to_thread(socket_stack.controller.start)
            await stored(admin.rest, body)
    assert breaks
    for offsets in heard:
        assert offsets == list(range(1, said + 1))


async def stored(rest: Any, body: dict[str, str]) -> None:
    """Says something until it is stored; the same id makes that harmless."""
    async with asyncio.timeout(100):
        while (answer := await rest.post("/conversations/conv-1/messages", json=body)).status_code != 200:
            assert answer.status_code >= 500, answer.text
            await asyncio.sleep(0.05)
