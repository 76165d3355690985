"""What an engine has of the memory of cards."""

import contextlib

import psutil

from node_agent.inventory.model import Gpus
from node_agent.workloads.model import Container


def held_of_cards(container: Container, gpus: Gpus) -> int:
    """The megabytes that an engine's processes have of the card of which they have the most; 0 without any."""
    process = container.record.process
    if process is None or not any(each.processes for each in gpus.devices):
        return 0
    pids = {process.instance.pid}
    with contextlib.suppress(psutil.Error):
        pids |= {child.pid for child in psutil.Process(process.instance.pid).children(recursive=True)}
    return gpus.most_held(pids)
