"""One model on many nodes: how much of it the object storage is asked for, and how long it takes.

`python -m benchmarks.distribution [--nodes N] [--megabytes N]`. Nodes with caches of their own and their real servers,
over mutual TLS on loopback, in one process; storage is a local directory. Side by side: the same nodes without each
other, as a fleet is that fetches from storage alone. Last line: nodes, storage_reads and alone_reads (in sizes of the
model), seconds.
"""

import argparse
import asyncio
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from functools import partial
from pathlib import Path

from mesh.clock import SystemClock
from mesh.pki import SpiffeId, create_request, ensure_authority
from mesh.rpc.channel import ClientTls
from mesh.settings import Observability
from mesh.telemetry import Telemetry, start_telemetry
from node_agent.cache.blobs import BlobStore
from node_agent.cache.model import Artifact, ArtifactFile
from node_agent.cache.service import ModelCache
from node_agent.peers.neighbours import Neighbours, Peer
from node_agent.peers.server import PeerServer

CHUNK = 8 * 1024 * 1024


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=8)
    parser.add_argument("--megabytes", type=int, default=256)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="aiops-bench-") as directory:
        asyncio.run(measure(Path(directory), arguments.nodes, arguments.megabytes * 1024 * 1024))


async def measure(home: Path, count: int, size: int) -> None:
    """Brings one file to every node, without each other and with."""
    artifact = store(home / "objects", size)
    telemetry = start_telemetry("bench", Observability(metrics_port=None))
    try:
        alone = [ModelCache(BlobStore(home / "alone" / str(number))) for number in range(count)]
        alone_s = await obtain(alone, artifact)
        async with AsyncExitStack() as stack:
            together = await nodes(stack, home, count, telemetry)
            together_s = await obtain(together, artifact)
    finally:
        telemetry.shutdown()
    reads = {
        name: sum(each.tally.from_storage for each in caches) / size
        for name, caches in (("alone", alone), ("together", together))
    }
    for name, seconds in (("alone", alone_s), ("together", together_s)):
        print(f"{count} nodes, {size / 1e6:.0f} MB, {name}: storage read {reads[name]:.2f} times, {seconds:.1f} s")
    print(f"storage is read {reads['alone'] / reads['together']:.1f} times less")
    figures = {"nodes": count, "storage_reads": round(reads["together"], 2), "alone_reads": round(reads["alone"], 2)}
    print(json.dumps(figures | {"seconds": round(together_s, 1)}))


def store(folder: Path, size: int) -> Artifact:
    """A file of random bytes in object storage."""
    folder.mkdir()
    whole, chunks = hashlib.sha256(), b""
    with (folder / "weights").open("wb") as file:
        for start in range(0, size, CHUNK):
            content = os.urandom(min(CHUNK, size - start))
            file.write(content)
            whole.update(content)
            chunks += hashlib.sha256(content).digest()
    return Artifact(folder.as_uri(), (ArtifactFile("weights", size, whole.hexdigest(), CHUNK, chunks),))


async def nodes(stack: AsyncExitStack, home: Path, count: int, telemetry: Telemetry) -> list[ModelCache]:
    """Nodes that offer what they have to each other."""
    servers: dict[str, PeerServer] = {}
    caches = []
    for number in range(count):
        name = f"node-{number}"
        tls = certificate(home / "pki", name)
        server = servers[name] = PeerServer("127.0.0.1", 0, tls, SystemClock())
        around = Neighbours(name, partial(peers, servers, name), server.start, tls)
        stack.push_async_callback(around.aclose)
        caches.append(ModelCache(BlobStore(home / name), around, SystemClock()))
        await stack.enter_async_context(server.offering(caches[-1], telemetry))
    return caches


async def peers(servers: dict[str, PeerServer], own: str, model_id: str, offered_at: str) -> Sequence[Peer]:
    """What the controller answers."""
    return [Peer(name, server.address) for name, server in servers.items() if name != own and server.address]


def certificate(pki: Path, name: str) -> ClientTls:
    """A node's certificate, as joining issues it."""
    authority, request = ensure_authority(pki), create_request()
    issued = authority.issue_from_request(request.der, SpiffeId("node", name), timedelta(hours=1), (name,))
    (pki / f"{name}.crt").write_bytes(issued.pem)
    (pki / f"{name}.key").write_bytes(request.key_pem)
    return ClientTls(pki / "ca.crt", pki / f"{name}.crt", pki / f"{name}.key")


async def obtain(caches: list[ModelCache], artifact: Artifact) -> float:
    """Brings the file to every node at once; the seconds that took."""
    began = time.monotonic()
    await asyncio.gather(*(each.obtain(artifact, lambda _: None, "model") for each in caches))
    return time.monotonic() - began


if __name__ == "__main__":
    main()
