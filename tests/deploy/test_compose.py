"""deploy/compose.yaml is a Compose file, and its services can find each other by the settings they get."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose

DEPLOY = Path(__file__).parents[2] / "deploy"
OFFICIAL = {"postgres": "postgres:", "kafka": "apache/kafka:", "envoy": "envoyproxy/envoy:"}
OURS = {"preparation", "controller", "inference-router", "gateway", "node-agent"}
ADDRESSES = ("AIOPS_DATABASE_URL", "AIOPS_KAFKA", "AIOPS_CONTROLLER_API", "AIOPS_CONTROLLER_MESH", "AIOPS_ROUTER_MESH")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """The file as Compose sees it: variables at their defaults or some text, YAML merges resolved."""
    text = re.sub(r"\$\{\w+(?::-([^}]*)|:\?[^}]*)?\}", lambda match: match[1] or "chosen", _text())
    content: dict[str, Any] = yaml.safe_load(text)
    return content


def _text() -> str:
    return (DEPLOY / "compose.yaml").read_text()


def test_is_a_compose_file(compose: dict[str, Any]) -> None:
    assert set(PyCompose.from_json(json.dumps(compose)).service_names()) == {*OFFICIAL, *OURS}


def test_the_parser_refuses_what_is_none(compose: dict[str, Any]) -> None:
    wrong = {**compose, "services": {"postgres": {"image": "postgres", "comand": "x"}}}
    with pytest.raises(ValueError, match="comand"):
        PyCompose.from_json(json.dumps(wrong))


def test_stores_and_edge_are_the_official_images(compose: dict[str, Any]) -> None:
    for name, image in OFFICIAL.items():
        assert compose["services"][name]["image"].startswith(image)


def test_every_address_names_a_service_that_listens_there(compose: dict[str, Any]) -> None:
    services = compose["services"]
    for name in OURS - {"preparation"}:
        for setting in ADDRESSES:
            address = services[name].get("environment", {}).get(setting, "")
            for host in re.findall(r"([a-z][a-z-]*):\d+", address.rpartition("@")[2]):
                assert host in services, f"{name}: {setting} dials {host}"
    assert services["gateway"]["environment"]["AIOPS_XDS"].endswith(":7084")
    assert "gateway:7084" in services["preparation"]["command"]


def test_our_containers_have_no_more_rights_than_they_need(compose: dict[str, Any]) -> None:
    for name in OURS | {"envoy"}:
        service = compose["services"][name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert "mem_limit" in service


def test_only_the_gateway_is_published_and_no_password_is_in_the_file(compose: dict[str, Any]) -> None:
    assert [name for name, service in compose["services"].items() if "ports" in service] == ["envoy"]
    for password in re.findall(r"PASSWORD: (.+)", _text()):
        assert re.fullmatch(r"\$\{AIOPS_[A-Z_]+:\?choose one\}", password)


def test_the_image_runs_as_its_own_user_on_a_base_of_choice() -> None:
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    assert re.search(r"^ARG BASE=", dockerfile, re.MULTILINE)
    assert re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE) == ["${BASE}", "${BASE}"]
    assert re.search(r"^USER aiops$", dockerfile, re.MULTILINE)
