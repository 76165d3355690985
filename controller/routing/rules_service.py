"""What is done with rules: they are kept, and they decide."""

from collections import defaultdict

from controller.routing.model import Route, Visibility
from controller.routing.rules import Catalogue, Decision, RoutingRulesChangedError, Rules, RulesChanged, Task, decide
from controller.routing.service import UnitOfWork, Work
from mesh.identity import SYSTEM, Caller


class RoutingRules:
    """Which model a task is for."""

    def __init__(self, unit_of_work: UnitOfWork) -> None:
        self._unit_of_work = unit_of_work

    async def get(self, caller: Caller) -> Rules:
        """The rules of the caller's organisation; empty ones of version 0 before they were set."""
        async with self._unit_of_work.reading(caller) as work:
            return await work.routing_rules.get(caller.org_id)

    async def set(self, caller: Caller, wanted: Rules, version: int) -> Rules:
        """Replaces them. RoutingRulesChangedError when `version` is not 0 and not theirs."""
        async with self._unit_of_work(caller) as work:
            before = await work.routing_rules.get(caller.org_id, lock=True)
            if version and version != before.version:
                raise RoutingRulesChangedError(before.version)
            after = before.replace(wanted, await work.nodes.now())
            await work.routing_rules.save(after)
            assert after.changed_at is not None
            await work.commit(RulesChanged(after, after.changed_at))
        return after

    async def decide(self, caller: Caller, task: Task) -> Decision:
        """The model for a task. NoRouteError."""
        async with self._unit_of_work.reading(caller) as work:
            rules = await work.routing_rules.get(caller.org_id)
        # Everybody's routes lead to models of the organisations that own them.
        async with self._unit_of_work.reading(SYSTEM) as work:
            return decide(task, rules, await _catalogue(work, caller))


async def _catalogue(work: Work, caller: Caller) -> Catalogue:
    live = defaultdict[tuple[str, str], list[str]](list)
    for replica in await work.deployments.replicas():
        live[replica.org_id, replica.model_name].append(replica.deployment_id)
    routes = sorted(await work.routes.all(), key=lambda route: route.org_id == caller.org_id and not _is_shown(route))
    named = {name: route for route in routes if _serves(route, caller) for name in route.wish.names}
    return Catalogue(caller.org_id, named, live)


def _serves(route: Route, caller: Caller) -> bool:
    return _is_shown(route) or route.org_id == caller.org_id


def _is_shown(route: Route) -> bool:
    return route.wish.visibility is Visibility.UNIVERSE
