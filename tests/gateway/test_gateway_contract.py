"""What the gateway derives from the contracts: the OpenAPI document, open methods, Envoy's own files."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from gateway.edge import bootstrap
from gateway.edge.addresses import envoy_address
from gateway.edge.contracts import INFERENCE_SERVICE, public_methods
from gateway.edge.errors import STATUSES
from gateway.settings import read_settings
from gateway.web.pages import OPENAPI
from stack.envoy import Envoy


@pytest.fixture(scope="module")
def document() -> dict[str, dict[str, dict[str, dict[str, object]]]]:
    return dict(json.loads(OPENAPI.read_text()))


def test_every_rest_binding_is_documented_with_its_body_and_its_parameters(
    document: dict[str, dict[str, dict[str, dict[str, object]]]],
) -> None:
    for method in public_methods():
        for binding in method.bindings:
            operation = document["paths"][binding.path][binding.verb.lower()]
            assert operation["summary"]
            if method.service != INFERENCE_SERVICE:
                assert ("requestBody" in operation) == bool(binding.body)
                assert (operation.get("security") == []) == method.anyone


def test_every_reference_of_the_document_leads_somewhere(
    document: dict[str, dict[str, dict[str, dict[str, object]]]],
) -> None:
    names = set(re.findall(r'"\$ref": "#/components/schemas/([^"]+)"', json.dumps(document)))
    assert names <= set(document["components"]["schemas"])


def test_nothing_but_signing_in_and_health_is_open() -> None:
    assert {
        method.path.removeprefix("/aiops.") for method in public_methods() if method.anyone and method.bindings
    } == {
        "iam.v1.AuthService/GetJwks",
        "iam.v1.AuthService/Login",
        "iam.v1.AuthService/Logout",
        "iam.v1.AuthService/Refresh",
        "system.v1.SystemService/GetHealth",
    }


def test_every_reason_the_edge_answers_with_is_in_the_contract() -> None:
    from aiops.errors.v1 import reason_pb2

    assert {reason for _, reason, _ in STATUSES.values()} <= set(reason_pb2.Reason.keys())


@pytest.mark.parametrize("admin", ["127.0.0.1:0", "unix:admin.sock"])
def test_envoy_accepts_the_bootstrap(tmp_path: Path, admin: str) -> None:
    file = tmp_path / "envoy.json"
    file.write_text(bootstrap.render(xds="controller.example:7084", admin=admin))
    envoy = Envoy(file, 0, 0)
    checked = subprocess.run(
        [*envoy.command(), "--mode", "validate"],
        env=envoy.environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr
    written = json.loads(file.read_text())
    assert written["overload_manager"]["actions"][1]["name"] == "envoy.overload_actions.stop_accepting_requests"


def test_addresses_are_read_as_settings_write_them() -> None:
    assert envoy_address("unix:/run/a.sock") == {"pipe": {"path": "/run/a.sock"}}
    assert envoy_address("[::1]:70") == {"socket_address": {"address": "::1", "port_value": 70}}


def test_a_setting_that_is_no_number_is_named() -> None:
    with pytest.raises(ValueError, match="AIOPS_PORT"):
        read_settings({"AIOPS_PORT": "eighty"})
