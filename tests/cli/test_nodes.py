"""`aiops nodes …` against a running platform with two nodes."""

import json

from tests.fixtures.platform import Platform


def test_lists_nodes_as_a_table_and_as_json(platform: Platform) -> None:
    rows = platform.aiops_json("nodes", "ls")
    assert sorted(row["name"] for row in rows) == ["node-1", "node-2"]
    assert all(row["status"] in {"online", "offline"} for row in rows)
    table = platform.aiops("nodes", "ls").stdout
    assert table.splitlines()[0].split()[:3] == ["node", "name", "status"]
    assert all(row["nodeId"] in table for row in rows)


def test_a_limit_says_that_there_is_more(platform: Platform) -> None:
    done = platform.aiops("nodes", "ls", "--limit", "1", "-o", "json")
    assert len(json.loads(done.stdout)) == 1
    assert "--limit 0" in done.stderr


def test_a_node_is_found_by_name_and_by_id(platform: Platform) -> None:
    by_name = platform.aiops_json("nodes", "get", "node-1")
    by_id = platform.aiops_json("nodes", "get", by_name["nodeId"])
    assert by_id["name"] == "node-1"


def test_an_unknown_node_is_not_found(platform: Platform) -> None:
    done = platform.aiops("nodes", "get", "nowhere")
    assert done.returncode == 5
    assert "aiops nodes ls" in done.stderr


def test_maintenance_and_back(platform: Platform) -> None:
    assert platform.aiops_json("nodes", "maintenance", "node-2")["status"] == "maintenance"
    assert platform.aiops_json("nodes", "resume", "node-2")["status"] == "online"


def test_labels_are_replaced_and_a_wrong_one_is_a_usage_error(platform: Platform) -> None:
    changed = platform.aiops_json("nodes", "update", "node-2", "--label", "zone=a", "--label", "tier=gold")
    assert changed["labels"] == {"zone": "a", "tier": "gold"}
    assert platform.aiops("nodes", "update", "node-2", "--label", "zone").returncode == 2
    assert platform.aiops("nodes", "update", "node-2").returncode == 2


def test_metrics_and_containers(platform: Platform) -> None:
    assert platform.aiops_json("nodes", "metrics", "node-1")["ramTotal"] > 0
    assert isinstance(platform.aiops_json("nodes", "containers", "node-1"), list)


def test_a_machine_is_registered_and_removed(platform: Platform) -> None:
    done = platform.aiops("nodes", "register", "spare")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("aiops node join ey")
    assert len(done.stdout.split()) == 4
    assert "works on this machine only" in done.stderr
    again = platform.aiops_json("nodes", "join-token", "spare")
    assert again["joinToken"] not in done.stdout
    fresh = platform.aiops("nodes", "join-token", "other")
    assert (fresh.returncode, fresh.stdout[:18]) == (0, "aiops node join ey"), fresh.stderr
    assert platform.aiops_json("nodes", "delete", "other")["deleted"] is True
    assert platform.aiops_json("nodes", "delete", "spare")["deleted"] is True
    assert platform.aiops("nodes", "get", "spare").returncode == 5
