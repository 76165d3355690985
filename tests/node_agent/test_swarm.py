"""Many nodes that want a model read the storage about once, and no neighbour can harm them."""

import asyncio
import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mesh.clock import SystemClock
from node_agent.cache.blobs import BlobStore
from node_agent.cache.model import Artifact, ArtifactFile, ChecksumMismatchError, StorageUnavailableError
from node_agent.cache.partial import PartialFile
from node_agent.cache.service import ModelCache
from node_agent.cache.storage import Storage
from node_agent.cache.swarm import Holding, Neighbour, NeighbourError, Swarm

CHUNK = 64 * 1024
CHUNKS = 40


def file_of(content: bytes, path: str = "weights") -> ArtifactFile:
    pieces = [content[start : start + CHUNK] for start in range(0, len(content), CHUNK)]
    chunks = b"".join(hashlib.sha256(piece).digest() for piece in pieces)
    return ArtifactFile(path, len(content), hashlib.sha256(content).hexdigest(), CHUNK, chunks)


@dataclass
class Network:
    """Nodes in one process; what one reads from another can be made to fail."""

    homes: Path
    storage: "CountingStorage"
    nodes: dict[str, ModelCache] = field(default_factory=dict)
    tampered: dict[str, Callable[[bytes], bytes]] = field(default_factory=dict)
    dead: set[str] = field(default_factory=set)

    def node(self, name: str) -> ModelCache:
        if name not in self.nodes:
            self.nodes[name] = ModelCache(
                BlobStore(self.homes / name), _Around(self, name), SystemClock(), self.storage
            )
        return self.nodes[name]


@dataclass
class _Around:
    network: Network
    node_id: str

    async def find(self, model_id: str) -> Sequence[Neighbour]:
        return [_Near(self.network, name) for name in self.network.nodes if name != self.node_id]


@dataclass
class _Near:
    network: Network
    node_id: str

    async def holding(self, file: ArtifactFile) -> Holding | None:
        if self.node_id in self.network.dead:
            raise NeighbourError("nobody answers")
        return self.network.nodes[self.node_id].holding(file.sha256)

    async def read(self, file: ArtifactFile, index: int) -> bytes:
        if self.node_id in self.network.dead:
            raise NeighbourError("the connection was cut")
        read = self.network.nodes[self.node_id].reader(file.sha256, *file.chunk(index))
        if read is None:
            raise NeighbourError("it does not have it")
        content = await asyncio.to_thread(read)
        return self.network.tampered.get(self.node_id, bytes)(content)


class CountingStorage(Storage):
    """Counts what is read from it."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    async def read(self, url: str, file: ArtifactFile, offset: int, length: int) -> bytes:
        content = await super().read(url, file, offset, length)
        self.sizes.append(len(content))
        return content


@pytest.fixture
def storage() -> CountingStorage:
    return CountingStorage()


@pytest.fixture
def network(tmp_path: Path, storage: CountingStorage) -> Network:
    return Network(tmp_path / "nodes", storage)


@pytest.fixture
def content() -> bytes:
    return os.urandom(CHUNKS * CHUNK - 100)


@pytest.fixture
def artifact(tmp_path: Path, content: bytes) -> Artifact:
    folder = tmp_path / "objects"
    folder.mkdir()
    (folder / "weights").write_bytes(content)
    return Artifact(folder.as_uri(), (file_of(content),))


async def obtain(cache: ModelCache, artifact: Artifact) -> bytes:
    cache.hold(artifact)
    await cache.obtain(artifact, lambda percent: None, "model-1")
    folder = await cache.lay_out(artifact)
    return (folder / "weights").read_bytes()


async def test_eight_nodes_read_the_storage_about_once(
    network: Network, storage: CountingStorage, artifact: Artifact, content: bytes
) -> None:
    caches = [network.node(f"node-{number}") for number in range(8)]
    brought = await asyncio.gather(*(obtain(cache, artifact) for cache in caches))
    assert brought == [content] * 8
    assert sum(storage.sizes) < 1.5 * len(content)


async def test_a_node_that_comes_later_reads_nothing_from_the_storage(
    network: Network, storage: CountingStorage, artifact: Artifact, content: bytes
) -> None:
    await obtain(network.node("first"), artifact)
    before = len(storage.sizes)
    assert await obtain(network.node("second"), artifact) == content
    assert len(storage.sizes) == before


async def test_a_neighbour_that_lies_is_found_out_and_not_asked_again(
    network: Network, artifact: Artifact, content: bytes, tmp_path: Path
) -> None:
    await obtain(network.node("liar"), artifact)
    network.tampered["liar"] = lambda _: b"x" * CHUNK
    swarm = await fetched(network, artifact, tmp_path)
    assert swarm.tally.wrong.count("liar") <= 2  # two chunks may be asked of it at the same time
    assert swarm.tally.from_neighbours == 0
    assert swarm.tally.from_storage == len(content)


async def fetched(network: Network, artifact: Artifact, home: Path) -> Swarm:
    partial = PartialFile(BlobStore(home / "own"), artifact.files[0])
    swarm = Swarm(
        partial, artifact.url, "model-1", _Around(network, "own"), lambda _: None, SystemClock(), network.storage
    )
    await swarm.run()
    return swarm


async def test_a_neighbour_that_is_gone_holds_nobody_up(
    network: Network, artifact: Artifact, content: bytes, tmp_path: Path
) -> None:
    await obtain(network.node("gone"), artifact)
    network.dead.add("gone")
    assert (await fetched(network, artifact, tmp_path)).tally.from_storage == len(content)


async def test_a_neighbour_that_should_read_a_chunk_and_does_not_is_not_waited_for_long(
    network: Network, artifact: Artifact, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node_agent.cache.swarm.PATIENCE_S", 0.3)
    stuck = network.node("stuck")
    # It says that it is fetching, and never gets any further.
    monkeypatch.setattr(stuck, "holding", lambda sha256: Holding(complete=False, chunks=frozenset({0})))
    monkeypatch.setattr(stuck, "reader", lambda *_: None)
    assert await obtain(network.node("other"), artifact) == content


async def test_a_fetch_goes_on_where_it_was_cut_off(
    network: Network, storage: CountingStorage, artifact: Artifact, content: bytes, tmp_path: Path
) -> None:
    file, store = artifact.files[0], BlobStore(tmp_path / "own")
    begun = PartialFile(store, file)
    begun.open()
    for index in (0, 7, 39):
        offset, length = file.chunk(index)
        assert begun.write(index, content[offset : offset + length])
    begun_but_wrong = store.partial(file)
    with begun_but_wrong.open("r+b") as opened:
        opened.seek(20 * CHUNK)
        opened.write(b"what a broken disk left")
    swarm = await fetched(network, artifact, tmp_path)
    assert (
        swarm.tally.from_storage == sum(storage.sizes) == len(content) - sum(file.chunk(each)[1] for each in (0, 7, 39))
    )


async def test_a_storage_with_another_file_is_told_by_the_first_chunks(
    network: Network, artifact: Artifact, tmp_path: Path
) -> None:
    (tmp_path / "objects" / "weights").write_bytes(os.urandom(artifact.files[0].size_bytes))
    with pytest.raises(ChecksumMismatchError, match="import the model again"):
        await obtain(network.node("node"), artifact)


async def test_without_storage_and_neighbours_the_fetch_ends_and_says_so(
    network: Network, artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node_agent.cache.swarm._PAUSE_S", 0)
    (tmp_path / "objects" / "weights").unlink()
    with pytest.raises(StorageUnavailableError, match="has no weights"):
        await obtain(network.node("node"), artifact)


async def test_chunks_that_do_not_make_the_file_are_not_kept(
    network: Network, artifact: Artifact, tmp_path: Path
) -> None:
    file = artifact.files[0]
    other = ArtifactFile(file.path, file.size_bytes, "0" * 64, file.chunk_bytes, file.chunk_sha256s)
    with pytest.raises(ChecksumMismatchError, match="the chunks of weights make a file"):
        await obtain(network.node("node"), Artifact(artifact.url, (other,)))
    assert not (tmp_path / "nodes" / "node" / "blobs" / other.sha256).exists()
