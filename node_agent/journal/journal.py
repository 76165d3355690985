"""The agent's journal: one JSON document that is either whole or known to be broken, never half believed.

File format: the SHA-256 of the rest in hex, a line feed, the document as UTF-8 JSON.
"""

import asyncio
import hashlib
import json
import logging
import os
import threading
from pathlib import Path
from typing import Any

from mesh.errors import DomainError, Kind
from mesh.failpoints import failpoint_sync

log = logging.getLogger(__name__)

Document = dict[str, Any]


class JournalWriteError(DomainError):
    """The journal could not be made durable; the earlier one is still in place."""

    kind, reason = Kind.EXHAUSTED, "RESOURCE_EXHAUSTED"


class Journal:
    """Reads and replaces the document. A failed write leaves the earlier document as it was."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._asked = 0
        self._written = 0

    @property
    def leftover(self) -> Path:
        """Where the next document is written before it replaces this one; gone afterwards, whatever happens."""
        return self._path.with_name(f".{self._path.name}.new")

    def load(self) -> Document | None:
        """The document, an empty one when there is no journal yet, None when the file was broken and set aside."""
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return {}
        document = _decode(content)
        if document is None:
            self._quarantine()
        return document

    async def save(self, document: Document) -> None:
        """Replaces the document durably. Raises JournalWriteError."""
        self._asked += 1
        await asyncio.to_thread(self._replace_unless_newer, self._asked, _encode(document))

    def _replace_unless_newer(self, sequence: int, content: bytes) -> None:
        # A caller that was cancelled leaves its thread behind; an older document must not overtake a newer one.
        with self._lock:
            if sequence > self._written:
                self._replace(content)
                self._written = sequence

    def _replace(self, content: bytes) -> None:
        temporary = self.leftover
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            failpoint_sync("journal.written")
            temporary.replace(self._path)
            failpoint_sync("journal.replaced")
            _sync_directory(self._path.parent)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise JournalWriteError(f"cannot write the journal {self._path}: {error.strerror}") from error

    def _quarantine(self) -> None:
        aside = self._path.with_suffix(".broken")
        self._path.replace(aside)
        log.error("the journal %s was broken and is set aside as %s", self._path, aside.name)


def _encode(document: Document) -> bytes:
    body = json.dumps(document, separators=(",", ":"), sort_keys=True).encode()
    return hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def _decode(content: bytes) -> Document | None:
    checksum, _, body = content.partition(b"\n")
    if hashlib.sha256(body).hexdigest().encode() != checksum:
        return None
    document: Document = json.loads(body)
    return document


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
