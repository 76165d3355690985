"""The state of a node: what its session, its operators and its lease do to it, in any order."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.nodes.model import (
    Gauges,
    Greeting,
    Node,
    NodeId,
    NodeOfflineError,
    NodeStatus,
    SessionExpiredError,
    SessionSupersededError,
)
from controller.nodes.standing import Standing
from mesh.identity import OrgId, UserId

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
LEASE = timedelta(seconds=15)
NODE = Node(NodeId("node-1"), "gpu-1", OrgId("org-1"), UserId("user-1"), AT, AT)
GREETING = Greeting("boot-1", "0.1.0", "10.0.0.1", 8, ("process",), ("transformers",), "", "", Gauges())


def enter(node: Node) -> Node:
    try:
        return node.enter_maintenance(AT)
    except NodeOfflineError:
        return node


STEPS: dict[str, Callable[[Node], Node]] = {
    "open": lambda node: node.open_session(GREETING, AT, AT + LEASE),
    "lose": lambda node: node.lose(),
    "enter": enter,
    "exit": lambda node: node.exit_maintenance(AT),
}


@given(st.lists(st.sampled_from(sorted(STEPS))))
def test_status_lease_and_maintenance_always_agree(steps: list[str]) -> None:
    node = NODE
    for step in steps:
        before, node = node, STEPS[step](node)
        assert (node.status is NodeStatus.OFFLINE) == (node.lease_expires_at is None)
        assert (node.status is NodeStatus.MAINTENANCE) == (node.in_maintenance and node.live)
        assert node.session_epoch == before.session_epoch + (step == "open")
        assert node.live or not node.websocket_connected
        assert node.desired_revision == before.desired_revision


def test_a_removed_node_is_not_live() -> None:
    node = NODE.open_session(GREETING, AT, AT + LEASE).remove(AT)
    assert (node.live, node.websocket_connected, node.deleted_at) == (False, False, AT)


def test_an_operators_address_wins() -> None:
    node = NODE.open_session(GREETING, AT, AT + LEASE)
    assert node.address == "10.0.0.1"
    assert replace(node, vpn_ip="10.8.0.2").address == "10.8.0.2"


@pytest.mark.parametrize("in_maintenance", [False, True])
def test_a_heartbeat_renews_the_lease_of_the_present_session_alone(in_maintenance: bool) -> None:
    status = NodeStatus.MAINTENANCE if in_maintenance else NodeStatus.ONLINE
    standing = Standing(NODE.node_id, NODE.org_id, status, in_maintenance, 2, AT, AT, 0)
    assert standing.renew(2, AT + LEASE) == replace(standing, lease_expires_at=AT + LEASE)
    for epoch in (1, 3):
        with pytest.raises(SessionSupersededError):
            standing.renew(epoch, AT + LEASE)
    with pytest.raises(SessionExpiredError):
        replace(standing, status=NodeStatus.OFFLINE).renew(2, AT + LEASE)
