"""A file that arrives in chunks, in any order and from several sources; each is verified before it is written."""

import errno
import hashlib
import os
import threading
from collections.abc import Iterator

from node_agent.cache.blobs import BlobStore, hash_file
from node_agent.cache.model import ArtifactFile, ChecksumMismatchError


class PartialFile:
    """One file on its way. What an earlier try left is taken up. Every method but `has` blocks."""

    def __init__(self, store: BlobStore, file: ArtifactFile) -> None:
        self._store, self.file = store, file
        self._path = store.partial(file)
        self._have: frozenset[int] = frozenset()  # replaced, never changed: threads add to it while others look
        self._turn = threading.Lock()

    @property
    def missing(self) -> set[int]:
        """The chunks that are not here."""
        return set(range(self.file.chunk_count)) - self._have

    @property
    def present(self) -> frozenset[int]:
        """The chunks that are here."""
        return self._have

    @property
    def received(self) -> int:
        """Bytes of the chunks that are here."""
        return sum(self.file.chunk(index)[1] for index in self._have)

    def has(self, offset: int, length: int) -> bool:
        """Whether all of these bytes are here."""
        first, last = offset // self.file.chunk_bytes, (offset + length - 1) // self.file.chunk_bytes
        return all(index in self._have for index in range(first, last + 1))

    def open(self) -> None:
        """Makes the file with its full length and nothing in it, or finds the chunks that are in it already."""
        with self._store.typed(self._path), self._path.open("ab") as file:
            file.truncate(self.file.size_bytes)
        with self._path.open("rb") as file:
            for index in _with_data(file.fileno(), self.file):
                offset, length = self.file.chunk(index)
                if self._is(index, os.pread(file.fileno(), length, offset)):
                    self._have |= {index}

    def write(self, index: int, content: bytes) -> bool:
        """Takes a chunk; False for bytes that are not that chunk. Raises DiskFullError."""
        if not self._is(index, content):
            return False
        with self._store.typed(self._path), self._path.open("r+b") as file:
            os.pwrite(file.fileno(), content, self.file.chunk(index)[0])
        with self._turn:
            self._have |= {index}
        return True

    def read(self, offset: int, length: int) -> bytes:
        """Bytes that are here, also when the file has become whole meanwhile. Raises FileNotFoundError."""
        try:
            with self._path.open("rb") as file:
                return os.pread(file.fileno(), length, offset)
        except FileNotFoundError:
            return self._store.read(self.file.sha256, offset, length)

    def finish(self) -> None:
        """Keeps the whole file in the cache. Raises ChecksumMismatchError when its chunks do not make the file."""
        actual = hash_file(self._path).hexdigest()
        if actual != self.file.sha256:
            self._store.set_aside(self._path)
            raise ChecksumMismatchError(
                f"the chunks of {self.file.path} make a file with SHA-256 {actual}, not {self.file.sha256}; "
                "import the model again",
                path=self.file.path,
                expected=self.file.sha256,
                actual=actual,
            )
        self._store.keep(self.file)

    def _is(self, index: int, content: bytes) -> bool:
        return hashlib.sha256(content).digest() == self.file.chunk_sha256s[32 * index : 32 * index + 32]


def _with_data(descriptor: int, file: ArtifactFile) -> Iterator[int]:
    """The chunks that are not just a hole in a sparse file."""
    for index in range(file.chunk_count):
        offset, length = file.chunk(index)
        try:
            if os.lseek(descriptor, offset, os.SEEK_DATA) < offset + length:
                yield index
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
