"""`aiops conversations`: list them, read one, say something, search, delete."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from cli.connect import connect
from cli.output import Format, Output, note, show_many, show_one, show_result
from cli.paging import ALL_HELP, MORE, at_most

if TYPE_CHECKING:
    from aiops.conversations.v1.conversation_pb2 import Conversation, Message

    from cli.session import Session

app = typer.Typer(no_args_is_help=True, help="Talk in conversations, and read what was said.")
COLUMNS = {
    "conversation": lambda each: each.conversation_id,
    "title": lambda each: each.title,
    "agent": lambda each: each.agent_id,
    "room": lambda each: each.room_id,
    "user": lambda each: each.user_id,
    "messages": lambda each: each.message_count,
    "last": lambda each: each.last_message_at.ToDatetime().isoformat(" ", "seconds") if each.message_count else "",
}
MESSAGE_COLUMNS = {
    "at": lambda each: each.created_at.ToDatetime().isoformat(" ", "seconds"),
    "from": lambda each: each.sender_id,
    "message": lambda each: each.message_id,
    "content": lambda each: each.content or each.tool_name,
}
Limit = Annotated[int, typer.Option(min=0, help=ALL_HELP)]
ConversationId = Annotated[str, typer.Argument(help="The conversation's id.")]


@app.command("list")
def list_conversations(context: typer.Context, limit: Limit = 50, output: Output = Format.TABLE) -> None:
    """List the conversations that you take part in, newest first."""
    rows, more = at_most(limit, _conversations(connect(context)))
    show_many(rows, COLUMNS, output)
    if more:
        note(MORE)


@app.command()
def create(
    context: typer.Context,
    conversation_id: Annotated[str, typer.Argument(help="An id of your choice; chosen when left out.")] = "",
    room: Annotated[str, typer.Option(help="The room it is held in.")] = "",
    agent: Annotated[str, typer.Option(help="The agent that answers.")] = "",
    title: Annotated[str, typer.Option(help="What stands above it.")] = "",
    output: Output = Format.TABLE,
) -> None:
    """Begin a conversation."""
    from aiops.conversations.v1.conversation_service_pb2 import CreateConversationRequest
    from aiops.conversations.v1.conversation_service_pb2_grpc import ConversationServiceStub

    session = connect(context)
    request = CreateConversationRequest(conversation_id=conversation_id, room_id=room, agent_id=agent, title=title)
    made = session.call(session.stub(ConversationServiceStub).CreateConversation, request)
    show_one(made.conversation, COLUMNS, output)


@app.command()
def say(
    context: typer.Context,
    conversation_id: ConversationId,
    content: Annotated[str, typer.Argument(help="What to say.")],
    message_id: Annotated[str, typer.Option(help="An id of your choice: said again, it is the same message.")] = "",
    output: Output = Format.TABLE,
) -> None:
    """Say something."""
    from aiops.conversations.v1.conversation_service_pb2 import SendMessageRequest
    from aiops.conversations.v1.conversation_service_pb2_grpc import ConversationServiceStub

    session = connect(context)
    request = SendMessageRequest(conversation_id=conversation_id, content=content, message_id=message_id)
    stored = session.call(session.stub(ConversationServiceStub).SendMessage, request)
    show_one(stored.entry.content, MESSAGE_COLUMNS, output)


@app.command()
def history(
    context: typer.Context,
    conversation_id: Annotated[str, typer.Argument(help="The conversation's id; every conversation if left out.")] = "",
    query: Annotated[str, typer.Option(help='Only messages with these words: one two, "a phrase", -without.')] = "",
    limit: Limit = 50,
    output: Output = Format.TABLE,
) -> None:
    """Read what was said, newest first."""
    rows, more = at_most(limit, _messages(connect(context), conversation_id, query))
    show_many(rows, MESSAGE_COLUMNS, output)
    if more:
        note(MORE)


@app.command()
def delete(context: typer.Context, conversation_id: ConversationId, output: Output = Format.TABLE) -> None:
    """Delete a conversation that you began, for everybody."""
    from aiops.conversations.v1.conversation_service_pb2 import DeleteConversationRequest
    from aiops.conversations.v1.conversation_service_pb2_grpc import ConversationServiceStub

    session = connect(context)
    request = DeleteConversationRequest(conversation_id=conversation_id)
    session.call(session.stub(ConversationServiceStub).DeleteConversation, request)
    show_result({"conversationId": conversation_id, "deleted": True}, f"{conversation_id} is deleted", output)


def _conversations(session: "Session") -> Iterator["Conversation"]:
    from aiops.conversations.v1.conversation_service_pb2 import ListConversationsRequest
    from aiops.conversations.v1.conversation_service_pb2_grpc import ConversationServiceStub

    request = ListConversationsRequest(page_size=200)
    while True:
        page = session.call(session.stub(ConversationServiceStub).ListConversations, request)
        yield from page.conversations
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


def _messages(session: "Session", conversation_id: str, query: str) -> Iterator["Message"]:
    from aiops.conversations.v1.conversation_service_pb2 import ListMessagesRequest
    from aiops.conversations.v1.conversation_service_pb2_grpc import ConversationServiceStub

    request = ListMessagesRequest(conversation_id=conversation_id, query=query, page_size=200)
    while True:
        page = session.call(session.stub(ConversationServiceStub).ListMessages, request)
        yield from page.messages
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token
