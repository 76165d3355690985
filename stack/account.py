"""The unprivileged account that PostgreSQL runs under when aiops itself runs as root."""

import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path

ACCOUNTS = ("aiops", "postgres", "nobody")


@dataclass(frozen=True, slots=True)
class Account:
    """An operating system user that a child process changes to."""

    name: str
    uid: int
    gid: int

    def may(self, permission: int, path: Path) -> bool:
        """Whether the account has `permission` (4 read, 2 write, 1 search, added up) on `path` itself."""
        status = path.stat()
        shift = 6 if status.st_uid == self.uid else 3 if status.st_gid == self.gid else 0
        return (status.st_mode >> shift) & permission == permission


def server_account(data: Path) -> Account | None:
    """Who the server of `data` runs as: None is this process's own user, which is right unless that is root.

    An existing data directory keeps its owner, so that a home moves between machines with its files.
    """
    if os.geteuid() != 0:
        return None
    if data.exists() and data.stat().st_uid != 0:
        return _account(pwd.getpwuid(data.stat().st_uid))
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    return next(_account(known[name]) for name in ACCOUNTS if name in known)


def _account(entry: pwd.struct_passwd) -> Account:
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def open_way(account: Account, target: Path) -> None:
    """Let the account reach `target`: the directories above it become searchable, which does not list them."""
    for directory in target.resolve().parents:
        if not account.may(1, directory):
            directory.chmod(stat.S_IMODE(directory.stat().st_mode) | stat.S_IXOTH)


def open_tree(account: Account, root: Path) -> None:
    """Let the account read and run an installed package that a strict umask closed."""
    if account.may(5, root):
        return
    for path in (root, *root.rglob("*")):
        mode = stat.S_IMODE(path.stat().st_mode)
        path.chmod(mode | stat.S_IROTH | (stat.S_IXOTH if mode & stat.S_IXUSR else 0))
