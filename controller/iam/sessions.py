"""The use cases of signing in: login, refresh, logout, and a new password."""

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from controller.iam.model import (
    ACCESS_LIFETIME,
    REFRESH_LIFETIME,
    LoginFailedError,
    RefreshToken,
    RefreshTokenInvalidError,
    RefreshTokenReusedError,
    Session,
    SessionId,
    TokenFamilyRevoked,
    TokenPair,
    User,
    WrongPasswordError,
    normal_email,
)
from controller.iam.passwords import Passwords
from controller.iam.service import UnitOfWork, Work
from controller.iam.signing import Signers
from controller.iam.throttle import LoginThrottle
from mesh.clock import Clock
from mesh.identity import SYSTEM, Caller, new_id
from mesh.loops import Wake

REFRESH_TOKEN_BYTES = 32


class Sessions:
    """Sessions: one login and the chain of refresh tokens after it. Using a link twice ends the whole chain."""

    def __init__(
        self, unit_of_work: UnitOfWork, passwords: Passwords, signers: Signers, clock: Clock, revoked: Wake
    ) -> None:
        self._unit_of_work = unit_of_work
        self._passwords = passwords
        self._throttle = LoginThrottle(unit_of_work, clock)
        self._signers = signers
        self._clock = clock
        self._revoked = revoked

    async def login(self, email: str, password: str, address: str) -> TokenPair:
        """A token pair for the right password. LoginFailedError says the same for an unknown address, as slowly."""
        email = normal_email(email)
        async with self._passwords.turn():
            # Within the turn, so that guesses sent at once cannot all pass before the first failure counts.
            async with self._unit_of_work.reading(SYSTEM) as work:
                await self._throttle.check(work, email, address)
                user = await work.users.find(email)
            matches = await self._passwords.matches(user.password_hash if user else None, password)
            if user is None or not matches:
                await self._throttle.failed(email, address, LoginFailedError.reason)
                raise LoginFailedError
            return await self._begin(user, password, address)

    async def refresh(self, refresh_token: str) -> TokenPair:
        """The next pair. RefreshTokenReusedError, and the end of the session, when the token was used before."""
        now = self._clock.now()
        async with self._unit_of_work(SYSTEM) as work:
            found = await work.sessions.lock(_hash(refresh_token))
            if found is None:
                raise RefreshTokenInvalidError
            session, token = found
            if token.used_at is None:
                return await self._rotate(work, session, token, now)
            if await work.sessions.end(session.session_id, now):
                reason = RefreshTokenReusedError.reason
                await work.commit(TokenFamilyRevoked(session.user_id, session.org_id, session.session_id, reason, now))
        self._revoked.set()
        raise RefreshTokenReusedError

    async def logout(self, refresh_token: str) -> None:
        """Ends the session of a refresh token; an unknown token ends nothing."""
        async with self._unit_of_work(SYSTEM) as work:
            found = await work.sessions.lock(_hash(refresh_token))
            if found and await work.sessions.end(found[0].session_id, self._clock.now()):
                await work.commit()
        self._revoked.set()

    async def change_password(self, caller: Caller, current: str, new: str, address: str) -> None:
        """Sets the caller's password and ends their sessions. Wrong guesses count like failed logins."""
        async with self._passwords.turn():
            async with self._unit_of_work.reading(SYSTEM) as work:
                user = await work.users.get(caller.user_id, caller)
                await self._throttle.check(work, user.email, address)
            if not await self._passwords.matches(user.password_hash, current):
                await self._throttle.failed(user.email, address, WrongPasswordError.reason)
                raise WrongPasswordError
            new_hash = await self._passwords.rehash(new)
        now = self._clock.now()
        async with self._unit_of_work(caller) as work:
            user = await _unchanged(work, user, WrongPasswordError())
            await work.users.save(replace(user, password_hash=new_hash, changed_at=now))
            await work.sessions.end_all(user.user_id, now)
            await work.commit()
        self._revoked.set()

    async def _begin(self, user: User, password: str, address: str) -> TokenPair:
        rehashed = await self._passwords.rehash(password) if self._passwords.outdated(user.password_hash) else None
        now = self._clock.now()
        async with self._unit_of_work(SYSTEM) as work:
            user = await _unchanged(work, user, LoginFailedError())
            if rehashed:
                await work.users.save(replace(user, password_hash=rehashed))
            await self._throttle.succeeded(work, user.email, address)
            session_id = SessionId(new_id("session"))
            session = Session(session_id, user.user_id, user.org_id, now, now + REFRESH_LIFETIME)
            limits = await work.quotas.rate_limits(user.org_id, user.user_id)
            pair, token = self._issue(user, session_id, now, limits)
            await work.sessions.add(session, token)
            await work.commit()
        return pair

    async def _rotate(self, work: Work, session: Session, token: RefreshToken, now: datetime) -> TokenPair:
        if session.ended_at is not None or token.expires_at <= now:
            raise RefreshTokenInvalidError
        user = await work.users.get(session.user_id, SYSTEM)
        limits = await work.quotas.rate_limits(user.org_id, user.user_id)
        pair, child = self._issue(user, session.session_id, now, limits)
        await work.sessions.rotate(replace(token, used_at=now), child)
        await work.commit()
        return pair

    def _issue(
        self, user: User, session_id: SessionId, now: datetime, limits: Mapping[str, int]
    ) -> tuple[TokenPair, RefreshToken]:
        secret = secrets.token_urlsafe(REFRESH_TOKEN_BYTES)
        token_id = new_id("token")
        access_token = self._signers.at(now).access_token(user, token_id, now, limits)
        token = RefreshToken(
            token_hash=_hash(secret),
            session_id=session_id,
            org_id=user.org_id,
            created_at=now,
            expires_at=now + REFRESH_LIFETIME,
            access_token_id=token_id,
            access_expires_at=now + ACCESS_LIFETIME,
        )
        return TokenPair(access_token, secret, ACCESS_LIFETIME), token


async def _unchanged(work: Work, user: User, otherwise: Exception) -> User:
    """The user, locked; raises when somebody deleted it or changed its password since it was read."""
    current = await work.users.find(user.email, lock=True)
    if current is None or (current.user_id, current.password_hash) != (user.user_id, user.password_hash):
        raise otherwise
    return current


def _hash(secret: str) -> str:
    # Random secrets of 256 bits need no slow hash.
    return hashlib.sha256(secret.encode()).hexdigest()
