"""The control plane: an authenticated list through the gateway, seconds to start, memory when idle.

`python -m benchmarks.control_plane [--seconds N] [--models N]`. Brings up the whole platform in a fresh home with
`aiops up`, once to warm the machine and once to measure, lets it idle, then lists models over 32 connections.
GPUStack 2.3 did 320 req/s, 19 s and 620 MB on a machine of this size. Last line: list_rps, start_s, idle_mb.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

from benchmarks.load import generate
from stack.home import Home, read_state
from stack.ports import free_port

ROOT = Path(__file__).resolve().parent.parent
AIOPS = Path(sys.executable).parent / "aiops"
MODEL = ROOT / "examples" / "demo-model"
CONCURRENT = 32
GPUSTACK_RPS = 320
START_LIMIT_S = 120
SETTLE_S = 20


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=10, help="length of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", type=int, default=3, help="models in the list")
    options = parser.parse_args()
    with platform() as (_, _, seconds):
        print(f"first start {seconds:.1f} s")
    with platform() as (url, environment, start_s):
        print(f"healthy after {start_s:.1f} s")
        time.sleep(SETTLE_S)
        idle_mb = print_memory()
        for number in range(options.models):
            command = [str(AIOPS), "models", "import", str(MODEL), "--name", f"model-{number}", "-o", "json"]
            subprocess.run(command, env=environment, check=True, capture_output=True)
        headers = {"authorization": f"Bearer {login(url, Path(environment['AIOPS_HOME']))}"}
        rounds = []
        for number in range(1, options.rounds + 1):
            load = generate(f"{url}/models", connections=CONCURRENT, seconds=options.seconds, headers=headers)
            print(
                f"round {number}  GET /models  {load.rps:.0f} req/s  p50 {load.p50_ms:.1f} ms  p99 {load.p99_ms:.1f} ms"
            )
            rounds.append(load.rps)
    list_rps = sorted(rounds)[len(rounds) // 2]
    print(f"{list_rps:.0f} req/s is {list_rps / GPUSTACK_RPS:.1f} times GPUStack's {GPUSTACK_RPS}")
    print(json.dumps({"list_rps": round(list_rps), "start_s": round(start_s, 2), "idle_mb": round(idle_mb)}))


@contextmanager
def platform() -> Iterator[tuple[str, dict[str, str], float]]:
    """A platform in a fresh home: its URL, the environment for the command line, and how long it took to be healthy."""
    with tempfile.TemporaryDirectory(prefix="aiops-bench-") as home:
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        environment = {
            **os.environ,
            "AIOPS_HOME": home,
            "AIOPS_PORT": str(port),
            "AIOPS_URL": url,
            "AIOPS_CONFIG": f"{home}/credentials.json",
        }
        began = time.monotonic()
        with (Path(home) / "up.log").open("wb") as log:
            process = subprocess.Popen([str(AIOPS), "up"], env=environment, stdout=log, stderr=log)
        try:
            wait_healthy(url, process, Home(Path(home)))
            yield url, environment, time.monotonic() - began
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)


def wait_healthy(url: str, process: "subprocess.Popen[bytes]", home: Home) -> None:
    """Returns when the platform says that it is healthy and a node is online; else ends with what was not, and why."""
    deadline = time.monotonic() + START_LIMIT_S
    said = "nothing answered"
    while time.monotonic() < deadline:
        if process.poll() is not None:
            sys.exit(f"aiops up ended with {process.returncode}")
        try:
            answer = httpx.get(f"{url}/system/health", timeout=5, trust_env=False)
        except httpx.TransportError as error:
            said = f"{type(error).__name__}: {error}"
            time.sleep(0.05)
            continue
        state = read_state(home)
        if answer.is_success and answer.json()["status"] == "healthy" and state is not None and state.ready:
            return
        said = answer.text
        time.sleep(0.05)
    state = read_state(home)
    services = "the supervisor has said nothing" if state is None else state.unhealthy() or "every service is healthy"
    sys.exit(f"not healthy after {START_LIMIT_S} s; GET /system/health: {said}\n{services}")


def print_memory() -> float:
    """Prints what each process holds; answers the sum of proportional set sizes in MB (shared pages counted once)."""
    total = resident = 0.0
    for process in psutil.Process().children(recursive=True):
        memory = process.memory_full_info()
        total += memory.pss / 1e6
        resident += memory.rss / 1e6
        command = " ".join(process.cmdline())[-60:]
        print(f"  {memory.pss / 1e6:7.1f} MB PSS  {memory.rss / 1e6:7.1f} MB RSS  {command}")
    print(f"idle: {total:.0f} MB PSS, {resident:.0f} MB RSS added up")
    return total


def login(url: str, home: Path) -> str:
    """An access token of the first user."""
    password = (home / "admin-password").read_text().strip()
    credentials = {"email": "admin@localhost", "password": password}
    answer = httpx.post(f"{url}/auth/login", json=credentials, timeout=10, trust_env=False)
    token: str = answer.raise_for_status().json()["accessToken"]
    return token


if __name__ == "__main__":
    main()
