"""Reads values from the environment, and says which variable is wrong."""

from collections.abc import Mapping
from dataclasses import dataclass

from mesh.failpoints import Failpoint, parse

Environment = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Observability:
    """What every service is told of metrics, traces and logs.

    Port 0 takes a free one and None serves no metrics; without an endpoint there are no traces. The endpoint is a gRPC
    one: `http://host:4317`, or `https://` for TLS.
    """

    metrics_host: str = "127.0.0.1"
    metrics_port: int | None = 0
    otlp_endpoint: str = ""
    log_level: str = "INFO"


def observability(environment: Environment) -> Observability:
    """The settings that all services share. Raises ValueError naming the variable that is wrong."""
    return Observability(
        metrics_host=environment.get("AIOPS_METRICS_HOST") or "127.0.0.1",
        metrics_port=whole(environment, "AIOPS_METRICS_PORT", 0),
        otlp_endpoint=environment.get("AIOPS_OTLP_ENDPOINT", ""),
        log_level=environment.get("AIOPS_LOG_LEVEL", "INFO").upper(),
    )


def failpoints(environment: Environment) -> Mapping[str, Failpoint]:
    """Where the service is to fail, in tests. Raises ValueError."""
    return parse(environment.get("AIOPS_FAILPOINTS", ""))


def whole(environment: Environment, name: str, default: int) -> int:
    """A whole number of 0 or more."""
    text = environment.get(name, "")
    if not text:
        return default
    if not text.isdecimal():
        raise ValueError(f"{name} is {text!r}; give a whole number of 0 or more")
    return int(text)


def required(environment: Environment, name: str) -> str:
    """A value without a default."""
    value = environment.get(name, "")
    if not value:
        raise ValueError(f"{name} is not set, and there is no default for it")
    return value
