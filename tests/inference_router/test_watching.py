"""Watchers hear of the newest table, and never of a change that is none."""

from pathlib import Path

from inference_router.routing.service import Routing
from inference_router.routing.store import TableFile
from tests.inference_router.test_routing_table import replica


async def test_a_slow_watcher_gets_the_newest_table_and_not_all_of_them(tmp_path: Path) -> None:
    routing = Routing(TableFile(tmp_path / "table.bin"))
    watcher = routing.watch()
    await routing.follow([replica("d0")])
    first = await anext(watcher)
    for number in range(1, 20):
        await routing.follow([replica(f"d{number}")])
    newest = await anext(watcher)
    await watcher.aclose()
    assert [each.deployment_id for each in newest.routes[0].targets] == ["d19"]
    assert newest.version == first.version + 19
    assert routing.watchers == 0


async def test_the_same_replicas_again_are_no_change(tmp_path: Path) -> None:
    routing = Routing(TableFile(tmp_path / "table.bin"))
    await routing.follow([replica("d1"), replica("d2")])
    before = routing.table
    await routing.follow([replica("d2"), replica("d1")])
    assert routing.table is before


async def test_a_disk_that_takes_nothing_stops_no_routing(tmp_path: Path) -> None:
    (tmp_path / "router").write_text("a file where the directory should be")
    routing = Routing(TableFile(tmp_path / "router" / "table.bin"))
    await routing.follow([replica("d1")])
    assert routing.table is not None
