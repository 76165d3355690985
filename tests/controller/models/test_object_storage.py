"""Object storage behind its providers' protocols, against servers of their own that check every signature."""

import asyncio
import hashlib
import os
import uuid
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import grpc
import httpx
import pytest
from aiops.deployments.v1 import deployment_pb2
from aiops.deployments.v1 import deployment_service_pb2 as deployments_pb
from aiops.deployments.v1.deployment_service_pb2_grpc import DeploymentServiceStub
from aiops.iam.v1 import auth_service_pb2
from aiops.iam.v1.auth_service_pb2_grpc import AuthServiceStub
from aiops.models.v1.model_service_pb2_grpc import ModelServiceStub
from aiops.nodes.v1 import node_service_pb2
from aiops.nodes.v1.node_service_pb2_grpc import NodeServiceStub

from controller.models.model import StorageUnavailableError
from controller.models.objects import ObstoreObjects
from mesh.patience import within
from mesh.rpc.channel import open_channel
from tests.fakes.eventually import eventually
from tests.fakes.model_files import tiny_model, upload
from tests.fixtures.controller_process import ADMIN_EMAIL, ADMIN_PASSWORD, RunningController
from tests.fixtures.node_agent import ROOT, AgentProcess, fake_engine
from tests.fixtures.object_storage import ObjectStorage

MIB = 1024 * 1024
WAIT_S = 120.0
Metadata = tuple[tuple[str, str], ...]

# The first that asks for a server may have to install it.
pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def url(object_storage: ObjectStorage) -> str:
    """A folder that no other test uses."""
    return object_storage.url(uuid.uuid4().hex)


async def stored(objects: ObstoreObjects, path: str, content: bytes) -> str:
    """The sha256 of what was written, in pieces of a MiB."""
    sink = objects.create(path, len(content))
    for start in range(0, len(content), MIB):
        await sink.write(content[start : start + MIB])
    return (await sink.close()).sha256


async def test_objects_are_written_in_parts_listed_and_removed(url: str) -> None:
    objects, large = ObstoreObjects(url), os.urandom(12 * MIB + 5)
    assert await stored(objects, "blobs/a/large", large) == hashlib.sha256(large).hexdigest()
    await stored(objects, "blobs/b/small", b"{}")
    assert set(await objects.paths("blobs")) == {"blobs/a/large", "blobs/b/small"}
    await objects.remove("blobs/a")
    await objects.remove("blobs/a")
    await objects.remove("blobs/b/small")
    assert await objects.paths("blobs") == {}


async def test_a_signed_address_gives_one_object_for_a_while(url: str) -> None:
    objects, content = ObstoreObjects(url), os.urandom(MIB)
    await stored(objects, "blobs/a/weights", content)
    await stored(objects, "blobs/b/other", b"{}")
    address = await objects.sign(url, "blobs/a/weights", timedelta(minutes=1))
    ended = await objects.sign(url, "blobs/a/weights", timedelta(seconds=1))
    async with httpx.AsyncClient() as client:
        part = await client.get(address, headers={"Range": "bytes=5-20"})
        assert (part.status_code, part.content) == (206, content[5:21])
        for other in (address.replace("/a/weights", "/b/other"), address.partition("?")[0]):
            assert (await client.get(other)).status_code in {400, 401, 403, 404}
        assert (await client.put(address, content=b"x")).status_code in {400, 401, 403}

        async def is_over() -> bool:
            return (await client.get(ended)).status_code == 403

        await eventually(is_over)


async def test_errors_name_the_bucket_and_the_cause(
    object_storage: ObjectStorage, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = f"{object_storage.scheme}://no-such-bucket/models"
    with pytest.raises(StorageUnavailableError) as missing:
        await stored(ObstoreObjects(absent), "blobs/a/b", b"x")
    assert absent in missing.value.message
    assert object_storage.unknown in missing.value.message
    assert "AIOPS_STORAGE_URL" in missing.value.message
    for name, value in object_storage.wrong_key.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StorageUnavailableError, match=object_storage.complaint):
        await stored(ObstoreObjects(url), "blobs/a/b", b"x")


async def test_a_storage_that_is_away_is_named(
    object_storage: ObjectStorage, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in object_storage.environment.items():
        if value.startswith("http://"):
            monkeypatch.setenv(name, "http://127.0.0.1:1")
    with pytest.raises(StorageUnavailableError, match=f"{url} could not"):
        await stored(ObstoreObjects(url), "blobs/a/b", b"x")


@pytest.fixture
async def agent(tmp_path: Path) -> AsyncIterator[AgentProcess]:
    """An agent that has not joined, and has no credentials of any storage."""
    home = tmp_path / "node"
    environment = {
        **{name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ},
        "PYTHONPATH": f"{ROOT}:{ROOT / 'gen'}",
        "AIOPS_NODE_HOME": str(home),
        "AIOPS_NODE_KEEP_WORKLOADS": "0",
        "AIOPS_ENGINE_TRANSFORMERS": str(fake_engine(tmp_path)),
        "AIOPS_LOG_LEVEL": "DEBUG",
        "AIOPS_DOCKER_HOST": "none",
    }
    process = AgentProcess(home, environment, tmp_path / "agent.log")
    yield process
    if process.process is not None and process.process.returncode is None:
        await process.end()


async def test_a_node_without_credentials_runs_what_was_imported(
    object_storage: ObjectStorage, url: str, new_controller: RunningController, agent: AgentProcess
) -> None:
    new_controller.environment |= {"AIOPS_STORAGE_URL": url, **object_storage.environment}
    await asyncio.to_thread(new_controller.start)
    files = tiny_model(rows=60_000)  # large enough to be fetched in chunks, by ranges
    async with open_channel(new_controller.api) as channel:
        who = await _signed_in(channel)
        await ModelServiceStub(channel).ImportModel(upload("tiny", files), metadata=who)
        register = node_service_pb2.RegisterNodeRequest(name="node-1")
        invited = await NodeServiceStub(channel).RegisterNode(register, metadata=who)
        code, output = await agent.run("join", "--controller", invited.join_url, "--token", invited.join_token)
        assert code == 0, output
        await agent.start()
        async with within(WAIT_S, "the agent opened no session"):
            await agent.until_logged("is open")
        deployments = DeploymentServiceStub(channel)
        request = deployments_pb.CreateDeploymentRequest(model_id="tiny")
        made = (await deployments.CreateDeployment(request, metadata=who)).deployment

        async def runs() -> bool:
            asked = deployments_pb.GetDeploymentRequest(deployment_id=made.deployment_id)
            found = (await deployments.GetDeployment(asked, metadata=who)).deployment
            assert found.status != deployment_pb2.Deployment.failed, found
            return found.status == deployment_pb2.Deployment.running

        await eventually(runs, within_s=WAIT_S)
    kept = {each.name for each in (agent.home / "cache" / "blobs").iterdir()}
    assert kept == {hashlib.sha256(content).hexdigest() for content in files.values()}
    told = agent.logged() + new_controller.log.read_text()
    assert "signature=" not in told.lower()
    assert "sig=" not in told.lower()


async def _signed_in(channel: grpc.aio.Channel) -> Metadata:
    request = auth_service_pb2.LoginRequest(email=ADMIN_EMAIL, password=ADMIN_PASSWORD)
    tokens = (await AuthServiceStub(channel).Login(request)).tokens
    return (("authorization", f"Bearer {tokens.access_token}"),)
