"""`aiops demo` shows what the platform is for, and cleans up after itself."""

import tempfile
from pathlib import Path

import pytest

from tests.fixtures.platform import platform_in

STEPS = (
    "stack healthy",
    "two nodes registered and online",
    "model imported by the command line",
    "two replicas running on two nodes",
    "chat through REST",
    "chat through a gRPC stub",
    "chat through the OpenAI SDK",
    "chat through the OpenAI SDK, streamed",
    "an agent killed with SIGKILL, the chat still answered",
    "events read back from Kafka",
    "stopped, nothing left running",
)


@pytest.mark.timeout(600)
def test_every_step_of_the_demo_holds() -> None:
    with tempfile.TemporaryDirectory(prefix="aiops-demo-test-") as directory:
        done = platform_in(Path(directory)).aiops("demo")
        assert done.returncode == 0, done.stdout + done.stderr
        assert [step for step in STEPS if f"✓ {step}  (" not in done.stdout] == []
        assert done.stdout.rstrip().endswith("nothing left running")
