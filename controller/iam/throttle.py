"""Slows down who guesses passwords: failures are counted per account and address, per address, and per account."""

import hashlib
from datetime import timedelta

from controller.iam.model import LoginRefused, LoginThrottledError
from controller.iam.service import UnitOfWork, Work
from mesh.clock import Clock
from mesh.identity import SYSTEM

WINDOW = timedelta(minutes=15)
FAILURES_PER_ACCOUNT_AND_ADDRESS = 5
FAILURES_PER_ADDRESS = 50
# NIST SP 800-63B, 5.2.2: no more than 100 failures on one account.
FAILURES_PER_ACCOUNT = 100


class LoginThrottle:
    """Refuses logins after too many failures in a window of 15 minutes that begins with the first of them."""

    def __init__(self, unit_of_work: UnitOfWork, clock: Clock) -> None:
        self._unit_of_work = unit_of_work
        self._clock = clock

    async def check(self, work: Work, email: str, address: str) -> None:
        """LoginThrottledError, with the time until the window ends, when a limit is reached."""
        now = self._clock.now()
        limits = _limits(email, address)
        counted = await work.login_failures.counts(list(limits), now - WINDOW)
        ends = [first + WINDOW for key, (failures, first) in counted.items() if failures >= limits[key]]
        if ends:
            raise LoginThrottledError(max(ends) - now)

    async def failed(self, email: str, address: str, reason: str) -> None:
        """Counts a failure; it is told as an event, and so is reaching a limit."""
        now = self._clock.now()
        limits = _limits(email, address)
        events = [LoginRefused(email, reason, now)]
        async with self._unit_of_work(SYSTEM) as work:
            counted = await work.login_failures.count(list(limits), now, now - WINDOW)
            if any(counted[key] == limit for key, limit in limits.items()):
                events.append(LoginRefused(email, LoginThrottledError.reason, now))
            await work.commit(*events)

    async def succeeded(self, work: Work, email: str, address: str) -> None:
        """Forgets the account's failures; those of the address stay, or one known password would allow any number."""
        await work.login_failures.clear([_key(email, address), _key(email, "")])


def _limits(email: str, address: str) -> dict[str, int]:
    return {
        _key(email, address): FAILURES_PER_ACCOUNT_AND_ADDRESS,
        _key("", address): FAILURES_PER_ADDRESS,
        _key(email, ""): FAILURES_PER_ACCOUNT,
    }


def _key(email: str, address: str) -> str:
    return hashlib.sha256(f"{email}\n{address}".encode()).hexdigest()
