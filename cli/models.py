"""`aiops models …`: the model registry."""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.connect import connect
from cli.exits import CliError, Exit
from cli.output import Format, Output, as_dict, note, progress, show_json, show_many, show_one, show_result
from cli.paging import ALL_HELP, MORE, at_most
from mesh.gguf.description import SUFFIX, is_gguf, parts_of

if TYPE_CHECKING:
    from aiops.models.v1.model_pb2 import Model, ModelFile
    from aiops.models.v1.model_service_pb2 import ImportModelRequest

    from cli.session import Session

app = typer.Typer(no_args_is_help=True, help="The model registry.")

CHUNK_BYTES = 1024 * 1024
ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="Model id or name.")]
SourceArgument = Annotated[
    Path,
    typer.Argument(metavar="SOURCE", help="A folder in Hugging Face layout or with an ONNX model, or a GGUF file."),
]
COLUMNS = {
    "model": lambda model: model.model_id,
    "name": lambda model: model.name,
    "task": lambda model: model.Task.Name(model.task),
    "version": lambda model: model.version,
    "size": lambda model: f"{model.size_mb} MB",
    "parameters": lambda model: f"{model.metadata.parameters:,.0f}" if model.metadata.parameters else "unknown",
    "created": lambda model: f"{model.created_at.ToDatetime():%Y-%m-%d %H:%M}",
}
DETAILS = {
    "format": lambda model: model.Format.Name(model.model_format),
    "architecture": lambda model: model.metadata.architecture,
    "quantization": lambda model: model.metadata.quantization,
    "context": lambda model: (
        f"{model.metadata.context_length:,} tokens" if model.metadata.context_length else "unknown"
    ),
    "license": lambda model: model.metadata.license,
}
REVISION_COLUMNS = {
    "revision": lambda revision: revision.number,
    "current": lambda revision: "yes" if revision.current else "",
    "digest": lambda revision: revision.digest,
    "version": lambda revision: revision.version,
    "size": lambda revision: f"{revision.size_mb} MB",
    "license": lambda revision: revision.metadata.license,
    "created": lambda revision: f"{revision.created_at.ToDatetime():%Y-%m-%d %H:%M}",
}
FILE_COLUMNS = {
    "path": lambda file: file.path,
    "bytes": lambda file: f"{file.size_bytes:.0f}",
    "sha256": lambda file: file.sha256,
}


@app.command("ls")
def list_models(
    context: typer.Context,
    limit: Annotated[int, typer.Option(min=0, help=ALL_HELP)] = 100,
    output: Output = Format.TABLE,
) -> None:
    """List the models."""
    rows, more = at_most(limit, _every_model(connect(context)))
    show_many(rows, COLUMNS, output)
    if more:
        note(MORE)


@app.command("get")
def get_model(context: typer.Context, model: ModelArgument, output: Output = Format.TABLE) -> None:
    """Show one model."""
    from aiops.models.v1.model_service_pb2 import GetModelRequest
    from aiops.models.v1.model_service_pb2_grpc import ModelServiceStub

    session = connect(context)
    answer = session.call(session.stub(ModelServiceStub).GetModel, GetModelRequest(model_id=model))
    show_one(answer.model, {**COLUMNS, **DETAILS}, output)


@app.command()
def files(context: typer.Context, model: ModelArgument, output: Output = Format.TABLE) -> None:
    """List the files of a model with their checksums."""
    from aiops.models.v1.model_service_pb2 import ListModelFilesRequest
    from aiops.models.v1.model_service_pb2_grpc import ModelServiceStub

    session = connect(context)
    stub, request = session.stub(ModelServiceStub), ListModelFilesRequest(model_id=model)
    page = session.call(stub.ListModelFiles, request)
    rows = list(page.files)
    while page.next_page_token:
        request.page_token = page.next_page_token
        page = session.call(stub.ListModelFiles, request)
        rows.extend(page.files)
    show_many(rows, FILE_COLUMNS, output)


@app.command("import")
def import_model(
    context: typer.Context,
    source: SourceArgument,
    name: Annotated[str, typer.Option(help="What clients send as `model`; the directory's name by default.")] = "",
    description: Annotated[str, typer.Option()] = "",
    version: Annotated[str, typer.Option(help="Semantic version; 1.0.0 by default.")] = "",
    license: Annotated[str, typer.Option()] = "",  # noqa: A002 - the option's name
    framework: Annotated[str, typer.Option(help="vllm, triton, llamacpp or custom; by the files if empty.")] = "",
    task: Annotated[str, typer.Option(help="llm, nlp, cv, asr or tts; what the files say by default.")] = "",
    new_revision: Annotated[
        bool, typer.Option("--new-revision", help="Add other files to the model of that name, and make them current.")
    ] = False,
    output: Output = Format.TABLE,
) -> None:
    """Upload a model into the registry: a directory, or a GGUF file with the other parts of its model."""
    from aiops.models.v1.model_pb2 import Framework, Model
    from aiops.models.v1.model_service_pb2 import ImportHeader
    from aiops.models.v1.model_service_pb2_grpc import ModelServiceStub

    paths, directory = model_files(source), source if source.is_dir() else source.parent
    framework = framework or ("llamacpp" if source.is_file() else framework_of(directory))
    session = connect(context)
    with progress() as bars:
        total = sum(path.stat().st_size for path in paths)
        hashing, sending = bars.add_task("checksums", total=total), bars.add_task("upload", total=total)
        manifest = [_describe(directory, path, lambda size: bars.advance(hashing, size)) for path in paths]
        header = ImportHeader(
            name=name or (source.resolve().name if source.is_dir() else source.stem),
            description=description,
            version=version,
            license=license,
            framework=_value(Framework, "framework", framework),
            task=_value(Model.Task, "task", task or task_of(directory, framework)),
            files=manifest,
            new_revision=new_revision,
        )

        def messages() -> "Iterator[ImportModelRequest]":
            bars.reset(sending)
            return _messages(header, paths, lambda size: bars.advance(sending, size))

        answer = session.upload(session.stub(ModelServiceStub).ImportModel, messages)
    if output is Format.JSON:
        show_json(as_dict(answer))
        return
    done = "was there already" if answer.existed else "imported"
    typer.echo(f"{answer.model.name} {done}: {answer.model.model_id}, {answer.model.size_mb} MB, {len(paths)} files")


@app.command()
def revisions(context: typer.Context, model: ModelArgument, output: Output = Format.TABLE) -> None:
    """List the revisions of a model, newest first."""
    from aiops.models.v1.model_service_pb2 import ListModelRevisionsRequest
    from aiops.models.v1.model_service_pb2_grpc import ModelServiceStub

    session = connect(context)
    stub, request = session.stub(ModelServiceStub), ListModelRevisionsRequest(model_id=model)
    page = session.call(stub.ListModelRevisions, request)
    rows = list(page.revisions)
    while page.next_page_token:
        request.page_token = page.next_page_token
        page = session.call(stub.ListModelRevisions, request)
        rows.extend(page.revisions)
    show_many(rows, REVISION_COLUMNS, output)


@app.command()
def rollback(
    context: typer.Context,
    model: ModelArgument,
    revision: Annotated[str, typer.Argument(metavar="REVISION", help="A revision's number or digest.")],
    output: Output = Format.TABLE,
) -> None:
    """Make an earlier revision current: new deployments take it, those that run keep theirs."""
    from aiops.models.v1.model_service_pb2 import RollbackModelRequest
    from aiops.models.v1.model_service_pb2_grpc import ModelServiceStub

    session = connect(context)
    request = RollbackModelRequest(model_id=model, revision=revision)
    show_one(session.call(session.stub(ModelServiceStub).RollbackModel, request).model, COLUMNS, output)


@app.command()
def delete(context: typer.Context, model: ModelArgument, output: Output = Format.TABLE) -> None:
    """Delete a model and its files."""
    from aiops.models.v1.model_service_pb2 import DeleteModelRequest
    from aiops.models.v1.model_service_pb2_grpc import ModelServiceStub

    session = connect(context)
    session.call(session.stub(ModelServiceStub).DeleteModel, DeleteModelRequest(model_id=model))
    show_result({"model": model, "deleted": True}, f"deleted {model}", output)


def model_files(source: Path) -> list[Path]:
    """The files to upload: everything in a directory but hidden files; the parts of a GGUF model. Raises CliError."""
    step = "give a folder in Hugging Face layout, or a GGUF file"
    if source.is_file() and is_gguf(source.name):
        parts = [source.with_name(name) for name in parts_of(source.name)]
        missing = next((part for part in parts if not part.is_file()), None)
        if missing:
            raise CliError(f"the model was split, and {missing} is not there", Exit.USAGE, next_step="bring all parts")
        return parts
    if not source.is_dir():
        raise CliError(f"{source} is no directory", Exit.USAGE, next_step=step)
    found = sorted(path for path in source.rglob("*") if path.is_file() and not _hidden(path, source))
    if not found:
        raise CliError(f"{source} has no files", Exit.USAGE, next_step=step)
    return found


def framework_of(directory: Path) -> str:
    """What serves its files: Triton an ONNX model or a repository of its own, llama.cpp GGUF files, vLLM all else."""
    if any((directory / name).is_file() for name in ("model.onnx", "config.pbtxt")):
        return "triton"
    suffixes = {path.suffix for path in directory.iterdir()}
    return "llamacpp" if SUFFIX in suffixes and ".safetensors" not in suffixes else "vllm"


def task_of(directory: Path, framework: str) -> str:
    """What the model is for, by the steps around its graph where it has some."""
    if framework != "triton":
        return "llm"
    try:
        serving = json.loads((directory / "serving.json").read_bytes())
        return {"image": "cv", "audio": "asr"}.get(serving["input"]["kind"], "nlp")
    except (OSError, ValueError, LookupError, TypeError):
        return "nlp"  # what is wrong with the file the registry says


def _value(kind: Any, option: str, name: str) -> Any:
    if name not in kind.keys()[1:]:
        raise CliError(
            f"there is no {option} {name!r}", Exit.USAGE, next_step=f"give one of {', '.join(kind.keys()[1:])}"
        )
    return kind.Value(name)


def _hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def _describe(root: Path, path: Path, advance: Callable[[int], object]) -> "ModelFile":
    from aiops.models.v1.model_pb2 import ModelFile

    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            advance(len(chunk))
    relative = path.relative_to(root).as_posix()
    return ModelFile(path=relative, size_bytes=path.stat().st_size, sha256=digest.hexdigest())


def _messages(header: object, paths: list[Path], advance: Callable[[int], object]) -> "Iterator[ImportModelRequest]":
    from aiops.models.v1.model_service_pb2 import ImportHeader, ImportModelRequest

    assert isinstance(header, ImportHeader)
    yield ImportModelRequest(header=header)
    for path in paths:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield ImportModelRequest(chunk=chunk)
                advance(len(chunk))


def _every_model(session: "Session") -> "Iterator[Model]":
    from aiops.models.v1.model_service_pb2 import ListModelsRequest
    from aiops.models.v1.model_service_pb2_grpc import ModelServiceStub

    stub, page_token = session.stub(ModelServiceStub), ""
    while True:
        page = session.call(stub.ListModels, ListModelsRequest(page_size=200, page_token=page_token))
        yield from page.models
        page_token = page.next_page_token
        if not page_token:
            return
