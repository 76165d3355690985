"""Feature flags of the platform for OpenFeature: followed over REST and evaluated here, whoever is away."""

import hashlib
import json
import logging
import threading
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import httpx
from openfeature.evaluation_context import EvaluationContext
from openfeature.event import ProviderEventDetails
from openfeature.exception import FlagNotFoundError, ProviderNotReadyError, TypeMismatchError
from openfeature.flag_evaluation import FlagResolutionDetails, FlagValueType, Reason
from openfeature.provider import AbstractProvider, Metadata

log = logging.getLogger(__name__)
Answer = TypeVar("Answer")
Object = Sequence[FlagValueType] | Mapping[str, FlagValueType]
PAGE = 1000


class FlagProvider(AbstractProvider):
    """An OpenFeature provider: `openfeature.api.set_provider(FlagProvider(url, api_key))`.

    `url` is the gateway's, `token` an API key or access token of the organisation. The flags are read anew every
    `every_s` seconds; when that fails the last ones stay in force and answers have the reason STALE. The context's
    targeting key is the user; its attribute `org_id` names the organisation where a rule asks for it.
    """

    def __init__(self, url: str, token: str, *, every_s: float = 2.0) -> None:
        super().__init__()
        headers = {"authorization": f"Bearer {token}"}
        self._client = httpx.Client(base_url=url, headers=headers, timeout=5.0, trust_env=False)
        self._every_s = every_s
        self._flags: dict[str, dict[str, Any]] | None = None
        self._stale = False
        self._ending = threading.Event()
        self._follower = threading.Thread(target=self._follow, name="aiops-flags", daemon=True)

    def get_metadata(self) -> Metadata:
        """The provider's name."""
        return Metadata("aiops")

    def initialize(self, evaluation_context: EvaluationContext) -> None:
        """Reads the flags once and follows them from then on. ProviderNotReadyError when the platform is away."""
        self._follower.start()
        if not self.refresh():
            raise ProviderNotReadyError("the platform does not tell its flags yet; they are asked for again")

    def shutdown(self) -> None:
        """Ends the following and the connections."""
        self._ending.set()
        if self._follower.is_alive():
            self._follower.join()
        self._client.close()

    def refresh(self) -> bool:
        """Reads the flags now; whether that worked. Tells OpenFeature what is different from before."""
        try:
            found = self._read()
        except (httpx.HTTPError, ValueError) as error:
            if not self._stale and self._flags is not None:
                log.warning("the flags stay as they were last told: %s", error)
                self._stale = True
                self.emit_provider_stale(ProviderEventDetails(message=str(error)))
            return False
        before, was_stale, self._flags, self._stale = self._flags, self._stale, found, False
        if before is None or was_stale:
            self.emit_provider_ready(ProviderEventDetails())
        known = before or {}
        changed = sorted(name for name in known.keys() | found.keys() if known.get(name) != found.get(name))
        if changed and before is not None:
            self.emit_provider_configuration_changed(ProviderEventDetails(flags_changed=changed))
        return True

    def resolve_boolean_details(
        self, flag_key: str, default_value: bool, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[bool]:
        """A flag whose variants are booleans."""
        return self._resolve(flag_key, default_value, evaluation_context, bool)

    def resolve_string_details(
        self, flag_key: str, default_value: str, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[str]:
        """A flag whose variants are strings."""
        return self._resolve(flag_key, default_value, evaluation_context, str)

    def resolve_integer_details(
        self, flag_key: str, default_value: int, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[int]:
        """A flag whose variants are numbers, without what is behind their point."""
        found = self._resolve(flag_key, float(default_value), evaluation_context, float)
        return FlagResolutionDetails(int(found.value), reason=found.reason, variant=found.variant)

    def resolve_float_details(
        self, flag_key: str, default_value: float, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[float]:
        """A flag whose variants are numbers."""
        return self._resolve(flag_key, default_value, evaluation_context, float)

    def resolve_object_details(
        self, flag_key: str, default_value: Object, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[Object]:
        """A flag whose variants are objects."""
        found = self._resolve(flag_key, dict[str, FlagValueType](), evaluation_context, dict)
        value = found.value if found.variant is not None else default_value
        return FlagResolutionDetails(value, reason=found.reason, variant=found.variant)

    def _resolve(
        self, name: str, default: Answer, context: EvaluationContext | None, kind: type[Answer]
    ) -> FlagResolutionDetails[Answer]:
        flags, stale = self._flags, self._stale
        if flags is None:
            raise ProviderNotReadyError("the platform has not told its flags yet")
        flag = flags.get(name)
        if flag is None:
            raise FlagNotFoundError(f"there is no flag {name}")
        if flag.get("disabled"):
            return FlagResolutionDetails(default, reason=Reason.DISABLED)
        variant, reason = choose(flag, context or EvaluationContext())
        value = flag["variants"][variant]
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, kind):
            raise TypeMismatchError(f"flag {name} holds no {kind.__name__}: {value!r}")
        return FlagResolutionDetails(value, reason=Reason.STALE if stale else reason, variant=variant)

    def _follow(self) -> None:
        while not self._ending.wait(self._every_s):
            self.refresh()

    def _read(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        token = ""
        while True:
            answer = self._client.get("/flags", params={"pageSize": PAGE, "pageToken": token})
            answer.raise_for_status()
            page = json.loads(answer.text)
            found |= {flag["name"]: flag for flag in page.get("flags", [])}
            token = page.get("nextPageToken", "")
            if not token:
                return found


def choose(flag: Mapping[str, Any], context: EvaluationContext) -> tuple[str, Reason]:
    """The variant for a context, and why. A percentage needs a targeting key: nobody else is among its users."""
    key, org_id = context.targeting_key or "", context.attributes.get("org_id", "")
    for rule in flag.get("rules", []):
        users, orgs, percent = rule.get("userIds"), rule.get("orgIds"), rule.get("percent", 0)
        if (users and key not in users) or (orgs and org_id not in orgs):
            continue
        if percent and not (key and place(flag["name"], rule["variant"], key) < percent):
            continue
        return rule["variant"], Reason.SPLIT if percent else Reason.TARGETING_MATCH
    return flag["defaultVariant"], Reason.DEFAULT


def place(flag: str, variant: str, key: str) -> float:
    """Where among 0 to 100 a user stands for a rule: always the same, and another place for each flag and variant."""
    digest = hashlib.sha256(f"{flag}/{variant}/{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 * 100
