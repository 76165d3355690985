"""Turns a gRPC failure into an error that says what to do next."""

from typing import TYPE_CHECKING

import grpc

from cli.exits import CliError, Exit

if TYPE_CHECKING:
    from google.rpc.status_pb2 import Status

CODES = {
    grpc.StatusCode.INVALID_ARGUMENT: Exit.USAGE,
    grpc.StatusCode.OUT_OF_RANGE: Exit.USAGE,
    grpc.StatusCode.UNAVAILABLE: Exit.NOT_REACHABLE,
    grpc.StatusCode.UNAUTHENTICATED: Exit.REFUSED,
    grpc.StatusCode.PERMISSION_DENIED: Exit.REFUSED,
    grpc.StatusCode.NOT_FOUND: Exit.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS: Exit.CONFLICT,
    grpc.StatusCode.FAILED_PRECONDITION: Exit.CONFLICT,
    grpc.StatusCode.ABORTED: Exit.CONFLICT,
}
NEXT_BY_REASON = {
    "LOGIN_FAILED": "check e-mail address and password",
    "LOGIN_THROTTLED": "wait a minute before the next attempt",
    "TOKEN_REVOKED": "run `aiops login`",
    "MODEL_NOT_FOUND": "see the models with `aiops models ls`",
    "MODEL_IN_USE": "stop its deployments first: `aiops deployments ls`, `aiops deployments stop ID`",
    "MODEL_EXISTS": "choose another --name, add --new-revision, or delete the other model: `aiops models delete NAME`",
    "NODE_NOT_FOUND": "see the nodes with `aiops nodes ls`",
    "NODE_OFFLINE": "start its agent, or choose another node: `aiops nodes ls`",
    "NODE_IN_USE": "stop its deployments first, or add --force",
    "JOIN_TOKEN_INVALID": "make a new one: `aiops nodes join-token NODE`",
    "NO_PLACEMENT": "see each node's reason with `aiops deploy MODEL --dry-run`",
    "PORT_IN_USE": "choose another --port, or leave it to the node",
    "DEPLOYMENT_NOT_FOUND": "see the deployments with `aiops deployments ls`",
}
NEXT_BY_CODE = {
    grpc.StatusCode.UNAVAILABLE: "start it with `aiops up`, or set AIOPS_URL to where it runs",
    grpc.StatusCode.UNAUTHENTICATED: "run `aiops login`",
    grpc.StatusCode.PERMISSION_DENIED: "ask an owner of the organisation for a role that may do this",
    grpc.StatusCode.DEADLINE_EXCEEDED: "try again; if it stays slow, look at `aiops status`",
}


def explain(error: grpc.RpcError, url: str) -> CliError:
    """The error as the user should see it."""
    code = error.code()
    message = error.details() or code.name.lower().replace("_", " ")
    reason, violations = _details(error)
    if code is grpc.StatusCode.UNAVAILABLE and not reason:
        message = f"nothing answers at {url} ({message})"
    why = [f"reason: {reason}"] if reason else []
    return CliError(
        what=message,
        code=CODES.get(code, Exit.FAILED),
        why=(*why, *violations),
        next_step=NEXT_BY_REASON.get(reason) or NEXT_BY_CODE.get(code, ""),
    )


def _details(error: grpc.RpcError) -> tuple[str, list[str]]:
    """The reason and the field violations of the google.rpc.Status, where the answer has one."""
    from google.rpc.error_details_pb2 import BadRequest, ErrorInfo

    reason, violations = "", []
    status = _status(error)
    for detail in status.details if status is not None else ():
        info, bad = ErrorInfo(), BadRequest()
        if detail.Unpack(info):
            reason = info.reason
        elif detail.Unpack(bad):
            violations = [f"{violation.field}: {violation.description}" for violation in bad.field_violations]
    return reason, violations


def _status(error: grpc.RpcError) -> "Status | None":
    from grpc_status import rpc_status

    try:
        status: Status | None = rpc_status.from_call(error)
    except (ValueError, AttributeError):
        return None
    return status
