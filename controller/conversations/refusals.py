"""Why something cannot be done in conversations."""

from mesh.errors import DomainError, Kind

# Events have a limit, and so has what full-text search reads.
LARGEST_MESSAGE_BYTES = 400_000


class ConversationNotFoundError(DomainError):
    """There is no such conversation, or none that the caller may see."""

    kind, reason = Kind.NOT_FOUND, "CONVERSATION_NOT_FOUND"

    def __init__(self, conversation_id: str) -> None:
        super().__init__(f"there is no conversation {conversation_id}", conversation_id=conversation_id)


class ConversationExistsError(DomainError):
    """Somebody else of the organisation has a conversation of that id."""

    kind, reason = Kind.EXISTS, "CONVERSATION_EXISTS"

    def __init__(self, conversation_id: str) -> None:
        super().__init__(f"the id {conversation_id} is taken; choose another one", conversation_id=conversation_id)


class ConversationArchivedError(DomainError):
    """The conversation is only read."""

    kind, reason = Kind.PRECONDITION, "CONVERSATION_ARCHIVED"

    def __init__(self, conversation_id: str) -> None:
        super().__init__(
            f"conversation {conversation_id} is archived; make it active first", conversation_id=conversation_id
        )


class RoomNotFoundError(DomainError):
    """There is no such room, or none that the caller may see."""

    kind, reason = Kind.NOT_FOUND, "ROOM_NOT_FOUND"

    def __init__(self, room_id: str) -> None:
        super().__init__(f"there is no room {room_id}", room_id=room_id)


class RoomExistsError(DomainError):
    """The organisation has a room of that id."""

    kind, reason = Kind.EXISTS, "ROOM_EXISTS"

    def __init__(self, room_id: str) -> None:
        super().__init__(f"there is a room {room_id}; choose another id", room_id=room_id)


class MessageNotFoundError(DomainError):
    """The conversation has no such message."""

    kind, reason = Kind.NOT_FOUND, "MESSAGE_NOT_FOUND"

    def __init__(self, message_id: str) -> None:
        super().__init__(f"there is no message {message_id}", message_id=message_id)


class MessageIdReusedError(DomainError):
    """The message id stands for another message."""

    kind, reason = Kind.PRECONDITION, "MESSAGE_ID_REUSED"

    def __init__(self, message_id: str) -> None:
        super().__init__(f"message id {message_id} was used for another message; send a new one", message_id=message_id)


class AnswerTooLongError(DomainError):
    """A message is larger than what can be stored and told."""

    kind, reason = Kind.INVALID, "ANSWER_TOO_LONG"

    def __init__(self, message_id: str) -> None:
        super().__init__(
            f"message {message_id} is larger than {LARGEST_MESSAGE_BYTES} bytes; split it", message_id=message_id
        )
