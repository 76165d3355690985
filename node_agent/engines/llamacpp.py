"""`llama-server` of llama.cpp: language models in GGUF files, quantised ones above all, on processors and on cards."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mesh.gguf.description import Description, model_file, read_description
from mesh.gguf.header import GgufError
from node_agent.engines import launch
from node_agent.engines.chat_template import mentions
from node_agent.engines.diagnosis import SMALLER, Sign, diagnose, judged, sign
from node_agent.engines.engine import (
    Diagnosis,
    EngineOptionError,
    EngineSpec,
    FailureReason,
    LaunchPlan,
    NotServableError,
    UnsupportedField,
)

_START_S = 120.0
# More layers than any model has: all of them on the card, or the start fails where they do not fit.
_ALL_LAYERS = "999"
# As many answers at once share one context where the deployment does not say: llama.cpp's own default.
_PARALLEL = 4
# What changes the engine, shows what others ask, or reaches beyond it; all of it is off unless it is turned on.
_PRIVATE = (
    *("/slots", "/props", "/lora-adapters", "/models/load", "/models/unload", "/cors-proxy", "/tools"),
    *("/v1/stream", "/v1/streams", "/v1/chat/completions/control"),
)
# What its request parser never looks at. Left out because nothing is lost: metadata, safety_identifier,
# prompt_cache_*, prediction (hints and labels), user, and modalities (audio needs `audio` too).
_UNSUPPORTED = (
    UnsupportedField("audio"),
    UnsupportedField("best_of", ("1",)),
    UnsupportedField("echo", ("false",)),
    UnsupportedField("function_call", ('"none"',)),
    UnsupportedField("functions"),
    UnsupportedField("moderation"),
    UnsupportedField("service_tier", ('"auto"', '"default"')),
    UnsupportedField("store", ("false",)),
    UnsupportedField("suffix", ('""',)),
    UnsupportedField("verbosity", ('"medium"',)),
    UnsupportedField("web_search_options"),
)
# What a deployment may ask for beyond the options of its own: nothing that reads a path or reaches the network.
ALLOWED_OPTIONS = frozenset(
    (
        *("batch-size", "cache-type-k", "cache-type-v", "flash-attn", "reasoning-format", "threads", "threads-batch"),
        *("ubatch-size",),
    )
)
_SIGNS: tuple[Sign, ...] = (
    sign(
        r"failed to allocate|unable to allocate|cudaMalloc failed|out of memory|bad_alloc|cannot allocate memory",
        FailureReason.OUT_OF_MEMORY,
        "there is not enough free memory for the model and its context",
        SMALLER,
    ),
    sign(
        r"failed to open GGUF file",
        FailureReason.ENGINE_FAILED,
        "the engine cannot read the model's file",
        "See that the engine's user may read the node's cache.",
    ),
    sign(
        r"unknown model architecture",
        FailureReason.NOT_A_MODEL,
        "this version of llama.cpp does not know the model's architecture",
        "Use a newer version of llama.cpp on the node.",
    ),
    sign(
        r"invalid magic|failed to read (magic|header|key|tensor)|tensor .* (data is not within|out of bounds)"
        r"|gguf_init_from_file|missing tensor|wrong number of tensors|wrong shape|key not found in model"
        r"|invalid split file|error loading model",
        FailureReason.NOT_A_MODEL,
        "the GGUF file is damaged or no model that llama.cpp serves",
        "Import the model again from a complete copy.",
    ),
    sign(
        r"couldn't bind HTTP server socket|address already in use",
        FailureReason.PORT_IN_USE,
        "the port is already in use on the node",
        "Deploy without a port, so that the node chooses a free one, or name another port.",
    ),
)


@dataclass(frozen=True, slots=True)
class LlamaCpp:
    """Serves with the `llama-server` command at `executable`."""

    executable: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    name: str = "llamacpp"
    more_ports: tuple[str, ...] = ()

    def plan(self, spec: EngineSpec) -> LaunchPlan:
        """Serves the model's one file, or the first of its parts, under the served name.

        The template of the file writes the prompts. What the platform placed is what the engine takes: it must not
        shrink the context to what is free (`--fit`), nor keep old conversations in RAM (`--cache-ram`).
        """
        launch.require_servable(spec.served_name)
        launch.require_known(spec, "llama.cpp", "context_tokens", "max_concurrency", "extra")
        said = _said(spec.model_dir)
        return LaunchPlan(
            argv=(
                *(str(self.executable), "--model", str(model_file(spec.model_dir)), "--alias", spec.served_name),
                *("--host", spec.host, "--port", str(spec.port)),
                *("--n-gpu-layers", _ALL_LAYERS if spec.gpu_devices else "0"),
                *_context_options(spec, said),
                *("--fit", "off", "--cache-ram", "0", "--poll", "0"),
                *("--jinja", "--metrics", "--no-slots", "--no-webui", "--offline"),
                *_chosen_options(spec),
            ),
            env=launch.inherited(self.environment)
            | {"HOME": str(spec.run_dir), "LLAMA_CACHE": str(spec.run_dir / "cache")}
            | launch.visible_devices(spec)
            | dict(spec.environment),
            cwd=spec.run_dir,
            health=launch.health_probe(spec),
            ready=launch.one_token_probe(spec),
            ready_timeout_s=launch.ready_timeout_s(spec, _START_S),
            inference_path=launch.CHAT_PATH,
            unsupported_fields=(*_UNSUPPORTED, *_template_fields(said.chat_template)),
            private_paths=_PRIVATE,
            # Its server ends a stream and its connection together; a request that comes in between would be lost.
            single_use_connections=True,
            directories=(spec.run_dir,),
        )

    def diagnose(self, returncode: int | None, log_tail: str) -> Diagnosis:
        return judged(_SIGNS, log_tail) or diagnose(returncode, log_tail)


def _said(model_dir: Path) -> Description:
    """What the model's file says of itself. NotServableError when it is none that can be served."""
    try:
        return read_description(model_dir)
    except (GgufError, OSError) as error:
        raise NotServableError(f"the model cannot be served by llama.cpp: {error}", engine="llamacpp") from error


def _context_options(spec: EngineSpec, said: Description) -> tuple[str, ...]:
    """The cache for the contexts that were asked for; one that all answers share where no number of them was.

    Raises EngineOptionError for a context that is longer than the model's.
    """
    context, at_once = spec.options.context_tokens or said.context, spec.options.max_concurrency
    if 0 < said.context < context:
        # It would only warn, and answer nonsense beyond.
        raise EngineOptionError(
            f"the model was made for a context of {said.context} tokens; deploy with no more context_tokens",
            option="context_tokens",
        )
    if not at_once:
        return ("--ctx-size", str(context), "--parallel", str(_PARALLEL), "--kv-unified")
    return ("--ctx-size", str(context * at_once), "--parallel", str(at_once))


def _chosen_options(spec: EngineSpec) -> tuple[str, ...]:
    """As words of two, for it does not know `--name=value`. Raises EngineOptionError."""
    pairs = (each.partition("=") for each in launch.extra_options(spec, "llama.cpp", ALLOWED_OPTIONS))
    return tuple(word for name, _, value in pairs for word in (name, value) if word)


def _template_fields(template: str) -> tuple[UnsupportedField, ...]:
    """What a chat template does not read is dropped without a word.

    How a call looks it learns from how the template writes earlier ones; without that it makes nobody call a tool. One
    that does can be told to call some tool, but not which: that form of the field it takes for "auto".
    """
    tools = () if mentions(template, "tools") else (UnsupportedField("tools"),)
    calls = mentions(template, "tools") and mentions(template, "tool_calls")
    choice = UnsupportedField("tool_choice.type") if calls else UnsupportedField("tool_choice", ('"auto"', '"none"'))
    effort = () if mentions(template, "reasoning_effort") else (UnsupportedField("reasoning_effort", ('"none"',)),)
    return (*tools, choice, *effort)
