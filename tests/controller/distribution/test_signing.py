"""A node learns where it can read what it is to run, and nothing else."""

import hashlib
from dataclasses import dataclass, field
from datetime import timedelta

import pytest
from aiops.deployments.v1 import deployment_service_pb2 as pb
from aiops.types.v1 import engine_pb2

from controller.deployments.workload import WorkloadState
from controller.distribution.model import FileNotNamedError
from controller.distribution.service import Distribution
from controller.models.model import StorageUnavailableError
from controller.nodes.model import NodeId
from tests.fakes.model_files import tiny_adapter, tiny_model
from tests.fixtures.registry import EDITOR, Rooms


@dataclass
class Addresses:
    """Says which object it was asked for."""

    asked: list[tuple[str, str, timedelta]] = field(default_factory=list)

    async def sign(self, url: str, key: str, lifetime: timedelta) -> str:
        self.asked.append((url, key, lifetime))
        return f"https://bucket/{key}?signature=1"


@pytest.fixture
def addresses() -> Addresses:
    return Addresses()


@pytest.fixture
def distribution(rooms: Rooms, addresses: Addresses) -> Distribution:
    return Distribution(rooms.unit_of_work, rooms.workloads, addresses, timedelta(minutes=2))


async def files_of(rooms: Rooms, node_id: NodeId) -> dict[str, str]:
    """The SHA-256 of each file that the node was told of, and its object."""
    workloads = (await rooms.workloads.desired(node_id, None)).workloads
    adapters = [adapter.files for each in workloads for adapter in each.adapters]
    return {file.sha256: file.object_path for files in [each.files for each in workloads] + adapters for file in files}


async def test_a_node_learns_where_each_of_its_files_can_be_read(
    rooms: Rooms, distribution: Distribution, addresses: Addresses
) -> None:
    node_id = await rooms.join("node-1", engines=("vllm",))
    await rooms.import_model("tiny")
    await rooms.import_model("pirate", tiny_adapter())
    deployment = await rooms.deploy("tiny", engine_options=engine_pb2.EngineOptions(max_adapters=1))
    request = pb.LoadAdapterRequest(deployment_id=deployment.deployment_id, model_id="pirate")
    await rooms.deployments.LoadAdapter(request, metadata=EDITOR)
    files = await files_of(rooms, node_id)
    assert len(files) == len(tiny_model()) + len(tiny_adapter())
    for sha256, path in files.items():
        address = await distribution.sign(node_id, sha256)
        assert address.url == f"https://bucket/{path}?signature=1"
        assert address.lifetime == timedelta(minutes=2)
        assert "signature" not in repr(address)
    storage_url = f"file://{rooms.storage}"
    assert addresses.asked == [(storage_url, path, timedelta(minutes=2)) for path in files.values()]


async def test_a_file_that_a_node_was_not_told_of_is_refused(
    rooms: Rooms, distribution: Distribution, addresses: Addresses
) -> None:
    node_id, other = await rooms.join("node-1"), await rooms.join("node-2", org="org-b")
    await rooms.import_model("tiny")
    await rooms.import_model("secret", {**tiny_model(), "more.txt": b"x"})
    deployment = await rooms.deploy("tiny")
    files = await files_of(rooms, node_id)
    names = "[0-9a-f]{64}"
    for asking, sha256 in [(other, next(iter(files))), (node_id, "0" * 64), (NodeId("node-gone"), next(iter(files)))]:
        with pytest.raises(FileNotNamedError, match=f"nothing that {asking} is to run has the file {names}"):
            await distribution.sign(asking, sha256)
    with pytest.raises(FileNotNamedError):
        await distribution.sign(node_id, hashlib.sha256(b"x").hexdigest())
    # What ends needs no files any more.
    await rooms.stop(deployment.deployment_id)
    with pytest.raises(FileNotNamedError):
        await distribution.sign(node_id, next(iter(files)))
    assert addresses.asked == []


async def test_a_directory_has_no_addresses(rooms: Rooms) -> None:
    node_id = await rooms.join("node-1")
    await rooms.import_model("tiny")
    deployment = await rooms.deploy("tiny")
    await rooms.report(deployment, state=WorkloadState.RUNNING, port=1234)
    distribution = Distribution(rooms.unit_of_work, rooms.workloads, rooms.objects)
    with pytest.raises(StorageUnavailableError, match="only objects of S3, Google Cloud Storage and Azure"):
        await distribution.sign(node_id, next(iter(await files_of(rooms, node_id))))
