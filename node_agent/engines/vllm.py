"""`vllm serve`: language models at high concurrency, on GPUs or, with the CPU build, on many cores."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from node_agent.engines import launch
from node_agent.engines.diagnosis import diagnose
from node_agent.engines.engine import Diagnosis, EngineSpec, LaunchPlan, UnsupportedField

_START_S = 600.0
_GPU_SHARE = 0.9
_CPU_KV_CACHE_GB = 1
# On a processor the option of that name means the share of a NUMA node's memory.
_CPU_MEMORY_SHARE = 0.2
# What changes the engine rather than asks it; most of it is off unless vLLM runs in its development mode.
_PRIVATE = (
    *("/sleep", "/wake_up", "/reset_prefix_cache", "/reset_mm_cache", "/collective_rpc", "/pause", "/resume"),
    *("/scale_elastic_ep", "/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/start_profile", "/stop_profile"),
)
# What its request type accepts as an unknown extra and drops. Left out because nothing is lost: metadata,
# safety_identifier, prompt_cache_*, prediction (hints and labels) and modalities (audio needs `audio` too).
_UNSUPPORTED = (
    UnsupportedField("audio"),
    UnsupportedField("function_call", ('"none"',)),
    UnsupportedField("functions"),
    UnsupportedField("moderation"),
    UnsupportedField("service_tier", ('"auto"', '"default"')),
    UnsupportedField("store", ("false",)),
    UnsupportedField("verbosity", ('"medium"',)),
    UnsupportedField("web_search_options"),
)


@dataclass(frozen=True, slots=True)
class Vllm:
    """Serves with the `vllm` command at `executable`; `cpu_count` cores are used on a node without a GPU."""

    executable: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    cpu_count: int = field(default_factory=lambda: os.cpu_count() or 1)
    name: str = "vllm"

    def plan(self, spec: EngineSpec) -> LaunchPlan:
        # Its processes talk over sockets in the temporary directory, whose paths must be short: it keeps the system's.
        launch.require_servable(spec.served_name)
        return LaunchPlan(
            argv=(
                *(str(self.executable), "serve", str(spec.model_dir), "--served-model-name", spec.served_name),
                *("--host", spec.host, "--port", str(spec.port)),
                *(_gpu_options(spec) if spec.gpu_devices else _cpu_options(spec)),
                *(("--max-model-len", str(spec.context)) if spec.context else ()),
            ),
            env=launch.inherited(self.environment)
            | launch.offline_home(spec)
            | launch.visible_devices(spec)
            | {"VLLM_NO_USAGE_STATS": "1", "VLLM_CACHE_ROOT": str(spec.run_dir / "vllm")}
            | ({} if spec.gpu_devices else self._cpu_environment())
            | dict(spec.environment),
            cwd=spec.run_dir,
            health=launch.health_probe(spec),
            ready=launch.one_token_probe(spec),
            ready_timeout_s=launch.ready_timeout_s(spec, _START_S),
            inference_path=launch.CHAT_PATH,
            unsupported_fields=_UNSUPPORTED,
            private_paths=_PRIVATE,
            directories=(launch.hub_directory(spec),),
        )

    def diagnose(self, returncode: int | None, log_tail: str) -> Diagnosis:
        return diagnose(returncode, log_tail)

    def _cpu_environment(self) -> dict[str, str]:
        """Left alone, vLLM keeps a core free (half of a small machine) and takes most of the memory for its cache."""
        return {
            "VLLM_CPU_OMP_THREADS_BIND": f"0-{self.cpu_count - 1}",
            "VLLM_CPU_KVCACHE_SPACE": str(_CPU_KV_CACHE_GB),
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
