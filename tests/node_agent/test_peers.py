"""Nodes give each other files over mutual TLS, to nodes alone, and nobody passes for the node that was asked."""

import hashlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import grpc
import pytest
from aiops.nodes.v1 import node_peer_service_pb2 as pb
from aiops.nodes.v1.node_peer_service_pb2_grpc import NodePeerServiceStub

from mesh.clock import SystemClock
from mesh.pki import SpiffeId, create_request, ensure_authority, issue_service
from mesh.rpc.channel import ClientTls, open_channel
from mesh.telemetry import Telemetry
from node_agent.cache.blobs import BlobStore
from node_agent.cache.model import Artifact, ArtifactFile
from node_agent.cache.service import ModelCache
from node_agent.cache.swarm import Holding, NeighbourError
from node_agent.peers.neighbours import Neighbours, Peer
from node_agent.peers.server import PeerServer, address_towards

CONTENT = os.urandom(3 * 1024 * 1024 + 17)
CHUNK = 1024 * 1024
FILE = ArtifactFile(
    "weights",
    len(CONTENT),
    hashlib.sha256(CONTENT).hexdigest(),
    CHUNK,
    b"".join(hashlib.sha256(CONTENT[start : start + CHUNK]).digest() for start in range(0, len(CONTENT), CHUNK)),
)


@dataclass
class Offer:
    """A node that has the file, and how others see it."""

    pki: Path
    server: PeerServer
    cache: ModelCache

    def tls(self, node_id: str) -> ClientTls:
        """The certificate of a node, as joining issues it."""
        request = create_request()
        authority = ensure_authority(self.pki)
        issued = authority.issue_from_request(
            request.der, SpiffeId("node", node_id), timedelta(hours=1), hosts=(node_id,)
        )
        certificate, key = self.pki / f"{node_id}.crt", self.pki / f"{node_id}.key"
        certificate.write_bytes(issued.pem)
        key.write_bytes(request.key_pem)
        return ClientTls(self.pki / "ca.crt", certificate, key)


@pytest.fixture
async def offer(tmp_path: Path, telemetry: Telemetry) -> AsyncIterator[Offer]:
    objects = tmp_path / "objects"
    objects.mkdir()
    (objects / "weights").write_bytes(CONTENT)
    cache = ModelCache(BlobStore(tmp_path / "cache"))
    artifact = Artifact(objects.as_uri(), (FILE,))
    cache.hold(artifact)
    await cache.obtain(artifact, lambda _: None)
    offer = Offer(tmp_path / "pki", PeerServer("127.0.0.1", 0, ClientTls(Path()), SystemClock()), cache)
    offer.server = PeerServer("127.0.0.1", 0, offer.tls("node-a"), SystemClock())
    async with offer.server.offering(cache, telemetry):
        yield offer


async def neighbours(offer: Offer, node_id: str = "node-b", named: str = "node-a") -> Neighbours:
    """What a node is told of the one that offers."""
    address = await offer.server.start()

    async def ask(model_id: str, offered_at: str) -> list[Peer]:
        assert (model_id, offered_at) == ("model-1", "here:1")
        return [Peer(named, address)]

    async def offered_at() -> str:
        return "here:1"

    return Neighbours(node_id, ask, offered_at, offer.tls(node_id))


async def test_a_node_reads_chunks_from_another(offer: Offer) -> None:
    found = await neighbours(offer)
    (other,) = await found.find("model-1")
    assert await other.holding(FILE) == Holding(complete=True)
    assert b"".join([await other.read(FILE, index) for index in range(FILE.chunk_count)]) == CONTENT
    unknown = ArtifactFile("other", 5, "0" * 64, 5, b"0" * 32)
    assert await other.holding(unknown) is None
    with pytest.raises(NeighbourError, match="does not have the chunk"):
        await other.read(unknown, 0)
    await found.aclose()


async def test_a_node_that_is_not_the_one_it_was_named_gives_nothing(offer: Offer) -> None:
    found = await neighbours(offer, named="node-c")
    (other,) = await found.find("model-1")
    with pytest.raises(NeighbourError, match="UNAVAILABLE"):
        await other.holding(FILE)
    await found.aclose()


async def test_services_and_strangers_get_nothing(offer: Offer) -> None:
    address = await offer.server.start()
    named = (("grpc.ssl_target_name_override", "node-a"),)
    certificate, key = issue_service(offer.pki, "gateway")
    request = pb.ListChunksRequest(sha256=FILE.sha256)
    for tls, code in (
        (ClientTls(offer.pki / "ca.crt", certificate, key), grpc.StatusCode.PERMISSION_DENIED),
        (ClientTls(offer.pki / "ca.crt"), grpc.StatusCode.UNAVAILABLE),
    ):
        async with open_channel(address, tls, options=named) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await NodePeerServiceStub(channel).ListChunks(request, timeout=5)
        assert refused.value.code() is code


async def test_nothing_is_offered_where_that_is_turned_off(tmp_path: Path, telemetry: Telemetry) -> None:
    server = PeerServer("127.0.0.1", 0, ClientTls(tmp_path), SystemClock(), enabled=False)
    async with server.offering(ModelCache(BlobStore(tmp_path)), telemetry):
        assert await server.start() == ""


def test_a_node_without_an_address_offers_at_the_one_that_it_reaches_the_controller_from() -> None:
    assert address_towards("127.0.0.1:7081") == "127.0.0.1"
    assert address_towards("nowhere") == "127.0.0.1"
