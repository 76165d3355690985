"""A hint reaches every watcher of its subject and nobody else."""

from datetime import timedelta

from controller.hints import Hints

AT_ONCE = timedelta(0)


async def test_every_watcher_of_a_node_is_woken_and_no_other() -> None:
    hints = Hints()
    with (
        hints.watching_node("node-1") as one,
        hints.watching_node("node-1") as two,
        hints.watching_node("node-2") as other,
    ):
        hints.node_changed("node-1")
        assert [await wake.wait(AT_ONCE) for wake in (one, two, other)] == [True, True, False]
        assert not await one.wait(AT_ONCE)


async def test_watchers_of_replicas_are_woken() -> None:
    hints = Hints()
    with hints.watching_replicas() as one, hints.watching_replicas() as two:
        hints.replicas_changed()
        assert await one.wait(AT_ONCE)
        assert await two.wait(AT_ONCE)


def test_a_hint_that_nobody_waits_for_is_no_error() -> None:
    Hints().node_changed("node-1")
