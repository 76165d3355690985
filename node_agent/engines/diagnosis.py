"""Says why an engine ended, from its exit code and the tail of its log."""

import re
import signal
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from node_agent.engines.engine import Diagnosis, FailureReason

SMALLER = (
    "Choose a node with more free memory, a quantised or smaller revision of the model, a shorter context_tokens or a "
    "lower max_concurrency, or stop another deployment."
)
_SHORTER = (
    "Deploy with a shorter context_tokens or a lower max_concurrency, take a quantised revision of the model, "
    "or a node with more memory."
)


class Sign(NamedTuple):
    """What an engine prints when it ends, and what that means."""

    pattern: re.Pattern[str]
    reason: FailureReason
    message: str
    suggestion: str


def sign(pattern: str, reason: FailureReason, message: str, suggestion: str) -> Sign:
    """A sign that is known by a regular expression, whatever its case."""
    return Sign(re.compile(pattern, re.IGNORECASE), reason, message, suggestion)


# What PyTorch, safetensors, Transformers, vLLM and uvicorn print, most telling first.
_SIGNS = (
    sign(
        r"CUDA out of memory|OutOfMemoryError|CUDA error: out of memory|CUBLAS_STATUS_ALLOC_FAILED"
        r"|Free memory on device .* less than desired",
        FailureReason.OUT_OF_MEMORY,
        "the graphics card has not enough free memory for this model",
        SMALLER,
    ),
    sign(
        r"No available memory for the cache blocks"
        r"|larger than the (available KV cache memory|maximum number of tokens)",
        FailureReason.OUT_OF_MEMORY,
        "after loading the model too little memory is left for the context it should keep",
        _SHORTER,
    ),
    sign(
        r"\bMemoryError\b|cannot allocate memory|can't allocate memory|std::bad_alloc"
        r"|Available memory on node .* less than desired",
        FailureReason.OUT_OF_MEMORY,
        "the node has not enough free memory for this model",
        SMALLER,
    ),
    sign(
        r"address already in use|Errno 98",
        FailureReason.PORT_IN_USE,
        "the port is already in use on the node",
        "Deploy without a port, so that the node chooses a free one, or name another port.",
    ),
    sign(
        r"No space left on device|Errno 28",
        FailureReason.DISK_FULL,
        "the node's disk is full",
        "Free space on the node, or deploy on another node.",
    ),
    sign(
        r"max_model_len .* is greater than the derived max_model_len",
        FailureReason.ENGINE_FAILED,
        "the model has no room for a context as long as the deployment asks for",
        "Deploy with a shorter context_tokens.",
    ),
    sign(
        r"SafetensorError|error while deserializing header|did not match the original empty weight shapes",
        FailureReason.NOT_A_MODEL,
        "the model's weights are damaged or belong to another configuration",
        "Import the model again from a complete copy.",
    ),
    sign(
        r"does not recognize this architecture|has no attribute '\w+For\w+'|architectures .* are not supported",
        FailureReason.NOT_A_MODEL,
        "the engine does not know this model's architecture",
        "Use an engine that supports it, or a newer version of this one.",
    ),
    sign(
        r"Unrecognized (model|processing class) in|Error no file named|does not appear to have a file named"
        r"|chat_template is not set|couldn't find them in the cached files",
        FailureReason.NOT_A_MODEL,
        "the model's directory is incomplete",
        "Import the model again with its config.json, tokenizer, chat template and safetensors files.",
    ),
    sign(
        r"Missing dependencies for serving|No module named|Failed to infer device type"
        r"|No such file or directory: '\S*/bin/",
        FailureReason.ENGINE_UNAVAILABLE,
        "the engine is not fully installed on the node",
        "Install the engine's environment again and restart the node agent.",
    ),
)
_SIGNALS = {
    signal.SIGILL: "used an instruction that this processor does not have",
    signal.SIGSEGV: "crashed with a segmentation fault",
    signal.SIGABRT: "aborted",
    signal.SIGTERM: "was ended by somebody else (SIGTERM)",
}
_READ_LOG = "Read the deployment's log; deploy again when the cause is gone."
_NOT_FOUND = (126, 127)
_LINE_LIMIT = 300


def diagnose(returncode: int | None, log_tail: str) -> Diagnosis:
    """Judges an engine that ended (`returncode` as subprocess gives it) or never became ready (None)."""
    known = judged(_SIGNS, log_tail)
    if known is not None:
        return known
    if returncode is None:
        return Diagnosis(
            FailureReason.ENGINE_FAILED, f"the engine did not become ready in time{_last(log_tail)}", _READ_LOG
        )
    killed_by = -returncode if returncode < 0 else returncode - 128
    if killed_by == signal.SIGKILL:
        message = "the engine was killed (SIGKILL), as the system does when the node's memory is used up"
        return Diagnosis(FailureReason.OUT_OF_MEMORY, message, SMALLER)
    if returncode in _NOT_FOUND:
        message = f"the engine could not be started{_last(log_tail)}"
        return Diagnosis(
            FailureReason.ENGINE_UNAVAILABLE, message, "Install the engine on the node and restart its agent."
        )
    how = next((text for number, text in _SIGNALS.items() if number == killed_by), f"ended with exit code {returncode}")
    return Diagnosis(FailureReason.ENGINE_FAILED, f"the engine {how}{_last(log_tail)}", _READ_LOG)


def in_image(found: Diagnosis, image: str) -> Diagnosis:
    """The same of an engine in a container: what is missing is missing in its image, not on the node."""
    if found.reason is not FailureReason.ENGINE_UNAVAILABLE:
        return found
    message = f"in image {image} {found.message.replace(' on the node', '')}"
    return replace(found, message=message, suggestion="Deploy an image that holds the whole engine, or build it again.")


def judged(signs: Sequence[Sign], log_tail: str) -> Diagnosis | None:
    """What the first sign that the log shows means; None without one."""
    found = next((known for known in signs if known.pattern.search(log_tail)), None)
    return Diagnosis(found.reason, found.message, found.suggestion) if found else None


def _last(log_tail: str) -> str:
    """The last line that says something, as the end of a sentence."""
    lines = [line.strip() for line in log_tail.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    line = (errors or lines or [""])[-1]
    return f": {line[:_LINE_LIMIT]}" if line else ""
