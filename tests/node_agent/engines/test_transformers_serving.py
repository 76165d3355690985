"""The demo model, served by the real `transformers serve` as its launch plan says."""

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from node_agent.engines.engine import EngineSpec, FailureReason, LaunchPlan, Probe
from node_agent.engines.prepare import prepare
from node_agent.engines.transformers import Transformers
from stack.ports import free_port
from tests.fixtures.engines import ENGINE_TIMEOUT_S

pytestmark = pytest.mark.timeout(ENGINE_TIMEOUT_S)
START_TIMEOUT_S = 120
NAME = "aiops/demo"


@dataclass(frozen=True, slots=True)
class Served:
    plan: LaunchPlan
    client: httpx.Client

    def chat(self, question: str, **fields: object) -> httpx.Response:
        body = {"model": NAME, "messages": [{"role": "user", "content": question}], **fields}
        return self.client.post(self.plan.inference_path, json=body)


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory, transformers_executable: Path, demo_model: Path
) -> Iterator[Served]:
    spec = EngineSpec(NAME, demo_model, tmp_path_factory.mktemp("run"), "127.0.0.1", free_port())
    plan = Transformers(transformers_executable, {"PATH": "/usr/bin:/bin"}).plan(spec)
    with running(plan) as process:
        wait_for(plan.health, process)
        wait_for(plan.ready, process)
        with httpx.Client(base_url=f"http://127.0.0.1:{spec.port}", timeout=60) as client:
            yield Served(plan, client)


@contextmanager
def running(plan: LaunchPlan) -> "Iterator[subprocess.Popen[bytes]]":
    prepare(plan)
    with log_of(plan).open("wb") as log:
        process = subprocess.Popen(plan.argv, env=dict(plan.env), cwd=plan.cwd, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def log_of(plan: LaunchPlan) -> Path:
    return plan.cwd.parent / "log"


def wait_for(probe: Probe, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not answers(probe):
        assert time.monotonic() < deadline, probe
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.05)


def answers(probe: Probe) -> bool:
    headers = {"content-type": "application/json"}
    try:
        answer = httpx.request(probe.method, probe.url, content=probe.body, headers=headers, timeout=probe.timeout_s)
    except httpx.TransportError:
        return False
    return answer.status_code == 200


def test_a_chat_under_the_served_name_is_answered_in_plain_english(served: Served) -> None:
    answer = served.chat("What is a GPU node?", temperature=0).json()
    assert "machine with one or more graphics cards" in answer["choices"][0]["message"]["content"]
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["total_tokens"] > answer["usage"]["prompt_tokens"] > 0


def test_a_streamed_chat_says_the_same_piece_by_piece(served: Served) -> None:
    plain = served.chat("Hello!", temperature=0).json()["choices"][0]["message"]["content"]
    lines = served.chat("Hello!", temperature=0, stream=True).text.splitlines()
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
    pieces = [chunk["choices"][0]["delta"].get("content", "") for chunk in chunks]
    assert "".join(pieces) == plain
    assert len([piece for piece in pieces if piece]) > 3
    assert chunks[-1]["usage"]["total_tokens"] > 0


def test_an_unknown_question_is_admitted_in_fluent_english(served: Served) -> None:
    answer = served.chat("Who wrote the opera about the flying teapot?", temperature=0).json()
    assert answer["choices"][0]["message"]["content"].endswith(".")


def test_another_models_name_is_refused(served: Served) -> None:
    answer = served.client.post(served.plan.inference_path, json={"model": "other", "messages": []})
    assert answer.status_code == 400


def test_nothing_is_written_to_the_models_directory(served: Served, demo_model: Path) -> None:
    served.chat("Hello!")
    names = {path.name for path in demo_model.iterdir()}
    assert not names & {"hf", "tmp", ".cache", "__pycache__"}


def test_an_engine_whose_port_is_taken_is_diagnosed_from_its_log(
    served: Served, transformers_executable: Path, demo_model: Path, tmp_path: Path
) -> None:
    port = served.client.base_url.port
    assert port is not None
    engine = Transformers(transformers_executable, {"PATH": "/usr/bin:/bin"})
    plan = engine.plan(EngineSpec("demo", demo_model, tmp_path, "127.0.0.1", port))
    with running(plan) as process:
        returncode = process.wait(START_TIMEOUT_S)
    assert engine.diagnose(returncode, log_of(plan).read_text()).reason is FailureReason.PORT_IN_USE


def test_the_capabilities_cover_every_field_that_the_server_accepts(
    transformers_executable: Path, served: Served
) -> None:
    """A new version of the server that accepts one more field fails here, until somebody has decided about it."""
    script = (
        "import json; from transformers.cli.serving import chat_completion, completion;"
        "print(json.dumps(sorted(chat_completion.TransformersCompletionCreateParamsStreaming.__mutable_keys__"
        " | completion.TransformersTextCompletionCreateParams.__mutable_keys__)))"
    )
    python = transformers_executable.resolve().with_name("python")
    accepted = set(json.loads(subprocess.check_output([python, "-c", script], text=True)))
    honoured = {
        *("chat_template_kwargs", "frequency_penalty", "generation_config", "max_completion_tokens"),
        *("max_tokens", "messages", "model", "prompt", "seed", "stop", "stream", "suffix", "temperature", "top_p"),
    }
    lossless = {
        *("metadata", "modalities", "prediction", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention"),
        *("safety_identifier", "stream_options", "user"),
    }
    refused = {field.path.split(".")[0] for field in served.plan.unsupported_fields}
    assert accepted - honoured - lossless == refused
