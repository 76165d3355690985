"""What is done with credentials, and what that needs from storage."""

import hashlib
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from typing import Protocol

from controller.credentials.model import Credential, CredentialChanged, CredentialId, CredentialInUseError
from controller.hints import Hints
from mesh.errors import PermissionDeniedError
from mesh.identity import SYSTEM, Caller, OrgId, new_id
from mesh.sql.idempotency import digest_of
from mesh.sql.paging import Page, PageRequest

# A hint comes from this process only; other controllers' changes are found by looking.
POLL = timedelta(seconds=1)
GATEWAY = "gateway"


class Seal(Protocol):
    """Keeps secrets unreadable in the database."""

    def close(self, content: bytes, context: str) -> str: ...
    def open(self, sealed: str, context: str) -> bytes | None: ...


class CredentialStore(Protocol):
    async def get(self, reference: str, caller: Caller, *, lock: bool = False) -> Credential: ...
    async def page(self, caller: Caller, page: PageRequest) -> Page[Credential]: ...
    async def all(self) -> tuple[Credential, ...]: ...
    async def add(self, credential: Credential) -> None: ...
    async def save(self, credential: Credential) -> None: ...


class UsedBy(Protocol):
    async def using(self, credential_id: str) -> tuple[str, ...]: ...


class Requests(Protocol):
    async def claim(self, org_id: OrgId, method: str, request_id: str, digest: str, object_id: str) -> str: ...


class Clockwork(Protocol):
    async def now(self) -> datetime: ...


class Work(Protocol):
    """One transaction, or one reading connection, with the stores on it."""

    @property
    def credentials(self) -> CredentialStore: ...
    @property
    def routes(self) -> UsedBy: ...
    @property
    def requests(self) -> Requests: ...
    @property
    def nodes(self) -> Clockwork: ...
    async def commit(self, *events: object) -> None: ...


class UnitOfWork(Protocol):
    """Opens transactions, and connections that only read."""

    def __call__(self, caller: Caller) -> AbstractAsyncContextManager[Work]: ...
    def reading(self, caller: Caller) -> AbstractAsyncContextManager[Work]: ...


class Credentials:
    """Secrets of organisations, sealed as soon as they arrive."""

    def __init__(self, unit_of_work: UnitOfWork, seal: Seal, hints: Hints) -> None:
        self._unit_of_work = unit_of_work
        self._seal = seal
        self._hints = hints

    async def page(self, caller: Caller, page: PageRequest) -> Page[Credential]:
        """The credentials that the caller sees, newest first."""
        async with self._unit_of_work.reading(caller) as work:
            return await work.credentials.page(caller, page)

    async def create(self, caller: Caller, name: str, secret: str, request_id: str) -> Credential:
        """A new one. The same `request_id` again answers the same one. CredentialExistsError."""
        credential_id = CredentialId(new_id("credential"))
        sealed = self._seal.close(secret.encode(), _context(credential_id))
        async with self._unit_of_work(caller) as work:
            # A fingerprint of the secret alone would let it be guessed from the database.
            asked = digest_of(name, request_id, len(secret))
            booked = await work.requests.claim(caller.org_id, "CreateCredential", request_id, asked, credential_id)
            if booked != credential_id:
                return await work.credentials.get(booked, caller)
            now = await work.nodes.now()
            made = Credential(credential_id, caller.org_id, caller.user_id, now, now, name, sealed)
            await work.credentials.add(made)
            await work.commit(CredentialChanged(made, now))
        self._hints.credentials_changed()
        return made

    async def rotate(self, caller: Caller, reference: str, secret: str) -> Credential:
        """Another secret in the place of the old one. CredentialNotFoundError."""
        async with self._unit_of_work(caller) as work:
            before = await work.credentials.get(reference, caller, lock=True)
            now = await work.nodes.now()
            after = before.rotate(self._seal.close(secret.encode(), _context(before.credential_id)), now)
            await work.credentials.save(after)
            await work.commit(CredentialChanged(after, now))
        self._hints.credentials_changed()
        return after

    async def delete(self, caller: Caller, reference: str) -> Credential:
        """Forgets the secret. CredentialInUseError while a route needs it."""
        async with self._unit_of_work(caller) as work:
            before = await work.credentials.get(reference, caller, lock=True)
            if used := await work.routes.using(before.credential_id):
                raise CredentialInUseError(before.name, used)
            now = await work.nodes.now()
            gone = before.delete(now)
            await work.credentials.save(gone)
            await work.commit(CredentialChanged(gone, now))
        self._hints.credentials_changed()
        return gone

    async def watch(self, caller: Caller) -> AsyncIterator[dict[str, str]]:
        """Every secret by its credential's id, then every one again whenever they change; for the gateway alone."""
        if caller.subject != GATEWAY:
            raise PermissionDeniedError("only the gateway gets secrets")
        seen: str | None = None
        with self._hints.watching_credentials() as wake:
            while True:
                async with self._unit_of_work.reading(SYSTEM) as work:
                    kept = await work.credentials.all()
                digest = hashlib.sha256("\n".join(each.sealed for each in kept).encode()).hexdigest()
                if digest != seen:
                    seen = digest
                    yield {each.credential_id: secret for each in kept if (secret := self._opened(each))}
                await wake.wait(POLL)

    def _opened(self, credential: Credential) -> str:
        """Empty when another key sealed it."""
        return (self._seal.open(credential.sealed, _context(credential.credential_id)) or b"").decode()


def _context(credential_id: CredentialId) -> str:
    return f"credential/{credential_id}"
