"""`aiops files …` and `aiops batches …`: files of requests, and their answers when there was room."""

import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.connect import connect
from cli.exits import CliError, Exit
from cli.output import Format, Output, note, show_many, show_one, show_result
from cli.paging import ALL_HELP, MORE, at_most

if TYPE_CHECKING:
    from aiops.batches.v1.batch_pb2 import Batch
    from aiops.batches.v1.file_pb2 import File
    from aiops.batches.v1.file_service_pb2 import UploadFileRequest

    from cli.session import Session

files = typer.Typer(no_args_is_help=True, help="Files of requests, and of their answers.")
batches = typer.Typer(no_args_is_help=True, help="Requests of a file that are answered when there is room.")

CHUNK_BYTES = 1024 * 1024
ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses")
FileArgument = Annotated[str, typer.Argument(metavar="FILE", help="File id.")]
BatchArgument = Annotated[str, typer.Argument(metavar="BATCH", help="Batch id.")]
Limit = Annotated[int, typer.Option(min=0, help=ALL_HELP)]
FILE_COLUMNS = {
    "file": lambda file: file.file_id,
    "name": lambda file: file.filename,
    "purpose": lambda file: file.Purpose.Name(file.purpose),
    "size": lambda file: f"{file.size_bytes:,} bytes",
    "created": lambda file: f"{file.created_at.ToDatetime():%Y-%m-%d %H:%M}",
}
BATCH_COLUMNS = {
    "batch": lambda batch: batch.batch_id,
    "status": lambda batch: batch.Status.Name(batch.status),
    "answered": lambda batch: f"{batch.counts.completed + batch.counts.failed} of {batch.counts.total}",
    "failed": lambda batch: str(batch.counts.failed),
    "endpoint": lambda batch: batch.endpoint,
    "input": lambda batch: batch.input_file_id,
    "output": lambda batch: batch.output_file_id,
    "errors": lambda batch: (
        batch.error_file_id or "; ".join(f"line {each.line}: {each.message}" for each in batch.errors)
    ),
}


@files.command("upload")
def upload(
    context: typer.Context,
    path: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="A JSON object a line, as OpenAI has them.")
    ],
    output: Output = Format.TABLE,
) -> None:
    """Upload a file of requests."""
    show_one(_upload(connect(context), path), FILE_COLUMNS, output)


@files.command("ls")
def list_files(context: typer.Context, limit: Limit = 100, output: Output = Format.TABLE) -> None:
    """List the files, newest first."""
    rows, more = at_most(limit, _every_file(connect(context)))
    show_many(rows, FILE_COLUMNS, output)
    if more:
        note(MORE)


@files.command("show")
def show_file(context: typer.Context, file: FileArgument, output: Output = Format.TABLE) -> None:
    """Show one file."""
    from aiops.batches.v1.file_service_pb2 import GetFileRequest
    from aiops.batches.v1.file_service_pb2_grpc import FileServiceStub

    session = connect(context)
    answer = session.call(session.stub(FileServiceStub).GetFile, GetFileRequest(file_id=file))
    show_one(answer.file, FILE_COLUMNS, output)


@files.command("cat")
def print_file(context: typer.Context, file: FileArgument) -> None:
    """Print what is in a file."""
    from aiops.batches.v1.file_service_pb2 import DownloadFileRequest
    from aiops.batches.v1.file_service_pb2_grpc import FileServiceStub

    session = connect(context)
    for part in session.stream(session.stub(FileServiceStub).DownloadFile, DownloadFileRequest(file_id=file)):
        sys.stdout.buffer.write(part.chunk)
    sys.stdout.buffer.flush()


@files.command("delete")
def delete_file(context: typer.Context, file: FileArgument, output: Output = Format.TABLE) -> None:
    """Delete a file that no batch works at."""
    from aiops.batches.v1.file_service_pb2 import DeleteFileRequest
    from aiops.batches.v1.file_service_pb2_grpc import FileServiceStub

    session = connect(context)
    session.call(session.stub(FileServiceStub).DeleteFile, DeleteFileRequest(file_id=file))
    show_result({"fileId": file, "deleted": True}, f"{file} deleted", output)


@batches.command("create")
def create(
    context: typer.Context,
    source: Annotated[str, typer.Argument(metavar="FILE", help="A file here, which is uploaded first, or a file id.")],
    endpoint: Annotated[str, typer.Option(help=f"That of every request in it: {', '.join(ENDPOINTS)}.")] = ENDPOINTS[0],
    window: Annotated[str, typer.Option(help="How long it may take, such as 30m or 24h.")] = "24h",
    output: Output = Format.TABLE,
) -> None:
    """Have the requests of a file answered when there is room."""
    from aiops.batches.v1.batch_service_pb2 import CreateBatchRequest
    from aiops.batches.v1.batch_service_pb2_grpc import BatchServiceStub

    if endpoint not in ENDPOINTS:
        raise CliError(f"{endpoint} is none of {', '.join(ENDPOINTS)}", Exit.USAGE)
    session, path = connect(context), Path(source)
    file_id = _upload(session, path).file_id if path.is_file() else source
    request = CreateBatchRequest(
        input_file_id=file_id, endpoint=endpoint, completion_window=window, request_id=str(uuid.uuid4())
    )
    show_one(session.call(session.stub(BatchServiceStub).CreateBatch, request).batch, BATCH_COLUMNS, output)


@batches.command("list")
def list_batches(context: typer.Context, limit: Limit = 100, output: Output = Format.TABLE) -> None:
    """List the batches, newest first."""
    rows, more = at_most(limit, _every_batch(connect(context)))
    show_many(rows, BATCH_COLUMNS, output)
    if more:
        note(MORE)


@batches.command("show")
def show(context: typer.Context, batch: BatchArgument, output: Output = Format.TABLE) -> None:
    """Show one batch."""
    from aiops.batches.v1.batch_service_pb2 import GetBatchRequest
    from aiops.batches.v1.batch_service_pb2_grpc import BatchServiceStub

    session = connect(context)
    answer = session.call(session.stub(BatchServiceStub).GetBatch, GetBatchRequest(batch_id=batch))
    show_one(answer.batch, BATCH_COLUMNS, output)


@batches.command("cancel")
def cancel(context: typer.Context, batch: BatchArgument, output: Output = Format.TABLE) -> None:
    """Ask no more requests of a batch; what was answered is kept."""
    from aiops.batches.v1.batch_service_pb2 import CancelBatchRequest
    from aiops.batches.v1.batch_service_pb2_grpc import BatchServiceStub

    session = connect(context)
    answer = session.call(session.stub(BatchServiceStub).CancelBatch, CancelBatchRequest(batch_id=batch))
    show_one(answer.batch, BATCH_COLUMNS, output)


def _upload(session: "Session", path: Path) -> "File":
    from aiops.batches.v1.file_pb2 import File
    from aiops.batches.v1.file_service_pb2 import UploadFileRequest
    from aiops.batches.v1.file_service_pb2_grpc import FileServiceStub

    def messages() -> "Iterator[UploadFileRequest]":
        yield UploadFileRequest(header=UploadFileRequest.Header(filename=path.name, purpose=File.batch))
        with path.open("rb") as content:
            while chunk := content.read(CHUNK_BYTES):
                yield UploadFileRequest(chunk=chunk)

    return session.upload(session.stub(FileServiceStub).UploadFile, messages).file


def _every_file(session: "Session") -> "Iterator[File]":
    from aiops.batches.v1.file_service_pb2 import ListFilesRequest
    from aiops.batches.v1.file_service_pb2_grpc import FileServiceStub

    stub, request = session.stub(FileServiceStub), ListFilesRequest()
    while True:
        page = session.call(stub.ListFiles, request)
        yield from page.files
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


def _every_batch(session: "Session") -> "Iterator[Batch]":
    from aiops.batches.v1.batch_service_pb2 import ListBatchesRequest
    from aiops.batches.v1.batch_service_pb2_grpc import BatchServiceStub

    stub, request = session.stub(BatchServiceStub), ListBatchesRequest()
    while True:
        page = session.call(stub.ListBatches, request)
        yield from page.batches
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token
