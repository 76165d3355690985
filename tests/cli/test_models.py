"""From a model directory to an answer, by the command line alone."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.exits import CliError
from cli.models import framework_of, model_files
from stack.demo.platform import demo_model
from tests.fixtures.engines import ENGINE_TIMEOUT_S
from tests.fixtures.platform import Platform

pytestmark = pytest.mark.timeout(ENGINE_TIMEOUT_S)

MODEL = "cli-demo"


@pytest.fixture(scope="module")
def imported(platform: Platform) -> Iterator[str]:
    """The demo model under a name of this module."""
    answer = platform.aiops_json("models", "import", str(demo_model()), "--name", MODEL)
    assert answer["model"]["name"] == MODEL
    yield MODEL
    assert platform.aiops("models", "delete", MODEL).returncode == 0


@pytest.fixture(scope="module")
def deployed(platform: Platform, imported: str) -> Iterator[str]:
    """A running deployment of it; stopped in the end."""
    deployment = platform.aiops_json("deploy", imported, "--node", "node-1", "--wait")
    assert deployment["status"] == "running"
    yield deployment["deploymentId"]
    assert platform.aiops_json("deployments", "stop", deployment["deploymentId"])["status"] == "stopped"


def test_a_second_import_finds_the_first(platform: Platform, imported: str) -> None:
    again = platform.aiops_json("models", "import", str(demo_model()), "--name", imported)
    assert again["existed"] is True
    rows = platform.aiops_json("models", "ls")
    assert [row["modelId"] for row in rows if row["name"] == imported] == [again["model"]["modelId"]]


def test_a_model_and_its_files_are_shown(platform: Platform, imported: str) -> None:
    model = platform.aiops_json("models", "get", imported)
    assert model["metadata"]["parameters"] > 0
    paths = {file["path"] for file in platform.aiops_json("models", "files", imported)}
    assert "config.json" in paths
    assert "parameters" in platform.aiops("models", "get", imported).stdout


def test_what_serves_a_model_is_known_by_its_files(tmp_path: Path) -> None:
    (tmp_path / "m-00001-of-00002.gguf").touch()
    assert framework_of(tmp_path) == "llamacpp"
    with pytest.raises(CliError, match=r"m-00002-of-00002\.gguf is not there"):
        model_files(tmp_path / "m-00001-of-00002.gguf")
    (tmp_path / "m-00002-of-00002.gguf").touch()
    names = [path.name for path in model_files(tmp_path / "m-00002-of-00002.gguf")]
    assert names == ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"]
    (tmp_path / "model.safetensors").touch()
    assert framework_of(tmp_path) == "vllm"
    (tmp_path / "model.onnx").touch()
    assert framework_of(tmp_path) == "triton"


def test_a_directory_that_is_no_model_is_refused(platform: Platform, tmp_path: Path) -> None:
    assert platform.aiops("models", "import", str(tmp_path / "nowhere")).returncode == 2
    assert platform.aiops("models", "import", str(tmp_path)).returncode == 2
    (tmp_path / "poem.txt").write_text("no weights here")
    done = platform.aiops("models", "import", str(tmp_path), "--name", "poem")
    assert done.returncode == 2
    assert "reason: NOT_A_MODEL" in done.stderr


def test_truncated_weights_are_refused(platform: Platform, tmp_path: Path) -> None:
    copy = tmp_path / "model"
    shutil.copytree(demo_model(), copy)
    weights = next(copy.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1000])
    done = platform.aiops("models", "import", str(copy), "--name", "truncated")
    assert done.returncode == 2
    assert "reason: SAFETENSORS_INVALID" in done.stderr


def test_an_unknown_model_is_not_found(platform: Platform) -> None:
    assert platform.aiops("models", "delete", "nothing").returncode == 5
    assert platform.aiops("deploy", "nothing").returncode == 5
    done = platform.aiops("chat", "nothing", "hello")
    assert done.returncode == 5
    assert "aiops deploy" in done.stderr


def test_a_dry_run_says_where_and_changes_nothing(platform: Platform, imported: str) -> None:
    before = statuses(platform)
    done = platform.aiops("deploy", imported, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "chosen" in done.stdout
    assert statuses(platform) == before


def statuses(platform: Platform) -> dict[str, str]:
    """Every deployment and how it stands."""
    return {each["deploymentId"]: each["status"] for each in platform.aiops_json("deployments", "ls")}


def test_a_plan_follows_labels_and_says_why_not_elsewhere(platform: Platform, imported: str) -> None:
    assert platform.aiops_json("nodes", "label", "node-1", "zone=a", "tier=gold")["labels"]["zone"] == "a"
    planned = platform.aiops_json("plan", imported, "--label", "zone=a", "--context", "128", "--concurrency", "2")
    assert planned["placement"]["nodeName"] == "node-1"
    assert [each["cause"] for each in planned["refusals"]] == ["labels"]
    refused = platform.aiops("plan", imported, "--label", "zone=b")
    assert refused.returncode == 6
    assert "lacks the label zone=b" in refused.stdout
    assert platform.aiops("plan", imported, "--label", "zone").returncode == 2
    assert platform.aiops_json("nodes", "label", "node-1", "zone-", "tier-")["labels"] == {}


def test_the_answer_is_streamed_and_whole(platform: Platform, deployed: str) -> None:
    streamed = platform.aiops("chat", MODEL, "What is a node?", "--max-tokens", "24", "--temperature", "0")
    assert streamed.returncode == 0, streamed.stderr
    whole = platform.aiops("chat", MODEL, "What is a node?", "--max-tokens", "24", "--temperature", "0", "-o", "json")
    answer = json.loads(whole.stdout)["choices"][0]["message"]["content"]
    assert streamed.stdout.strip() == answer.strip()
    assert answer.strip()


def test_a_deployment_its_log_and_its_use_are_shown(platform: Platform, deployed: str) -> None:
    assert platform.aiops_json("deployments", "get", deployed)["modelName"] == MODEL
    assert deployed in platform.aiops("deployments", "ls").stdout
    assert platform.aiops("logs", deployed, "--lines", "5").stdout.strip()
    assert platform.aiops_json("deployments", "metrics", deployed)["deploymentId"] == deployed


def test_a_deployed_model_is_not_deleted(platform: Platform, deployed: str) -> None:
    done = platform.aiops("models", "delete", MODEL)
    assert done.returncode == 6
    assert "reason: MODEL_IN_USE" in done.stderr


def test_the_events_of_it_are_in_kafka(platform: Platform, deployed: str) -> None:
    done = platform.aiops(
        *("events", "tail", "--topic", "aiops.deployments.v1", "--from-beginning", "--seconds", "3", "-o", "json")
    )
    events = [json.loads(line) for line in done.stdout.splitlines()]
    mine = [event for event in events if event["key"] == deployed]
    assert mine[0]["headers"]["ce_type"] == "system.deploymentCreated"
    assert mine[-1]["value"]["status"] == "running"


def test_a_model_has_revisions_and_is_rolled_back(platform: Platform, tmp_path: Path) -> None:
    copy = tmp_path / "model"
    shutil.copytree(demo_model(), copy)
    assert platform.aiops("models", "import", str(copy), "--name", "revised").returncode == 0
    (copy / "NOTES.md").write_text("changed")
    refused = platform.aiops("models", "import", str(copy), "--name", "revised")
    assert refused.returncode == 6
    assert "--new-revision" in refused.stderr
    newer = platform.aiops("models", "import", str(copy), "--name", "revised", "--new-revision", "-o", "json")
    assert newer.returncode == 0, newer.stderr
    assert platform.aiops("models", "rollback", "revised", "1").returncode == 0
    listed = platform.aiops_json("models", "revisions", "revised")
    assert [(each["number"], each["current"]) for each in listed] == [(2, False), (1, True)]
    assert platform.aiops("models", "rollback", "revised", "9").returncode == 5
    assert platform.aiops("models", "delete", "revised").returncode == 0
