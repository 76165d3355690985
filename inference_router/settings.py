"""The inference router's settings, read once from the environment."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mesh.settings import Observability, observability


@dataclass(frozen=True, slots=True)
class Settings:
    """What the inference router needs to know. Addresses are `host:port`."""

    mesh_address: str
    controller_mesh: str
    pki: Path
    state: Path
    observability: Observability


def read_settings(environment: Mapping[str, str] = os.environ) -> Settings:
    """The settings in the environment. Raises ValueError naming the variable that is wrong."""
    home = Path(environment.get("AIOPS_HOME", ".aiops")).absolute()
    return Settings(
        mesh_address=environment.get("AIOPS_ROUTER_MESH", "127.0.0.1:7083"),
        controller_mesh=environment.get("AIOPS_CONTROLLER_MESH", "127.0.0.1:7081"),
        pki=_certified(Path(environment.get("AIOPS_PKI", str(home / "pki")))),
        state=home / "router",
        observability=observability(environment),
    )


def _certified(pki: Path) -> Path:
    missing = [name for name in ("ca.crt", "inference_router.crt", "inference_router.key") if not (pki / name).exists()]
    if missing:
        raise ValueError(f"AIOPS_PKI is {pki}, where {', '.join(missing)} is missing")
    return pki
