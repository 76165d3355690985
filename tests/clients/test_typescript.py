"""The contracts serve other languages: TypeScript stubs generated from them call a running controller from Node.js."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
from aiops.iam.v1 import auth_service_pb2 as auth_pb
from aiops.iam.v1.auth_service_pb2_grpc import AuthServiceStub
from aiops.nodes.v1 import node_service_pb2 as pb
from aiops.nodes.v1.node_service_pb2_grpc import NodeServiceStub

from tests.fixtures.controller_process import ADMIN_EMAIL, ADMIN_PASSWORD, RunningController
from tests.fixtures.platform import Platform
from tools.contracts import GOOGLE_API, WELL_KNOWN

ROOT = Path(__file__).parents[2]
PROJECT = Path(__file__).parent / "typescript"
INCLUDES = (ROOT / "protos", ROOT / "third_party", WELL_KNOWN, GOOGLE_API)
OTHERS = [
    "buf/validate/validate.proto",
    "google/api/annotations.proto",
    "google/api/http.proto",
    "google/rpc/error_details.proto",
]
TIMEOUT_S = 100


def run(*command: str | Path, cwd: Path) -> str:
    """The standard output of a command that must succeed."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled client: packages from the lock, stubs from the contracts, type-checked."""
    project = tmp_path_factory.mktemp("typescript") / "client"
    shutil.copytree(PROJECT, project, ignore=shutil.ignore_patterns("node_modules", "out", "gen"))
    run("npm", "ci", "--no-audit", "--no-fund", "--prefer-offline", cwd=project)
    protos = [path.relative_to(ROOT / "protos") for path in sorted((ROOT / "protos").rglob("*.proto"))]
    generated = project / "src" / "gen"
    generated.mkdir()
    plugin = project / "node_modules" / ".bin" / "protoc-gen-es"
    options = [f"--plugin=protoc-gen-es={plugin}", f"--es_out={generated}", "--es_opt=target=ts,import_extension=js"]
    includes = [f"-I{path}" for path in INCLUDES]
    run(sys.executable, "-m", "grpc_tools.protoc", *includes, *options, *protos, *OTHERS, cwd=project)
    run(project / "node_modules" / ".bin" / "tsc", cwd=project)
    return project / "out" / "main.js"


def test_typescript_stubs_list_the_nodes_over_grpc(client: Path, controller_process: RunningController) -> None:
    with grpc.insecure_channel(controller_process.api) as channel:
        login = auth_pb.LoginRequest(email=ADMIN_EMAIL, password=ADMIN_PASSWORD)
        token = AuthServiceStub(channel).Login(login).tokens.access_token
        node = pb.RegisterNodeRequest(name="gpu-7")
        metadata = (("authorization", f"Bearer {token}"),)
        registered = NodeServiceStub(channel).RegisterNode(node, metadata=metadata).node
    seen = run_client(client, f"http://{controller_process.api}", ADMIN_PASSWORD)
    assert seen["nodes"] == [{"nodeId": registered.node_id, "name": "gpu-7", "status": "offline"}]
    assert seen["stranger"] == {"code": "Unauthenticated", "reason": "UNAUTHENTICATED"}
    assert seen["unknown"] == {"code": "NotFound", "reason": "NODE_NOT_FOUND"}


def test_typescript_stubs_list_the_nodes_through_the_gateway(client: Path, platform: Platform) -> None:
    seen = run_client(client, platform.url, platform.admin_password)
    assert len(seen["nodes"]) >= 2
    assert seen["stranger"]["code"] == "Unauthenticated"
    assert seen["unknown"] == {"code": "NotFound", "reason": "NODE_NOT_FOUND"}


def run_client(client: Path, url: str, password: str) -> dict[str, Any]:
    """What the client saw at a URL."""
    seen: dict[str, Any] = json.loads(run("node", client, url, ADMIN_EMAIL, password, cwd=client.parent))
    return seen


def test_the_lock_names_no_registry() -> None:
    assert "http" not in (PROJECT / "package-lock.json").read_text()
