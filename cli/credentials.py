"""Who is signed in where: tokens by URL, in a file that only its owner reads."""

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

EARLY_S = 30


@dataclass(frozen=True, slots=True)
class Credential:
    """A token pair. `expires_at` is when the access token ends, in Unix seconds."""

    email: str
    access_token: str
    refresh_token: str
    expires_at: float

    @property
    def fresh(self) -> bool:
        """Whether the access token will outlast the next call."""
        return time.time() < self.expires_at - EARLY_S


class CredentialFile:
    """The stored credentials."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def get(self, url: str) -> Credential | None:
        """The credential for a gateway; a damaged file counts as empty."""
        entry = self._read().get(url)
        try:
            return None if entry is None else Credential(**entry)
        except TypeError:
            return None

    def put(self, url: str, credential: Credential | None) -> None:
        """Store or, with None, forget the credential for a gateway."""
        entries = self._read()
        entries.pop(url, None)
        if credential is not None:
            entries[url] = asdict(credential)
        self._write(entries)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """One process at a time refreshes: using a refresh token twice would end every session of its family."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _read(self) -> dict[str, dict[str, Any]]:
        try:
            entries = json.loads(self._path.read_text())
        except (OSError, ValueError):
            return {}
        return entries if isinstance(entries, dict) else {}

    def _write(self, entries: dict[str, dict[str, Any]]) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(entries, file, indent=1)
        temporary.replace(self._path)
