"""Files kept by what is in them, and the model folders that are made of them by hard links.

Layout under the cache's directory: `blobs/<sha256>`, `partial/<sha256>` while it arrives, `quarantine/<sha256>` for
what was not what it should be, `models/<digest>/…`. A blob that no folder links to has a link count of one.
"""

import contextlib
import errno
import hashlib
import os
import shutil
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from node_agent.cache.model import Artifact, ArtifactFile, DiskFullError

_CHUNK = 4 * 1024 * 1024
_MIB = 1024 * 1024
_BLOCK = 512  # what st_blocks counts, whatever the file system's own


class BlobStore:
    """The cache on disk. Every method blocks: call it in a thread; whatever changes the cache takes its turn."""

    def __init__(self, directory: Path, limit_bytes: int = 0) -> None:
        self._limit = limit_bytes
        self._turn = threading.RLock()
        self._directory = directory
        self._blobs, self._partial = directory / "blobs", directory / "partial"
        self._quarantine, self._models = directory / "quarantine", directory / "models"
        self._verified: dict[str, tuple[int, int, int]] = {}
        for each in (self._blobs, self._partial, self._quarantine, self._models):
            each.mkdir(parents=True, exist_ok=True)

    def blob(self, sha256: str) -> Path:
        """Where a whole file is kept, if it is."""
        return self._blobs / sha256

    def read(self, sha256: str, offset: int, length: int) -> bytes:
        """Bytes of a whole file. Raises FileNotFoundError."""
        with self.blob(sha256).open("rb") as file:
            return os.pread(file.fileno(), length, offset)

    def is_empty(self) -> bool:
        """Whether no whole file is here."""
        return next(self._blobs.iterdir(), None) is None

    def partial(self, file: ArtifactFile) -> Path:
        """Where the file is written while it arrives."""
        return self._partial / file.sha256

    def has(self, file: ArtifactFile) -> bool:
        """Whether the file is here and whole; one that is not is set aside.

        Read through once in this agent's life, and again when anybody has touched it since.
        """
        path = self._blobs / file.sha256
        if not path.exists():
            return False
        if self._verified.get(file.sha256) == _signature(path):
            return True
        if path.stat().st_size == file.size_bytes and hash_file(path).hexdigest() == file.sha256:
            self._verified[file.sha256] = _signature(path)
            return True
        self.set_aside(path)
        return False

    def keep(self, file: ArtifactFile) -> None:
        """Makes the verified partial file a blob, durably and at once."""
        partial = self.partial(file)
        partial.chmod(0o444)
        with self.typed(partial), partial.open("rb") as opened:
            os.fsync(opened.fileno())
        with self._turn:
            partial.replace(self._blobs / file.sha256)

    def set_aside(self, path: Path) -> None:
        """Moves a bad file out of reach; only the latest one is kept, for whoever wants to look."""
        with self._turn:
            for earlier in self._quarantine.iterdir():
                earlier.unlink()
            path.replace(self._quarantine / path.name)

    def folder(self, artifact: Artifact) -> Path:
        """Where the model's folder is, or will be."""
        return self._models / artifact.digest

    def lay_out(self, artifact: Artifact) -> Path:
        """The model's folder, made anew of the blobs that are here."""
        folder, building = self.folder(artifact), self._models / f".{artifact.digest}"
        with self._turn, self.typed(folder):
            shutil.rmtree(building, ignore_errors=True)
            for file in artifact.files:
                target = building / file.path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.hardlink_to(self._blobs / file.sha256)
            if folder.exists() and _same(folder, building, artifact):
                shutil.rmtree(building)
            else:
                shutil.rmtree(folder, ignore_errors=True)
                building.replace(folder)
            os.utime(folder)
        return folder

    def models(self, most: int) -> list[str]:
        """The digests of the models that are laid out, those used last, in a stable order."""
        with contextlib.suppress(OSError):
            laid_out = [(each.stat().st_mtime, each.name) for each in self._models.iterdir() if each.name[0] != "."]
            return sorted(name for _, name in sorted(laid_out)[-most:])
        return []

    def make_room_for(self, file: ArtifactFile, held: Collection[str]) -> None:
        """Drops least recently used models, until the file fits.

        `held` are digests of models and SHA-256 of files that must stay. Raises DiskFullError.
        """
        partial = self.partial(file)
        needed = file.size_bytes - _size(partial)
        with self._turn:
            self._drop_until(needed, held)

    def _drop_until(self, needed: int, held: Collection[str]) -> None:
        for folder in sorted(self._models.iterdir(), key=lambda each: each.stat().st_mtime):
            if self._fits(needed):
                return
            if folder.name not in held:
                shutil.rmtree(folder)
                self._drop_unlinked(held)
        if not self._fits(needed):
            self._drop_unlinked(held)
        if not self._fits(needed):
            raise self._full(self._directory, needed)

    @contextmanager
    def typed(self, path: Path) -> Iterator[None]:
        """Turns a full disk into DiskFullError and leaves no partial file of it."""
        try:
            yield
        except OSError as error:
            if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
                raise
            if path.parent == self._partial:
                path.unlink(missing_ok=True)
            raise self._full(path, 0) from error

    def _fits(self, needed: int) -> bool:
        within_limit = not self._limit or self._used() + needed <= self._limit
        return within_limit and needed <= shutil.disk_usage(self._directory).free

    def _used(self) -> int:
        return sum(_size(each) for directory in (self._blobs, self._partial) for each in directory.iterdir())

    def _drop_unlinked(self, held: Collection[str]) -> None:
        for file in (*self._blobs.iterdir(), *self._partial.iterdir()):
            if file.name not in held and file.stat().st_nlink == 1:
                file.unlink()

    def _full(self, path: Path, needed: int) -> DiskFullError:
        free = shutil.disk_usage(self._directory).free
        limit = f" under the cache limit of {self._limit // _MIB} MB" if self._limit else ""
        wanted = f"; {needed / _MIB:.1f} MB are needed" if needed else ""
        return DiskFullError(
            f"no space for {path}{limit}: {free / _MIB:.1f} MB are free{wanted}; free some, or stop a model here",
            path=str(path),
            free_bytes=str(free),
            needed_bytes=str(needed),
        )


def hash_file(path: Path, length: int | None = None) -> "hashlib._Hash":
    """SHA-256 over the file, or over its first `length` bytes."""
    digest = hashlib.sha256()
    remaining = path.stat().st_size if length is None else length
    with path.open("rb") as file:
        while remaining > 0 and (chunk := file.read(min(_CHUNK, remaining))):
            digest.update(chunk)
            remaining -= len(chunk)
    return digest


def _size(path: Path) -> int:
    """Bytes on the disk, few for a file with holes; 0 for a file that has gone: what arrives takes no turns."""
    with contextlib.suppress(FileNotFoundError):
        status = path.stat()
        return min(status.st_size, status.st_blocks * _BLOCK)
    return 0


def _signature(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _same(folder: Path, other: Path, artifact: Artifact) -> bool:
    with contextlib.suppress(OSError):
        return all((folder / each.path).samefile(other / each.path) for each in artifact.files)
    return False
