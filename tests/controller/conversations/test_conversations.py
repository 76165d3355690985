"""What is said is stored once and in order, is found again, and is seen by those who take part alone."""

import asyncio
from typing import Any

from aiops.conversations.v1 import conversation_service_pb2 as pb
from aiops.conversations.v1 import room_service_pb2 as rooms_pb
from aiops.conversations.v1.conversation_pb2 import Conversation, FileReference, Room

from tests.fixtures.conversations import ANN, BOB, STRANGER, Metadata, Talk, person
from tests.fixtures.iam import refusal


async def found(talk: Talk, query: str, by: Metadata = ANN, **fields: Any) -> list[str]:
    request = pb.ListMessagesRequest(query=query, **fields)
    answer = await talk.conversations.ListMessages(request, metadata=by)
    return [each.content for each in answer.messages]


async def test_what_is_said_is_history_and_an_event(talk: Talk) -> None:
    room = await talk.room(room_id="room:agent-1", agent_id="agent-1")
    assert (await talk.rooms.GetRoom(rooms_pb.GetRoomRequest(room_id=room.room_id), metadata=BOB)).room == room
    made = await talk.begin(room_id=room.room_id, agent_id="agent-1", channel="web-sdk", title="Weather")
    assert (made.status, made.user_id, made.position.offset) == (Conversation.active, "ann", 0)
    file = FileReference(url="http://files/1", filename="a.png", mimetype="image/png", size=7)
    first = await talk.say(made.conversation_id, "hello", message_id="m1")
    second = await talk.say(made.conversation_id, "look", by=BOB, files=[file])
    assert (first.position.offset, second.position.offset) == (1, 2)
    assert first.position.epoch == second.position.epoch == made.position.epoch
    history = await talk.history(made.conversation_id, by=BOB)
    assert [(each.sender_id, each.content) for each in history.messages] == [("bob", "look"), ("ann", "hello")]
    assert list(history.messages[0].files) == [file]
    assert (history.conversation.message_count, history.conversation.position.offset) == (2, 2)
    assert history.conversation.last_message_at == history.messages[0].created_at
    told = await talk.events("user.message")
    assert [each["entry"]["content"]["content"] for each in told] == ["hello", "look"]
    assert {each["key"] for each in told} == {made.conversation_id}
    assert told[0]["entry"]["content"]["senderType"] == "user"


async def test_the_same_message_id_is_one_message(talk: Talk) -> None:
    made = await talk.begin()
    first = await talk.say(made.conversation_id, "once", message_id="m1")
    assert await talk.say(made.conversation_id, "once", message_id="m1") == first
    error = await refusal(talk.say(made.conversation_id, "other", message_id="m1"))
    assert error.reason == "MESSAGE_ID_REUSED"
    assert len((await talk.history(made.conversation_id)).messages) == 1
    assert len(await talk.events("user.message")) == 1
    assert (await refusal(talk.say(made.conversation_id, ""))).violations[0].field == "content"


async def test_many_who_speak_at_once_are_heard_in_one_order(talk: Talk) -> None:
    made = await talk.begin(room_id=(await talk.room()).room_id)
    # Each message is sent twice, by whoever sends it.
    sent = [(who, f"{who[0][1].split()[2]}-{number}") for who in (ANN, BOB) for number in range(15)] * 2
    await asyncio.gather(*(talk.say(made.conversation_id, name, by=who, message_id=name) for who, name in sent))
    entries = (await talk.entries(made.conversation_id, page_size=100)).entries
    assert [each.position.offset for each in entries] == list(range(1, 31))
    assert [each.content.sequence for each in entries] == list(range(1, 31))
    assert {each.content.message_id for each in entries} == {name for _, name in sent}
    times = [each.content.created_at.ToNanoseconds() for each in entries]
    assert times == sorted(times)
    told = [each["entry"]["position"]["offset"] for each in await talk.events("user.message")]
    assert told == list(range(1, 31))


async def test_organisations_with_the_same_names_see_nothing_of_each_other(talk: Talk) -> None:
    for who in (ANN, STRANGER):
        await talk.room(by=who, room_id="room:shared", name="shared")
        await talk.begin(by=who, conversation_id="conv-1", room_id="room:shared")
    await talk.say("conv-1", "a secret of a", message_id="m1")
    await talk.say("conv-1", "a secret of b", by=STRANGER, message_id="m1")
    assert await found(talk, "secret") == ["a secret of a"]
    assert await found(talk, "secret", by=STRANGER) == ["a secret of b"]
    assert [each.content for each in (await talk.history("conv-1", by=BOB)).messages] == ["a secret of a"]
    entries = await talk.entries("conv-1", by=STRANGER)
    assert [each.content.content for each in entries.entries] == ["a secret of b"]
    listed = await talk.rooms.ListRooms(rooms_pb.ListRoomsRequest(), metadata=STRANGER)
    assert [each.owner.org_id for each in listed.rooms] == ["org-b"]
    await talk.conversations.DeleteConversation(pb.DeleteConversationRequest(conversation_id="conv-1"), metadata=ANN)
    assert (await refusal(talk.history("conv-1"))).reason == "CONVERSATION_NOT_FOUND"
    assert len((await talk.history("conv-1", by=STRANGER)).messages) == 1


async def test_only_those_who_take_part_see_a_conversation(talk: Talk) -> None:
    own = await talk.begin(conversation_id="own")
    private = await talk.room(scope=Room.private, member_ids=["bob"])
    shared = await talk.begin(room_id=private.room_id)
    await talk.say(own.conversation_id, "only mine")
    await talk.say(shared.conversation_id, "for both")
    carl, root = person("carl"), person("root", "org-r", "universe.viewer")
    assert (await refusal(talk.history("own", by=BOB))).reason == "CONVERSATION_NOT_FOUND"
    assert (await refusal(talk.begin(by=BOB, conversation_id="own"))).reason == "CONVERSATION_EXISTS"
    assert (await refusal(talk.say("own", "hm", by=root))).reason == "CONVERSATION_NOT_FOUND"
    assert (await refusal(talk.begin(by=carl, room_id=private.room_id))).reason == "ROOM_NOT_FOUND"
    assert await talk.begin(conversation_id="own") == (await talk.history("own")).conversation
    for who, seen in (
        (ANN, {"only mine", "for both"}),
        (BOB, {"for both"}),
        (carl, set()),
        (root, {"only mine", "for both"}),
    ):
        assert set(await found(talk, "", by=who)) == seen
    delete = pb.DeleteConversationRequest(conversation_id=shared.conversation_id)
    assert (
        await refusal(talk.conversations.DeleteConversation(delete, metadata=BOB))
    ).reason == "CONVERSATION_NOT_FOUND"
    gone = rooms_pb.DeleteRoomRequest(room_id=private.room_id)
    assert (await refusal(talk.rooms.DeleteRoom(gone, metadata=BOB))).reason == "ROOM_NOT_FOUND"
    await talk.rooms.DeleteRoom(gone, metadata=ANN)
    assert await found(talk, "both", by=BOB) == []
    assert await found(talk, "both") == ["for both"]


async def test_history_comes_in_pages_and_by_words(talk: Talk) -> None:
    made = await talk.begin()
    for number in range(5):
        await talk.say(made.conversation_id, f"message {number} über {'Kühe' if number % 2 else 'Schafe'}")
    seen: list[str] = []
    token = ""
    while True:
        page = await talk.history(made.conversation_id, page_size=2, page_token=token)
        seen += [each.content.split()[1] for each in page.messages]
        token = page.next_page_token
        if not token:
            break
    assert seen == ["4", "3", "2", "1", "0"]
    assert len(await found(talk, "kühe", conversation_id=made.conversation_id)) == 2
    assert len(await found(talk, "über -kühe")) == 3
    assert await found(talk, '"message 3"') == ["message 3 über Kühe"]
    wrong = pb.GetConversationRequest(conversation_id=made.conversation_id, page_token="x")
    assert (await refusal(talk.conversations.GetConversation(wrong, metadata=ANN))).reason == "INVALID_PAGE_TOKEN"


async def test_what_is_deleted_is_forgotten_and_its_place_stays(talk: Talk) -> None:
    made = await talk.begin(room_id=(await talk.room()).room_id)
    await talk.say(made.conversation_id, "a slip", by=BOB, message_id="m1")
    await talk.say(made.conversation_id, "fine", message_id="m2")
    delete = pb.DeleteMessageRequest(conversation_id=made.conversation_id, message_id="m2")
    assert (await refusal(talk.conversations.DeleteMessage(delete, metadata=BOB))).reason == "MESSAGE_NOT_FOUND"
    mine = pb.DeleteMessageRequest(conversation_id=made.conversation_id, message_id="m1")
    assert (await talk.conversations.DeleteMessage(mine, metadata=BOB)).message.is_deleted
    assert (await refusal(talk.conversations.DeleteMessage(mine, metadata=BOB))).reason == "MESSAGE_NOT_FOUND"
    assert await found(talk, "slip") == []
    assert [each.content for each in (await talk.history(made.conversation_id)).messages] == ["fine"]
    behind = await talk.entries(made.conversation_id)
    assert [(each.position.offset, each.content.content) for each in behind.entries] == [(1, ""), (2, "fine"), (3, "")]
    # Sent again by somebody who did not hear of it, it stays deleted.
    assert (await talk.say(made.conversation_id, "a slip", by=BOB, message_id="m1")).position.offset == 1


async def test_an_archived_conversation_is_only_read(talk: Talk) -> None:
    made = await talk.begin()
    await talk.say(made.conversation_id, "last words", message_id="m1")
    archive = pb.UpdateConversationRequest(conversation_id=made.conversation_id, status=Conversation.archived)
    await talk.conversations.UpdateConversation(archive, metadata=ANN)
    assert (await refusal(talk.say(made.conversation_id, "more"))).reason == "CONVERSATION_ARCHIVED"
    assert (await talk.say(made.conversation_id, "last words", message_id="m1")).position.offset == 1
    listing = pb.ListConversationsRequest(status=Conversation.active)
    assert list((await talk.conversations.ListConversations(listing, metadata=ANN)).conversations) == []
