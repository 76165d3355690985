"""`vllm serve`: language models at high concurrency, on GPUs or, with the CPU build, on many cores."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from node_agent.engines import launch
from node_agent.engines.chat_template import chat_template, mentions, tool_parser
from node_agent.engines.diagnosis import diagnose
from node_agent.engines.engine import Diagnosis, EngineSpec, LaunchPlan, UnsupportedField

_START_S = 600.0
_GPU_SHARE = 0.9
_CPU_KV_CACHE_GB = 1
# On a processor the option of that name means the share of a NUMA node's memory.
_CPU_MEMORY_SHARE = 0.2
_LARGEST_ADAPTER_RANK = 64
# What changes the engine rather than asks it; most of it is off unless vLLM runs in its development mode.
_PRIVATE = (
    *("/sleep", "/wake_up", "/is_sleeping", "/reset_prefix_cache", "/reset_mm_cache", "/collective_rpc", "/pause"),
    *("/resume", "/scale_elastic_ep", "/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/adapters"),
    *("/start_profile", "/stop_profile", "/inference/v1/abort_requests"),
)
# What its request type accepts as an unknown extra and drops. Left out because nothing is lost: metadata,
# safety_identifier, prompt_cache_*, prediction (hints and labels) and modalities (audio needs `audio` too).
_UNSUPPORTED = (
    UnsupportedField("audio"),
    UnsupportedField("best_of", ("1",)),
    UnsupportedField("function_call", ('"none"',)),
    UnsupportedField("functions"),
    UnsupportedField("moderation"),
    UnsupportedField("service_tier", ('"auto"', '"default"')),
    UnsupportedField("store", ("false",)),
    UnsupportedField("verbosity", ('"medium"',)),
    UnsupportedField("web_search_options"),
)
# What a deployment may ask for beyond the options of its own: nothing that reads a path, loads code or another model.
ALLOWED_OPTIONS = frozenset(
    (
        *("async-scheduling", "block-size", "cpu-offload-gb", "dtype", "enable-chunked-prefill"),
        *("enable-prefix-caching", "enforce-eager", "kv-cache-dtype", "limit-mm-per-prompt", "max-logprobs"),
        *("max-lora-rank", "max-num-batched-tokens", "max-num-queued-reqs", "no-enable-chunked-prefill"),
        *("no-enable-prefix-caching", "quantization", "reasoning-parser", "scheduling-policy", "seed"),
    )
)


@dataclass(frozen=True, slots=True)
class Vllm:
    """Serves with the `vllm` command at `executable`; `cpu_count` cores are used on a node without a GPU."""

    executable: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    cpu_count: int = field(default_factory=lambda: os.cpu_count() or 1)
    name: str = "vllm"
    more_ports: tuple[str, ...] = ()

    def plan(self, spec: EngineSpec) -> LaunchPlan:
        # Its processes talk over sockets in the temporary directory, whose paths must be short: it keeps the system's.
        launch.require_servable(spec.served_name)
        template = chat_template(spec.model_dir)
        return LaunchPlan(
            argv=(
                *(str(self.executable), "serve", str(spec.model_dir), "--served-model-name", spec.served_name),
                *("--host", spec.host, "--port", str(spec.port)),
                *(_gpu_options(spec) if spec.gpu_devices else _cpu_options(spec)),
                *_tool_options(spec, template),
                *_chosen_options(spec),
            ),
            env=launch.inherited(self.environment)
            | launch.offline_home(spec)
            | launch.visible_devices(spec)
            | {"VLLM_NO_USAGE_STATS": "1", "VLLM_CACHE_ROOT": str(spec.run_dir / "vllm")}
            | ({} if spec.gpu_devices else self._cpu_environment())
            | ({"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"} if spec.options.max_adapters else {})
            | dict(spec.environment),
            cwd=spec.run_dir,
            health=launch.health_probe(spec),
            ready=launch.one_token_probe(spec),
            ready_timeout_s=launch.ready_timeout_s(spec, _START_S),
            inference_path=launch.CHAT_PATH,
            unsupported_fields=(*_UNSUPPORTED, *_template_fields(template)),
            private_paths=_PRIVATE,
            directories=(launch.hub_directory(spec),),
        )

    def diagnose(self, returncode: int | None, log_tail: str) -> Diagnosis:
        return diagnose(returncode, log_tail)

    def _cpu_environment(self) -> dict[str, str]:
        """Left alone, vLLM keeps a core free (half of a small machine) and takes most of the memory for its cache.

        It also compiles parts of the sampler when the first request needs them, and answers nobody for half a minute.
        """
        return {
            "VLLM_CPU_OMP_THREADS_BIND": f"0-{self.cpu_count - 1}",
            "VLLM_CPU_KVCACHE_SPACE": str(_CPU_KV_CACHE_GB),
            "TORCHDYNAMO_DISABLE": "1",
        }


def _gpu_options(spec: EngineSpec) -> tuple[str, ...]:
    """One process over all its cards, with the share of each card that the placement claimed."""
    share = spec.memory_mb / spec.device_memory_mb if spec.memory_mb and spec.device_memory_mb else _GPU_SHARE
    return (
        "--tensor-parallel-size",
        str(len(spec.gpu_devices)),
        "--gpu-memory-utilization",
        f"{min(share, _GPU_SHARE):.3f}",
    )


def _cpu_options(spec: EngineSpec) -> tuple[str, ...]:
    """Without compilation the first answer comes 30 seconds earlier, and a processor loses little by it."""
    return ("--enforce-eager", "--gpu-memory-utilization", f"{_CPU_MEMORY_SHARE:.1f}")


def _tool_options(spec: EngineSpec, template: str) -> tuple[str, ...]:
    """Tools are served where somebody can read their calls; without that vLLM refuses them by itself."""
    parser = spec.options.tool_parser or tool_parser(template)
    return ("--enable-auto-tool-choice", "--tool-call-parser", parser) if parser else ()


def _chosen_options(spec: EngineSpec) -> tuple[str, ...]:
    """What the deployment chose. Raises EngineOptionError for an option that is not allowed."""
    options = spec.options
    chosen = {"max-model-len": options.context_tokens, "max-num-seqs": options.max_concurrency}
    named = tuple(word for name, value in chosen.items() if value for word in (f"--{name}", str(value)))
    adapters = ("--enable-lora", "--max-loras", str(options.max_adapters)) if options.max_adapters else ()
    rank = () if "max-lora-rank" in options.extra else ("--max-lora-rank", str(_LARGEST_ADAPTER_RANK))
    return (*named, *adapters, *(rank if adapters else ()), *launch.extra_options(spec, "vllm", ALLOWED_OPTIONS))


def _template_fields(template: str) -> tuple[UnsupportedField, ...]:
    """What a chat template does not read is dropped without a word."""
    tools = () if mentions(template, "tools") else (UnsupportedField("tools"),)
    effort = () if mentions(template, "reasoning_effort") else (UnsupportedField("reasoning_effort", ('"none"',)),)
    return (*tools, *effort)
