"""What it means when the Engine refuses to make or start a container."""

from collections.abc import Sequence
from dataclasses import dataclass

from node_agent.runtime.model import LaunchError


class ProgramMissingError(LaunchError):
    """The image has no such program."""

    reason = "ENGINE_UNAVAILABLE"


class PortTakenError(LaunchError):
    """Somebody else listens on the port."""

    reason = "PORT_IN_USE"


class GpuRuntimeMissingError(LaunchError):
    """Docker cannot hand a GPU to a container."""

    reason = "GPU_DEVICE_NOT_FOUND"


class DiskUsedUpError(LaunchError):
    """There is no room for another container."""

    reason = "DISK_FULL"


@dataclass(frozen=True, slots=True)
class Refusal:
    """The error to raise, and its sentence."""

    error: type[LaunchError]
    message: str


def judge_refusal(words: str, image: str, argv: Sequence[str]) -> Refusal:
    """Turns the Engine's words into what happened and what to do."""
    lowered, said = words.lower(), f"(Docker said: {words.strip()})"
    program = argv[0] if argv else "its command"
    if "executable file not found" in lowered or "no such file or directory: unknown" in lowered:
        return Refusal(ProgramMissingError, f"image {image} has no program {program}; use another image {said}")
    if "permission denied" in lowered and "exec" in lowered:
        return Refusal(ProgramMissingError, f"image {image} does not let its user run {program} {said}")
    if "address already in use" in lowered or "port is already allocated" in lowered:
        return Refusal(PortTakenError, f"a port of the container is in use on this node; it needs another {said}")
    if "could not select device driver" in lowered or "nvidia-container-cli" in lowered:
        hint = "install the NVIDIA container toolkit on the node and restart Docker, or deploy on another node"
        return Refusal(GpuRuntimeMissingError, f"Docker cannot give a GPU to image {image}: {hint} {said}")
    if "no space left" in lowered:
        return Refusal(DiskUsedUpError, f"the disk where Docker keeps its containers is full; free some {said}")
    return Refusal(LaunchError, f"a container of image {image} cannot be started {said}")
