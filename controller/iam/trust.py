"""What tokens are checked against, kept fresh in memory; and the making of signing keys."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from datetime import datetime, timedelta

from controller.iam.service import UnitOfWork
from controller.iam.signing import Seal, Signer, Signers, SigningKey, new_signing_key
from controller.iam.throttle import WINDOW
from mesh.clock import Clock
from mesh.identity import SYSTEM
from mesh.tokens import TokenTrust, TokenVerifier

POLL = timedelta(seconds=1)
HOUSEKEEPING = timedelta(minutes=1)
# A new key is published for so long before it signs, so that everyone who verifies knows it by then.
ANNOUNCEMENT = timedelta(seconds=10)
KEY_AGE_LIMIT = timedelta(days=90)


class TokenTrustFeed:
    """The trust as the database has it, read again on a hint and every second; load it once before serving."""

    def __init__(self, unit_of_work: UnitOfWork, verifier: TokenVerifier, signers: Signers, clock: Clock) -> None:
        self._unit_of_work = unit_of_work
        self._verifier = verifier
        self._signers = signers
        self._clock = clock
        self._changed = asyncio.Event()
        self.trust = TokenTrust()

    async def load(self) -> None:
        """Reads the trust; when it differs, hands it to the verifier, the signers and the watchers."""
        now = self._clock.now()
        async with self._unit_of_work.reading(SYSTEM) as work:
            keys = await work.token_trust.verifying_keys(now)
            revoked = await work.token_trust.revoked(now)
        if self.trust.keys.keys() == {key.key_id for key in keys} and self.trust.revoked == revoked:
            return
        self._signers.replace(keys)
        self.trust = TokenTrust({key.key_id: key.public for key in keys}, revoked)
        self._verifier.trust(self.trust)
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def watch(self) -> AsyncGenerator[TokenTrust, None]:
        """The trust at once, then again whenever it changes; changes that come together are told once."""
        while True:
            changed = self._changed
            yield self.trust
            await changed.wait()


class SigningKeys:
    """Makes signing keys: the first one, and a successor when the newest has signed for long enough."""

    def __init__(
        self, unit_of_work: UnitOfWork, seal: Seal, clock: Clock, *, age_limit: timedelta = KEY_AGE_LIMIT
    ) -> None:
        self._unit_of_work = unit_of_work
        self._seal = seal
        self._clock = clock
        self._age_limit = age_limit

    async def ensure(self) -> None:
        """Makes a key that signs at once when there is none that our seal opens; a successor when that one is old."""
        async with self._unit_of_work.reading(SYSTEM) as work:
            keys = await work.token_trust.verifying_keys(self._clock.now())
        if self._needed(keys) is None:
            return
        fresh = await asyncio.to_thread(new_signing_key, self._seal, self._clock.now())
        async with self._unit_of_work(SYSTEM) as work:
            await work.token_trust.lock_keys()
            # Another controller may have made one while ours was computed.
            signs_from = self._needed(await work.token_trust.verifying_keys(self._clock.now()))
            if signs_from is not None:
                await work.token_trust.add_key(fresh.signing_from(signs_from))
                await work.commit()

    async def rotate(self) -> None:
        """Makes a successor now; the old key verifies until the last token it signed has expired."""
        fresh = await asyncio.to_thread(new_signing_key, self._seal, self._clock.now())
        async with self._unit_of_work(SYSTEM) as work:
            await work.token_trust.add_key(fresh.signing_from(self._clock.now() + ANNOUNCEMENT))
            await work.commit()

    async def keep_house(self) -> None:
        """Rotates when it is time, and deletes what has expired: keys, revocations, sessions, counted failures."""
        await self.ensure()
        now = self._clock.now()
        async with self._unit_of_work(SYSTEM) as work:
            await work.token_trust.forget(now)
            await work.sessions.forget(now)
            await work.login_failures.forget(now - WINDOW)
            await work.commit()

    def _needed(self, keys: Sequence[SigningKey]) -> datetime | None:
        """From when a new key is to sign; None when none is needed."""
        now = self._clock.now()
        ours = [key.signs_from for key in keys if Signer.open(key, self._seal) is not None]
        if not ours:
            return now
        return now + ANNOUNCEMENT if now - max(ours) >= self._age_limit else None
