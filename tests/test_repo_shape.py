"""Files, functions and classes stay small enough to read, and every module says what it is for."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCES = ["mesh", "controller", "node_agent", "inference_router", "gateway", "stack", "cli", "client"]
SOURCES += ["tools", "migrations", "benchmarks"]
LONGEST_SOURCE = 400
LONGEST_TEST = 600
LONGEST_FUNCTION = 50
LONGEST_CLASS = 250
VAGUE_NAMES = ("utils", "helpers", "common", "misc", "manager", "base", "info", "data", "impl")


def modules(*folders: str) -> Iterator[tuple[Path, str]]:
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if "node_modules" not in path.parts:
                yield path.relative_to(ROOT), path.read_text()


def length(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def test_source_files_have_at_most_400_lines_and_test_files_600() -> None:
    long = [str(path) for path, text in modules(*SOURCES) if text.count("\n") > LONGEST_SOURCE]
    long += [str(path) for path, text in modules("tests") if text.count("\n") > LONGEST_TEST]
    assert long == []


def test_functions_have_at_most_50_lines_and_classes_250() -> None:
    long = []
    for path, text in modules(*SOURCES, "tests"):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and length(node) > LONGEST_FUNCTION:
                long.append(f"{path}:{node.lineno} {node.name}")
            if isinstance(node, ast.ClassDef) and length(node) > LONGEST_CLASS:
                long.append(f"{path}:{node.lineno} {node.name}")
    assert long == []


def test_every_module_says_what_it_is_for() -> None:
    silent = [
        str(path)
        for path, text in modules(*SOURCES, "tests")
        if text.strip() and not ast.get_docstring(ast.parse(text))
    ]
    assert silent == []


def test_no_file_is_named_for_nothing() -> None:
    assert [str(path) for path, _ in modules(*SOURCES) if path.stem in VAGUE_NAMES] == []


def test_only_loops_and_the_rpc_layers_catch_everything() -> None:
    homes = {Path("mesh/loops.py"), Path("mesh/rpc/layers.py")}
    caught = [str(path) for path, text in modules(*SOURCES) if "except Exception" in text and path not in homes]
    assert caught == []


def test_only_settings_read_the_environment() -> None:
    readers = []
    for path, text in modules("mesh", "controller", "inference_router", "gateway", "node_agent"):
        if path.stem != "settings" and "os.environ" in text:
            readers.append(str(path))
    assert readers == []


def test_no_test_mocks() -> None:
    found = []
    for path, text in modules("tests"):
        if path != Path("tests/test_repo_shape.py") and ("unittest.mock" in text or "MagicMock" in text):
            found.append(str(path))
    assert found == []


def test_tests_wait_for_a_condition_and_never_for_a_time() -> None:
    # A poll may pause for a moment between two looks; the programs in tests/fakes may sleep as their part asks.
    found = []
    for path, text in modules("tests"):
        pauses = re.findall(r"\b(?:asyncio|time)\.sleep\(([^)]*)\)", text)
        if "fakes" not in path.parts and any(not re.fullmatch(r"0|0\.0[0-5]\d*", pause) for pause in pauses):
            found.append(str(path))
    assert found == []


def test_no_bare_ignore() -> None:
    found = []
    for path, text in modules(*SOURCES, "tests"):
        for number, line in enumerate(text.splitlines(), 1):
            if line.rstrip().endswith(("# type: ignore", "# noqa")) and path != Path("tests/test_repo_shape.py"):
                found.append(f"{path}:{number}")
    assert found == []
