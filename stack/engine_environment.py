"""The engines' own Python environments: each made once per machine and lock, shared by all homes."""

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

DEFAULT_CACHE = Path("~/.cache/aiops")

_RECIPES = Path(__file__).resolve().parents[1] / "tools" / "engines"
_TAIL_LINES = 12
_TOLD = ("Collecting", "Downloading", "Building", "Installing", "Checking")

Progress = Callable[[str], None]


class EngineEnvironmentError(Exception):
    """The environment could not be made; the message ends with what the installer said and what to do next."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How an engine's environment is made: by `script DIR LOCK PINS`, which leaves `command` in `DIR/bin`.

    `setting` is the variable that names a command which is installed already, `program` is what the script copies.
    """

    name: str
    command: str
    setting: str
    script: Path
    lock: Path
    pins: Path
    program: Path | None = None

    @property
    def fingerprint(self) -> str:
        """Changes with what is installed and with the interpreter, on which the installed files depend."""
        python = (
            f"{platform.python_implementation()}-{platform.python_version()}-{platform.machine()}-{sys.base_prefix}"
        )
        paths = (self.lock, self.pins, self.script, *([self.program] if self.program else []))
        contents = b"".join(path.read_bytes() for path in paths)
        return hashlib.sha256(contents + python.encode()).hexdigest()[:16]


def _recipe(name: str, command: str) -> Recipe:
    paths = (_RECIPES / f"{name}{suffix}" for suffix in (".sh", ".lock", ".in"))
    return Recipe(name, command, f"AIOPS_ENGINE_{name.upper()}", *paths)


TRANSFORMERS = _recipe("transformers", "transformers")
VLLM = _recipe("vllm", "vllm")
TRITON = _recipe("triton", "tritonserver")
LLAMACPP = replace(_recipe("llamacpp", "llama-server"), program=_RECIPES / "llamacpp_server.py")
RECIPES = (TRANSFORMERS, VLLM, TRITON, LLAMACPP)


def engine_executable(cache: Path = DEFAULT_CACHE, recipe: Recipe = TRANSFORMERS) -> Path:
    """Where the engine's command is, or will be: it appears when the environment is complete, never before."""
    return cache.expanduser() / f"engine-{recipe.name}-{recipe.fingerprint}" / recipe.name


def ensure_engine_environment(cache: Path, progress: Progress, recipe: Recipe = TRANSFORMERS) -> Path:
    """Makes the environment below `cache` that holds exactly what the recipe says; returns its `engine_executable`.

    Another process may ask at the same time: one installs, the other waits. What an interrupted run left is made anew.
    Raises EngineEnvironmentError.
    """
    executable = engine_executable(cache, recipe)
    if executable.exists():
        return executable
    directory = executable.parent
    directory.parent.mkdir(parents=True, exist_ok=True)
    with _alone(directory.with_suffix(".lock"), progress):
        if not executable.exists():
            shutil.rmtree(directory, ignore_errors=True)
            progress("creating the engine environment")
            _make(recipe, directory, progress)
            executable.symlink_to(f"bin/{recipe.command}")
    return executable


def _make(recipe: Recipe, directory: Path, progress: Progress) -> None:
    """Runs the script to its end, telling what is being fetched. EngineEnvironmentError with its last lines."""
    command = ("bash", str(recipe.script), str(directory), str(recipe.lock), str(recipe.pins))
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    with subprocess.Popen(
        command,
        env={**os.environ, "PYTHON": sys.executable},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            tail.append(line.rstrip())
            if line.lstrip().startswith(_TOLD):
                progress(_short(line))
    if process.returncode:
        said = "\n".join(tail)
        raise EngineEnvironmentError(
            f"{recipe.script.name} ended with {process.returncode}:\n{said}\n"
            f"Give the machine access to a Python package index and try again, or point {recipe.setting} at a "
            f"`{recipe.command}` command that is already installed."
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
