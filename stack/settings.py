"""What `aiops up` can be told, read once from the environment."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from stack.ports import ReservedPorts, free_port, holder

GATEWAY_PORT = 8080
BROKER_PORT = 9092
CONTROLLER_API_PORT = 7080
CONTROLLER_MESH_PORT = 7081
CONTROLLER_JOIN_PORT = 7082
ROUTER_MESH_PORT = 7083
XDS_PORT = 7084
REALTIME_PORT = 7087
NODE_PORT = 8443
# Listeners that `aiops up` may be told to put elsewhere.
INNER = {"AIOPS_BROKER", "AIOPS_CONTROLLER_API", "AIOPS_CONTROLLER_MESH", "AIOPS_CONTROLLER_JOIN"}
INNER |= {"AIOPS_ROUTER_MESH", "AIOPS_XDS"}
EXTERNAL = {"AIOPS_DATABASE_URL", "AIOPS_KAFKA", "AIOPS_STORAGE_URL", "AIOPS_API_KEY"}


class SettingError(ValueError):
    """A setting that cannot be used; the message names it and says what to change."""


class PortTakenError(SettingError):
    """Something else listens on a port that was asked for."""


@dataclass(frozen=True, slots=True)
class Ports:
    """The loopback ports of one stack."""

    gateway: int
    nodes: int
    broker: int
    controller_api: int
    controller_mesh: int
    controller_join: int
    router_mesh: int
    xds: int
    realtime: int
    envoy_admin: int
    controller_metrics: int
    router_metrics: int
    gateway_metrics: int
    realtime_metrics: int
    reserved: ReservedPorts


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of a stack."""

    home: Path
    ports: Ports
    database_url: str
    kafka: str
    embedded_database: bool
    embedded_kafka: bool
    storage_url: str
    transformers: str
    inherited: Mapping[str, str]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports.gateway}"

    @property
    def public_node_address(self) -> str:
        """Where machines that join are told to dial."""
        return self.inherited.get("AIOPS_PUBLIC_NODE_ADDRESS") or f"127.0.0.1:{self.ports.nodes}"

    @property
    def node_bind(self) -> str:
        """Whoever names an address for other machines wants to be dialled there."""
        chosen = self.inherited.get("AIOPS_NODE_BIND") or self.inherited.get("AIOPS_BIND")
        everywhere = "0.0.0.0"  # noqa: S104 - what listens there asks for certificates
        return chosen or (everywhere if self.inherited.get("AIOPS_PUBLIC_NODE_ADDRESS") else "127.0.0.1")

    @property
    def service_environment(self) -> dict[str, str]:
        """The environment of every service: what this process has, and the addresses of this stack."""
        ports = self.ports
        return {
            **self.inherited,
            "AIOPS_HOME": str(self.home),
            "AIOPS_PORT": str(ports.gateway),
            "AIOPS_NODE_PORT": str(ports.nodes),
            "AIOPS_PUBLIC_NODE_ADDRESS": self.public_node_address,
            "AIOPS_NODE_BIND": self.node_bind,
            "AIOPS_URL": self.url,
            "AIOPS_KAFKA": self.kafka,
            "AIOPS_DATABASE_URL": self.database_url,
            "AIOPS_STORAGE_URL": self.storage_url,
            "AIOPS_PKI": str(self.home / "pki"),
            "AIOPS_CONTROLLER_API": f"127.0.0.1:{ports.controller_api}",
            "AIOPS_CONTROLLER_MESH": f"127.0.0.1:{ports.controller_mesh}",
            "AIOPS_CONTROLLER_JOIN": f"127.0.0.1:{ports.controller_join}",
            "AIOPS_ROUTER_MESH": f"127.0.0.1:{ports.router_mesh}",
            "AIOPS_XDS": f"127.0.0.1:{ports.xds}",
            "AIOPS_REALTIME": f"127.0.0.1:{ports.realtime}",
            "AIOPS_REALTIME_LISTEN": f"127.0.0.1:{ports.realtime}",
            "MALLOC_ARENA_MAX": "2",
            "PYTHONUNBUFFERED": "1",
        }


def home_directory(environment: Mapping[str, str] = os.environ) -> Path:
    """$AIOPS_HOME, `.aiops` of the working directory by default."""
    return Path(environment.get("AIOPS_HOME") or ".aiops").expanduser().absolute()


def admin_password(file: Path, environment: Mapping[str, str] = os.environ) -> str:
    """$AIOPS_ADMIN_PASSWORD, or what the controller generated into `file`."""
    return environment.get("AIOPS_ADMIN_PASSWORD") or file.read_text().strip()


def demo_home(environment: Mapping[str, str] = os.environ) -> Path | None:
    """$AIOPS_HOME, if anyone set it."""
    return home_directory(environment) if environment.get("AIOPS_HOME") else None


def demo_environment(home: Path, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment of a platform and its clients that disturb no other platform of this machine."""
    port = str(free_port())
    return {
        **{name: value for name, value in environment.items() if name not in EXTERNAL},
        **{name: f"127.0.0.1:{free_port()}" for name in INNER},
        "AIOPS_HOME": str(home),
        "AIOPS_PORT": port,
        "AIOPS_URL": f"http://127.0.0.1:{port}",
        "AIOPS_CONFIG": str(home / "credentials.json"),
    }


def read(environment: Mapping[str, str] = os.environ) -> Settings:
    """Settings from the environment with ports that are free now. Raises SettingError."""
    home = home_directory(environment)
    reserved = ReservedPorts()
    try:
        ports = _ports(_Choice(environment, reserved))
    except SettingError:
        reserved.release()
        raise
    database_url, kafka = environment.get("AIOPS_DATABASE_URL", ""), environment.get("AIOPS_KAFKA", "")
    return Settings(
        home=home,
        ports=ports,
        database_url=database_url,
        kafka=kafka or f"127.0.0.1:{ports.broker}",
        embedded_database=not database_url,
        embedded_kafka=not kafka,
        storage_url=environment.get("AIOPS_STORAGE_URL") or (home / "objects").as_uri(),
        transformers=environment.get("AIOPS_ENGINE_TRANSFORMERS", ""),
        inherited={name: value for name, value in environment.items() if not name.startswith("PG")},
    )


def _ports(chosen: "_Choice") -> Ports:
    return Ports(
        gateway=chosen.gateway(),
        nodes=chosen.nodes(),
        broker=chosen.inner("AIOPS_BROKER", BROKER_PORT),
        controller_api=chosen.inner("AIOPS_CONTROLLER_API", CONTROLLER_API_PORT),
        controller_mesh=chosen.inner("AIOPS_CONTROLLER_MESH", CONTROLLER_MESH_PORT),
        controller_join=chosen.inner("AIOPS_CONTROLLER_JOIN", CONTROLLER_JOIN_PORT),
        router_mesh=chosen.inner("AIOPS_ROUTER_MESH", ROUTER_MESH_PORT),
        xds=chosen.inner("AIOPS_XDS", XDS_PORT),
        realtime=chosen.reserved.take(REALTIME_PORT),
        envoy_admin=chosen.reserved.take(),
        controller_metrics=chosen.reserved.take(),
        router_metrics=chosen.reserved.take(),
        gateway_metrics=chosen.reserved.take(),
        realtime_metrics=chosen.reserved.take(),
        reserved=chosen.reserved,
    )


@dataclass(frozen=True, slots=True)
class _Choice:
    """Chooses ports by the environment. Raises SettingError for one that cannot be had."""

    environment: Mapping[str, str]
    reserved: ReservedPorts

    def gateway(self) -> int:
        """The port that was asked for or none; 0 asks for any free one."""
        text = self.environment.get("AIOPS_PORT") or str(GATEWAY_PORT)
        if not text.isdigit() or int(text) > 65535:
            raise SettingError(f"AIOPS_PORT is {text!r}; give a port number from 1 to 65535, or 0 for any free one")
        if not int(text):
            return self.reserved.take()
        return self._exactly(int(text), "set AIOPS_PORT to another port (0 finds one)")

    def nodes(self) -> int:
        """The port that nodes dial: as set, or the usual one, or another free one."""
        text = self.environment.get("AIOPS_NODE_PORT") or "0"
        if not text.isdigit() or int(text) > 65535:
            raise SettingError(f"AIOPS_NODE_PORT is {text!r}; give a port number from 1 to 65535, or leave it unset")
        otherwise = "set AIOPS_NODE_PORT to another port, or leave it unset"
        return self._exactly(int(text), otherwise) if int(text) else self.reserved.take(NODE_PORT)

    def inner(self, name: str, preferred: int) -> int:
        """The port of an inner listener: as set, or the usual one, or another free one."""
        address = self.environment.get(name, "")
        if not address:
            return self.reserved.take(preferred)
        host, _, text = address.rpartition(":")
        if host not in {"127.0.0.1", "localhost"} or not text.isdigit():
            raise SettingError(f"{name} is {address!r}; `aiops up` needs 127.0.0.1:PORT, or leave it unset")
        return self._exactly(int(text), f"set {name} to another address")

    def _exactly(self, port: int, otherwise: str) -> int:
        if self.reserved.claim(port):
            return port
        raise PortTakenError(f"port {port} is taken by {holder(port)}; stop that, or {otherwise}")
