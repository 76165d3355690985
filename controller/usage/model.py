"""What inference requests used, and how it adds up."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import Enum

from controller.deployments.model import DeploymentId
from controller.deployments.traffic import Traffic
from mesh.identity import OrgId

FAILED_FROM = 400


@dataclass(frozen=True, slots=True)
class RequestUsage:
    """One request that reached a model. Durations are milliseconds; `usage_id` is the same whenever it is told."""

    usage_id: str
    org_id: OrgId
    user_id: str
    api_key_id: str
    model: str
    deployment_id: DeploymentId
    endpoint: str
    request_id: str
    started_at: datetime
    duration_ms: float
    first_byte_ms: float
    status: int
    streamed: bool
    counted: bool
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    request_bytes: float
    response_bytes: float
    attempts: int
    flags: str
    # The route's target that answered, and whether that was another one than the request was for.
    target: str = ""
    degraded: bool = False
    # The route that led it and the target that it was for at first.
    route_id: str = ""
    intended_target: str = ""
    # A copy of a request, whose answer no client got.
    mirrored: bool = False
    # GPUs that its deployment held, times the seconds that it lasted.
    gpu_seconds: float = 0.0
    # The route's own name, where it was asked for by a name of it.
    route_name: str = ""
    # What it cost by the prices when it was let in.
    cost: Decimal = Decimal(0)

    @property
    def ended_at(self) -> datetime:
        """When its last byte was sent."""
        return self.started_at + timedelta(milliseconds=self.duration_ms)

    @property
    def failed(self) -> bool:
        """Whether the client got no answer that helps."""
        return self.status == 0 or self.status >= FAILED_FROM

    @property
    def gaps(self) -> int:
        """The pauses between the tokens of a stream."""
        return max(0, self.output_tokens - 1) if self.streamed else 0

    @property
    def token_ms(self) -> float:
        """Milliseconds between two tokens of a stream; 0 where that is not known."""
        return max(0.0, self.duration_ms - self.first_byte_ms) / self.gaps if self.gaps else 0.0

    @property
    def hour(self) -> datetime:
        """The hour in which it began."""
        return self.started_at.replace(minute=0, second=0, microsecond=0)


class Group(Enum):
    """What sums may be grouped by."""

    HOUR = "hour"
    DAY = "day"
    MODEL = "model"
    DEPLOYMENT = "deployment"
    USER = "user"
    KEY = "key"
    ORGANIZATION = "organization"


@dataclass(frozen=True, slots=True)
class UsageFilter:
    """Which requests; what is empty does not narrow."""

    model: str = ""
    deployment_id: str = ""
    user_id: str = ""
    api_key_id: str = ""
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Account:
    """What sums are kept for: an hour of somebody's requests to a deployment."""

    hour: datetime
    org_id: OrgId
    model: str
    deployment_id: DeploymentId
    user_id: str
    api_key_id: str

    @staticmethod
    def of(used: RequestUsage) -> "Account":
        """The account of a request."""
        return Account(used.hour, used.org_id, used.model, used.deployment_id, used.user_id, used.api_key_id)


@dataclass(frozen=True, slots=True)
class Amounts:
    """What some requests used together; every member adds up."""

    requests: int = 0
    failed: int = 0
    counted: int = 0
    streams: int = 0
    gaps: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    duration_ms: float = 0.0
    # Of streams alone, as is the time between their tokens.
    first_byte_ms: float = 0.0
    tokens_ms: float = 0.0
    gpu_seconds: float = 0.0
    cost: Decimal = Decimal(0)

    @property
    def avg_duration_ms(self) -> float:
        """The mean over the requests."""
        return self.duration_ms / self.requests if self.requests else 0.0

    @property
    def avg_first_byte_ms(self) -> float:
        """The mean over the streams."""
        return self.first_byte_ms / self.streams if self.streams else 0.0

    @property
    def avg_token_ms(self) -> float:
        """The mean over the pauses between tokens of streams."""
        return self.tokens_ms / self.gaps if self.gaps else 0.0


@dataclass(frozen=True, slots=True)
class UsageSum:
    """The amounts of one group: for each of what it was grouped by, the value."""

    groups: Mapping[Group, str | datetime]
    amounts: Amounts


def amounts_of(used: Sequence[RequestUsage]) -> Amounts:
    """What the requests used together."""
    streams = [each for each in used if each.streamed and each.first_byte_ms]
    return Amounts(
        requests=len(used),
        failed=sum(each.failed for each in used),
        counted=sum(each.counted for each in used),
        streams=len(streams),
        gaps=sum(each.gaps for each in used),
        input_tokens=sum(each.input_tokens for each in used),
        output_tokens=sum(each.output_tokens for each in used),
        cached_tokens=sum(each.cached_tokens for each in used),
        duration_ms=sum(each.duration_ms for each in used),
        first_byte_ms=sum(each.first_byte_ms for each in streams),
        tokens_ms=sum(each.token_ms * each.gaps for each in used),
        gpu_seconds=sum(each.gpu_seconds for each in used),
        cost=sum((each.cost for each in used), Decimal(0)),
    )


def by_account(used: Iterable[RequestUsage]) -> dict[Account, Amounts]:
    """The amounts of each account, in an order that is the same for everybody who adds them up."""
    accounts: dict[Account, list[RequestUsage]] = {}
    for each in used:
        accounts.setdefault(Account.of(each), []).append(each)
    return {account: amounts_of(accounts[account]) for account in sorted(accounts, key=_place)}


def traffic_of(used: Iterable[RequestUsage]) -> dict[tuple[OrgId, DeploymentId], Traffic]:
    """The traffic of each deployment, in an order that is the same for everybody who adds it up."""
    requests: dict[tuple[OrgId, DeploymentId], list[RequestUsage]] = {}
    for each in used:
        if each.deployment_id:
            requests.setdefault((each.org_id, each.deployment_id), []).append(each)
    return {key: _traffic(requests[key]) for key in sorted(requests)}


def _traffic(used: Sequence[RequestUsage]) -> Traffic:
    return Traffic(len(used), sum(each.duration_ms for each in used), max(each.ended_at for each in used))


def _place(account: Account) -> tuple[object, ...]:
    return (
        account.hour,
        account.org_id,
        account.model,
        account.deployment_id,
        account.user_id,
        account.api_key_id,
    )
