"""The engines' own Python environment: made once per machine and lock, shared by every home, safe to ask for twice."""

import fcntl
import hashlib
import platform
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements-engine.lock"
REQUIREMENTS = ROOT / "requirements-engine.in"
DEFAULT_CACHE = Path("~/.cache/aiops")

_TAIL_LINES = 12

Progress = Callable[[str], None]


class EngineEnvironmentError(Exception):
    """The environment could not be made; the message ends with what the installer said and what to do next."""


def engine_executable(cache: Path = DEFAULT_CACHE, lock: Path = LOCK, pins: Path = REQUIREMENTS) -> Path:
    """Where the `transformers` command is, or will be: it appears when the environment is complete, never before."""
    return cache.expanduser() / f"engine-{_fingerprint(lock, pins)}" / "transformers"


def ensure_engine_environment(cache: Path, progress: Progress, lock: Path = LOCK, pins: Path = REQUIREMENTS) -> Path:
    """Makes the environment below `cache` that holds exactly the lock and torch; returns its `engine_executable`.

    Another process may ask at the same time: one installs, the other waits. What an interrupted run left is made anew.
    Raises EngineEnvironmentError.
    """
    executable = engine_executable(cache, lock, pins)
    if executable.exists():
        return executable
    directory = executable.parent
    directory.parent.mkdir(parents=True, exist_ok=True)
    with _alone(directory.with_suffix(".lock"), progress):
        if not executable.exists():
            _build(directory, lock, pins, progress)
            executable.symlink_to("bin/transformers")
    return executable


def _build(directory: Path, lock: Path, pins: Path, progress: Progress) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    progress("creating the engine environment")
    _run((sys.executable, "-m", "venv", str(directory)), progress)
    # --isolated would drop the machine's own index settings; everything but torch must match its hash.
    pip = (
        str(directory / "bin" / "python"),
        "-m",
        "pip",
        "install",
        "--disable-pip-version-check",
        "--progress-bar",
        "off",
    )
    _run((*pip, "--no-deps", "--require-hashes", "-r", str(lock)), progress)
    _run((*pip, _torch(pins)), progress)
    progress("checking the engine environment")
    _run((str(directory / "bin" / "python"), "-c", "import torch, uvicorn, transformers.cli.serve"), progress)


def _torch(pins: Path) -> str:
    """The exact version of torch. It has no hash: its file differs between processors and graphics cards."""
    return next(line for line in pins.read_text(encoding="utf-8").splitlines() if line.startswith("torch=="))


def _run(command: Sequence[str], progress: Progress) -> None:
    """Runs to the end, telling what is being fetched. Raises EngineEnvironmentError with the last lines on failure."""
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            tail.append(line.rstrip())
            if line.startswith(("Collecting", "Downloading", "Installing")):
                progress(_short(line))
    if process.returncode:
        said = "\n".join(tail)
        raise EngineEnvironmentError(
            f"{' '.join(command[:4])} … ended with {process.returncode}:\n{said}\n"
            "Give the machine access to a Python package index and try again, or point AIOPS_ENGINE_TRANSFORMERS at a "
            "`transformers` command that is already installed."
        )


def _short(line: str) -> str:
    """`Collecting numpy==2.4.6 (from …)` without its origin."""
    words = line.split()
    return " ".join(words[:2]) if words[0] != "Installing" else "Installing packages"


@contextmanager
def _alone(path: Path, progress: Progress) -> Iterator[None]:
    """Holds the file's lock, which the system frees even when this process is killed."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("waiting for another process that is making the engine environment")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fingerprint(lock: Path, pins: Path) -> str:
    """Changes with the pins and with the interpreter, on which the installed files depend."""
    python = f"{platform.python_implementation()}-{platform.python_version()}-{platform.machine()}-{sys.base_prefix}"
    return hashlib.sha256(lock.read_bytes() + pins.read_bytes() + python.encode()).hexdigest()[:16]
