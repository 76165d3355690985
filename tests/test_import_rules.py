"""The import rules hold, and each one fails when it is broken."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ["mesh", "controller", "node_agent", "inference_router", "gateway", "stack", "cli", "client"]
LINTER = Path(sys.executable).parent / "lint-imports"
BREACHES = {
    "Inside a room": ("controller/nodes/model.py", "import controller.nodes.store"),
    "rooms in their order": ("controller/iam/model.py", "import controller.deployments.service"),
    "over the wire": ("gateway/settings.py", "import controller.settings"),
    "kernel knows no service": ("mesh/clock.py", "import controller.settings"),
    "know no technology": ("controller/nodes/model.py", "import sqlalchemy"),
    "Envoy's classes": ("controller/settings.py", "import envoy_data_plane"),
    "Docker and NVML": ("controller/settings.py", "import docker"),
    "Clients need nothing": ("client/router.py", "import mesh.clock"),
}


def lint(root: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([str(LINTER), "--no-cache"], cwd=root, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tree")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", root)
    return root


def test_the_house_keeps_its_rules(tree: Path) -> None:
    done = lint(tree)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("rule", BREACHES)
def test_a_breach_is_found(rule: str, tree: Path) -> None:
    file, line = BREACHES[rule]
    target = tree / file
    before = target.read_text()
    target.write_text(f"{before}\n{line}\n")
    try:
        done = lint(tree)
    finally:
        target.write_text(before)
    assert done.returncode != 0
    assert any(rule in each and "BROKEN" in each for each in done.stdout.splitlines()), done.stdout
