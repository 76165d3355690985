"""What every contract promises, read from the descriptors."""

import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiops.policy.v1 import policy_pb2
from google.api import annotations_pb2
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor

PROTOS = Path(__file__).parents[1] / "protos"


def every_method() -> Iterator[MethodDescriptor]:
    """The methods of every service of the platform."""
    for path in sorted(PROTOS.rglob("*.proto")):
        name = str(path.relative_to(PROTOS))
        importlib.import_module(name.removesuffix(".proto").replace("/", ".") + "_pb2")
        for service in descriptor_pool.Default().FindFileByName(name).services_by_name.values():
            yield from service.methods


METHODS = {method.full_name: method for method in every_method()}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_says_who_may_call_it(name: str) -> None:
    policy = METHODS[name].GetOptions().Extensions[policy_pb2.policy]
    allowed = policy.WhichOneof("allow")
    assert allowed is not None
    # `permission: PERMISSION_UNSPECIFIED` or `anyone: false` would say nothing.
    assert getattr(policy, allowed)


@pytest.mark.parametrize("name", METHODS)
def test_methods_for_peers_are_not_reachable_over_rest(name: str) -> None:
    options = METHODS[name].GetOptions()
    if options.Extensions[policy_pb2.policy].WhichOneof("allow") == "peer":
        assert not options.HasExtension(annotations_pb2.http)


def test_few_methods_are_for_anyone() -> None:
    allowed = {name for name, method in METHODS.items() if method.GetOptions().Extensions[policy_pb2.policy].anyone}
    assert allowed == {
        "aiops.iam.v1.AuthService.Login",
        "aiops.iam.v1.AuthService.Refresh",
        "aiops.iam.v1.AuthService.Logout",
        "aiops.iam.v1.AuthService.GetJwks",
        "aiops.nodes.v1.NodeEnrollmentService.Join",
        "aiops.system.v1.SystemService.GetHealth",
    }
