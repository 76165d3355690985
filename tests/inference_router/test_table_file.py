"""The last table survives a restart; a damaged file is never served."""

from pathlib import Path

import pytest

from inference_router.routing.model import ModelRoute, RefusedField, Target
from inference_router.routing.store import TableFile
from inference_router.routing.table import RoutingTable

TABLE = RoutingTable(
    7,
    (
        ModelRoute(
            "acme",
            "tiny",
            (Target("d1", "i1", "n1", "10.0.0.1", 8001, "/v1/chat/completions", 1),),
            (RefusedField("n", ("1", "null")),),
            1_700_000_000.5,
        ),
    ),
)


def test_a_saved_table_is_loaded_whole(tmp_path: Path) -> None:
    file = TableFile(tmp_path / "router" / "table.bin")
    assert file.load() is None
    file.save(TABLE)
    assert file.load() == TABLE


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "garbage"])
def test_a_damaged_file_is_not_used(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "table.bin"
    TableFile(path).save(TABLE)
    whole = path.read_bytes()
    flipped = whole.replace(b"10.0.0.1", b"10.0.0.9")
    path.write_bytes({"truncated": whole[:-5], "flipped": flipped, "empty": b"", "garbage": b"\xff\x00"}[damage])
    assert TableFile(path).load() is None
    TableFile(path).save(TABLE)
    assert TableFile(path).load() == TABLE
