"""Of several addresses one is used until it fails; then the next has its turn."""

from collections.abc import AsyncIterable
from contextlib import AsyncExitStack, aclosing
from pathlib import Path

import grpc
import pytest
from aiops.deployments.v1 import deployment_service_pb2 as pb
from aiops.deployments.v1.deployment_service_pb2_grpc import ReplicaServiceStub

from mesh.clock import SystemClock
from mesh.pki import issue_service
from mesh.rpc.addresses import Addresses, follow
from mesh.rpc.authenticator import PeerAuthenticator
from mesh.rpc.channel import ClientTls
from mesh.rpc.server import Listener, ServerTls, serve
from mesh.telemetry import Telemetry
from stack.ports import free_port
from tests.fakes.control_plane import Feed
from tests.fakes.replicas import Replicas


def watch(channel: grpc.aio.Channel) -> AsyncIterable[pb.WatchReplicasResponse]:
    return ReplicaServiceStub(channel).WatchReplicas(pb.WatchReplicasRequest())


def test_a_list_has_its_turns_and_an_empty_one_is_refused() -> None:
    addresses = Addresses(" a:1, b:2 ,")
    seen = []
    for _ in range(3):
        seen.append(addresses.now)
        addresses.turn()
    assert seen == ["a:1", "b:2", "a:1"]
    with pytest.raises(ValueError, match="no address"):
        Addresses(" , ")


async def test_a_stream_goes_on_at_the_next_address(tmp_path: Path, telemetry: Telemetry) -> None:
    certificate, key = issue_service(tmp_path, "controller")
    tls = ClientTls(tmp_path / "ca.crt", certificate, key)
    feed = Feed(pb.WatchReplicasResponse(replicas=[pb.Replica(deployment_id="dep-1")]))
    async with AsyncExitStack() as stack:
        listener = Listener("127.0.0.1:0", ServerTls(certificate, key, tmp_path / "ca.crt"))
        authenticator = PeerAuthenticator(SystemClock())
        server = await stack.enter_async_context(
            serve([listener], [Replicas(feed)], authenticator, telemetry.rpc, grace=0)
        )
        addresses = Addresses(f"127.0.0.1:{free_port()},127.0.0.1:{server.ports[0]}")
        with pytest.raises(grpc.aio.AioRpcError):
            await anext(follow(addresses, tls, watch))
        async with aclosing(follow(addresses, tls, watch)) as messages:
            assert (await anext(messages)).replicas[0].deployment_id == "dep-1"
    assert not addresses.now.endswith(f":{server.ports[0]}")
