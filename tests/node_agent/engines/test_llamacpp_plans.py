"""What llama.cpp's launch plan says, and how its ends are understood."""

from dataclasses import replace
from pathlib import Path

import pytest

from node_agent.engines.engine import (
    EngineOptionError,
    EngineOptions,
    EngineSpec,
    FailureReason,
    NotServableError,
    ServedNameError,
)
from node_agent.engines.llamacpp import LlamaCpp
from node_agent.engines.prepare import prepare
from tests.fakes.gguf_files import VALUES, gguf, split

ENGINE = LlamaCpp(Path("/opt/llamacpp/bin/llama-server"), {"PATH": "/usr/bin", "HF_TOKEN": "secret"})


@pytest.fixture
def spec(tmp_path: Path) -> EngineSpec:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "m.gguf").write_bytes(gguf())
    return EngineSpec("demo", tmp_path / "model", tmp_path / "run", "127.0.0.1", 18000)


def option(spec: EngineSpec, name: str) -> str:
    """The value behind the option; of one that stands alone, whatever follows it."""
    words = ENGINE.plan(spec).argv
    return words[words.index(name) + 1]


def refused(spec: EngineSpec, template: str) -> dict[str, tuple[str, ...]]:
    (spec.model_dir / "m.gguf").write_bytes(gguf({**VALUES, "tokenizer.chat_template": template}))
    return {each.path: each.harmless_values for each in ENGINE.plan(spec).unsupported_fields}


def test_it_serves_the_one_file_under_the_served_name(spec: EngineSpec) -> None:
    plan = ENGINE.plan(spec)
    prepare(plan)
    assert plan.argv[:5] == (
        "/opt/llamacpp/bin/llama-server",
        *("--model", str(spec.model_dir / "m.gguf")),
        *("--alias", "demo"),
    )
    assert plan.health.url == "http://127.0.0.1:18000/health"
    assert "HF_TOKEN" not in plan.env
    with pytest.raises(ServedNameError):
        ENGINE.plan(replace(spec, served_name="../x"))


def test_of_a_model_in_parts_it_is_given_the_first(spec: EngineSpec) -> None:
    (spec.model_dir / "m.gguf").unlink()
    for number, content in enumerate(split(), 1):
        (spec.model_dir / f"m-0000{number}-of-00002.gguf").write_bytes(content)
    assert option(spec, "--model").endswith("m-00001-of-00002.gguf")


def test_the_context_is_shared_unless_a_number_of_answers_is_asked_for(spec: EngineSpec) -> None:
    assert (option(spec, "--ctx-size"), option(spec, "--parallel")) == ("512", "4")
    assert "--kv-unified" in ENGINE.plan(spec).argv
    chosen = replace(spec, options=EngineOptions(context_tokens=256, max_concurrency=3))
    assert (option(chosen, "--ctx-size"), option(chosen, "--parallel")) == ("768", "3")
    assert "--kv-unified" not in ENGINE.plan(chosen).argv
    with pytest.raises(EngineOptionError, match="512 tokens"):
        ENGINE.plan(replace(spec, options=EngineOptions(context_tokens=513)))


def test_all_layers_are_on_the_cards_or_none_is(spec: EngineSpec) -> None:
    assert option(spec, "--n-gpu-layers") == "0"
    assert ENGINE.plan(spec).env["CUDA_VISIBLE_DEVICES"] == ""
    on_card = replace(spec, gpu_devices=("GPU-1",))
    assert option(on_card, "--n-gpu-layers") == "999"
    assert ENGINE.plan(on_card).env["CUDA_VISIBLE_DEVICES"] == "GPU-1"


def test_a_deployment_may_choose_some_options_and_no_others(spec: EngineSpec) -> None:
    chosen = replace(spec, options=EngineOptions(extra={"cache-type-k": "q8_0", "threads": "2"}))
    assert ENGINE.plan(chosen).argv[-4:] == ("--cache-type-k", "q8_0", "--threads", "2")
    for name in ("model", "lora", "slot-save-path", "hf-repo", "api-key-file"):
        with pytest.raises(EngineOptionError, match="cannot choose"):
            ENGINE.plan(replace(spec, options=EngineOptions(extra={name: "x"})))
    with pytest.raises(EngineOptionError, match="no option max_adapters"):
        ENGINE.plan(replace(spec, options=EngineOptions(max_adapters=1)))


def test_what_is_no_gguf_file_is_not_served(spec: EngineSpec) -> None:
    (spec.model_dir / "m.gguf").write_bytes(b"no model")
    with pytest.raises(NotServableError, match="does not begin with GGUF"):
        ENGINE.plan(spec)
    (spec.model_dir / "m.gguf").unlink()
    with pytest.raises(NotServableError, match="has no"):
        ENGINE.plan(spec)


def test_what_the_template_does_not_read_is_named(spec: EngineSpec) -> None:
    plain = refused(spec, "{{ messages }}")
    assert (plain["tool_choice"], plain["tools"]) == (('"auto"', '"none"'), ())
    assert "reasoning_effort" in plain
    shown = refused(spec, "{{ tools }}")
    assert ("tools" in shown, shown["tool_choice"]) == (False, ('"auto"', '"none"'))
    called = refused(spec, "{{ tools }}{{ message.tool_calls }}{{ reasoning_effort }}")
    assert called.keys() & {"tools", "tool_choice", "tool_choice.type", "reasoning_effort"} == {"tool_choice.type"}


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        ("E alloc_tensor_range: failed to allocate CPU buffer of size 8589934592", FailureReason.OUT_OF_MEMORY),
        ("ggml_backend_cuda_buffer_type_alloc_buffer: cudaMalloc failed: out of memory", FailureReason.OUT_OF_MEMORY),
        ("error loading model: unknown model architecture: 'odd'", FailureReason.NOT_A_MODEL),
        ("gguf_init_from_file_impl: invalid magic characters: 'GGML'", FailureReason.NOT_A_MODEL),
        ("llama_model_load: error loading model: missing tensor 'token_embd.weight'", FailureReason.NOT_A_MODEL),
        ("gguf_init_from_file: failed to open GGUF file 'm.gguf' (Permission denied)", FailureReason.ENGINE_FAILED),
        ("srv start: couldn't bind HTTP server socket, hostname: 127.0.0.1", FailureReason.PORT_IN_USE),
        ("exec: /opt/llama-server: No such file or directory: '/opt/x/bin/python'", FailureReason.ENGINE_UNAVAILABLE),
        ("nothing that is known", FailureReason.ENGINE_FAILED),
    ],
)
def test_an_end_is_understood(log: str, reason: FailureReason) -> None:
    diagnosis = ENGINE.diagnose(1, log)
    assert (diagnosis.reason, bool(diagnosis.suggestion)) == (reason, True)
