"""The Compose files of deploy/ are Compose files, and in each deployment the services find each other."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose

DEPLOY = Path(__file__).parents[2] / "deploy"
BASE, LOCAL, PUBLIC, NODE = "compose.yaml", "compose.local.yaml", "compose.public.yaml", "compose.node.yaml"
DEPLOYMENTS = {
    "one machine": (BASE, LOCAL),
    "controller": (BASE, PUBLIC),
    "hybrid": (BASE, LOCAL, PUBLIC),
    "node": (NODE,),
}
OFFICIAL = {"postgres": "postgres:", "kafka": "apache/kafka:", "envoy": "envoyproxy/envoy:"}
SERVICES = {"preparation", "controller", "inference-router", "gateway", "realtime"}
AGENT = "node-agent"
ADDRESSES = (
    "AIOPS_DATABASE_URL",
    "AIOPS_KAFKA",
    "AIOPS_CONTROLLER_API",
    "AIOPS_CONTROLLER_MESH",
    "AIOPS_CONTROLLER_JOIN",
    "AIOPS_ROUTER_MESH",
    "AIOPS_NODE_GATEWAY",
)
VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*)|:\?[^}]*)?\}")


def text_of(name: str) -> str:
    return (DEPLOY / name).read_text()


def content_of(name: str) -> dict[str, Any]:
    """The file as Compose sees it: variables at their defaults or some text, YAML merges resolved."""
    content: dict[str, Any] = yaml.safe_load(VARIABLE.sub(lambda match: match[2] or "chosen", text_of(name)))
    return content


def merged(base: Any, more: Any) -> Any:
    """Two files as Compose merges them: mappings by key, lists one after the other."""
    if isinstance(base, dict) and isinstance(more, dict):
        return {**base, **{key: merged(base.get(key), value) for key, value in more.items()}}
    return [*base, *more] if isinstance(base, list) and isinstance(more, list) else more


@pytest.fixture(params=DEPLOYMENTS)
def deployment(request: pytest.FixtureRequest) -> dict[str, Any]:
    """One of the deployments, its files merged."""
    content: dict[str, Any] = {}
    for name in DEPLOYMENTS[request.param]:
        content = merged(content, content_of(name))
    return content


def settings_of(service: dict[str, Any]) -> dict[str, str]:
    settings: dict[str, str] = service.get("environment", {})
    return settings


@pytest.mark.parametrize("name", [BASE, LOCAL, PUBLIC, NODE])
def test_is_a_compose_file(name: str) -> None:
    content = content_of(name)
    assert set(PyCompose.from_json(json.dumps(content)).service_names()) == set(content["services"])


def test_a_deployment_is_a_compose_file_with_all_that_it_needs(deployment: dict[str, Any]) -> None:
    services = deployment["services"]
    assert set(PyCompose.from_json(json.dumps(deployment)).service_names()) == set(services)
    assert set(services) in ({*OFFICIAL, *SERVICES}, {*OFFICIAL, *SERVICES, AGENT}, {AGENT})
    for name, service in services.items():
        assert set(service.get("depends_on", {})) <= set(services), name
        named = [each.partition(":")[0] for each in service.get("volumes", ()) if each[0].isalpha()]
        assert set(named) <= set(deployment["volumes"]), name


def test_the_parser_refuses_what_is_none() -> None:
    wrong = {"services": {"postgres": {"image": "postgres", "comand": "x"}}}
    with pytest.raises(ValueError, match="comand"):
        PyCompose.from_json(json.dumps(wrong))


def test_stores_and_edge_are_the_official_images() -> None:
    services = content_of(BASE)["services"]
    for name, image in OFFICIAL.items():
        assert services[name]["image"].startswith(image)


def test_every_address_names_a_service_that_listens_there(deployment: dict[str, Any]) -> None:
    services = deployment["services"]
    for name, service in services.items():
        for setting in ADDRESSES:
            address = settings_of(service).get(setting, "")
            for host in re.findall(r"([a-z][a-z-]*):\d+", address.rpartition("@")[2]):
                assert host in services, f"{name}: {setting} dials {host}"


def test_envoy_gets_its_configuration_and_listens_where_it_is_published() -> None:
    services = content_of(BASE)["services"]
    gateway = settings_of(services["gateway"])
    assert gateway["AIOPS_XDS"].endswith(":7084")
    assert "gateway:7084" in services["preparation"]["command"]
    published = {each.rpartition(":")[2] for each in services["envoy"]["ports"]}
    assert published == {gateway["AIOPS_PORT"], gateway["AIOPS_NODE_PORT"]}


def test_our_containers_have_no_more_rights_than_they_need(deployment: dict[str, Any]) -> None:
    for name in deployment["services"].keys() & {*SERVICES, AGENT, "envoy"}:
        service = deployment["services"][name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert "mem_limit" in service
        assert not [each for each in service.get("volumes", ()) if "docker.sock" in each]


def test_everything_that_stays_up_has_a_health_check_and_keeps_its_state_in_volumes(
    deployment: dict[str, Any],
) -> None:
    for name, service in deployment["services"].items():
        if service["restart"] == "no":
            continue
        assert "healthcheck" in service, name
        assert service.get("volumes"), name


def test_only_envoy_is_published_and_nodes_open_nothing(deployment: dict[str, Any]) -> None:
    publishing = [name for name, service in deployment["services"].items() if "ports" in service]
    assert publishing in (["envoy"], [])
    if AGENT in deployment["services"]:
        agent = deployment["services"][AGENT]
        assert settings_of(agent)["AIOPS_NODE_TUNNEL"] == "on"
        assert "expose" not in agent


@pytest.mark.parametrize("name", [BASE, LOCAL, PUBLIC, NODE])
def test_no_secret_is_in_a_file(name: str) -> None:
    for value in re.findall(r"(?:PASSWORD|TOKEN|SECRET_ACCESS_KEY): (.+)", text_of(name)):
        assert re.fullmatch(r"\$\{\w+:(\?choose one|-)\}", value)


def test_the_example_of_values_names_every_value_that_has_no_default_and_none_that_is_not_used() -> None:
    example = set(re.findall(r"^#? ?([A-Z_]+)=", text_of(".env.example"), re.MULTILINE)) - {"COMPOSE_FILE"}
    texts = [text_of(name) for name in (BASE, LOCAL, PUBLIC, NODE)]
    required = {name for text in texts for name in re.findall(r"\$\{(\w+):\?", text)}
    assert required <= example
    assert example <= {match[0] for text in texts for match in VARIABLE.findall(text)}


def test_a_fleet_needs_an_address_and_storage_that_other_machines_reach() -> None:
    required = re.findall(r"\$\{(\w+):\?", text_of(PUBLIC))
    assert set(required) == {"AIOPS_PUBLIC_NODE_ADDRESS", "AIOPS_STORAGE_URL", "AIOPS_PUBLISH_NODES"}
    reserved = content_of(NODE)["services"][AGENT]["deploy"]["resources"]["reservations"]["devices"]
    assert reserved == [{"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}]


def test_the_image_runs_as_its_own_user_on_a_base_of_choice() -> None:
    dockerfile = text_of("Dockerfile")
    assert re.search(r"^ARG BASE=", dockerfile, re.MULTILINE)
    assert re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE) == ["${BASE}", "${BASE}"]
    assert re.search(r"^USER aiops$", dockerfile, re.MULTILINE)
    for directory in ("/var/lib/aiops/objects", "/var/lib/node"):
        assert directory in dockerfile  # a volume takes its owner from the image
