"""The engines' environment is made once, whole, and from exactly the lock, whoever asks and however often."""

import hashlib
import os
import subprocess
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from stack.engine_environment import (
    RECIPES,
    TRANSFORMERS,
    EngineEnvironmentError,
    Recipe,
    engine_executable,
    ensure_engine_environment,
)

WHEELS = {
    "torch": {"torch.py": ""},
    "uvicorn": {"uvicorn.py": ""},
    "transformers": {
        "transformers/__init__.py": "",
        "transformers/cli/__init__.py": "def main():\n    print('ready')\n",
        "transformers/cli/serve.py": "",
    },
}


@dataclass(frozen=True, slots=True)
class Requirements:
    """Small stand-in packages of the real names, in a package index of this test's own."""

    wheels: Path
    lock: Path
    pins: Path
    cache: Path

    def ensure(self) -> tuple[Path, list[str]]:
        """The executable, and what was told while it was made."""
        told: list[str] = []
        return ensure_engine_environment(self.cache, told.append, self.recipe), told

    def executable(self) -> Path:
        return engine_executable(self.cache, self.recipe)

    @property
    def recipe(self) -> Recipe:
        return replace(TRANSFORMERS, lock=self.lock, pins=self.pins)


@pytest.fixture
def requirements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Requirements:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    made = Requirements(tmp_path / "wheels", tmp_path / "engine.lock", tmp_path / "engine.in", tmp_path / "cache")
    made.wheels.mkdir()
    locked = []
    for name, files in WHEELS.items():
        wheel = write_wheel(made.wheels, name, files)
        if name != "torch":
            locked.append(f"{name}==1.0 --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n")
    made.lock.write_text("".join(locked))
    made.pins.write_text("torch==1.0\n")
    return made


def write_wheel(folder: Path, name: str, files: dict[str, str]) -> Path:
    """A minimal wheel; the one called transformers brings the command of that name."""
    about = f"{name}-1.0.dist-info"
    scripts = "[console_scripts]\ntransformers = transformers.cli:main\n" if name == "transformers" else ""
    contents = files | {
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{about}/entry_points.txt": scripts,
        f"{about}/RECORD": "",
    }
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inside, text in contents.items():
            archive.writestr(inside, text)
    return path


def test_the_command_works_and_a_second_request_finds_it(requirements: Requirements) -> None:
    executable, told = requirements.ensure()
    assert executable == requirements.executable()
    assert subprocess.check_output([executable], text=True) == "ready\n"
    assert told[0] == "creating the engine environment"
    assert requirements.ensure() == (executable, [])


def test_two_requests_at_once_make_one_environment(requirements: Requirements) -> None:
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: requirements.ensure(), range(2))
    assert first[0] == second[0]
    told = [*first[1], *second[1]]
    assert told.count("creating the engine environment") == 1
    assert told.count("waiting for another process that is making the engine environment") == 1


def test_what_an_interrupted_run_left_is_made_anew(requirements: Requirements) -> None:
    half = requirements.executable().parent
    (half / "bin").mkdir(parents=True)
    (half / "bin" / "transformers").write_text("half")
    (half / "left-over").touch()
    executable, _ = requirements.ensure()
    assert subprocess.check_output([executable], text=True) == "ready\n"
    assert not (half / "left-over").exists()


def test_a_package_that_is_not_what_was_locked_is_refused(requirements: Requirements) -> None:
    write_wheel(requirements.wheels, "uvicorn", {"uvicorn.py": "print('other')"})
    with pytest.raises(EngineEnvironmentError, match=r"(?s)hash.*AIOPS_ENGINE_TRANSFORMERS"):
        requirements.ensure()
    assert not requirements.executable().exists()


def test_a_package_that_breaks_on_import_is_found_before_anything_uses_it(requirements: Requirements) -> None:
    write_wheel(requirements.wheels, "torch", {"torch.py": "raise OSError('libcudart.so not found')"})
    with pytest.raises(EngineEnvironmentError, match="libcudart"):
        requirements.ensure()
    assert not requirements.executable().exists()


def test_another_lock_is_another_environment(requirements: Requirements) -> None:
    before = requirements.executable()
    requirements.lock.write_text(requirements.lock.read_text() + "# changed\n")
    assert requirements.executable() != before


def test_every_engine_has_a_script_a_lock_with_hashes_and_a_setting_of_its_own() -> None:
    assert (
        len({recipe.setting for recipe in RECIPES}) == len({recipe.fingerprint for recipe in RECIPES}) == len(RECIPES)
    )
    for recipe in RECIPES:
        assert os.access(recipe.script, os.X_OK)
        assert "--hash=sha256:" in recipe.lock.read_text()
