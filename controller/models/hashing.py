"""What the bytes of a file are while they pass: the sha256 of the whole, and of each chunk that nodes fetch apart."""

import hashlib
from dataclasses import dataclass

from controller.models.model import MIB, Chunks

# Small enough to go on quickly after a cut, large enough that a question for each costs nothing.
SMALLEST_CHUNK = 8 * MIB
# Every node is told every chunk's sha256; a larger file has larger chunks instead.
MOST_CHUNKS = 256


@dataclass(frozen=True, slots=True)
class Digests:
    """The sha256 of a file in hex, and its chunks."""

    sha256: str
    chunks: Chunks


def chunk_bytes(size_bytes: int) -> int:
    """How long the chunks of a file of this size are: a power of two times 8 MiB."""
    length = SMALLEST_CHUNK
    while length * MOST_CHUNKS < size_bytes:
        length *= 2
    return length


class Hashing:
    """Takes a file's bytes in any pieces."""

    def __init__(self, size_bytes: int) -> None:
        self._length = chunk_bytes(size_bytes)
        self._whole, self._chunk = hashlib.sha256(), hashlib.sha256()
        self._missing = self._length
        self._finished = bytearray()

    def update(self, content: bytes) -> None:
        """The next bytes."""
        self._whole.update(content)
        rest = memoryview(content)
        while rest:
            piece, rest = rest[: self._missing], rest[self._missing :]
            self._chunk.update(piece)
            self._missing -= len(piece)
            if not self._missing:
                self._finish()

    def digests(self) -> Digests:
        """What it was, after the last bytes."""
        if self._missing < self._length:
            self._finish()
        return Digests(self._whole.hexdigest(), Chunks(self._length, bytes(self._finished)))

    def _finish(self) -> None:
        self._finished += self._chunk.digest()
        self._chunk, self._missing = hashlib.sha256(), self._length
