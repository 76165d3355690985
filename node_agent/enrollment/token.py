"""What a join token says."""

import base64
import binascii
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from mesh.errors import DomainError, FieldViolation, InvalidRequestError, Kind
from node_agent.enrollment.request import authority_pem

# As far apart as two machines' clocks may be; a certificate is valid from slightly before it was issued.
SKEW = timedelta(minutes=1)


class JoinTokenOverError(DomainError):
    """The token has run out."""

    kind, reason = Kind.UNAUTHENTICATED, "JOIN_TOKEN_INVALID"


class ClockWrongError(DomainError):
    """By this machine's clock the token is not made yet."""

    kind, reason = Kind.PRECONDITION, "JOIN_TOKEN_INVALID"


@dataclass(frozen=True, slots=True)
class JoinToken:
    """The secret to trade, the authority (PEM) that vouches for the controller, where that is, and how long it is good.

    Older tokens say neither where nor how long.
    """

    secret: str
    authority: str
    url: str = ""
    made_at: datetime | None = None
    good_until: datetime | None = None

    @classmethod
    def parse(cls, text: str) -> "JoinToken":
        """Reads base64url JSON `{"secret", "ca", "url", "made", "until"}`. Raises InvalidRequestError."""
        try:
            document = json.loads(base64.urlsafe_b64decode(text.strip() + "=" * (-len(text.strip()) % 4)))
            return cls(
                secret=str(document["secret"]),
                authority=authority_pem(document["ca"]).decode(),
                url=str(document.get("url", "")),
                made_at=_moment(document.get("made")),
                good_until=_moment(document.get("until")),
            )
        except (binascii.Error, ValueError, KeyError, TypeError, OverflowError) as error:
            raise InvalidRequestError(FieldViolation("token", "this is no join token; copy it whole")) from error

    def check(self, now: datetime) -> None:
        """Raises JoinTokenOverError or ClockWrongError when this machine's clock says that it cannot be used."""
        if self.made_at and now < self.made_at - SKEW:
            behind = round((self.made_at - now).total_seconds() / 60)
            raise ClockWrongError(
                f"this machine's clock is about {behind} minutes behind the platform's: it says {_shown(now)}; set it "
                "(e.g. `timedatectl set-ntp true`) and join again with the same command"
            )
        if self.good_until and now > self.good_until + SKEW:
            raise JoinTokenOverError(
                f"the join token ran out at {_shown(self.good_until)}; make a new one: `aiops nodes join-token NODE`. "
                f"If it was made a moment ago, this machine's clock is wrong: it says {_shown(now)}"
            )


def _moment(seconds: object) -> datetime | None:
    return datetime.fromtimestamp(float(seconds), UTC) if isinstance(seconds, int | float) else None


def _shown(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
