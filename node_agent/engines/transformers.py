"""`transformers serve`: language models on a node without a GPU, ready in seconds, one answer at a time."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from node_agent.engines import launch
from node_agent.engines.chat_template import chat_template, mentions
from node_agent.engines.diagnosis import diagnose
from node_agent.engines.engine import Diagnosis, EngineSpec, LaunchPlan, UnsupportedField

_START_S = 120.0
# Close enough to zero to choose the likeliest token, for models whose makers meant no sampling.
_GREEDY = 0.01

# Read and dropped by its chat and completion handlers (its own list, and what its request type lets through unread).
# Left out because nothing is lost: user, metadata, safety_identifier, prompt_cache_*, prediction (hints and labels),
# modalities (audio needs `audio` too) and stream_options (the last chunk carries the usage in any case).
_UNSUPPORTED = (
    UnsupportedField("audio"),
    UnsupportedField("best_of", ("1",)),
    UnsupportedField("echo", ("false",)),
    UnsupportedField("function_call", ('"none"',)),
    UnsupportedField("functions"),
    # It reads the field and fails.
    UnsupportedField("logit_bias"),
    UnsupportedField("logprobs", ("false",)),
    UnsupportedField("moderation"),
    UnsupportedField("n", ("1",)),
    UnsupportedField("parallel_tool_calls", ("true",)),
    UnsupportedField("presence_penalty", ("0",)),
    UnsupportedField("reasoning_effort", ('"none"',)),
    UnsupportedField("response_format.type", ('"text"',)),
    UnsupportedField("service_tier", ('"auto"', '"default"')),
    UnsupportedField("store", ("false",)),
    UnsupportedField("top_logprobs", ("0",)),
    UnsupportedField("verbosity", ('"medium"',)),
    UnsupportedField("web_search_options"),
)


# Threads that wait for work sleep instead of spinning: two engines on two busy cores answer in 0.15 s, not in 3 s.
_PATIENT_THREADS = {"OMP_WAIT_POLICY": "PASSIVE"}


@dataclass(frozen=True, slots=True)
class Transformers:
    """Serves from the environment that `executable` (`.../bin/transformers`) belongs to."""

    executable: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    name: str = "transformers"
    more_ports: tuple[str, ...] = ()

    def plan(self, spec: EngineSpec) -> LaunchPlan:
        """Serves a directory whose name, seen from the working directory, is the served name.

        The server has no alias option: it compares the request's `model` with the name of the model it was started
        with, and that name is also the path it loads. So the working directory holds a directory of that name, with
        links to the model's files; the body of a request reaches the engine as the client wrote it.
        """
        launch.require_servable(spec.served_name)
        # It answers one request at a time, so that no limit is too low for it.
        launch.require_known(spec, "transformers serve", "max_concurrency")
        models = spec.run_dir / "models"
        view = models / spec.served_name
        override = _sampling_override(spec.model_dir)
        return LaunchPlan(
            argv=(
                *(str(self.executable), "serve", spec.served_name),
                *("--host", spec.host, "--port", str(spec.port), "--device", _device(spec)),
            ),
            env=launch.inherited(self.environment)
            | launch.offline_home(spec)
            | launch.visible_devices(spec)
            | {"TMPDIR": str(spec.run_dir / "tmp"), **_PATIENT_THREADS}
            | dict(spec.environment),
            cwd=models,
            health=launch.health_probe(spec),
            ready=launch.one_token_probe(spec),
            ready_timeout_s=launch.ready_timeout_s(spec, _START_S),
            inference_path=launch.CHAT_PATH,
            unsupported_fields=(*_UNSUPPORTED, *_tool_fields(spec.model_dir)),
            private_paths=("/load_model", "/reset"),
            directories=(launch.hub_directory(spec), spec.run_dir / "tmp", view),
            links={view / file.name: file for file in _model_files(spec.model_dir) if file.name not in override},
            files={view / name: text for name, text in override.items()},
        )

    def diagnose(self, returncode: int | None, log_tail: str) -> Diagnosis:
        return diagnose(returncode, log_tail)


def _device(spec: EngineSpec) -> str:
    if not spec.gpu_devices:
        return "cpu"
    return "cuda:0" if len(spec.gpu_devices) == 1 else "auto"


def _model_files(model_dir: Path) -> list[Path]:
    return sorted(model_dir.iterdir()) if model_dir.is_dir() else []


def _sampling_override(model_dir: Path) -> dict[str, str]:
    """A generation_config.json under which the server honours `temperature` and `top_p`, by file name.

    The server ignores both unless the model's own file turns sampling on. Where it does not, sampling is turned on here
    with a default temperature so low that a request without one is still answered with the likeliest tokens.
    """
    file = model_dir / "generation_config.json"
    try:
        config = json.loads(file.read_bytes()) if file.is_file() else {}
    except ValueError:
        return {}  # the server says itself what is wrong with it
    if not isinstance(config, dict) or config.get("do_sample"):
        return {}
    return {file.name: json.dumps(config | {"do_sample": True, "temperature": _GREEDY})}


def _tool_fields(model_dir: Path) -> tuple[UnsupportedField, ...]:
    """A chat template that does not mention tools drops them; one that does decides alone when they are used."""
    if mentions(chat_template(model_dir), "tools"):
        return (UnsupportedField("tool_choice", ('"auto"',)),)
    return (UnsupportedField("tool_choice", ('"auto"', '"none"')), UnsupportedField("tools"))
