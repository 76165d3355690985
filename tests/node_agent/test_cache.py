"""Models on the node's disk: verified, resumed, shared, dropped, and refused where there is no room."""

import asyncio
import hashlib
import os
import resource
import shutil
from pathlib import Path

import pytest

from node_agent.cache.blobs import BlobStore
from node_agent.cache.model import (
    Artifact,
    ArtifactFile,
    ChecksumMismatchError,
    DiskFullError,
    FileNotAllowedError,
    StorageUnavailableError,
)
from node_agent.cache.service import ModelCache

MIB = 1024 * 1024


def stored(directory: Path, **contents: bytes) -> Artifact:
    """An artifact whose files lie in the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    files = []
    for name, content in contents.items():
        (directory / name).write_bytes(content)
        files.append(ArtifactFile(name, len(content), hashlib.sha256(content).hexdigest()))
    return Artifact(directory.as_uri(), tuple(files))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "cache"


async def obtained(cache: ModelCache, artifact: Artifact) -> list[int]:
    """Obtains it; the percents that were told."""
    told: list[int] = []
    cache.hold(artifact)
    await cache.obtain(artifact, told.append)
    await cache.lay_out(artifact)
    cache.release(artifact)
    await asyncio.sleep(0)
    return told


def kept(home: Path, kind: str) -> set[str]:
    return {each.name for each in (home / kind).iterdir()}


async def test_a_model_is_fetched_with_progress_and_laid_out(tmp_path: Path, home: Path) -> None:
    artifact = stored(tmp_path / "m", config=b"{}", weights=os.urandom(9 * MIB))
    cache = ModelCache(BlobStore(home))
    told = await obtained(cache, artifact)
    assert told == sorted(told)
    assert told[-1] == 100
    assert len(told) > 3
    folder = cache.folder(artifact)
    assert (folder / "weights").read_bytes() == (tmp_path / "m" / "weights").read_bytes()
    assert not os.access(folder / "weights", os.W_OK) or os.geteuid() == 0
    assert not kept(home, "partial")


async def test_a_second_model_with_the_same_file_stores_it_once(tmp_path: Path, home: Path) -> None:
    shared = os.urandom(MIB)
    first, second = stored(tmp_path / "a", weights=shared, config=b"1"), stored(tmp_path / "b", weights=shared)
    cache = ModelCache(BlobStore(home))
    await obtained(cache, first)
    shutil.rmtree(tmp_path / "b")
    await obtained(cache, second)
    assert (cache.folder(first) / "weights").samefile(cache.folder(second) / "weights")


async def test_replicas_that_ask_at_once_fetch_once(tmp_path: Path, home: Path) -> None:
    artifact = stored(tmp_path / "m", weights=os.urandom(8 * MIB))
    cache = ModelCache(BlobStore(home))
    await asyncio.gather(*(obtained(cache, artifact) for _ in range(20)))
    assert kept(home, "blobs") == {artifact.files[0].sha256}


async def test_a_fetch_goes_on_where_an_earlier_one_was_cut_off(tmp_path: Path, home: Path) -> None:
    content = os.urandom(6 * MIB)
    artifact = stored(tmp_path / "m", weights=content)
    store = BlobStore(home)
    store.partial(artifact.files[0]).write_bytes(content[: 5 * MIB])
    told = await obtained(ModelCache(store), artifact)
    assert min(told) > 80


async def test_a_fetch_that_is_cancelled_leaves_what_it_has_for_the_next(tmp_path: Path, home: Path) -> None:
    artifact = stored(tmp_path / "m", weights=os.urandom(64 * MIB))
    cache = ModelCache(BlobStore(home))
    begun = asyncio.Event()
    fetching = asyncio.create_task(cache.obtain(artifact, lambda _: begun.set()))
    await begun.wait()
    fetching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetching
    await obtained(cache, artifact)
    assert kept(home, "blobs") == {artifact.files[0].sha256}


async def test_a_wrong_file_is_set_aside_and_refused(tmp_path: Path, home: Path) -> None:
    artifact = stored(tmp_path / "m", weights=b"right" * 1000)
    (tmp_path / "m" / "weights").write_bytes(b"wrong" * 1000)
    with pytest.raises(ChecksumMismatchError) as refused:
        await obtained(ModelCache(BlobStore(home)), artifact)
    assert refused.value.metadata["expected"] == artifact.files[0].sha256
    assert kept(home, "quarantine") == {artifact.files[0].sha256}
    assert not kept(home, "partial")
    assert not kept(home, "blobs")


@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: b"X" + content[1:]])
async def test_a_file_damaged_in_the_cache_is_fetched_again(tmp_path: Path, home: Path, damage: object) -> None:
    artifact = stored(tmp_path / "m", weights=b"right" * 1000)
    cache = ModelCache(BlobStore(home))
    await obtained(cache, artifact)
    blob = home / "blobs" / artifact.files[0].sha256
    blob.chmod(0o644)
    blob.write_bytes(damage(blob.read_bytes()))  # type: ignore[operator]
    await obtained(cache, artifact)
    assert (cache.folder(artifact) / "weights").read_bytes() == b"right" * 1000
    assert kept(home, "quarantine") == {artifact.files[0].sha256}


async def test_a_storage_without_the_file_says_so(tmp_path: Path, home: Path) -> None:
    artifact = stored(tmp_path / "m", weights=b"w")
    (tmp_path / "m" / "weights").unlink()
    with pytest.raises(StorageUnavailableError, match="weights"):
        await obtained(ModelCache(BlobStore(home)), artifact)


@pytest.mark.parametrize("path", ["../x", "/etc/x", "a/../../x", "", "a\\b"])
async def test_a_path_that_leaves_the_model_is_refused(home: Path, path: str) -> None:
    artifact = Artifact("file:///nowhere", (ArtifactFile(path, 1, "0" * 64),))
    with pytest.raises(FileNotAllowedError):
        await obtained(ModelCache(BlobStore(home)), artifact)


async def test_the_least_recently_used_model_makes_room_and_a_held_one_never_does(tmp_path: Path, home: Path) -> None:
    models = [stored(tmp_path / name, weights=os.urandom(MIB)) for name in "abcd"]
    cache = ModelCache(BlobStore(home, limit_bytes=2 * MIB + MIB // 2))
    cache.hold(models[0])
    for model in models[:3]:
        await obtained(cache, model)
    assert kept(home, "models") == {models[0].digest, models[2].digest}
    assert kept(home, "blobs") == {models[0].files[0].sha256, models[2].files[0].sha256}
    cache.hold(models[2])
    with pytest.raises(DiskFullError, match="cache limit of 2 MB"):
        await obtained(cache, models[3])
    assert kept(home, "models") == {models[0].digest, models[2].digest}


async def test_a_full_disk_is_told_before_anything_is_written(tmp_path: Path, small_disk: Path) -> None:
    artifact = stored(tmp_path / "m", weights=os.urandom(3 * MIB))
    with pytest.raises(DiskFullError) as refused:
        await obtained(ModelCache(BlobStore(small_disk)), artifact)
    assert refused.value.metadata["path"] == str(small_disk)
    assert "2.0 MB are free" in refused.value.message
    assert not kept(small_disk, "partial")


async def test_a_file_longer_than_its_manifest_says_is_refused(tmp_path: Path, home: Path) -> None:
    artifact = stored(tmp_path / "m", weights=b"right")
    (tmp_path / "m" / "weights").write_bytes(os.urandom(12 * MIB))
    with pytest.raises(ChecksumMismatchError):
        await obtained(ModelCache(BlobStore(home)), artifact)
    assert not kept(home, "blobs")


async def test_a_disk_that_fills_up_on_the_way_leaves_no_partial_file(tmp_path: Path, home: Path) -> None:
    artifact = stored(tmp_path / "m", weights=os.urandom(3 * MIB))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, before[1]))
    try:
        with pytest.raises(DiskFullError):
            await obtained(ModelCache(BlobStore(home)), artifact)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not kept(home, "partial")
