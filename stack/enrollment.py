"""Gives an embedded node its certificate: registers it as the admin, then lets its agent join.

`enroll` runs in the supervisor and only starts short processes; `python -m stack.enrollment` is the one that registers.
"""

import asyncio
import json
import sys
from asyncio.subprocess import DEVNULL, STDOUT
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from stack import logs
from stack.home import Home
from stack.service import StepFailedError
from stack.settings import admin_password

ADMIN_EMAIL = "admin@localhost"
IDENTITY = "node.json"
CALL_TIMEOUT_S = 15.0


class EnrollmentError(StepFailedError):
    """A node could not join; its log says why."""


async def enroll(name: str, home: Home, environment: Mapping[str, str]) -> None:
    """Let the node join if it never has. Raises EnrollmentError."""
    directory = home.node(name)
    directory.mkdir(mode=0o700, exist_ok=True)
    if _is_enrolled(directory / IDENTITY):
        return
    addresses = (environment["AIOPS_CONTROLLER_API"], environment["AIOPS_CONTROLLER_JOIN"])
    command = [sys.executable, "-m", "stack.enrollment", name, str(home.root), *addresses]
    with logs.open_log(home.log(name)) as log:
        child = await asyncio.create_subprocess_exec(
            *command, env=dict(environment), stdin=DEVNULL, stdout=log, stderr=STDOUT, cwd=home.run
        )
        code = await child.wait()
    if code != 0:
        raise EnrollmentError(f"{name} could not join (exit code {code}); see {home.log(name)}")


def _is_enrolled(identity: Path) -> bool:
    """Whether the node has a certificate that the agent can still renew."""
    try:
        expires_at = datetime.fromisoformat(json.loads(identity.read_text())["expires_at"])
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return expires_at > datetime.now(UTC)


async def register(name: str, api: str, password: str) -> str:
    """Register a local node as the admin; answers its one-use token."""
    import grpc
    from aiops.iam.v1 import auth_service_pb2, auth_service_pb2_grpc
    from aiops.nodes.v1 import node_service_pb2, node_service_pb2_grpc

    async with grpc.aio.insecure_channel(api) as channel:
        login = auth_service_pb2.LoginRequest(email=ADMIN_EMAIL, password=password)
        answer = await auth_service_pb2_grpc.AuthServiceStub(channel).Login(login, timeout=CALL_TIMEOUT_S)
        request = node_service_pb2.RegisterNodeRequest(name=name, is_local=True, request_id=f"embedded-{name}")
        registered = await node_service_pb2_grpc.NodeServiceStub(channel).RegisterNode(
            request,
            timeout=CALL_TIMEOUT_S,
            metadata=(("authorization", f"Bearer {answer.tokens.access_token}"),),
        )
    return str(registered.join_token)


def _register_and_join(name: str, home: Home, api: str, join: str) -> int:
    """Register, then do what the agent's own join command does, with the agent's settings in the environment."""
    from node_agent.__main__ import main as node_agent

    token = asyncio.run(register(name, api, admin_password(home.admin_password)))
    # The controller is on this machine: its own listener is there before the gateway's.
    return node_agent(["join", "--controller", f"https://{join}", "--token", token])


if __name__ == "__main__":
    sys.exit(_register_and_join(sys.argv[1], Home(Path(sys.argv[2])), sys.argv[3], sys.argv[4]))
