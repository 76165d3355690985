"""LiteLLM's part of the bargain: one key with quotas, and a line of usage for each request. It runs in LiteLLM's proxy.

The proxy loads this file from beside its configuration. With a database it would look keys up and write usage there,
which costs more than this does.
"""

import json
import os
from pathlib import Path
from typing import Any

from litellm.integrations.custom_logger import CustomLogger
from litellm.proxy._types import UserAPIKeyAuth

KEY = os.environ["BENCHMARK_KEY"]
# So high that nothing is refused: what counting costs is measured.
REQUESTS_PER_MINUTE, TOKENS_PER_MINUTE = 100_000_000, 1_000_000_000


async def authenticate(request: object, api_key: str) -> UserAPIKeyAuth:
    """Who asks, and what of it is let through."""
    if api_key.removeprefix("Bearer ") != KEY:
        raise PermissionError("no such key")
    return UserAPIKeyAuth(
        api_key=KEY,
        user_id="user-1",
        org_id="org-one",
        rpm_limit=REQUESTS_PER_MINUTE,
        tpm_limit=TOKENS_PER_MINUTE,
    )


class Journal(CustomLogger):  # type: ignore[misc]  # the package is in LiteLLM's own environment
    """Appends a line for each answered request."""

    def __init__(self) -> None:
        super().__init__()
        self._file = Path(os.environ["BENCHMARK_USAGE"]).open("a", buffering=64 * 1024)  # noqa: SIM115 - as long as the proxy

    async def async_log_success_event(self, kwargs: dict[str, Any], response_obj: Any, start: Any, end: Any) -> None:
        """A request was answered."""
        used = getattr(response_obj, "usage", None)
        line = {
            "model": kwargs.get("model"),
            "input_tokens": getattr(used, "prompt_tokens", 0),
            "output_tokens": getattr(used, "completion_tokens", 0),
            "cost": kwargs.get("response_cost"),
            "duration_ms": (end - start).total_seconds() * 1000,
        }
        self._file.write(json.dumps(line) + "\n")


journal = Journal()
