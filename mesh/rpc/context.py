"""What a servicer may ask about the call it serves."""

from contextvars import ContextVar

from mesh.identity import ANONYMOUS, Caller
from mesh.rpc.call import Context

current_caller: ContextVar[Caller] = ContextVar("current_caller", default=ANONYMOUS)
current_request_id: ContextVar[str] = ContextVar("current_request_id", default="")


def caller(context: Context) -> Caller:
    """Who calls. The context is asked for so that nobody takes this for the identity of a background task."""
    del context
    return current_caller.get()


__all__ = ["Context", "caller", "current_caller", "current_request_id"]
