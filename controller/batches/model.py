"""Files of requests, batches of them, and the states that a batch goes through."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import Enum
from typing import NewType

from mesh.errors import DomainError, Kind
from mesh.identity import OrgId, UserId

FileId = NewType("FileId", str)
BatchId = NewType("BatchId", str)

MIB = 1024 * 1024
# As OpenAI has them.
DEFAULT_WINDOW = "24h"
MOST_LINES = 50_000
MOST_ERRORS = 100
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class FileNotFoundInStoreError(DomainError):
    """There is no such file, or none that the caller may see."""

    kind, reason = Kind.NOT_FOUND, "FILE_NOT_FOUND"

    def __init__(self, file_id: str) -> None:
        super().__init__(f"there is no file {file_id}", file_id=file_id)


class FileTooLargeError(DomainError):
    """An upload is longer than files may be."""

    kind, reason = Kind.INVALID, "FILE_TOO_LARGE"

    def __init__(self, most_bytes: int) -> None:
        super().__init__(
            f"the file is longer than {most_bytes // MIB} MiB; split it into several batches",
            most_bytes=str(most_bytes),
        )


class FileInUseError(DomainError):
    """A batch works at the file."""

    kind, reason = Kind.PRECONDITION, "FILE_IN_USE"

    def __init__(self, file_id: str, batch_id: str) -> None:
        super().__init__(f"batch {batch_id} works at file {file_id}; cancel it first", batch_id=batch_id)


class BatchNotFoundError(DomainError):
    """There is no such batch, or none that the caller may see."""

    kind, reason = Kind.NOT_FOUND, "BATCH_NOT_FOUND"

    def __init__(self, batch_id: str) -> None:
        super().__init__(f"there is no batch {batch_id}", batch_id=batch_id)


class Purpose(Enum):
    """What a file is for."""

    BATCH = "batch"
    BATCH_OUTPUT = "batch_output"


@dataclass(frozen=True, slots=True)
class File:
    """A file in object storage."""

    file_id: FileId
    org_id: OrgId
    user_id: UserId
    filename: str
    purpose: Purpose
    size_bytes: int
    created_at: datetime

    @property
    def path(self) -> str:
        """Where its bytes are."""
        return path_of(self.file_id)


def path_of(file_id: FileId) -> str:
    """Where the bytes of a file are in object storage."""
    return f"batch-files/{file_id}"


class Status(Enum):
    """How far a batch is."""

    VALIDATING = "validating"
    FAILED = "failed"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


UNFINISHED = frozenset({Status.VALIDATING, Status.IN_PROGRESS, Status.FINALIZING, Status.CANCELLING})


@dataclass(frozen=True, slots=True)
class LineFault:
    """What is wrong with the file of a batch. `line` counts from 1; 0 is the file as a whole."""

    code: str
    message: str
    param: str = ""
    line: int = 0


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch. `token_id` is what its owner showed when they asked for it."""

    batch_id: BatchId
    org_id: OrgId
    user_id: UserId
    token_id: str
    created_at: datetime
    changed_at: datetime
    endpoint: str
    input_file_id: FileId
    completion_window: str
    expires_at: datetime
    status: Status = Status.VALIDATING
    faults: tuple[LineFault, ...] = ()
    output_file_id: str = ""
    error_file_id: str = ""
    total: int = 0
    completed: int = 0
    failed: int = 0
    metadata: Mapping[str, str] = field(default_factory=dict)
    in_progress_at: datetime | None = None
    finalizing_at: datetime | None = None
    cancelling_at: datetime | None = None
    ended_at: datetime | None = None

    @property
    def is_finished(self) -> bool:
        """Whether nothing of it will change."""
        return self.status not in UNFINISHED

    def refuse(self, faults: tuple[LineFault, ...], now: datetime) -> "Batch":
        """The file is wrong."""
        return replace(self, status=Status.FAILED, faults=faults, changed_at=now, ended_at=now)

    def begin(self, total: int, now: datetime) -> "Batch":
        """The file is right, and so many requests are to be answered."""
        return replace(self, status=Status.IN_PROGRESS, total=total, changed_at=now, in_progress_at=now)

    def cancel(self, now: datetime) -> "Batch":
        """No more requests are asked. One that is being written, or has ended, stays what it is."""
        if self.status not in (Status.VALIDATING, Status.IN_PROGRESS):
            return self
        return replace(self, status=Status.CANCELLING, changed_at=now, cancelling_at=now)

    def finalize(self, now: datetime) -> "Batch":
        """Every request has its answer."""
        return replace(self, status=Status.FINALIZING, changed_at=now, finalizing_at=now)

    def counted(self, completed: int, failed: int, now: datetime) -> "Batch":
        """So many answers are there."""
        return replace(self, completed=completed, failed=failed, changed_at=now)

    def end(self, output: str, errors: str, now: datetime) -> "Batch":
        """The files are written."""
        ended = {Status.CANCELLING: Status.CANCELLED, Status.FINALIZING: Status.COMPLETED}.get(
            self.status, Status.EXPIRED
        )
        return replace(self, status=ended, output_file_id=output, error_file_id=errors, changed_at=now, ended_at=now)


@dataclass(frozen=True, slots=True)
class Line:
    """One request of a batch: where it is in the file, and its answer once there is one.

    `answer` is the line of the output or error file; `ok` is whether it goes into the former.
    """

    number: int
    custom_id: str
    offset: int
    length: int
    tries: int = 0
    answer: str = ""
    ok: bool = False


def window_of(text: str) -> timedelta:
    """A time such as `24h`. ValueError for what is none."""
    found = re.fullmatch(r"([1-9][0-9]{0,5})([smhd])", text)
    if found is None:
        raise ValueError(f"{text} is no time such as 24h")
    return timedelta(seconds=int(found[1]) * _UNITS[found[2]])
