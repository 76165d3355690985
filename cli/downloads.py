"""`aiops models download`, `aiops models downloads`: models from a hub."""

import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from cli.connect import connect
from cli.exits import CliError, Exit
from cli.output import Format, Output, note, progress, show_many, show_one
from cli.paging import ALL_HELP, MORE, at_most

if TYPE_CHECKING:
    from aiops.models.v1.model_download_pb2 import ModelDownload

    from cli.session import Session

POLL_S = 0.5
FRAMEWORKS = ("vllm", "triton", "llamacpp", "custom")
COLUMNS = {
    "download": lambda job: job.download_id,
    "repo": lambda job: job.repo,
    "commit": lambda job: job.commit[:12],
    "state": lambda job: job.State.Name(job.state),
    "progress": lambda job: f"{_progress(job)}",
    "license": lambda job: job.license,
    "model": lambda job: job.model_id,
    "error": lambda job: job.error,
}


def download(
    context: typer.Context,
    repo: Annotated[str, typer.Argument(metavar="REPO", help="As the hub names it, e.g. Qwen/Qwen3-0.6B.")],
    revision: Annotated[str, typer.Option(help="Branch, tag or commit; main by default.")] = "",
    framework: Annotated[str, typer.Option(help=f"What serves it: {', '.join(FRAMEWORKS)}.")] = "vllm",
    name: Annotated[str, typer.Option(help="What clients send as `model`; the repository's by default.")] = "",
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Take weights that run code; owners only.")
    ] = False,
    quantization: Annotated[
        str, typer.Option(help="Which of a GGUF repository's models, e.g. Q4_K_M; with --framework llamacpp.")
    ] = "",
    token: Annotated[str, typer.Option(envvar="HF_TOKEN", help="A token of the hub, for this download.")] = "",
    wait: Annotated[bool, typer.Option("--wait", help="Return when it is in the registry, 1 when it fails.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Download a model from the hub into the registry."""
    from aiops.models.v1.model_pb2 import Framework
    from aiops.models.v1.model_service_pb2 import DownloadModelRequest
    from aiops.models.v1.model_service_pb2_grpc import ModelServiceStub

    if framework not in FRAMEWORKS:
        raise CliError(f"there is no framework {framework!r}", Exit.USAGE, next_step=f"use {', '.join(FRAMEWORKS)}")
    session = connect(context)
    request = DownloadModelRequest(
        repo=repo,
        revision=revision,
        framework=Framework.Value(framework),
        name=name,
        allow_pickle=allow_pickle,
        token=token,
        quantization=quantization,
    )
    job = session.call(session.stub(ModelServiceStub).DownloadModel, request).download
    if wait:
        job = _until_ended(session, job)
    show_one(job, COLUMNS, output)


def downloads(
    context: typer.Context,
    limit: Annotated[int, typer.Option(min=0, help=ALL_HELP)] = 100,
    output: Output = Format.TABLE,
) -> None:
    """List the downloads."""
    rows, more = at_most(limit, _every_download(connect(context)))
    show_many(rows, COLUMNS, output)
    if more:
        note(MORE)


def cancel_download(
    context: typer.Context,
    download_id: Annotated[str, typer.Argument(metavar="DOWNLOAD")],
    output: Output = Format.TABLE,
) -> None:
    """End a download; nothing of it stays."""
    from aiops.models.v1.model_service_pb2 import CancelModelDownloadRequest
    from aiops.models.v1.model_service_pb2_grpc import ModelServiceStub

    session = connect(context)
    request = CancelModelDownloadRequest(download_id=download_id)
    show_one(session.call(session.stub(ModelServiceStub).CancelModelDownload, request).download, COLUMNS, output)


def _progress(job: "ModelDownload") -> str:
    """How far it is, in words."""
    done, total = job.bytes_done / 2**20, job.bytes_total / 2**20
    rate = f", {job.bytes_per_second / 2**20:.1f} MB/s" if job.bytes_per_second else ""
    left = f", {job.eta_seconds:.0f} s left" if job.HasField("eta_seconds") else ""
    return f"{done:.1f} of {total:.1f} MB{rate}{left}"


def _until_ended(session: "Session", job: "ModelDownload") -> "ModelDownload":
    """Shows how it goes on: a bar on a terminal, else a line for each change. CliError when it fails."""
    told = ""
    with progress() as bars:
        bar = bars.add_task(job.repo, total=None)
        while job.state in (job.queued, job.downloading, job.storing):
            bars.update(bar, total=job.bytes_total or None, completed=job.bytes_done)
            state = f"{job.State.Name(job.state)}{f': {job.error}' if job.error else ''}"
            if state != told and not sys.stderr.isatty():
                note(f"{job.download_id} {state}")
            told = state
            time.sleep(POLL_S)
            job = _get(session, job.download_id)
    if job.state != job.succeeded:
        ending = job.State.Name(job.state)
        why = (job.error, f"reason: {job.error_reason}") if job.error else ()
        raise CliError(f"the download of {job.repo} has {ending}: {job.download_id}", why=why)
    return job


def _get(session: "Session", download_id: str) -> "ModelDownload":
    from aiops.models.v1.model_service_pb2 import GetModelDownloadRequest
    from aiops.models.v1.model_service_pb2_grpc import ModelServiceStub

    request = GetModelDownloadRequest(download_id=download_id)
    return session.call(session.stub(ModelServiceStub).GetModelDownload, request).download


def _every_download(session: "Session") -> "Iterator[ModelDownload]":
    from aiops.models.v1.model_service_pb2 import ListModelDownloadsRequest
    from aiops.models.v1.model_service_pb2_grpc import ModelServiceStub

    stub, page_token = session.stub(ModelServiceStub), ""
    while True:
        page = session.call(stub.ListModelDownloads, ListModelDownloadsRequest(page_size=200, page_token=page_token))
        yield from page.downloads
        page_token = page.next_page_token
        if not page_token:
            return
