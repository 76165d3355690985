"""Log files of bounded size: children write to them directly, and what grows too long moves to one older file."""

import os
import shutil
from pathlib import Path
from typing import BinaryIO

LIMIT_BYTES = 8 * 1024 * 1024


def open_log(path: Path) -> BinaryIO:
    """Open for appending, which stays right when the file is cut below a writer."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("ab", buffering=0)


def trim(path: Path, limit: int = LIMIT_BYTES) -> None:
    """Move a file that passed the limit to `NAME.1`; its writers go on in the emptied file.

    On a full disk what was written is lost: the room is worth more.
    """
    if not path.exists() or path.stat().st_size <= limit:
        return
    older = path.with_name(f"{path.name}.1")
    try:
        shutil.copyfile(path, older)
    except OSError:
        older.unlink(missing_ok=True)
    os.truncate(path, 0)


def tail(path: Path, lines: int = 20) -> str:
    """The last lines of a log, as far as 64 KiB reach back."""
    if not path.exists():
        return ""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 65536))
        return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
