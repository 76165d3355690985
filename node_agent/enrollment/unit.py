"""Lets systemd run the agent: a unit of this machine when installed by root, of this user otherwise."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from mesh.errors import DomainError, Kind
from node_agent.settings import AgentSettings

NAME = "aiops-node.service"
RUNS_SYSTEMD = Path("/run/systemd/system")
# What is this node's and no secret; the identity is in the node's home.
KEPT = ("AIOPS_NODE_", "AIOPS_ENGINE_", "AIOPS_IMAGE", "AIOPS_METRICS_", "AIOPS_OTLP_", "AIOPS_LOG_", "PATH=")


class NoSystemdError(DomainError):
    """This machine is not run by systemd."""

    kind, reason = Kind.PRECONDITION, "UNAVAILABLE"


def install(settings: AgentSettings, running: Path = RUNS_SYSTEMD) -> str:
    """Writes the unit, starts it now and at each boot; answers what to look at. Raises NoSystemdError."""
    if not running.is_dir():
        raise NoSystemdError(
            "systemd does not run this machine: start `aiops node-agent` by what does, with "
            f"AIOPS_NODE_HOME={settings.home} (the node has joined)"
        )
    mine = os.geteuid() != 0
    directory = Path("~/.config/systemd/user").expanduser() if mine else Path("/etc/systemd/system")
    directory.mkdir(parents=True, exist_ok=True)
    (directory / NAME).write_text(unit(settings.home, settings.environment, mine=mine))
    control = ("systemctl", "--user") if mine else ("systemctl",)
    for words in (("daemon-reload",), ("enable", "--now", NAME)):
        subprocess.run((*control, *words), check=True)
    return f"systemd runs the agent: `{' '.join(control)} status {NAME}`, `journalctl {'--user ' * mine}-u {NAME}`"


def unit(home: Path, environment: Mapping[str, str], *, mine: bool = False) -> str:
    """The unit's text. Engines and the node's Envoy outlive the agent, so only the agent itself is ended."""
    kept = {name: value for name, value in environment.items() if f"{name}=".startswith(KEPT)}
    settings = {**kept, "AIOPS_NODE_HOME": str(home)}
    lines = [f'Environment="{_quoted(f"{name}={value}")}"' for name, value in sorted(settings.items())]
    return "\n".join(
        (
            "[Unit]",
            "Description=aiops node agent",
            "Wants=network-online.target",
            "After=network-online.target",
            "",
            "[Service]",
            f"ExecStart={sys.executable} -m node_agent",
            f"WorkingDirectory={home}",
            *lines,
            "KillMode=process",
            "Restart=always",
            "RestartSec=2",
            "",
            "[Install]",
            f"WantedBy={'default' if mine else 'multi-user'}.target",
            "",
        )
    )


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("\n", "\\n")
