"""What a model's files are, where they come from, and what can go wrong while fetching them."""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath

from mesh.errors import DomainError, Kind

_SHA256 = re.compile(r"[0-9a-f]{64}")


class ChecksumMismatchError(DomainError):
    """A file is not what the manifest says, even when fetched again."""

    kind, reason = Kind.PRECONDITION, "CHECKSUM_MISMATCH"


class DiskFullError(DomainError):
    """The model does not fit on this machine's disk."""

    kind, reason = Kind.EXHAUSTED, "DISK_FULL"


class StorageUnavailableError(DomainError):
    """The object storage does not answer, or lacks the file."""

    kind, reason = Kind.UNAVAILABLE, "STORAGE_UNAVAILABLE"


class FileMissingError(StorageUnavailableError):
    """The object storage answers that it has no such file; asking again changes nothing."""


class FileNotAllowedError(DomainError):
    """A manifest that names a path outside of the model's folder, or no real checksum."""

    kind, reason = Kind.INVALID, "FILE_NOT_ALLOWED"


Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class ArtifactFile:
    """One file: relative path with forward slashes, size in bytes, SHA-256 in hex.

    `chunk_sha256s` are 32 bytes for each chunk of `chunk_bytes`; a file without is fetched as a whole. `object` is its
    key in object storage, below the artefact's URL; the path when empty.
    """

    path: str
    size_bytes: int
    sha256: str
    chunk_bytes: int = 0
    chunk_sha256s: bytes = b""
    object: str = ""

    @property
    def key(self) -> str:
        """Where object storage has it, below the artefact's URL."""
        return self.object or self.path

    @property
    def chunk_count(self) -> int:
        """How many chunks it has; 0 when they are not known."""
        return -(-self.size_bytes // self.chunk_bytes) if self.chunk_bytes else 0

    @property
    def has_chunks(self) -> bool:
        """Whether its chunks are known, each one."""
        return 0 < self.chunk_count == len(self.chunk_sha256s) // 32

    def chunk(self, index: int) -> tuple[int, int]:
        """Where a chunk begins, and how long it is."""
        offset = index * self.chunk_bytes
        return offset, min(self.chunk_bytes, self.size_bytes - offset)


@dataclass(frozen=True, slots=True)
class Artifact:
    """A model's folder in object storage and the files that must come out of it."""

    url: str
    files: tuple[ArtifactFile, ...]

    @property
    def digest(self) -> str:
        """Names the content as the registry does: equal for the same files, wherever they are stored."""
        lines = sorted(f"{each.sha256} {each.size_bytes} {each.path}\n" for each in self.files)
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def check(self) -> None:
        """Raises FileNotAllowedError when a file could land outside of the model's folder."""
        for each in self.files:
            path = PurePosixPath(each.path)
            if not each.path or path.is_absolute() or ".." in path.parts or "\\" in each.path or "\0" in each.path:
                raise FileNotAllowedError(f"the manifest names the path {each.path!r}", path=each.path)
            if not _SHA256.fullmatch(each.sha256):
                raise FileNotAllowedError(f"the manifest has no SHA-256 of {each.path!r}", path=each.path)


NO_ARTIFACT = Artifact("", ())
