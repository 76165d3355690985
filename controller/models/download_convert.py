"""Downloads as protobuf messages and events."""

from aiops.models.v1 import model_download_pb2 as pb
from aiops.models.v1 import model_events_pb2 as events_pb
from aiops.models.v1 import model_service_pb2 as service_pb
from aiops.types.v1 import owner_pb2

from controller.events import Encoding, Encodings
from controller.models.convert import TOPIC, framework_from_proto, framework_to_proto, timestamp
from controller.models.download import Download, DownloadChanged, DownloadState, PickleAllowed, Wanted
from controller.models.model import Framework
from mesh.clock import unix_ms

_STATES = {
    DownloadState.QUEUED: pb.ModelDownload.queued,
    DownloadState.DOWNLOADING: pb.ModelDownload.downloading,
    DownloadState.STORING: pb.ModelDownload.storing,
    DownloadState.SUCCEEDED: pb.ModelDownload.succeeded,
    DownloadState.FAILED: pb.ModelDownload.failed,
    DownloadState.CANCELLED: pb.ModelDownload.cancelled,
}
_STATES_READ = {number: state for state, number in _STATES.items()}


def download_to_proto(download: Download) -> pb.ModelDownload:
    """A download; its token stays here."""
    progress, running = download.progress, download.state is DownloadState.DOWNLOADING
    return pb.ModelDownload(
        download_id=download.download_id,
        repo=download.repo,
        revision=download.revision,
        commit=download.commit,
        framework=framework_to_proto(download.framework),
        state=_STATES[download.state],
        name=download.name,
        model_id=download.model_id,
        bytes_total=progress.bytes_total,
        bytes_done=progress.bytes_done,
        bytes_per_second=progress.bytes_per_second if running else 0,
        eta_seconds=progress.eta_seconds if running else None,
        files_total=progress.files_total,
        files_done=progress.files_done,
        failures=download.failures,
        error=download.error,
        error_reason=download.error_reason,
        license=download.license,
        skipped_files=download.skipped_files,
        allow_pickle=download.allow_pickle,
        owner=owner_pb2.Owner(org_id=download.org_id, user_id=download.user_id),
        created_at=timestamp(download.created_at),
        changed_at=timestamp(download.changed_at),
        finished_at=timestamp(download.finished_at) if download.finished_at else None,
        quantization=download.quantization,
    )


def wanted_from_proto(request: service_pb.DownloadModelRequest) -> Wanted:
    """What is to be downloaded; the name is the repository's when none is given."""
    return Wanted(
        repo=request.repo,
        revision=request.revision or "main",
        framework=framework_from_proto(request.framework) or Framework.VLLM,
        name=request.name or request.repo.rpartition("/")[2].lstrip("._-"),
        token=request.token,
        allow_pickle=request.allow_pickle,
        quantization=request.quantization,
    )


def state_from_proto(state: "pb.ModelDownload.State.ValueType") -> DownloadState | None:
    """The state to filter by; None for every one."""
    return _STATES_READ.get(state)


def _changed(event: DownloadChanged) -> events_pb.ModelDownloadProgress:
    download = event.download
    return events_pb.ModelDownloadProgress(
        type="system.modelDownloadProgress",
        download_id=download.download_id,
        repo=download.repo,
        state=download.state.value,
        bytes_total=download.progress.bytes_total,
        bytes_done=download.progress.bytes_done,
        bytes_per_second=download.progress.bytes_per_second,
        error=download.error,
        model_id=download.model_id,
        timestamp=unix_ms(event.at),
    )


def _allowed(event: PickleAllowed) -> events_pb.ModelPickleAllowed:
    return events_pb.ModelPickleAllowed(
        type="system.modelPickleAllowed",
        download_id=event.download.download_id,
        repo=event.download.repo,
        allowed_by=event.allowed_by,
        timestamp=unix_ms(event.at),
    )


EVENTS: Encodings = {
    DownloadChanged: Encoding(
        "system.modelDownloadProgress", TOPIC, lambda event: str(event.download.download_id), _changed
    ),
    PickleAllowed: Encoding(
        "system.modelPickleAllowed", TOPIC, lambda event: str(event.download.download_id), _allowed
    ),
}
