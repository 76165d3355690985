"""A node without credentials reads at addresses that the controller signs, and tells nobody what they are."""

import asyncio
import hashlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest

from mesh.rpc.addresses import Addresses
from node_agent.cache.addresses import Signed
from node_agent.cache.blobs import BlobStore
from node_agent.cache.model import Artifact, ArtifactFile, FileMissingError, StorageUnavailableError
from node_agent.cache.service import ModelCache
from node_agent.cache.storage import Storage
from node_agent.cache.swarm import ALONE
from node_agent.enrollment.identity import IdentityStore
from node_agent.session.signing import Signer
from tests.fakes.bucket import Bucket, running_bucket
from tests.fakes.clock import ManualClock
from tests.fakes.controller import FakeController
from tests.fixtures.node_agent import AgentProcess

URL = "s3://models/below"
CHUNK = 512 * 1024


@dataclass
class Authority:
    """Signs addresses, each with a signature of its own, which the bucket takes until told otherwise."""

    bucket: Bucket
    lifetime: timedelta = timedelta(minutes=15)
    worthless: bool = False
    signed: list[str] = field(default_factory=list)

    async def sign(self, file: ArtifactFile) -> Signed:
        signature = f"secret{len(self.signed)}"
        self.signed.append(file.sha256)
        if not self.worthless:
            self.bucket.good.add(signature)
        return Signed(self.bucket.address(file.key, signature), self.lifetime)


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    with running_bucket() as bucket:
        yield bucket


@pytest.fixture
def authority(bucket: Bucket) -> Authority:
    return Authority(bucket)


@pytest.fixture
def content() -> bytes:
    return os.urandom(5 * CHUNK - 7)


@pytest.fixture
def file(bucket: Bucket, content: bytes) -> ArtifactFile:
    bucket.objects["blobs/1/weights"] = content
    chunks = [content[start : start + CHUNK] for start in range(0, len(content), CHUNK)]
    digests = b"".join(hashlib.sha256(chunk).digest() for chunk in chunks)
    sha256 = hashlib.sha256(content).hexdigest()
    return ArtifactFile("weights", len(content), sha256, CHUNK, digests, object="blobs/1/weights")


def whole(file: ArtifactFile) -> ArtifactFile:
    """The same file without chunks, which is fetched in one piece."""
    return ArtifactFile(file.path, file.size_bytes, file.sha256, object=file.object)


async def obtain(storage: Storage, file: ArtifactFile, home: Path) -> bytes:
    cache, artifact = ModelCache(BlobStore(home), ALONE, storage=storage), Artifact(URL, (file,))
    cache.hold(artifact)
    await cache.obtain(artifact, lambda percent: None)
    return (await cache.lay_out(artifact) / file.path).read_bytes()


async def test_one_address_serves_for_every_chunk_of_a_file(
    authority: Authority, file: ArtifactFile, content: bytes, tmp_path: Path
) -> None:
    storage = Storage(authority.sign)
    assert await obtain(storage, file, tmp_path / "chunks") == content
    assert await obtain(storage, whole(file), tmp_path / "whole") == content
    assert authority.signed == [file.sha256]


async def test_an_address_that_ends_during_a_download_is_replaced(
    authority: Authority, bucket: Bucket, file: ArtifactFile, content: bytes, tmp_path: Path
) -> None:
    clock = ManualClock()
    storage = Storage(authority.sign, clock)
    assert await storage.read(URL, file, 0, 10) == content[:10]
    # The clocks agree: the node asks before the end.
    clock.advance(timedelta(minutes=13))
    assert await storage.read(URL, file, 10, 10) == content[10:20]
    assert bucket.asked == ["secret0", "secret1"]
    # They do not, and the storage refuses first; a long file is cut off besides.
    bucket.good.clear()
    bucket.cut_after, bucket.cuts = CHUNK // 2, 1
    assert await obtain(storage, whole(file), tmp_path) == content
    assert bucket.asked[2:] == ["secret1", "secret2", "secret2"]
    bucket.good.clear()
    (tmp_path / "chunks").mkdir()
    assert await obtain(storage, file, tmp_path / "chunks") == content
    assert len(authority.signed) == 4


async def test_a_storage_that_refuses_each_address_is_asked_so_often_and_no_secret_is_told(
    authority: Authority, file: ArtifactFile, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    authority.worthless = True
    in_chunks, in_one = await asyncio.gather(
        obtain(Storage(authority.sign), file, tmp_path / "chunks"),
        obtain(Storage(authority.sign), whole(file), tmp_path / "whole"),
        return_exceptions=True,
    )
    for refused in in_chunks, in_one:
        assert isinstance(refused, StorageUnavailableError)
        assert refused.message == (
            f"cannot fetch weights from {URL}: 403 AccessDenied, Request has expired; "
            "do the clocks of controller and storage agree?"
        )
        assert refused.metadata == {"url": URL, "path": "weights"}
    # Each is tried four times; chunks are read three at once.
    assert 8 <= len(authority.signed) <= 16
    assert "secret" not in caplog.text
    assert "secret" not in repr(await authority.sign(file))


@pytest.mark.parametrize("trouble", ["gone", "no ranges", "cut", "broken", "nobody there", "no address"])
async def test_other_troubles_are_told_without_the_address(
    authority: Authority, bucket: Bucket, file: ArtifactFile, content: bytes, trouble: str
) -> None:
    storage = Storage(authority.sign)
    match trouble:
        case "gone":
            bucket.objects.clear()
        case "no ranges":
            bucket.knows_ranges = False
        case "cut":
            bucket.cut_after, bucket.cuts = 3, 1
        case "broken":
            bucket.status = 500
        case "nobody there":
            storage = Storage(lambda file: _signed("http://127.0.0.1:1/weights?X-Amz-Signature=secret"))
        case "no address":
            storage = Storage(lambda file: _signed("file:///etc/passwd?X-Amz-Signature=secret"))
    with pytest.raises(StorageUnavailableError) as failed:
        await storage.read(URL, file, 5, 10)
    assert isinstance(failed.value, FileMissingError) == (trouble == "gone")
    assert "weights" in failed.value.message
    assert URL in failed.value.message
    assert "secret" not in failed.value.message
    assert failed.value.__cause__ is None
    if trouble in {"no ranges", "cut"}:
        bucket.knows_ranges = True
        assert await storage.read(URL, file, 5, 10) == content[5:15]
        assert len(authority.signed) == 1


async def test_files_are_asked_for_by_themselves_and_each_once(bucket: Bucket, authority: Authority) -> None:
    storage, files = Storage(authority.sign), []
    for number in range(3):
        content = bytes([number]) * 100
        bucket.objects[f"blobs/{number}"] = content
        files.append(ArtifactFile("part", 100, hashlib.sha256(content).hexdigest(), object=f"blobs/{number}"))
    read = await asyncio.gather(*(storage.read(URL, file, 0, 100) for file in files * 4))
    assert [content[0] for content in read] == [0, 1, 2] * 4
    assert len(authority.signed) == 3


async def _signed(url: str) -> Signed:
    return Signed(url, timedelta(minutes=1))


async def test_an_agent_asks_its_controller_where_it_can_read(
    agent: AgentProcess, controller: FakeController, bucket: Bucket, file: ArtifactFile, content: bytes
) -> None:
    storage = Storage(Signer(Addresses(controller.address), IdentityStore(agent.home).tls).sign)
    with pytest.raises(FileMissingError, match="cannot learn where weights can be read: nothing is to run"):
        await storage.read(URL, file, 0, 10)
    controller.addresses[file.sha256] = bucket.address(file.key, "told")
    bucket.good.add("told")
    assert await storage.read(URL, file, 3, 10) == content[3:13]
    await controller.stop()
    bucket.good.clear()
    with pytest.raises(StorageUnavailableError, match="403 AccessDenied"):
        await storage.read(URL, file, 0, 10)
    with pytest.raises(StorageUnavailableError, match="cannot learn where weights can be read"):
        await storage.read(URL, file, 0, 10)
