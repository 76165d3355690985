"""What the engines' launch plans say, for any model directory and any device."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from node_agent.engines.engine import EngineOptionError, EngineOptions, EngineSpec, LaunchPlan, ServedNameError
from node_agent.engines.prepare import prepare
from node_agent.engines.transformers import Transformers
from node_agent.engines.vllm import Vllm

AGENT_ENVIRONMENT = {"PATH": "/usr/bin", "AIOPS_ADMIN_PASSWORD": "secret", "HF_TOKEN": "secret"}
TRANSFORMERS = Transformers(Path("/opt/engine/bin/transformers"), AGENT_ENVIRONMENT)
VLLM = Vllm(Path("/opt/vllm/bin/vllm"), AGENT_ENVIRONMENT, cpu_count=4)


@pytest.fixture
def spec(tmp_path: Path) -> EngineSpec:
    model_dir = tmp_path / "cache" / "model"
    model_dir.mkdir(parents=True)
    for name in ("config.json", "tokenizer_config.json"):
        (model_dir / name).write_text("{}")
    (model_dir / "model.safetensors").write_bytes(b"0" * 2_000_000)
    return EngineSpec("demo", model_dir, tmp_path / "run", "127.0.0.1", 18000)


def options(plan: LaunchPlan) -> dict[str, str]:
    """The command line's `--name value` pairs."""
    pairs = zip(plan.argv, plan.argv[1:], strict=False)
    return {name: value for name, value in pairs if name.startswith("--")}


def unsupported(plan: LaunchPlan) -> dict[str, tuple[str, ...]]:
    return {field.path: field.harmless_values for field in plan.unsupported_fields}


def test_transformers_serves_the_served_name_from_a_directory_of_that_name(spec: EngineSpec) -> None:
    plan = TRANSFORMERS.plan(spec)
    prepare(plan)
    assert plan.argv[:3] == ("/opt/engine/bin/transformers", "serve", "demo")
    assert (plan.cwd / "demo" / "config.json").samefile(spec.model_dir / "config.json")
    assert (plan.cwd / "demo" / "model.safetensors").samefile(spec.model_dir / "model.safetensors")


def test_a_name_with_an_owner_is_served_from_a_directory_below_the_owners(spec: EngineSpec) -> None:
    plan = TRANSFORMERS.plan(replace(spec, served_name="meta/llama-3.1_8b"))
    prepare(plan)
    assert (plan.cwd / "meta" / "llama-3.1_8b" / "config.json").is_file()


@pytest.mark.parametrize(
    "name", ["", "..", "../x", "/etc", "a/../b", "demo@v2", "x:y.gguf", "-flag", "a b", "a/b/c", "a\n"]
)
@pytest.mark.parametrize("engine", [TRANSFORMERS, VLLM])
def test_a_name_that_would_mean_something_else_is_refused(
    spec: EngineSpec, engine: Transformers | Vllm, name: str
) -> None:
    with pytest.raises(ServedNameError):
        engine.plan(replace(spec, served_name=name))


def test_laying_out_twice_changes_nothing_and_never_touches_the_model(spec: EngineSpec) -> None:
    plan = TRANSFORMERS.plan(spec)
    prepare(plan)
    prepare(plan)
    assert sorted(path.name for path in (plan.cwd / "demo").iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer_config.json",
    ]
    assert not (spec.model_dir / "generation_config.json").exists()


def test_the_hub_cache_exists_before_the_start_and_the_network_stays_unused(spec: EngineSpec) -> None:
    for plan in (TRANSFORMERS.plan(spec), VLLM.plan(spec)):
        prepare(plan)
        assert (Path(plan.env["HF_HOME"]) / "hub").is_dir()
        assert Path(plan.env.get("TMPDIR", plan.cwd)).is_dir()
        assert plan.env["HF_HUB_OFFLINE"] == "1"


def test_an_engine_sees_no_secret_of_the_agent(spec: EngineSpec) -> None:
    for plan in (TRANSFORMERS.plan(spec), VLLM.plan(spec)):
        assert plan.env["PATH"] == "/usr/bin"
        assert "secret" not in plan.env.values()


def test_an_engine_sees_what_the_deployment_asks_for(spec: EngineSpec) -> None:
    spec = replace(spec, environment={"OMP_NUM_THREADS": "1"})
    assert TRANSFORMERS.plan(spec).env["OMP_NUM_THREADS"] == "1"
    assert VLLM.plan(spec).env["OMP_NUM_THREADS"] == "1"


def test_engines_on_the_same_cores_do_not_spin_against_each_other(spec: EngineSpec) -> None:
    assert TRANSFORMERS.plan(spec).env["OMP_WAIT_POLICY"] == "PASSIVE"


def test_a_node_without_a_gpu_hides_all_cards(spec: EngineSpec) -> None:
    plan = TRANSFORMERS.plan(spec)
    assert options(plan)["--device"] == "cpu"
    assert plan.env["CUDA_VISIBLE_DEVICES"] == ""


@pytest.mark.parametrize(("devices", "device"), [(("1",), "cuda:0"), (("0", "1"), "auto")])
def test_an_engine_sees_only_its_own_cards(spec: EngineSpec, devices: tuple[str, ...], device: str) -> None:
    plan = TRANSFORMERS.plan(replace(spec, gpu_devices=devices))
    assert options(plan)["--device"] == device
    assert plan.env["CUDA_VISIBLE_DEVICES"] == ",".join(devices)
    assert plan.env["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"


def test_probes_ask_for_health_and_for_one_real_token(spec: EngineSpec) -> None:
    for plan in (TRANSFORMERS.plan(spec), VLLM.plan(replace(spec, host="::1"))):
        assert plan.health.url.endswith(":18000/health")
        assert plan.ready.url.endswith(":18000" + plan.inference_path)
        body = json.loads(plan.ready.body)
        assert (body["model"], body["max_tokens"]) == ("demo", 1)
    assert VLLM.plan(replace(spec, host="::1")).health.url == "http://[::1]:18000/health"


def test_larger_weights_are_given_more_time(spec: EngineSpec) -> None:
    small = TRANSFORMERS.plan(spec).ready_timeout_s
    (spec.model_dir / "model-2.safetensors").write_bytes(b"0" * 5_000_000)
    assert TRANSFORMERS.plan(spec).ready_timeout_s == pytest.approx(small + 0.1)


def test_transformers_names_what_it_would_ignore(spec: EngineSpec) -> None:
    fields = unsupported(TRANSFORMERS.plan(spec))
    assert fields["n"] == ("1",)
    assert fields["response_format.type"] == ('"text"',)
    assert fields["logprobs"] == ("false",)
    assert fields["presence_penalty"] == ("0",)
    assert fields["functions"] == ()
    assert "temperature" not in fields
    assert all(json.loads(value) is not None for values in fields.values() for value in values)


def test_tools_are_refused_where_the_chat_template_drops_them(spec: EngineSpec) -> None:
    assert unsupported(TRANSFORMERS.plan(spec))["tools"] == ()
    (spec.model_dir / "chat_template.jinja").write_text("{% if tools %}{{ tools | tojson }}{% endif %}")
    fields = unsupported(TRANSFORMERS.plan(spec))
    assert "tools" not in fields
    assert fields["tool_choice"] == ('"auto"',)


def test_a_temperature_is_honoured_for_a_model_that_samples_not_by_itself(spec: EngineSpec) -> None:
    (spec.model_dir / "generation_config.json").write_text('{"eos_token_id": 2, "do_sample": false}')
    plan = TRANSFORMERS.plan(spec)
    prepare(plan)
    written = json.loads((plan.cwd / "demo" / "generation_config.json").read_text())
    assert written == {"eos_token_id": 2, "do_sample": True, "temperature": 0.01}


@pytest.mark.parametrize("text", [b"{", b"[]", b"\xff"])
def test_settings_that_are_no_json_object_are_left_for_the_engine_to_refuse(spec: EngineSpec, text: bytes) -> None:
    (spec.model_dir / "generation_config.json").write_bytes(text)
    assert not TRANSFORMERS.plan(spec).files


def test_a_model_that_samples_keeps_its_own_settings(spec: EngineSpec) -> None:
    (spec.model_dir / "generation_config.json").write_text('{"do_sample": true, "temperature": 0.6}')
    plan = TRANSFORMERS.plan(spec)
    assert not plan.files
    assert plan.links[plan.cwd / "demo" / "generation_config.json"] == spec.model_dir / "generation_config.json"


def test_vllm_serves_under_the_served_name_on_the_nodes_address_only(spec: EngineSpec) -> None:
    plan = VLLM.plan(replace(spec, options=EngineOptions(context_tokens=4096)))
    assert plan.argv[:3] == ("/opt/vllm/bin/vllm", "serve", str(spec.model_dir))
    assert options(plan) | {"--served-model-name": "demo", "--host": "127.0.0.1", "--max-model-len": "4096"} == options(
        plan
    )


def test_vllm_on_a_processor_uses_every_core_and_a_small_cache(spec: EngineSpec) -> None:
    plan = VLLM.plan(spec)
    assert "--enforce-eager" in plan.argv
    assert plan.env["VLLM_CPU_OMP_THREADS_BIND"] == "0-3"
    assert plan.env["VLLM_CPU_KVCACHE_SPACE"] == "1"


def test_vllm_on_cards_takes_the_share_that_was_claimed(spec: EngineSpec) -> None:
    spec = replace(spec, gpu_devices=("0", "1"), memory_mb=20_000, device_memory_mb=80_000)
    plan = VLLM.plan(spec)
    assert options(plan)["--tensor-parallel-size"] == "2"
    assert options(plan)["--gpu-memory-utilization"] == "0.250"
    assert "VLLM_CPU_KVCACHE_SPACE" not in plan.env


TOOLS = "{% if tools %}{{ tools | tojson }} <tool_call>{% endif %}"


def test_vllm_takes_what_the_deployment_chose(spec: EngineSpec) -> None:
    chosen = EngineOptions(2048, 8, "pythonic", 2, {"dtype": "float32", "enable-prefix-caching": ""})
    plan = VLLM.plan(replace(spec, options=chosen))
    assert options(plan)["--max-model-len"] == "2048"
    assert options(plan)["--max-num-seqs"] == "8"
    assert options(plan)["--tool-call-parser"] == "pythonic"
    assert (options(plan)["--max-loras"], options(plan)["--max-lora-rank"]) == ("2", "64")
    assert plan.env["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "1"
    assert plan.argv[-2:] == ("--dtype=float32", "--enable-prefix-caching")


@pytest.mark.parametrize("name", ["trust-remote-code", "model", "api-key", "chat-template", "-dtype", ""])
def test_an_option_that_leads_elsewhere_is_refused_and_the_others_are_named(spec: EngineSpec, name: str) -> None:
    with pytest.raises(EngineOptionError, match="enable-prefix-caching"):
        VLLM.plan(replace(spec, options=EngineOptions(extra={name: "x"})))


@pytest.mark.parametrize(
    "chosen",
    [
        EngineOptions(context_tokens=1024),
        EngineOptions(max_adapters=1),
        EngineOptions(tool_parser="hermes"),
        EngineOptions(extra={"dtype": "auto"}),
    ],
)
def test_transformers_refuses_options_that_it_would_ignore(spec: EngineSpec, chosen: EngineOptions) -> None:
    with pytest.raises(EngineOptionError, match="has no option"):
        TRANSFORMERS.plan(replace(spec, options=chosen))


def test_without_adapters_nothing_can_be_loaded_into_vllm(spec: EngineSpec) -> None:
    plan = VLLM.plan(spec)
    assert "--enable-lora" not in plan.argv
    assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING" not in plan.env
    assert {"/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/adapters"} <= set(plan.private_paths)


@pytest.mark.parametrize(
    ("template", "parser"),
    [
        (TOOLS, "hermes"),
        (TOOLS + "<function=", "qwen3_coder"),
        ("{{ tools }} [TOOL_CALLS]", "mistral"),
        ("{{ tools }} <|python_tag|>", "llama3_json"),
        ("{{ tools }} in words of its own", None),
        ("no word of them <tool_call>", None),
    ],
)
def test_the_parser_of_tool_calls_is_the_one_of_the_chat_template(
    spec: EngineSpec, template: str, parser: str | None
) -> None:
    (spec.model_dir / "chat_template.jinja").write_text(template)
    plan = VLLM.plan(spec)
    assert options(plan).get("--tool-call-parser") == parser
    assert ("--enable-auto-tool-choice" in plan.argv) is (parser is not None)


def test_vllm_names_what_a_chat_template_would_drop(spec: EngineSpec) -> None:
    assert unsupported(VLLM.plan(spec)).keys() >= {"tools", "reasoning_effort"}
    (spec.model_dir / "chat_template.jinja").write_text(TOOLS + "{{ reasoning_effort }}")
    assert not unsupported(VLLM.plan(spec)).keys() & {"tools", "reasoning_effort"}
