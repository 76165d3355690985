"""What benchmarks measure against: an upstream that costs nothing, and LiteLLM's proxy before it."""

import asyncio
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.upstream import MODEL
from stack.ports import free_port

MASTER_KEY = "sk-0123456789abcdef0123456789abc"
LITELLM = Path.home() / ".cache" / "aiops" / "litellm"
REQUIREMENTS = Path(__file__).parent / "requirements-litellm.txt"
POLICY = Path(__file__).parent / "litellm_policy.py"


@dataclass(frozen=True, slots=True)
class Proxy:
    """A running proxy: its port and its process."""

    port: int
    pid: int


@asynccontextmanager
async def constant_upstream() -> AsyncIterator[int]:
    """An engine that answers the same at once. Answers its port."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "benchmarks.upstream", str(port))
    try:
        await asyncio.to_thread(_until_answered, f"http://127.0.0.1:{port}/", 10)
        yield port
    finally:
        process.kill()
        await process.wait()


@asynccontextmanager
async def litellm(home: Path, upstream: int, *, policed: bool = False) -> AsyncIterator[Proxy]:
    """LiteLLM's proxy in an environment of its own, which is made on first use.

    `policed` is with quotas and usage: see litellm_policy.py.
    """
    await asyncio.to_thread(_install_litellm)
    port, config = free_port(), home / "litellm.json"
    parameters = {"model": f"openai/{MODEL}", "api_base": f"http://127.0.0.1:{upstream}/v1", "api_key": "none"}
    settings: dict[str, object] = {
        "model_list": [{"model_name": MODEL, "litellm_params": parameters}],
        "general_settings": {"master_key": MASTER_KEY},
    }
    if policed:
        (home / POLICY.name).write_text(POLICY.read_text())
        settings["general_settings"] = {"master_key": MASTER_KEY, "custom_auth": "litellm_policy.authenticate"}
        settings["litellm_settings"] = {"callbacks": "litellm_policy.journal"}
    config.write_text(json.dumps(settings))
    environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
    environment |= {"BENCHMARK_KEY": MASTER_KEY, "BENCHMARK_USAGE": str(home / "litellm.jsonl")}
    command = [str(LITELLM / "bin" / "litellm"), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    with (home / "litellm.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log, env=environment)
    try:
        await asyncio.to_thread(_until_answered, f"http://127.0.0.1:{port}/health/liveliness", 120)
        yield Proxy(port, process.pid)
    finally:
        process.terminate()
        await process.wait()


def _install_litellm() -> None:
    if (LITELLM / "bin" / "litellm").exists():
        return
    print("installing LiteLLM's proxy, once", flush=True)
    subprocess.run([sys.executable, "-m", "venv", str(LITELLM)], check=True)
    pip = [str(LITELLM / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "-r", str(REQUIREMENTS)], check=True)


def _until_answered(url: str, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):  # noqa: S310 - an address of our own
                return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
