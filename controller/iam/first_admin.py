"""The first user, so that a new platform can be signed in to."""

import logging
import os
import secrets
from pathlib import Path

from controller.iam.model import Organization, User, UserCreated
from controller.iam.passwords import Passwords
from controller.iam.service import UnitOfWork
from mesh.clock import Clock
from mesh.identity import SYSTEM, OrgId, UserId, new_id

log = logging.getLogger(__name__)

ORGANIZATION = OrgId("default")
EMAIL = "admin@localhost"
ROLE = "universe.owner"
PASSWORD_FILE = "admin-password"  # noqa: S105 - the name of a file
_PASSWORD_BYTES = 18


async def ensure_first_admin(
    unit_of_work: UnitOfWork, passwords: Passwords, clock: Clock, home: Path, given_password: str
) -> None:
    """Makes the organisation `default` and its owner `admin@localhost` when there has never been a user.

    The password is the given one, or else that of `home`/admin-password, which is written when it is missing. With a
    given password the file is removed, since what it says would be wrong. Safe when two controllers start at once.
    """
    async with unit_of_work(SYSTEM) as work:
        if await work.users.any():
            return
        path = home / PASSWORD_FILE
        password_hash = await passwords.hash(given_password or _kept_password(path))
        now = clock.now()
        admin = UserId(new_id("user"))
        await work.organizations.add(Organization(ORGANIZATION, "default", now, now))
        await work.users.add(User(admin, ORGANIZATION, admin, EMAIL, "Administrator", (ROLE,), password_hash, now, now))
        await work.commit(UserCreated(admin, ORGANIZATION, (ROLE,), admin, now))
    if given_password:
        path.unlink(missing_ok=True)
    log.info("made the first user %s; its password is %s", EMAIL, "the one set" if given_password else f"in {path}")


def _kept_password(path: Path) -> str:
    try:
        kept = path.read_text().strip() if path.exists() else ""
        if not kept:
            kept = secrets.token_urlsafe(_PASSWORD_BYTES)
            _write_private(path, kept + "\n")
        path.chmod(0o600)
        return kept
    except OSError as error:
        raise RuntimeError(f"the first user's password cannot be kept in {path}: {error.strerror}") from error


def _write_private(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
