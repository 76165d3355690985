"""How containers are held: seen from inside, by the kernel's own words, and from the Engine's description."""

import json
from dataclasses import replace
from typing import Any

import pytest
from docker import APIClient

from node_agent.runtime.docker.container import Limits, creation
from node_agent.runtime.model import LaunchError
from tests.fakes.eventually import eventually
from tests.fixtures.docker_engine import IMAGE_TIMEOUT_S
from tests.node_agent.runtime.conftest import USER, DockerBench

pytestmark = pytest.mark.timeout(IMAGE_TIMEOUT_S)
MIB = 1024 * 1024


async def test_inside_nobody_is_root_and_nothing_but_its_own_can_be_written(docker_bench: DockerBench) -> None:
    work = docker_bench.launch("look").directory
    await docker_bench.start("look", "/", "/etc", "/usr/bin", "/tmp", "/dev/shm", str(work))
    seen: dict[str, Any] = json.loads(await docker_bench.until_logged("children"))
    assert seen["Uid"].split() == [str(USER)] * 4
    assert seen["Gid"].split() == [str(USER)] * 4
    assert {seen[each] for each in ("CapPrm", "CapEff", "CapBnd", "CapInh", "CapAmb")} == {"0" * 16}
    assert (seen["NoNewPrivs"], seen["Seccomp"]) == ("1", "2")
    can = {path for path, written in seen["written"].items() if written}
    assert can == {"/tmp", "/dev/shm", str(work)}
    assert 40 < seen["children"] < 64


async def test_the_engine_holds_the_container_to_its_bounds(
    docker_bench: DockerBench, docker_client: APIClient
) -> None:
    instance = await docker_bench.start("obey", memory_mb=200)
    seen = docker_client.inspect_container(instance.container_id)
    host = seen["HostConfig"]
    assert (host["Memory"], host["MemorySwap"]) == (200 * MIB, 200 * MIB)
    assert (host["PidsLimit"], host["NanoCpus"] > 0, host["Privileged"]) == (64, True, False)
    assert (host["ReadonlyRootfs"], host["CapDrop"], host["CapAdd"]) == (True, ["ALL"], None)
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert (host["NetworkMode"], host["PidMode"], host["IpcMode"]) == ("bridge", "", "private")
    assert not host["Devices"]
    assert not host["DeviceRequests"]
    assert seen["Config"]["User"] == f"{USER}:{USER}"
    assert {mount["Destination"] for mount in seen["Mounts"]} == {str(docker_bench.launch().directory)}


async def test_only_the_ports_of_the_plan_are_published_and_only_on_the_nodes_address(
    docker_bench: DockerBench, docker_client: APIClient, unused_tcp_port: int
) -> None:
    instance = await docker_bench.start("serve", str(unused_tcp_port), ports=(unused_tcp_port,))
    ports = docker_client.inspect_container(instance.container_id)["HostConfig"]["PortBindings"]
    assert ports == {f"{unused_tcp_port}/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(unused_tcp_port)}]}


async def test_a_port_in_use_is_a_launch_error_that_says_so(docker_bench: DockerBench, unused_tcp_port: int) -> None:
    await docker_bench.start("serve", str(unused_tcp_port), ports=(unused_tcp_port,))
    with pytest.raises(LaunchError, match="in use") as raised:
        await docker_bench.start("serve", str(unused_tcp_port), name="second", ports=(unused_tcp_port,))
    assert raised.value.reason == "PORT_IN_USE"
    assert len(docker_bench.left()) == 1


async def test_memory_beyond_the_limit_ends_the_container_and_is_told_as_that(docker_bench: DockerBench) -> None:
    instance = await docker_bench.start("eat", "200", memory_mb=64)
    ended = await docker_bench.runtime.wait(instance)
    assert (ended.out_of_memory, ended.memory_limit_mb, ended.code) == (True, 64, -9)
    assert "at its limit of 64 MB" in str(ended)


async def test_the_lack_of_memory_is_known_also_to_an_agent_that_came_later(docker_bench: DockerBench) -> None:
    instance = await docker_bench.start("eat", "200", memory_mb=64)
    await docker_bench.runtime.wait(instance)
    await docker_bench.restart()
    assert not await docker_bench.runtime.adopt(instance)
    assert (await docker_bench.runtime.wait(instance)).out_of_memory


async def test_a_container_that_nobody_knows_is_tidied_away_and_others_are_not(
    docker_bench: DockerBench, docker_client: APIClient, base_image: str
) -> None:
    foreign = docker_client.create_container(base_image, ["/bin/true"], labels={"io.aiops.owner": "/another#"})
    lost = await docker_bench.start("obey")
    kept = await docker_bench.start("obey", name="kept")
    docker_bench.started.remove(lost)
    await docker_bench.restart()
    assert await docker_bench.runtime.adopt(kept)
    await docker_bench.runtime.tidy(())
    assert docker_bench.left() == [docker_bench.launch(name="kept").mark]
    assert docker_client.inspect_container(foreign["Id"])["State"]["Status"] == "created"
    docker_client.remove_container(foreign["Id"])


async def test_a_container_removed_by_hand_is_told_as_ended(
    docker_bench: DockerBench, docker_client: APIClient
) -> None:
    instance = await docker_bench.start("obey")
    docker_client.remove_container(instance.container_id, force=True)
    assert (await docker_bench.runtime.wait(instance)).code in {None, -9}


async def test_a_stopped_container_by_somebody_else_is_told_with_its_code(
    docker_bench: DockerBench, docker_client: APIClient
) -> None:
    instance = await docker_bench.start("obey")
    await docker_bench.until_logged("ready")
    docker_client.stop(instance.container_id)
    assert (await docker_bench.runtime.wait(instance)).code == 0


async def test_the_engine_asks_for_health_where_the_plan_names_a_url(
    docker_bench: DockerBench, docker_client: APIClient
) -> None:
    launch = docker_bench.launch("serve", "18000")
    assert launch.containment is not None
    box = replace(launch.containment, health_url="http://127.0.0.1:18000/health")
    instance = await docker_bench.start("serve", "18000", containment=box)
    check = docker_client.inspect_container(instance.container_id)["Config"]["Healthcheck"]
    assert check["Test"][0] == "CMD-SHELL"

    async def well() -> bool:
        asked = docker_client.exec_create(instance.container_id, ["sh", "-c", check["Test"][1]])
        docker_client.exec_start(asked["Id"])
        code: int = docker_client.exec_inspect(asked["Id"])["ExitCode"]
        return code == 0

    await eventually(well, 20)


async def test_a_card_is_asked_of_the_engine_by_its_own_name(
    docker_bench: DockerBench, docker_client: APIClient
) -> None:
    launch = docker_bench.launch("obey")
    assert launch.containment is not None
    cards = ("GPU-0b5f8a2e-0000-0000-0000-000000000001", "MIG-0b5f8a2e-0000-0000-0000-000000000002")
    launch = replace(launch, containment=replace(launch.containment, gpus=cards))
    limits = Limits(f"{USER}:{USER}")
    made = docker_client.create_container(**creation(docker_client, docker_bench.owner, launch, limits, False))["Id"]
    seen = docker_client.inspect_container(made)["HostConfig"]
    docker_client.remove_container(made)
    [request] = seen["DeviceRequests"]
    assert (request["DeviceIDs"], request["Capabilities"], request["Count"]) == (list(cards), [["gpu"]], 0)
    assert (seen["Privileged"], seen["CapDrop"], seen["Devices"]) == (False, ["ALL"], None)
    if "nvidia" in docker_client.info()["Runtimes"]:
        return  # then it is refused for cards that are not there, in the toolkit's own words
    with pytest.raises(LaunchError, match="NVIDIA container toolkit") as refused:
        await docker_bench.runtime.start(launch)
    assert refused.value.reason == "GPU_DEVICE_NOT_FOUND"
    assert not docker_bench.left()
