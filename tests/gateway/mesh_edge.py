"""A whole edge for tests: real Envoy, the real gateway service as a process, real tokens, feeds of the test's own."""

import asyncio
import base64
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

from aiops.iam.v1 import auth_service_pb2
from aiops.routing.v1 import routing_service_pb2 as routing
from gateway.edge import bootstrap
from mesh.clock import SystemClock
from mesh.pki import ensure_authority, issue_service
from mesh.tokens import TokenTrust, TokenVerifier
from stack.envoy import Envoy
from stack.ports import free_port
from tests.fakes.control_plane import ControlPlane, controller, router
from tests.fakes.engine_http import Engine

ORG, OTHER_ORG = "org-one", "org-two"
ROOT = Path(__file__).resolve().parents[2]


@dataclass(slots=True)
class Issuer:
    """Signs tokens as the controller does."""

    key: rsa.RSAPrivateKey = field(default_factory=lambda: rsa.generate_private_key(65537, 2048))
    kid: str = "k1"

    def token(self, *, org: str = ORG, key: Any = None, algorithm: str = "RS256", **claims: Any) -> str:
        now = int(time.time())
        payload = {
            "iss": "aiops",
            "aud": "aiops",
            "sub": "user-1",
            "org": org,
            "roles": ["organization.owner"],
            "typ": "access",
        }
        payload |= {"permissions": [], "rate_limits": {}, "jti": "jti-1", "iat": now, "nbf": now, "exp": now + 900}
        return jwt.encode(payload | claims, key or self.key, algorithm, headers={"kid": self.kid})

    def jwk(self) -> auth_service_pb2.JsonWebKey:
        numbers = self.key.public_key().public_numbers()
        return auth_service_pb2.JsonWebKey(
            kty="RSA", kid=self.kid, use="sig", alg="RS256", n=_b64(numbers.n), e=_b64(numbers.e)
        )


@dataclass(slots=True)
class Edge:
    """The running edge."""

    home: Path
    plane: ControlPlane
    issuer: Issuer
    client: httpx.AsyncClient
    port: int
    admin_port: int
    xds_port: int
    verifier: TokenVerifier
    version: int = 0
    gateway: asyncio.subprocess.Process | None = None
    controller: AsyncExitStack | None = None
    router: AsyncExitStack | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def bearer(self, **claims: Any) -> dict[str, str]:
        return {"authorization": f"Bearer {self.issuer.token(**claims)}"}

    async def route(self, *routes: routing.ModelRoute) -> None:
        """Publishes a routing table."""
        self.version += 1
        await self.plane.table.set(routing.RoutingTable(version=self.version, routes=routes))

    async def chat(
        self, model: str = "tiny", text: str = "hi", *, headers: dict[str, str] | None = None, **more: Any
    ) -> httpx.Response:
        body = {"model": model, "messages": [{"role": "user", "content": text}], **more}
        return await self.client.post("/v1/chat/completions", json=body, headers=headers or self.bearer())

    async def until(self, condition: Callable[[], Any], *, seconds: float = 5.0) -> float:
        """Waits until an awaitable condition holds; answers how long that took."""
        started = time.monotonic()
        async with asyncio.timeout(seconds):
            while not await condition():
                await asyncio.sleep(0.01)
        return time.monotonic() - started

    async def until_chat(self, status: int, model: str = "tiny", *, seconds: float = 5.0) -> float:
        """Waits until a chat answers with this status; answers how long that took."""

        async def answered() -> bool:
            return (await self.chat(model)).status_code == status

        return await self.until(answered, seconds=seconds)

    async def stat(self, name: str) -> int:
        """A counter of Envoy."""
        async with httpx.AsyncClient() as admin:
            text = (await admin.get(f"http://127.0.0.1:{self.admin_port}/stats?filter=^{name}$")).text
        return int(text.rpartition(": ")[2] or 0)

    async def start_gateway(self) -> None:
        environment = {
            "AIOPS_HOME": str(self.home),
            "AIOPS_PORT": str(self.port),
            "AIOPS_XDS": f"127.0.0.1:{self.xds_port}",
            "AIOPS_CONTROLLER_API": self.plane.api,
            "AIOPS_CONTROLLER_MESH": self.plane.controller_mesh,
            "AIOPS_ROUTER_MESH": self.plane.router_mesh,
            "AIOPS_ROUTE_LINGER_SECONDS": "1",
            "PYTHONPATH": f"{ROOT}:{ROOT / 'gen'}",
        }
        with (self.home / "gateway.log").open("ab") as log:
            self.gateway = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "gateway", env=environment, stderr=log, cwd=ROOT
            )

    async def stop_gateway(self, *, kill: bool = False) -> int:
        assert self.gateway is not None
        self.gateway.kill() if kill else self.gateway.terminate()
        return await self.gateway.wait()

    async def start_controller(self) -> None:
        self.controller = AsyncExitStack()
        await self.controller.enter_async_context(controller(self.plane, self.home / "pki", self.verifier))

    async def stop_controller(self) -> None:
        assert self.controller is not None
        await self.controller.aclose()

    async def start_router(self) -> None:
        self.router = AsyncExitStack()
        await self.router.enter_async_context(router(self.plane, self.home / "pki"))

    async def stop_router(self) -> None:
        assert self.router is not None
        await self.router.aclose()

    async def revoke(self, *token_ids: str) -> None:
        """Publishes the key and a revocation list."""
        await self.plane.trust.set(
            auth_service_pb2.WatchTokenTrustResponse(keys=[self.issuer.jwk()], revoked_token_ids=token_ids)
        )


@asynccontextmanager
async def running_edge(home: Path) -> AsyncIterator[Edge]:
    """Everything up and serving, with no models."""
    issuer, port = Issuer(), free_port()
    verifier = TokenVerifier(SystemClock(), TokenTrust({issuer.kid: issuer.key.public_key()}))
    client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10, trust_env=False)
    edge = Edge(home, ControlPlane(), issuer, client, port, free_port(), free_port(), verifier)
    ensure_authority(home / "pki")
    for name in ("controller", "inference_router", "gateway"):
        issue_service(home / "pki", name)
    await edge.revoke()
    await edge.route()
    await edge.start_controller()
    await edge.start_router()
    await edge.start_gateway()
    config = home / "envoy.json"
    config.write_text(bootstrap.render(xds=f"127.0.0.1:{edge.xds_port}", admin=f"127.0.0.1:{edge.admin_port}"))
    envoy = Envoy(config, port, edge.admin_port)
    with (home / "envoy.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *envoy.command(), env=envoy.environment(), stdout=log, stderr=log
        )
    try:
        await edge.until(envoy.healthy, seconds=20)
        yield edge
    finally:
        process.kill()
        await process.wait()
        if edge.gateway is not None and edge.gateway.returncode is None:
            await edge.stop_gateway()
        for part in (edge.controller, edge.router):
            assert part is not None
            await part.aclose()
        await client.aclose()


def model_route(
    *engines: Engine, model: str = "tiny", org: str = ORG, refused: Sequence[routing.RefusedField] = ()
) -> routing.ModelRoute:
    """A model with one target per engine."""
    targets = [
        routing.Target(
            deployment_id=engine.name, instance_id=engine.name, node_id="n", address="127.0.0.1", port=engine.port,
            inference_path="/v1/chat/completions", weight=1,
        )
        for engine in engines
    ]  # fmt: skip
    return routing.ModelRoute(org_id=org, model=model, targets=targets, refused_fields=refused, created=1_700_000_000)


def _b64(number: int) -> str:
    return base64.urlsafe_b64encode(number.to_bytes((number.bit_length() + 7) // 8, "big")).rstrip(b"=").decode()
