"""What an operator is told about an engine that ended, from what the engines really print."""

import re

import pytest
from aiops.errors.v1 import reason_pb2

from node_agent.engines.diagnosis import diagnose, in_image
from node_agent.engines.engine import FailureReason

LOGS = [
    ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.", 1, FailureReason.OUT_OF_MEMORY),
    ("ValueError: No available memory for the cache blocks.", 1, FailureReason.OUT_OF_MEMORY),
    (
        "ValueError: To serve at least one request with the model's max seq len (32768), (4.0 GiB KV cache is needed, "
        "which is larger than the available KV cache memory (1.0 GiB). Try increasing `gpu_memory_utilization`",
        1,
        FailureReason.OUT_OF_MEMORY,
    ),
    (
        "ValueError: Free memory on device cuda:0 (1/80 GiB) on startup is less than desired GPU memory utilization",
        1,
        FailureReason.OUT_OF_MEMORY,
    ),
    (
        "ValueError: Available memory on node 0 (1/23 GiB) on startup is less than desired CPU memory utilization",
        1,
        FailureReason.OUT_OF_MEMORY,
    ),
    (
        "max_model_len (4096) is greater than the derived max_model_len (max_position_embeddings=2048)",
        1,
        FailureReason.ENGINE_FAILED,
    ),
    ("RuntimeError: [enforce fail] DefaultCPUAllocator: can't allocate memory", 1, FailureReason.OUT_OF_MEMORY),
    ("cannot allocate memory for thread-local data: ABORT", 127, FailureReason.OUT_OF_MEMORY),
    ("numpy.core._exceptions._ArrayMemoryError\nMemoryError", 1, FailureReason.OUT_OF_MEMORY),
    ("Loading weights", -9, FailureReason.OUT_OF_MEMORY),
    ("Loading weights", 137, FailureReason.OUT_OF_MEMORY),
    ("ERROR: [Errno 98] error while attempting to bind on address", 3, FailureReason.PORT_IN_USE),
    ("OSError: [Errno 28] No space left on device", 1, FailureReason.DISK_FULL),
    ("safetensors_rust.SafetensorError: Error while deserializing header", 1, FailureReason.NOT_A_MODEL),
    ("MISMATCH: weights did not match the original empty weight shapes.", 1, FailureReason.NOT_A_MODEL),
    ("but Transformers does not recognize this architecture.", 1, FailureReason.NOT_A_MODEL),
    ("ValueError: Unrecognized model in demo. Should have a `model_type`", 1, FailureReason.NOT_A_MODEL),
    ("OSError: Error no file named model.safetensors", 1, FailureReason.NOT_A_MODEL),
    ("ModuleNotFoundError: No module named 'torch'", 1, FailureReason.ENGINE_UNAVAILABLE),
    ("", 127, FailureReason.ENGINE_UNAVAILABLE),
    ("Segmentation fault", -11, FailureReason.ENGINE_FAILED),
    ("", 1, FailureReason.ENGINE_FAILED),
    ("INFO: Started server process", None, FailureReason.ENGINE_FAILED),
]


@pytest.mark.parametrize(("log", "returncode", "reason"), LOGS)
def test_the_cause_is_recognised(log: str, returncode: int | None, reason: FailureReason) -> None:
    diagnosis = diagnose(returncode, f"[transformers] Loading demo@main\n{log}\n")
    assert diagnosis.reason is reason
    assert diagnosis.message
    assert diagnosis.suggestion.endswith(".")


def test_out_of_memory_suggests_what_would_fit() -> None:
    assert "smaller" in diagnose(-9, "").suggestion
    cache = diagnose(1, "4.0 GiB KV cache is needed, which is larger than the available KV cache memory (1.0 GiB)")
    assert {"context_tokens", "max_concurrency", "quantised"} <= set(re.findall(r"\w+", cache.suggestion))


def test_an_unknown_end_is_told_with_the_last_error_line() -> None:
    diagnosis = diagnose(1, "Traceback\nValueError: the teapot is empty\nbye\n")
    assert diagnosis.message == "the engine ended with exit code 1: ValueError: the teapot is empty"


def test_what_a_container_lacks_is_missing_in_its_image_and_not_on_the_node() -> None:
    for missing in (diagnose(127, ""), diagnose(1, "ModuleNotFoundError: No module named 'torch'")):
        told = in_image(missing, "registry/engine:3")
        assert "registry/engine:3" in told.message
        assert "node" not in f"{told.message} {told.suggestion}"
    other = diagnose(-11, "")
    assert in_image(other, "registry/engine:3") == other


def test_every_reason_is_in_the_contract() -> None:
    assert {reason.value for reason in FailureReason} <= set(reason_pb2.Reason.keys())
