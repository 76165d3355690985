"""What is no model does not get into the registry, by whichever way it comes through the gateway."""

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from pathlib import Path

import grpc
import httpx
import pytest
from aiops.models.v1 import model_service_pb2 as pb
from aiops.models.v1.model_service_pb2_grpc import ModelServiceStub

from mesh.rpc.status import RemoteError, error_from_rpc
from stack.demo.platform import demo_model
from tests.fakes.eventually import eventually
from tests.fakes.model_files import CHUNK, Files, header, tiny_model
from tests.fixtures.engines import ENGINE_TIMEOUT_S
from tests.platform.served import Served, fetched

pytestmark = pytest.mark.timeout(ENGINE_TIMEOUT_S)


@pytest.fixture(autouse=True)
async def nothing_is_stored(served: Served, rest: httpx.AsyncClient) -> AsyncIterator[None]:
    """Every test of this module leaves registry and object storage as they were."""
    models, objects = await fetched(rest, "/models"), stored(served)
    yield

    async def as_before() -> bool:
        return stored(served) == objects

    await eventually(as_before)
    assert await fetched(rest, "/models") == models


@pytest.fixture
def registry(served: Served) -> Iterator[grpc.Channel]:
    """The gateway's one port over gRPC.

    Not by `grpc.aio`: its clients may tell INTERNAL when an upload is refused before its end (grpc 1.85).
    """
    with grpc.insecure_channel(served.platform.url.removeprefix("http://")) as channel:
        yield channel


def refusal(registry: grpc.Channel, token: str, messages: Iterable[pb.ImportModelRequest]) -> RemoteError:
    """How an import is refused."""
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    try:
        answer = ModelServiceStub(registry).ImportModel(iter(messages), metadata=metadata, timeout=60)
    except grpc.RpcError as error:
        return error_from_rpc(error)
    raise AssertionError(f"the import was accepted: {answer}")


def upload(files: Files, content: bytes) -> Iterator[pb.ImportModelRequest]:
    """A manifest of the files, then bytes that may be others."""
    yield header("broken", files)
    for start in range(0, len(content), CHUNK):
        yield pb.ImportModelRequest(chunk=content[start : start + CHUNK])


def stored(served: Served) -> set[str]:
    """The files in object storage."""
    root = served.platform.home.root / "objects"
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def real_model() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(demo_model().iterdir()) if path.is_file()}


def truncated() -> dict[str, bytes]:
    """The demo model as an interrupted copy leaves it: the manifest is right, the file is not."""
    files = real_model()
    return files | {"model.safetensors": files["model.safetensors"][:-4096]}


@pytest.mark.parametrize(
    ("files", "reason", "words"),
    [
        (truncated(), "SAFETENSORS_INVALID", "model.safetensors"),
        ({**tiny_model(), "model.safetensors": b"\xff" * 64}, "SAFETENSORS_INVALID", "model.safetensors"),
        ({**tiny_model(), "model.safetensors": b""}, "SAFETENSORS_INVALID", "model.safetensors"),
        ({"poem.txt": b"no weights here"}, "NOT_A_MODEL", "config.json"),
        ({**tiny_model(), "config.json": b"not JSON"}, "NOT_A_MODEL", "config.json"),
        ({**tiny_model(), "pytorch_model.bin": b"\x80\x04."}, "FILE_NOT_ALLOWED", "pytorch_model.bin"),
        ({**tiny_model(), "../../escape.json": b"{}"}, "INVALID_REQUEST", ".."),
    ],
)
def test_a_broken_upload_is_refused_with_what_is_wrong(
    served: Served, registry: grpc.Channel, files: Files, reason: str, words: str
) -> None:
    error = refusal(registry, served.api_key, upload(files, b"".join(files.values())))
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
    assert words in error.message


@pytest.mark.parametrize("reason", ["CHECKSUM_MISMATCH", "UPLOAD_INCOMPLETE"])
def test_bytes_that_are_not_those_of_the_manifest_are_refused(
    served: Served, registry: grpc.Channel, reason: str
) -> None:
    files = real_model()
    content = bytearray(b"".join(files.values()))
    if reason == "CHECKSUM_MISMATCH":
        content[len(content) // 2] ^= 1
    else:
        del content[-1]
    error = refusal(registry, served.api_key, upload(files, bytes(content)))
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)


def test_what_the_contract_does_not_allow_is_refused_by_field(served: Served, registry: grpc.Channel) -> None:
    for message, field in (
        (header("no spaces", tiny_model()), "header.name"),
        (header("ok", tiny_model(), version="one"), "header.version"),
        (header("ok", {}), "header.files"),
        (pb.ImportModelRequest(chunk=bytes(1024 * 1024 + 1)), "chunk"),
        (pb.ImportModelRequest(), "message"),
    ):
        error = refusal(registry, served.api_key, [message])
        assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
        assert field in {violation.field for violation in error.violations}


@pytest.mark.parametrize("token", ["", "nonsense"])
def test_an_upload_needs_a_token(registry: grpc.Channel, token: str) -> None:
    error = refusal(registry, token, upload(tiny_model(), b"".join(tiny_model().values())))
    assert error.code is grpc.StatusCode.UNAUTHENTICATED


def test_the_command_line_refuses_a_directory_that_is_no_model(served: Served, tmp_path: Path) -> None:
    write(tmp_path / "poem", {"poem.txt": b"no weights here"})
    write(tmp_path / "cut", truncated())
    for name, reason in (("poem", "NOT_A_MODEL"), ("cut", "SAFETENSORS_INVALID")):
        done = served.platform.aiops("models", "import", str(tmp_path / name))
        assert (done.returncode, done.stdout) == (2, "")
        assert f"reason: {reason}" in done.stderr


def write(directory: Path, files: Mapping[str, bytes]) -> None:
    directory.mkdir()
    for name, content in files.items():
        (directory / name).write_bytes(content)
