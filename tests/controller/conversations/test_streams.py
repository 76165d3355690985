"""Whoever joined hears everything once and in order, also behind a break, or is told that something is lost."""

import asyncio
from typing import Any

from aiops.conversations.v1 import conversation_feed_service_pb2 as feed_pb
from aiops.conversations.v1 import conversation_service_pb2 as pb
from aiops.conversations.v1.conversation_pb2 import Entry, Live, Position, ToolCall
from google.protobuf.struct_pb2 import Struct

from mesh.telemetry import Telemetry
from tests.fixtures.conversations import ANN, BOB, RUNTIME, STRANGER, Hearing, Talk, talking
from tests.fixtures.iam import refusal

Step = feed_pb.PublishTurnRequest


def struct(**fields: Any) -> Struct:
    message = Struct()
    message.update(fields)
    return message


def begin(conversation_id: str, org_id: str = "org-a") -> Step:
    return Step(begin=Step.Begin(org_id=org_id, conversation_id=conversation_id, agent_id="agent-1"))


async def turn(talk: Talk, *steps: Step) -> list[Any]:
    """What is acknowledged of a turn."""
    call: Any = talk.turns.PublishTurn(iter(steps), metadata=RUNTIME)
    return [response.stored async for response in call]


async def test_people_hear_each_other_in_order(talk: Talk) -> None:
    made = await talk.begin(room_id=(await talk.room()).room_id)
    async with talk.hearing() as ann, talk.hearing(BOB) as bob:
        for each in (ann, bob):
            joined = await each.join(made.conversation_id)
            assert (joined.resumed, joined.position) == (True, made.position)
        send = pb.SendMessageRequest(conversation_id=made.conversation_id, message_id="m1", content="hello")
        await ann.call.write(pb.ChatRequest(send=send))
        told = {(await asyncio.wait_for(ann.call.read(), 20)).WhichOneof("news") for _ in range(2)}
        assert told == {"stored", "entry"}
        assert [each.content.content for each in await bob.entries(1)] == ["hello"]
        typing = pb.SetTypingRequest(conversation_id=made.conversation_id, is_typing=True)
        await bob.call.write(pb.ChatRequest(typing=typing))
        live = (await ann.next("live")).live
        assert (live.typing.sender_id, live.typing.is_typing) == ("bob", True)
        await bob.next("live")
        await bob.call.write(pb.ChatRequest(leave=pb.ChatRequest.Leave(conversation_id=made.conversation_id)))
        await bob.next("left")
        await talk.say(made.conversation_id, "more")
        assert (await ann.entries(1))[0].position.offset == 2


async def test_what_is_refused_does_not_end_the_stream(talk: Talk) -> None:
    made = await talk.begin()
    async with talk.hearing(STRANGER) as stranger:
        await stranger.call.write(pb.ChatRequest(join=pb.ChatRequest.Join(conversation_id=made.conversation_id)))
        assert (await stranger.next("refused")).refused.reason == "CONVERSATION_NOT_FOUND"
        own = await talk.begin(by=STRANGER)
        await stranger.join(own.conversation_id)
        await talk.say(made.conversation_id, "not for you")
        await talk.say(own.conversation_id, "for you", by=STRANGER)
        assert [each.content.content for each in await stranger.entries(1)] == ["for you"]


async def test_a_reader_resumes_where_it_was_or_is_told_that_it_cannot(talk: Talk) -> None:
    made = await talk.begin()
    said = [await talk.say(made.conversation_id, str(number)) for number in range(5)]
    async with talk.hearing() as again:
        joined = await again.join(made.conversation_id, said[1].position)
        assert (joined.resumed, joined.position.offset) == (True, 2)
        assert [each.content.content for each in await again.entries(3)] == ["2", "3", "4"]
    head = said[-1].position
    for lost in (Position(epoch="another", offset=2), Position(epoch=head.epoch, offset=99)):
        async with talk.hearing() as late:
            joined = await late.join(made.conversation_id, lost)
            assert (joined.resumed, joined.position) == (False, head)
        behind = await talk.entries(made.conversation_id, epoch=lost.epoch, offset=lost.offset, page_size=2)
        assert (behind.resumed, behind.head) == (False, head)
        assert [each.position.offset for each in behind.entries] == [1, 2]


async def test_another_controllers_readers_hear_of_it(talk: Talk, database: str, telemetry: Telemetry) -> None:
    made = await talk.begin()
    async with talking(database, telemetry) as other, other.hearing() as ann:
        await ann.join(made.conversation_id)
        await talk.say(made.conversation_id, "hello")
        assert [each.content.content for each in await ann.entries(1)] == ["hello"]
        words: list[str] = []
        talk.feed.tell_others = words.append
        typing = pb.SetTypingRequest(conversation_id=made.conversation_id, is_typing=True)
        await talk.conversations.SetTyping(typing, metadata=ANN)
        other.feed.hear(words[0])
        assert (await ann.next("live")).live.typing.sender_id == "ann"
        await talk.conversations.DeleteConversation(
            pb.DeleteConversationRequest(conversation_id=made.conversation_id), metadata=ANN
        )
        assert (await ann.next("left")).left.reason == "deleted"


async def test_an_agents_turn_streams_and_is_stored(talk: Talk) -> None:
    made = await talk.begin(agent_id="agent-1")
    async with talk.hearing() as ann:
        await ann.join(made.conversation_id)
        start = Step.ToolStart(message_id="t1", tool_name="web_search", tool_input=struct(query="weather Paris"))
        end = Step.ToolEnd(
            message_id="t1", status=ToolCall.success, tool_output=struct(result="Sunny"), duration_ms=1250
        )
        steps = [
            begin(made.conversation_id),
            Step(typing=Live.Typing(is_typing=True)),
            Step(tool_start=start),
            Step(tool_end=end),
            Step(delta=Step.Delta(message_id="m2", thinking="hm")),
            Step(delta=Step.Delta(message_id="m2", content="It is ")),
            Step(delta=Step.Delta(message_id="m2", content="sunny.")),
            Step(say=Step.Say(message_id="m2")),
        ]
        assert [each.position.offset for each in await turn(talk, *steps)] == [1, 2, 3]
        entries, lives = await _heard(ann, entries=3, lives=4)
        assert [each.kind for each in entries] == [Entry.tool_start, Entry.tool_end, Entry.message]
        assert (entries[2].content.content, entries[2].content.thinking) == ("It is sunny.", "hm")
        assert entries[2].content.sender_id == "agent-1"
        deltas = [each.delta for each in lives if each.HasField("delta")]
        assert [(each.index, each.content, each.thinking) for each in deltas] == [
            (0, "", "hm"),
            (0, "It is ", ""),
            (6, "sunny.", ""),
        ]
        # Begun again after a break, the turn stores nothing twice.
        assert [each.position.offset for each in await turn(talk, *steps)] == [1, 2, 3]
    tool = (await talk.history(made.conversation_id)).messages[1]
    assert (tool.tool_name, tool.duration_ms, tool.tool_status) == ("web_search", 1250, ToolCall.success)
    assert (tool.tool_input["query"], tool.tool_output["result"]) == ("weather Paris", "Sunny")
    told = [each["type"] for each in await talk.events()]
    assert told == ["system.conversationChanged", "agent.toolCall.start", "agent.toolCall.end", "agent.message"]


async def _heard(hearing: Hearing, *, entries: int, lives: int) -> tuple[list[Any], list[Any]]:
    """So many of each, in whatever mixture."""
    told: dict[str, list[Any]] = {"entry": [], "live": []}
    while len(told["entry"]) < entries or len(told["live"]) < lives:
        response = await asyncio.wait_for(hearing.call.read(), 20)
        kind = response.WhichOneof("news")
        told[kind].append(getattr(response, kind))
    return told["entry"], told["live"]


async def test_turns_are_for_services_and_belong_to_one_organisation(talk: Talk) -> None:
    made = await talk.begin()
    call: Any = talk.turns.PublishTurn(iter([begin(made.conversation_id)]), metadata=ANN)
    assert (await refusal(call.read())).reason == "PERMISSION_DENIED"
    say = Step(say=Step.Say(message_id="m1", content="hi"))
    call = talk.turns.PublishTurn(iter([begin(made.conversation_id, "org-b"), say]), metadata=RUNTIME)
    assert (await refusal(call.read())).reason == "CONVERSATION_NOT_FOUND"
    call = talk.turns.PublishTurn(iter([say]), metadata=RUNTIME)
    assert (await refusal(call.read())).reason == "TURN_NOT_BEGUN"
    pieces = (Step(delta=Step.Delta(message_id="m1", content="x" * 4096)) for _ in range(33))
    call = talk.turns.PublishTurn(iter([begin(made.conversation_id), *pieces]), metadata=RUNTIME)
    assert (await refusal(call.read())).reason == "ANSWER_TOO_LONG"
    assert (await talk.history(made.conversation_id)).messages == []


async def test_a_gateway_follows_conversations_of_many_organisations(talk: Talk) -> None:
    for who in (ANN, STRANGER):
        await talk.begin(by=who, conversation_id="conv-1")
        await talk.say("conv-1", "before", by=who)
    call: Any = talk.feeds.Follow(metadata=RUNTIME)
    for org, offset in (("org-a", 1), ("org-b", 0)):
        subscribe = feed_pb.FollowRequest.Subscribe(org_id=org, conversation_id="conv-1", offset=offset)
        await call.write(feed_pb.FollowRequest(subscribe=subscribe))
    told = await asyncio.wait_for(call.read(), 20)
    assert (told.org_id, told.entry.position.offset) == ("org-b", 1)
    await talk.say("conv-1", "after")
    told = await asyncio.wait_for(call.read(), 20)
    assert (told.org_id, told.entry.content.content) == ("org-a", "after")
    call.cancel()
    forbidden: Any = talk.feeds.Follow(metadata=ANN)
    await forbidden.done_writing()
    assert (await refusal(forbidden.read())).reason == "PERMISSION_DENIED"
