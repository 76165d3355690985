"""The measurement on a card says what it lacks where there is none, and goes as far as it can."""

import os
import subprocess
import sys
from pathlib import Path

from benchmarks.gpu import EXIT_MISSING, MEASURED
from tests.fakes.nvml.build import build_nvml

ROOT = Path(__file__).resolve().parents[2]


def measure(**environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu"],
        cwd=ROOT,
        env={"PATH": os.defpath, "PYTHONPATH": f"{ROOT}:{ROOT / 'gen'}", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_nothing_is_measured_where_something_is_missing_and_what_that_is_is_said(tmp_path: Path) -> None:
    there = MEASURED.exists()
    broken = tmp_path / "broken.txt"
    broken.write_text("init 0 9\n")
    library = str(build_nvml(tmp_path))
    lost = measure(LD_LIBRARY_PATH=library, FAKE_NVML=str(broken))
    assert (lost.returncode, "no card can be read through NVML" in lost.stderr) == (EXIT_MISSING, True)
    works = tmp_path / "works.txt"
    works.write_text("")
    found = measure(LD_LIBRARY_PATH=library, FAKE_NVML=str(works))
    assert "GPU 0: " in found.stdout
    assert found.returncode == EXIT_MISSING
    assert "libcuda.so.1" in found.stderr or "AIOPS_ENGINE_TRANSFORMERS" in found.stderr
    assert MEASURED.exists() == there
