"""Host names of nodes, looked up here where Envoy cannot: beside tunnels it takes addresses alone.

A cluster of Envoy's looks names up when all of its endpoints have some; one with endpoints behind tunnels gets its
endpoints from the gateway, as addresses.
"""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from datetime import timedelta

from gateway.edge.addresses import is_ip
from gateway.models.memo import Memo
from gateway.models.table import ModelRoute, Target
from gateway.policies.table import PolicyRoute, PolicyTarget
from mesh.loops import Wake

log = logging.getLogger(__name__)
# As often as Envoy looks up the names that it looks up itself.
LOOK_AGAIN = timedelta(seconds=5)
# What a resolver that does not answer costs.
PATIENCE_S = 3.0

LookUp = Callable[[str], Awaitable[str]]


async def look_up(name: str) -> str:
    """An address of the host, of IP version 4 where it has one; OSError or TimeoutError without any."""
    async with asyncio.timeout(PATIENCE_S):
        found = await asyncio.get_running_loop().getaddrinfo(name, None, type=socket.SOCK_STREAM)
    addresses = sorted((family != socket.AF_INET, str(address[0])) for family, _, _, _, address in found)
    return addresses[0][1]


class Names:
    """What names of hosts that are reached beside tunnels stand for; an answer stays until there is another one."""

    def __init__(self, changed: Callable[[], None], find: LookUp = look_up) -> None:
        """`changed` is called when a name stands for something else than before."""
        self._changed, self._find = changed, find
        self._known: dict[str, str] = {}
        self._wanted: set[str] = set()
        self._models = Memo(self._model)
        self._policies = Memo(self._policy)
        self.wake = Wake()

    def models(self, models: Iterable[ModelRoute]) -> list[ModelRoute]:
        """The models with addresses for the names that Envoy could not look up."""
        return [found for _, found in self._models.all(models)]

    def policies(self, policies: Iterable[PolicyRoute]) -> list[PolicyRoute]:
        """The same for policies."""
        return [found for _, found in self._policies.all(policies)]

    async def step(self) -> timedelta:
        """Looks every wanted name up once."""
        answers = await asyncio.gather(*(self._ask(name) for name in sorted(self._wanted)))
        known = {name: found for name, found in answers if found}
        if known != self._known:
            self._known = known
            # What was rendered with other addresses is none of use any more.
            self._models, self._policies = Memo(self._model), Memo(self._policy)
            self._wanted.clear()
            self._changed()
        return LOOK_AGAIN

    async def _ask(self, name: str) -> tuple[str, str]:
        try:
            return name, await self._find(name)
        except (OSError, TimeoutError) as error:
            log.warning("the node name %s cannot be looked up: %s", name, error or "no answer in time")
            return name, self._known.get(name, "")

    def _model(self, model: ModelRoute) -> ModelRoute:
        targets = self._targets(model.targets)
        return model if targets == model.targets else replace(model, targets=tuple(targets))

    def _policy(self, policy: PolicyRoute) -> PolicyRoute:
        targets = tuple(self._policy_target(each) for each in policy.targets)
        return policy if targets == policy.targets else replace(policy, targets=targets)

    def _policy_target(self, target: PolicyTarget) -> PolicyTarget:
        return replace(target, serving=self._model(target.serving)) if target.serving else target

    def _targets(self, targets: Sequence[Target]) -> Sequence[Target]:
        if not any(each.tunnel for each in targets):
            return targets
        named = {each.address for each in targets if not each.tunnel and not is_ip(each.address)}
        if named - self._wanted:
            self._wanted |= named
            self.wake.set()
        return tuple(
            each if each.tunnel else replace(each, address=self._known.get(each.address, each.address))
            for each in targets
        )
