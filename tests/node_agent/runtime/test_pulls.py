"""Images are pulled from a real registry: once for all who want them, over cuts, as pinned, and removed when unused."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from docker import APIClient
from docker.errors import APIError

from mesh.loops import Backoff
from node_agent.runtime.docker.engine import DockerEngine
from node_agent.runtime.docker.images import ImageNotAllowedError, ImageRules, Images
from node_agent.runtime.docker.pull import Arrival, ImagePullError
from tests.fakes.clock import ManualClock
from tests.fakes.eventually import eventually
from tests.fakes.narrow import Narrow, narrow
from tests.fixtures.docker_engine import IMAGE_TIMEOUT_S, docker_daemon
from tests.fixtures.image_registry import BIG, ImageRegistry, build_noise, new_registry, only_in

pytestmark = pytest.mark.timeout(IMAGE_TIMEOUT_S)
KEEP = timedelta(hours=2)
SOON_S = 60.0
AT_ONCE = Backoff(timedelta(milliseconds=10))


class Shelf:
    """One agent's images, and what was heard of them."""

    def __init__(self, engine: DockerEngine, home: Path) -> None:
        self.clock, self.engine = ManualClock(), engine
        self.images = Images(engine, home / "images.json", ImageRules(("127.0.0.1:*",), KEEP, 4, AT_ONCE), self.clock)
        self.heard: list[Arrival] = []

    async def obtain(self, image: str) -> dict[str, str]:
        return dict(await self.images.obtain(image, self.heard.append))


@pytest.fixture
async def shelf(docker_url: str, tmp_path: Path) -> AsyncIterator[Shelf]:
    engine = DockerEngine(docker_url)
    await engine.connect()
    yield Shelf(engine, tmp_path)
    engine.close()


async def test_a_pull_tells_bytes_and_layers_and_is_made_once_for_all_who_wait(
    shelf: Shelf, image_registry: ImageRegistry, docker_client: APIClient, noise: str
) -> None:
    with only_in(image_registry, docker_client, noise):
        async with narrow(image_registry.address, BIG // 2) as relay:
            image = f"{relay.address}/noise:1"
            first = asyncio.create_task(shelf.obtain(image))
            await eventually(lambda: is_half_way(shelf.heard, relay), SOON_S)
            late: list[Arrival] = []
            second = asyncio.create_task(shelf.images.obtain(image, late.append))
            gone = asyncio.create_task(shelf.images.obtain(image, late.append))
            await eventually(lambda: is_half_way(late[1:], relay), SOON_S)
            gone.cancel()
            relay.widen()
            assert (await first)["io.aiops.engine"] == (await second)["io.aiops.engine"] == "custom"
            assert relay.passed < BIG * 1.2
        assert any(0 < each.bytes < each.bytes_total for each in shelf.heard)
        last = shelf.heard[-1]
        assert (last.layers, last.layers_total, last.bytes, last.percent) == (2, 2, last.bytes_total, 99)
        assert last.bytes_total >= BIG
        assert str(last).endswith("MB, 2 of 2 layers")
        # What is here is not asked for again.
        before = len(image_registry.log)
        await shelf.obtain(image)
        assert len(image_registry.log) == before


async def test_a_layer_that_was_cut_goes_on_where_it_was(
    shelf: Shelf, image_registry: ImageRegistry, docker_client: APIClient, noise: str
) -> None:
    with only_in(image_registry, docker_client, noise):
        async with narrow(image_registry.address, BIG // 2) as relay:
            pulling = asyncio.create_task(shelf.obtain(f"{relay.address}/noise:1"))
            await eventually(lambda: is_half_way(shelf.heard, relay), SOON_S)
            relay.widen()
            relay.cut()
            await pulling
            assert relay.passed < BIG * 1.6


async def test_a_registry_that_is_away_is_tried_again_and_why_is_told(
    shelf: Shelf, image_registry: ImageRegistry, docker_client: APIClient, noise: str
) -> None:
    with only_in(image_registry, docker_client, noise):
        image_registry.stop()
        started = asyncio.Event()

        def hear(arrival: Arrival) -> None:
            if arrival.trouble and not started.is_set():
                started.set()
                image_registry.start()

        assert await shelf.images.obtain(f"{image_registry.address}/noise:1", hear)
        assert started.is_set()
        image_registry.stop()
        with pytest.raises(ImagePullError, match="cannot be reached from this node"):
            await shelf.obtain(f"{image_registry.address}/other:1")
        assert "tried again in 0 s (3 of 4)" in shelf.heard[-1].trouble


async def test_a_digest_pins_what_is_pulled_and_nothing_else_passes_for_it(
    shelf: Shelf, image_registry: ImageRegistry, docker_client: APIClient, noise: str
) -> None:
    with only_in(image_registry, docker_client, noise) as digest:
        pinned = f"{image_registry.address}/noise@{digest}"
        await shelf.obtain(pinned)
        assert pinned in docker_client.inspect_image(pinned)["RepoDigests"]
        with pytest.raises(ImagePullError, match="no image of that name and tag"):
            await shelf.obtain(f"{image_registry.address}/noise@sha256:{'0' * 64}")


async def test_a_tag_that_is_here_is_looked_up_again_only_where_the_policy_says_so(
    shelf: Shelf, image_registry: ImageRegistry, docker_client: APIClient, noise: str, tmp_path: Path
) -> None:
    reference = f"{image_registry.address}/noise"
    with only_in(image_registry, docker_client, noise):
        await shelf.obtain(f"{reference}:1")
        old = docker_client.inspect_image(f"{reference}:1")["Id"]
        docker_client.tag(old, reference, tag="kept")
        build_noise(docker_client, noise, 100)
        image_registry.push(docker_client, noise, "noise")
        docker_client.tag(old, reference, tag="1")
        await shelf.obtain(f"{reference}:1")
        assert docker_client.inspect_image(f"{reference}:1")["Id"] == old
        rules = ImageRules(("127.0.0.1:*",), KEEP, 2, AT_ONCE, always=True)
        always = Images(shelf.engine, tmp_path / "always.json", rules, shelf.clock)
        await always.obtain(f"{reference}:1", shelf.heard.append)
        new = docker_client.inspect_image(f"{reference}:1")["Id"]
        assert new != old
        image_registry.stop()
        assert await always.obtain(f"{reference}:1", shelf.heard.append), "what is here will do meanwhile"


async def test_what_a_registry_refuses_is_said_in_words(
    shelf: Shelf, image_registry: ImageRegistry, tmp_path: Path
) -> None:
    with pytest.raises(ImagePullError, match="no image of that name and tag"):
        await shelf.obtain(f"{image_registry.address}/nothing:1")
    locked = new_registry(tmp_path, locked=True)
    locked.start()
    try:
        with pytest.raises(ImagePullError, match=r"does not let this node pull it.*docker login"):
            await shelf.obtain(f"{locked.address}/noise:1")
    finally:
        locked.stop()
    with pytest.raises(ImageNotAllowedError):
        await shelf.obtain("elsewhere/noise:1")
    assert not shelf.heard or not shelf.heard[-1].trouble


async def test_a_full_disk_is_said_in_words(
    image_registry: ImageRegistry, docker_client: APIClient, noise: str, tmp_path: Path
) -> None:
    with only_in(image_registry, docker_client, noise), docker_daemon(disk_mb=4) as small:
        engine = DockerEngine(small.url)
        await engine.connect()
        with pytest.raises(ImagePullError, match="the node's disk is full"):
            await Shelf(engine, tmp_path).obtain(f"{image_registry.address}/noise:1")
        engine.close()


async def test_only_what_was_pulled_and_nobody_wants_or_uses_is_removed(
    shelf: Shelf, image_registry: ImageRegistry, docker_client: APIClient, noise: str
) -> None:
    names = ("unused", "wanted", "used")
    with contextlib.ExitStack() as stack:
        for name in names:
            build_noise(docker_client, noise, 10)
            image_registry.push(docker_client, noise, name)
        stack.enter_context(only_in(image_registry, docker_client, noise))
        unused, wanted, used = (f"{image_registry.address}/{name}:1" for name in names)
        for image in (unused, wanted, used):
            await shelf.obtain(image)
            stack.callback(removed, docker_client, image)
        container = docker_client.create_container(used, ["/big"])["Id"]
        stack.callback(docker_client.remove_container, container)
        shelf.clock.advance(KEEP - timedelta(minutes=1))
        await shelf.images.tidy({wanted})
        assert all(is_there(docker_client, image) for image in (unused, wanted, used))
        shelf.clock.advance(timedelta(minutes=2))
        await shelf.images.tidy({wanted})
        there = [is_there(docker_client, image) for image in (unused, wanted, used, "aiops/base:test")]
        assert there[:3] == [False, True, True]
        # Asked for again, it comes again; and what was just asked for is not removed under whoever asked.
        await shelf.obtain(unused)
        await shelf.images.tidy(())
        assert is_there(docker_client, unused)


async def is_half_way(heard: list[Arrival], relay: Narrow) -> bool:
    """Whether the large layer is known, and as much of it has come as there may."""
    return bool(heard) and heard[-1].bytes_total >= BIG and relay.passed > BIG // 3


def is_there(client: APIClient, image: str) -> bool:
    return bool(client.images(image))


def removed(client: APIClient, image: str) -> None:
    with contextlib.suppress(APIError):
        client.remove_image(image, force=True)
