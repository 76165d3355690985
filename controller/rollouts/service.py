"""What is done with rollouts, and what that needs from storage."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from datetime import datetime
from typing import Protocol

from controller.hints import Hints
from controller.replica_sets.service import ReplicaSetStore
from controller.rollouts.model import (
    Action,
    Decision,
    Rollout,
    RolloutChanged,
    RolloutEndedError,
    RolloutId,
    Sight,
    Spec,
    only_weighted,
)
from controller.routing.model import Route, RouteChanged, RouteId, RouteInRolloutError
from controller.routing.service import Work as RoutingWork
from mesh.errors import FieldViolation, InvalidRequestError
from mesh.identity import SYSTEM, Caller, new_id
from mesh.sql.idempotency import digest_of
from mesh.sql.paging import Page, PageRequest

Change = Callable[[Rollout, datetime], Rollout]


class RolloutStore(Protocol):
    async def get(self, rollout_id: str, caller: Caller, *, lock: bool = False) -> Rollout: ...
    async def claim(self, rollout_id: RolloutId) -> Rollout | None: ...
    async def page(self, caller: Caller, page: PageRequest, route: str) -> Page[Rollout]: ...
    async def unsettled(self) -> tuple[Rollout, ...]: ...
    async def decisions(self, rollout_id: RolloutId) -> tuple[Decision, ...]: ...
    async def add(self, rollout: Rollout, decision: Decision) -> None: ...
    async def save(self, rollout: Rollout) -> None: ...
    async def remember(self, rollout: Rollout, decision: Decision) -> None: ...


class EvidenceStore(Protocol):
    async def sight(self, rollout: Rollout, now: datetime) -> Sight: ...


class Work(RoutingWork, Protocol):
    """One transaction, or one reading connection, with the stores on it."""

    @property
    def rollouts(self) -> RolloutStore: ...
    @property
    def evidence(self) -> EvidenceStore: ...
    @property
    def replica_sets(self) -> ReplicaSetStore: ...


class UnitOfWork(Protocol):
    """Opens transactions, and connections that only read."""

    def __call__(self, caller: Caller) -> AbstractAsyncContextManager[Work]: ...
    def reading(self, caller: Caller) -> AbstractAsyncContextManager[Work]: ...


class Rollouts:
    """Routes that go over to another target; the reconciler takes the steps."""

    def __init__(self, unit_of_work: UnitOfWork, hints: Hints) -> None:
        self._unit_of_work = unit_of_work
        self._hints = hints

    async def get(self, caller: Caller, rollout_id: str) -> tuple[Rollout, tuple[Decision, ...]]:
        """One rollout and what was decided of it, oldest first. RolloutNotFoundError."""
        async with self._unit_of_work.reading(caller) as work:
            found = await work.rollouts.get(rollout_id, caller)
            return found, await work.rollouts.decisions(found.rollout_id)

    async def page(self, caller: Caller, page: PageRequest, route: str) -> Page[Rollout]:
        """The rollouts that the caller sees, newest first; those of a route, by its id or name."""
        async with self._unit_of_work.reading(caller) as work:
            return await work.rollouts.page(caller, page, route)

    async def create(self, caller: Caller, spec: Spec, request_id: str) -> Rollout:
        """A new rollout, which leads the route from now on. The same `request_id` again answers the same one.

        RouteNotFoundError, RouteInRolloutError, ReplicaSetNotFoundError.
        """
        rollout_id = RolloutId(new_id("rollout"))
        async with self._unit_of_work(caller) as work:
            booked = await work.requests.claim(caller.org_id, "CreateRollout", request_id, digest_of(spec), rollout_id)
            if booked != rollout_id:
                return await work.rollouts.get(booked, caller)
            route = await work.routes.get(spec.route, caller, lock=True)
            if route.deleted_at is not None or route.rollout_id:
                raise RouteInRolloutError(route)
            whole = _completed(spec, route)
            if whole.replica_set:
                found = await work.replica_sets.get(whole.replica_set, caller)
                whole = replace(whole, replica_set=found.replica_set_id)
            now = await work.nodes.now()
            made = Rollout(
                rollout_id, route.org_id, caller.user_id, now, now, route.route_id, route.name, whole, weight_since=now
            )
            decision = Decision(now, Action.CREATE, 0, f"{whole.candidate} is to take over from {whole.stable}")
            await work.rollouts.add(made, decision)
            led = await lead(work, made, route, now)
            await work.commit(*led, RolloutChanged(made, decision))
        self._hints.routes_changed()
        self._hints.rollouts_changed()
        return made

    async def pause(self, caller: Caller, rollout_id: str) -> Rollout:
        """The share stays as it is. RolloutEndedError."""
        return await self._change(caller, rollout_id, Action.PAUSE, "", lambda before, now: before.pause(now))

    async def resume(self, caller: Caller, rollout_id: str) -> Rollout:
        """The share may rise again. RolloutEndedError."""
        return await self._change(caller, rollout_id, Action.RESUME, "", lambda before, now: before.resume(now))

    async def abort(self, caller: Caller, rollout_id: str, reason: str) -> Rollout:
        """All requests go to the stable target. RouteInRolloutError after another rollout took over the route."""
        return await self._change(
            caller, rollout_id, Action.ABORT, reason, lambda before, now: before.abort(reason, now)
        )

    async def _change(self, caller: Caller, rollout_id: str, action: Action, reason: str, change: Change) -> Rollout:
        async with self._unit_of_work(caller) as work:
            before = await work.rollouts.get(rollout_id, caller, lock=True)
            now = await work.nodes.now()
            after = change(before, now)
            if after is before:
                return before
            decision = Decision(now, action, after.weight, reason or f"{action.value} was asked for")
            await work.commit(*await keep(work, after, decision, now))
        self._hints.routes_changed()
        self._hints.rollouts_changed()
        return after


async def keep(work: Work, rollout: Rollout, decision: Decision, now: datetime) -> list[object]:
    """Stores a decision and leads the route by it, in one transaction; answers the events to commit."""
    await work.rollouts.save(rollout)
    await work.rollouts.remember(rollout, decision)
    if decision.action is Action.SCALE_DOWN:
        # The route was given back with the rollback; whoever has it now decides.
        return [RolloutChanged(rollout, decision)]
    route = await work.routes.get(rollout.route_id, SYSTEM, lock=True)
    return [*await lead(work, rollout, route, now), RolloutChanged(rollout, decision)]


async def lead(work: Work, rollout: Rollout, route: Route, now: datetime) -> list[object]:
    """Gives the route the rollout's weights; answers the event to commit. RouteInRolloutError for another one's route.

    A route that is deleted, or from which a target was taken after the rollout ended, is left as it is.
    """
    if route.rollout_id not in ("", rollout.rollout_id):
        raise RouteInRolloutError(route)
    names = {target.name for target in route.wish.targets}
    if route.deleted_at is not None:
        return []
    if not names >= rollout.weights.keys():
        raise RolloutEndedError(rollout, f"{route.name} no longer has both of its targets")
    after = route.lead(rollout.weights, rollout.rollout_id if rollout.active else "", now)
    if after is route:
        return []
    await work.routes.save(after)
    return [RouteChanged(after, now)]


def _completed(spec: Spec, route: Route) -> Spec:
    """The spec with ids and with the stable target. InvalidRequestError."""
    weights = {target.name: target.weight for target in route.wish.targets}
    stable = spec.stable or next(iter(only_weighted(weights, [spec.candidate])), "")
    faults = [
        FieldViolation(f"spec.{field}", f"{route.name} has no target {name!r}; it has {', '.join(weights)}")
        for field, name in (("stable", stable), ("candidate", spec.candidate))
        if name not in weights
    ]
    others = only_weighted(weights, [stable, spec.candidate])
    if others:
        text = f"{route.name} also leads to {', '.join(others)}; only these two may have a weight"
        faults.append(FieldViolation("spec.route_id", text))
    if faults:
        raise InvalidRequestError(*faults)
    whole = replace(spec, route=RouteId(route.route_id), stable=stable)
    whole.check()
    return whole
