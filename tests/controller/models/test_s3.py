"""Object storage over S3's protocol, against a server of its own."""

import hashlib
import os
from datetime import timedelta
from pathlib import Path

import pytest

from controller.models.model import StorageUnavailableError
from controller.models.objects import ObstoreObjects
from node_agent.cache.addresses import Signed
from node_agent.cache.blobs import BlobStore
from node_agent.cache.model import Artifact, ArtifactFile
from node_agent.cache.service import ModelCache
from node_agent.cache.storage import Storage
from tests.fixtures.s3 import BUCKET, S3

MIB = 1024 * 1024

# The first that asks for the server may have to install it.
pytestmark = pytest.mark.timeout(300)


async def stored(objects: ObstoreObjects, path: str, content: bytes) -> str:
    """The sha256 of what was written, in pieces of a MiB."""
    sink = objects.create(path, len(content))
    for start in range(0, len(content), MIB):
        await sink.write(content[start : start + MIB])
    return (await sink.close()).sha256


async def test_objects_are_written_in_parts_listed_and_removed(s3: S3) -> None:
    objects, large = ObstoreObjects(f"s3://{BUCKET}/written"), os.urandom(12 * MIB + 5)
    assert await stored(objects, "blobs/a/large", large) == hashlib.sha256(large).hexdigest()
    await stored(objects, "blobs/b/small", b"{}")
    assert set(await objects.paths("blobs")) == {"blobs/a/large", "blobs/b/small"}
    await objects.remove("blobs/a")
    await objects.remove("blobs/a")
    await objects.remove("blobs/b/small")
    assert await objects.paths("blobs") == {}


async def test_a_node_without_credentials_fetches_from_the_bucket(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = os.urandom(6 * MIB)
    objects = ObstoreObjects(f"s3://{BUCKET}/fetched")
    sha256 = await stored(objects, "blobs/a/weights", content)
    file = ArtifactFile("model.safetensors", len(content), sha256, object="blobs/a/weights")
    url = f"s3://{BUCKET}/fetched"

    async def sign(asked: ArtifactFile) -> Signed:
        lifetime = timedelta(minutes=1)
        return Signed(await objects.sign(url, asked.key, lifetime), lifetime)

    for name in s3.environment:
        monkeypatch.delenv(name)
    artifact, cache = Artifact(url, (file,)), ModelCache(BlobStore(tmp_path), storage=Storage(sign))
    cache.hold(artifact)
    await cache.obtain(artifact, lambda percent: None)
    folder = await cache.lay_out(artifact)
    assert (folder / "model.safetensors").read_bytes() == content


async def test_errors_name_the_bucket_and_the_cause(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StorageUnavailableError) as missing:
        await stored(ObstoreObjects("s3://no-such-bucket/models"), "blobs/a/b", b"x")
    assert "s3://no-such-bucket/models" in missing.value.message
    assert "NoSuchBucket" in missing.value.message
    assert "AIOPS_STORAGE_URL" in missing.value.message
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    with pytest.raises(StorageUnavailableError, match=r"InvalidAccessKeyId.*correct AWS_ACCESS_KEY_ID"):
        await stored(ObstoreObjects(f"s3://{BUCKET}/models"), "blobs/a/b", b"x")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(StorageUnavailableError, match=f"s3://{BUCKET}/models could not"):
        await stored(ObstoreObjects(f"s3://{BUCKET}/models"), "blobs/a/b", b"x")
