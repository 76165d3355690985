"""A download from a hub: the job, what the hub says of a repository, and what can go wrong on the way."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum
from typing import NewType

from controller.models.model import Framework, ModelId, Task
from mesh.errors import DomainError, Kind
from mesh.identity import OrgId, UserId

DownloadId = NewType("DownloadId", str)
_NO_MODEL = ModelId("")
# The first try and three more.
MOST_FAILURES = 4
MOST_SKIPPED_SHOWN = 100


class DownloadState(Enum):
    """Where a download stands."""

    QUEUED = "queued"
    DOWNLOADING = "downloading"
    STORING = "storing"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


UNFINISHED = (DownloadState.QUEUED, DownloadState.DOWNLOADING, DownloadState.STORING)


class DownloadNotFoundError(DomainError):
    """There is no such download, or none that the caller may see."""

    kind, reason = Kind.NOT_FOUND, "DOWNLOAD_NOT_FOUND"

    def __init__(self, download_id: str) -> None:
        super().__init__(
            f"there is no download {download_id}; GET /models/downloads lists those there are", download_id=download_id
        )


class TemporaryError(DomainError):
    """Something that may be gone at the next try. `pause` is how long the other side asks to be left alone."""

    kind, reason = Kind.UNAVAILABLE, "UNAVAILABLE"
    pause: timedelta = timedelta()


class HubUnavailableError(TemporaryError):
    """The hub does not answer, or broke off."""

    kind, reason = Kind.UNAVAILABLE, "HUB_UNAVAILABLE"


class HubRateLimitedError(TemporaryError):
    """The hub wants fewer calls."""

    kind, reason = Kind.EXHAUSTED, "HUB_RATE_LIMITED"


class DamagedFileError(TemporaryError):
    """The bytes that came are not those that the hub says the file has."""

    kind, reason = Kind.PRECONDITION, "CHECKSUM_MISMATCH"


class HubRepoNotFoundError(DomainError):
    """The hub has no such repository, or hides it."""

    kind, reason = Kind.NOT_FOUND, "HUB_REPO_NOT_FOUND"


class HubRevisionNotFoundError(DomainError):
    """The repository has no such branch, tag or commit."""

    kind, reason = Kind.NOT_FOUND, "HUB_REVISION_NOT_FOUND"


class HubRepoGatedError(DomainError):
    """The repository's owner grants access one by one, and has not granted it here."""

    kind, reason = Kind.FORBIDDEN, "HUB_REPO_GATED"


class HubTokenRefusedError(DomainError):
    """The hub does not take the token."""

    kind, reason = Kind.FORBIDDEN, "HUB_TOKEN_REFUSED"


class NoSpaceError(DomainError):
    """The files do not fit on the controller's disk."""

    kind, reason = Kind.EXHAUSTED, "DISK_FULL"


@dataclass(frozen=True, slots=True)
class HubFile:
    """One file of a repository. `sha256` is empty for small files, which have git's blob id (SHA-1) alone.

    `stored_as` is its path in the model; that of the repository when empty.
    """

    path: str
    size_bytes: int
    sha256: str
    blob_id: str
    stored_as: str = ""


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository at one commit, with what its card says."""

    repo: str
    commit: str
    url: str
    files: tuple[HubFile, ...]
    license: str = ""
    languages: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    task: Task | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a download is asked to bring. `token` is the caller's own for the hub, in the clear.

    `quantization` names one of the GGUF models of a repository that has several.
    """

    repo: str
    revision: str
    framework: Framework
    name: str
    token: str = ""
    allow_pickle: bool = False
    quantization: str = ""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a download is; `bytes_per_second` over the last seconds."""

    bytes_total: int = 0
    bytes_done: int = 0
    bytes_per_second: float = 0.0
    files_total: int = 0
    files_done: int = 0

    @property
    def eta_seconds(self) -> float | None:
        """Until the last byte at the present rate."""
        if not self.bytes_per_second or not self.bytes_total:
            return None
        return (self.bytes_total - self.bytes_done) / self.bytes_per_second

    @property
    def tenths(self) -> int:
        """How many tenths are done."""
        return self.bytes_done * 10 // self.bytes_total if self.bytes_total else 0


@dataclass(frozen=True, slots=True)
class Download:
    """A job. `sealed_token` is the caller's token for the hub, until the job ends; `failures` is in a row."""

    download_id: DownloadId
    org_id: OrgId
    user_id: UserId
    repo: str
    revision: str
    framework: Framework
    name: str
    allow_pickle: bool
    sealed_token: str
    created_at: datetime
    changed_at: datetime
    state: DownloadState = DownloadState.QUEUED
    commit: str = ""
    progress: Progress = Progress()
    failures: int = 0
    error: str = ""
    error_reason: str = ""
    license: str = ""
    skipped_files: tuple[str, ...] = ()
    model_id: ModelId = _NO_MODEL
    next_try_at: datetime | None = None
    finished_at: datetime | None = None
    quantization: str = ""

    @property
    def unfinished(self) -> bool:
        """Whether it waits or works."""
        return self.state in UNFINISHED

    def begin_again(self, wanted: Wanted, user_id: UserId, sealed_token: str, now: datetime) -> "Download":
        """Takes up a download that failed or was cancelled."""
        return replace(
            self,
            user_id=user_id,
            state=DownloadState.QUEUED,
            allow_pickle=wanted.allow_pickle,
            quantization=wanted.quantization,
            sealed_token=sealed_token,
            failures=0,
            error="",
            error_reason="",
            next_try_at=None,
            finished_at=None,
            changed_at=now,
        )

    def cancel(self, now: datetime) -> "Download":
        """Ends it at its caller's wish."""
        return self._end(DownloadState.CANCELLED, now)

    def succeed(self, model_id: ModelId, now: datetime) -> "Download":
        """The model is in the registry."""
        return replace(self._end(DownloadState.SUCCEEDED, now), model_id=model_id, error="", error_reason="")

    def fail(self, error: DomainError, now: datetime) -> "Download":
        """It cannot be done."""
        return replace(self._end(DownloadState.FAILED, now), error=error.message, error_reason=error.reason)

    def stumble(self, error: DomainError, now: datetime, pause: timedelta, *, went_on: bool) -> "Download":
        """A try failed that may be repeated; one in which bytes came begins the count anew."""
        failures = 1 if went_on else self.failures + 1
        if failures >= MOST_FAILURES:
            return replace(self.fail(error, now), failures=failures)
        return replace(
            self,
            state=DownloadState.QUEUED,
            failures=failures,
            error=error.message,
            error_reason=error.reason,
            next_try_at=now + pause,
            changed_at=now,
        )

    def _end(self, state: DownloadState, now: datetime) -> "Download":
        return replace(self, state=state, sealed_token="", next_try_at=None, finished_at=now, changed_at=now)


@dataclass(frozen=True, slots=True)
class DownloadChanged:
    """A download changed its state or went on."""

    download: Download
    at: datetime


@dataclass(frozen=True, slots=True)
class PickleAllowed:
    """An owner let a model have weights that run code when they are loaded."""

    download: Download
    allowed_by: UserId
    at: datetime
