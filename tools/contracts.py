"""Generates code from the contracts, and checks them: `python tools/contracts.py gen | lint | breaking | fresh`."""

import filecmp
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import google.api.annotations_pb2
import grpc_tools

ROOT = Path(__file__).resolve().parent.parent
GENERATED = ROOT / "gen"
WELL_KNOWN = Path(grpc_tools.__file__).parent / "_proto"
GOOGLE_API = Path(google.api.annotations_pb2.__file__).parents[2]
BUF = Path(sys.executable).parent / "buf"


def main() -> int:
    """Runs the command that the first argument names."""
    commands = {"gen": gen, "lint": lint, "breaking": breaking, "fresh": fresh}
    if len(sys.argv) != 2 or sys.argv[1] not in commands:
        print(f"usage: python tools/contracts.py {' | '.join(commands)}", file=sys.stderr)
        return 2
    return commands[sys.argv[1]]()


def gen() -> int:
    """Writes gen/ anew."""
    shutil.rmtree(GENERATED, ignore_errors=True)
    _write(GENERATED)
    return 0


def lint() -> int:
    """Checks the contracts' style."""
    with tempfile.TemporaryDirectory() as scratch:
        image = _image(ROOT, Path(scratch) / "now.binpb")
        return _buf("lint", str(image), "--path", "aiops")


def breaking() -> int:
    """Compares the contracts with those of the commit before, so that no client of it breaks."""
    base = _base_commit()
    if base is None:
        print("breaking: this is the first commit with contracts, nothing to compare with")
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        before = Path(scratch) / "before"
        before.mkdir()
        archive = subprocess.run(
            ["git", "archive", base, "protos", "third_party"], cwd=ROOT, check=True, capture_output=True
        )
        subprocess.run(["tar", "-x", "-C", str(before)], input=archive.stdout, check=True)
        old = _image(before, Path(scratch) / "old.binpb")
        now = _image(ROOT, Path(scratch) / "now.binpb")
        return _buf("breaking", str(now), "--against", str(old), "--path", "aiops")


def fresh() -> int:
    """Says whether gen/ equals what `gen` writes."""
    with tempfile.TemporaryDirectory() as scratch:
        written = Path(scratch) / "gen"
        _write(written)
        stale = _differences(written, GENERATED)
    for path in stale:
        print(f"gen/{path} is stale: run `make gen` and commit the result", file=sys.stderr)
    return 1 if stale else 0


def _write(target: Path) -> None:
    target.mkdir(parents=True)
    ours = sorted(str(path.relative_to(ROOT / "protos")) for path in (ROOT / "protos").rglob("*.proto"))
    shared = sorted(str(path.relative_to(ROOT / "third_party")) for path in (ROOT / "third_party").rglob("*.proto"))
    _protoc(ROOT, [f"--python_out={target}", f"--mypy_out=quiet:{target}", *ours, *shared])
    services = [path for path in ours if "\nservice " in (ROOT / "protos" / path).read_text()]
    _protoc(ROOT, [f"--grpc_python_out={target}", f"--mypy_grpc_out=quiet:{target}", *services])
    descriptors = target / "aiops.binpb"
    _protoc(ROOT, ["--include_imports", "--include_source_info", f"--descriptor_set_out={descriptors}", *ours])
    openapi = ROOT / "tools" / "openapi.py"
    if openapi.exists():
        document = target / "aiops" / "openapi.json"
        subprocess.run([sys.executable, str(openapi), str(descriptors), str(document)], check=True)


def _image(root: Path, target: Path) -> Path:
    files = sorted(str(path.relative_to(root / "protos")) for path in (root / "protos").rglob("*.proto"))
    _protoc(root, ["--include_imports", "--include_source_info", f"--descriptor_set_out={target}", *files])
    return target


def _protoc(root: Path, arguments: list[str]) -> None:
    includes = [f"-I{path}" for path in (root / "protos", root / "third_party", WELL_KNOWN, GOOGLE_API)]
    plugins = Path(sys.executable).parent
    environment = {"PATH": f"{plugins}:/usr/bin:/bin"}
    command = [sys.executable, "-m", "grpc_tools.protoc", *includes, *arguments]
    subprocess.run(command, check=True, cwd=root, env=environment)


def _buf(*arguments: str) -> int:
    return subprocess.run([str(BUF), *arguments, "--config", str(ROOT / "buf.yaml")], cwd=ROOT, check=False).returncode


def _base_commit() -> str | None:
    for candidate in ("origin/main", "HEAD~1", "HEAD"):
        shown = subprocess.run(
            ["git", "cat-file", "-e", f"{candidate}:protos"], cwd=ROOT, check=False, capture_output=True
        )
        if shown.returncode == 0:
            return candidate
    return None


def _differences(written: Path, committed: Path) -> list[str]:
    names = {str(path.relative_to(root)) for root in (written, committed) for path in root.rglob("*") if path.is_file()}
    ours = {name for name in names if "__pycache__" not in name}
    return sorted(name for name in ours if not _same(written / name, committed / name))


def _same(left: Path, right: Path) -> bool:
    return left.exists() and right.exists() and filecmp.cmp(left, right, shallow=False)


if __name__ == "__main__":
    sys.exit(main())
