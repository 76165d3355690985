"""`llama-server` where only a wheel brings llama.cpp: the same server, started with the options that the platform uses.

Installed as DIR/bin/llama-server by llamacpp.sh. Options are spelled as llama.cpp's own command spells them; what it
has and this does not know is refused.
"""

import argparse
import signal
import sys
from typing import Any

import xllamacpp

_CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")
_ON_OFF = {"on": True, "off": False}


def main() -> None:
    options = _options().parse_args()
    # Ctrl-C and `kill` end it in order.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        server = xllamacpp.Server(_parameters(options))
    except RuntimeError as error:
        sys.exit(f"llama-server: error: {error}")
    print(f"server is listening on {server.listening_address}", flush=True)
    while True:
        signal.pause()


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="llama-server", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"llama.cpp of xllamacpp {xllamacpp.__version__}")
    parser.add_argument("--model", required=True)
    parser.add_argument("--alias", default="")
    parser.add_argument("--host", default="127.0.0.1")
    for name in ("port", "ctx-size", "parallel", "n-gpu-layers", "cache-ram", "batch-size", "ubatch-size", "threads"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--poll", type=int)
    parser.add_argument("--threads-batch", type=int)
    parser.add_argument("--fit", choices=_ON_OFF, default="on")
    parser.add_argument("--flash-attn", choices=("on", "off", "auto"), default="auto")
    parser.add_argument("--cache-type-k", choices=_CACHE_TYPES)
    parser.add_argument("--cache-type-v", choices=_CACHE_TYPES)
    parser.add_argument("--reasoning-format", choices=("none", "auto", "deepseek", "deepseek-legacy"))
    for name in ("kv-unified", "metrics", "jinja", "offline"):
        parser.add_argument(f"--{name}", action="store_true")
    for name in ("slots", "webui", "warmup"):
        parser.add_argument(f"--no-{name}", action="store_false", dest=name)
    return parser


def _parameters(options: argparse.Namespace) -> Any:
    params = xllamacpp.CommonParams()
    params.model.path = options.model
    params.model_alias = {options.alias} if options.alias else set()
    params.hostnames = [options.host]
    params.use_jinja, params.endpoint_metrics, params.kv_unified = options.jinja, options.metrics, options.kv_unified
    params.endpoint_slots, params.ui, params.warmup = options.slots, options.webui, options.warmup
    params.offline, params.fit_params = options.offline, _ON_OFF[options.fit]
    named = {
        "port": "port",
        "n_ctx": "ctx_size",
        "n_parallel": "parallel",
        "n_gpu_layers": "n_gpu_layers",
        "cache_ram_mib": "cache_ram",
        "n_batch": "batch_size",
        "n_ubatch": "ubatch_size",
    }
    for attribute, option in named.items():
        if getattr(options, option) is not None:
            setattr(params, attribute, getattr(options, option))
    for side in ("k", "v"):
        chosen = getattr(options, f"cache_type_{side}")
        if chosen:
            setattr(params, f"cache_type_{side}", getattr(xllamacpp.ggml_type, f"GGML_TYPE_{chosen.upper()}"))
    _schedule(params, options)
    attention = {"on": "ENABLED", "off": "DISABLED", "auto": "AUTO"}[options.flash_attn]
    params.flash_attn_type = getattr(xllamacpp.llama_flash_attn_type, f"LLAMA_FLASH_ATTN_TYPE_{attention}")
    if options.reasoning_format:
        reasoning = options.reasoning_format.upper().replace("-", "_")
        params.reasoning_format = getattr(xllamacpp.common_reasoning_format, f"COMMON_REASONING_FORMAT_{reasoning}")
    return params


def _schedule(params: Any, options: argparse.Namespace) -> None:
    """How many threads there are, and how long they spin before they sleep."""
    for cpu, threads in ((params.cpuparams, options.threads), (params.cpuparams_batch, options.threads_batch)):
        if threads is not None:
            cpu.n_threads = threads
        if options.poll is not None:
            cpu.poll = options.poll


if __name__ == "__main__":
    main()
