"""A real node that falls silent loses its instance to another node in seconds, and ends it when it comes back."""

import time

from tests.fakes.eventually import eventually
from tests.fixtures.processes import LEASE_S, Cluster

# The lease is looked at every third of a second; placing and starting an engine takes the rest.
PLACED_WITHIN_S = 5.0


async def test_a_silent_nodes_instance_runs_elsewhere_and_the_first_one_ends_on_its_return(cluster: Cluster) -> None:
    controller = await cluster.start_controller()
    for name in ("one", "two"):
        await cluster.start_node(name)
    await cluster.import_model()
    placed = await controller.deploy()
    before = await controller.until_running(placed.deployment_id)
    lost = cluster.node_of(before)
    (engine,) = cluster.agents[lost].engines()
    cluster.freeze(lost)
    frozen_at = time.monotonic()

    async def is_placed_anew() -> bool:
        return (await controller.get(placed.deployment_id)).epoch == 2

    await eventually(is_placed_anew, LEASE_S + 20)
    assert time.monotonic() - frozen_at < LEASE_S + PLACED_WITHIN_S
    after = await controller.until_running(placed.deployment_id, epoch=2)
    assert cluster.node_of(after) != lost
    cluster.thaw(lost)

    async def has_ended() -> bool:
        return not engine.is_running() and lost in await controller.online()

    await eventually(has_ended, 30)
    now = await controller.get(placed.deployment_id)
    assert (now.node_id, now.epoch, now.container_id) == (after.node_id, 2, after.container_id)
