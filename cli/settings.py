"""The settings of the command line, read once from the environment."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from cli.exits import CliError, Exit

DEFAULT_URL = "http://127.0.0.1:8080"
LOOPBACK = {"127.0.0.1", "localhost", "::1"}


@dataclass(frozen=True, slots=True)
class Settings:
    """Where the platform is and who talks to it."""

    url: str
    kafka: str
    home: Path
    credentials: Path
    api_key: str

    @property
    def target(self) -> str:
        """The gateway's address for gRPC."""
        parts = urlsplit(self.url)
        return f"{parts.hostname}:{parts.port or (443 if self.is_tls else 80)}"

    @property
    def is_tls(self) -> bool:
        return urlsplit(self.url).scheme == "https"

    @property
    def is_local(self) -> bool:
        """Whether the platform is on this machine, so that the embedded one's admin may be used."""
        return urlsplit(self.url).hostname in LOOPBACK


def read(url: str = "", environment: Mapping[str, str] = os.environ) -> Settings:
    """The settings; `url` wins over $AIOPS_URL. Raises CliError for a URL that is none."""
    url = (url or environment.get("AIOPS_URL") or DEFAULT_URL).rstrip("/")
    if urlsplit(url).scheme not in {"http", "https"} or not urlsplit(url).hostname:
        raise CliError(f"{url!r} is no URL of a gateway", Exit.USAGE, next_step=f"set AIOPS_URL, e.g. to {DEFAULT_URL}")
    home = Path(environment.get("AIOPS_HOME") or ".aiops").expanduser().absolute()
    config = environment.get("XDG_CONFIG_HOME") or "~/.config"
    credentials = environment.get("AIOPS_CONFIG") or f"{config}/aiops/credentials.json"
    return Settings(
        url=url,
        kafka=environment.get("AIOPS_KAFKA", ""),
        home=home,
        credentials=Path(credentials).expanduser(),
        api_key=environment.get("AIOPS_API_KEY", ""),
    )
