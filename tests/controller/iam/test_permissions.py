"""The permission matrix of the requirement, cell by cell."""

import pytest
from aiops.policy.v1 import policy_pb2

from mesh.identity import PERMISSIONS_BY_ROLE, permissions_of

ROLES = (
    "universe.owner",
    "universe.editor",
    "universe.viewer",
    "organization.owner",
    "organization.editor",
    "organization.viewer",
)
EDITORS = {"universe.owner", "universe.editor", "organization.owner", "organization.editor"}
MATRIX = {
    "deploy_models": EDITORS,
    "register_nodes": EDITORS,
    "create_agents": EDITORS,
    "view_metrics": set(ROLES),
    "deploy_tools": EDITORS,
    "chat": set(ROLES),
    "manage_users": {"universe.owner", "organization.owner"},
    "manage_organizations": {"universe.owner"},
    "allow_pickle": {"universe.owner", "organization.owner"},
}


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("permission", MATRIX)
def test_the_matrix(permission: str, role: str) -> None:
    assert (permission in permissions_of(frozenset({role}))) == (role in MATRIX[permission])


def test_the_matrix_names_every_permission_and_every_role() -> None:
    assert {"PERMISSION_UNSPECIFIED", *MATRIX} == set(policy_pb2.Permission.keys())
    assert set(ROLES) == set(PERMISSIONS_BY_ROLE)


def test_roles_add_up_and_unknown_ones_allow_nothing() -> None:
    assert permissions_of(frozenset({"organization.viewer", "organization.owner"})) == permissions_of(
        frozenset({"organization.owner"})
    )
    assert permissions_of(frozenset({"universe.emperor", ""})) == frozenset()
