"""What is done with replica sets, and what that needs from storage."""

from collections.abc import Callable, Collection
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Protocol

from controller.deployments.stores import Work as DeploymentWork
from controller.hints import Hints
from controller.models.model import Model
from controller.replica_sets.decide import Member
from controller.replica_sets.model import (
    PROGRESS_DEADLINE,
    ReplicaSet,
    ReplicaSetId,
    ReplicaSetNotFoundError,
    ReplicaSetStatusChanged,
    SetChanges,
    Template,
)
from mesh.identity import Caller, new_id
from mesh.sql.idempotency import digest_of
from mesh.sql.paging import Page, PageRequest

Change = Callable[[ReplicaSet, datetime], ReplicaSet]


class ReplicaSetStore(Protocol):
    async def get(self, reference: str, caller: Caller, *, lock: bool = False) -> ReplicaSet: ...
    async def page(self, caller: Caller, page: PageRequest, model: str) -> Page[ReplicaSet]: ...
    async def add(self, replica_set: ReplicaSet) -> None: ...
    async def save(self, replica_set: ReplicaSet) -> None: ...
    async def unsettled(self) -> tuple[ReplicaSet, ...]: ...
    async def members(self, ids: Collection[ReplicaSetId]) -> dict[ReplicaSetId, tuple[Member, ...]]: ...


class Work(DeploymentWork, Protocol):
    """One transaction, or one reading connection, with the stores on it."""

    @property
    def replica_sets(self) -> ReplicaSetStore: ...


class UnitOfWork(Protocol):
    """Opens transactions, and connections that only read."""

    def __call__(self, caller: Caller) -> AbstractAsyncContextManager[Work]: ...
    def reading(self, caller: Caller) -> AbstractAsyncContextManager[Work]: ...


class ReplicaSets:
    """What organisations want to be served; the reconciler makes it so."""

    def __init__(self, unit_of_work: UnitOfWork, hints: Hints) -> None:
        self._unit_of_work = unit_of_work
        self._hints = hints

    async def get(self, caller: Caller, reference: str) -> ReplicaSet:
        """One set, by its id or its name. ReplicaSetNotFoundError also for one of another organisation."""
        async with self._unit_of_work.reading(caller) as work:
            return await work.replica_sets.get(reference, caller)

    async def page(self, caller: Caller, page: PageRequest, model: str) -> Page[ReplicaSet]:
        """The sets that the caller sees, newest first; those of a model, by its id or name."""
        async with self._unit_of_work.reading(caller) as work:
            return await work.replica_sets.page(caller, page, model)

    async def create(
        self,
        caller: Caller,
        model: str,
        replicas: int,
        name: str,
        template: Template,
        deadline: timedelta | None,
        request_id: str,
    ) -> ReplicaSet:
        """A new set. The same `request_id` again answers the same set. ReplicaSetExistsError, ModelNotFoundError."""
        set_id = ReplicaSetId(new_id("set"))
        asked = digest_of(model, replicas, name, template, deadline)
        async with self._unit_of_work(caller) as work:
            booked = await work.requests.claim(caller.org_id, "CreateReplicaSet", request_id, asked, set_id)
            if booked != set_id:
                return await work.replica_sets.get(booked, caller)
            found = await work.models.get(model, caller, lock=True)
            template.wish(found.model_id).check(found)
            now = await work.nodes.now()
            made = _made(set_id, caller, found, name, replicas, template, deadline or PROGRESS_DEADLINE, now)
            await work.replica_sets.add(made)
            await work.commit(ReplicaSetStatusChanged(made, now))
        self._hints.sets_changed()
        return made

    async def update(self, caller: Caller, reference: str, changes: SetChanges) -> ReplicaSet:
        """Scales, or rolls out the next revision; with the digest that the model's files have now."""
        async with self._unit_of_work.reading(caller) as work:
            known = await work.replica_sets.get(reference, caller)
            digest = ""
            if changes.template is not None:
                model = await work.models.get(known.model_id, caller)
                changes.template.wish(model.model_id).check(model)
                digest = model.digest

        def change(before: ReplicaSet, now: datetime) -> ReplicaSet:
            after = before if changes.replicas is None else before.scale(changes.replicas, now)
            if changes.template is not None:
                after = after.roll_out(replace(changes.template, model_digest=digest), now)
            if changes.progress_deadline is not None:
                after = replace(after, progress_deadline=changes.progress_deadline, changed_at=now)
            return after

        return await self._change(caller, reference, change)

    async def delete(self, caller: Caller, reference: str) -> ReplicaSet:
        """Ends every replica. Can be repeated."""
        return await self._change(caller, reference, lambda before, now: before.delete(now))

    async def pause(self, caller: Caller, reference: str) -> ReplicaSet:
        """Holds a rollout."""
        return await self._change(caller, reference, lambda before, now: before.pause(now))

    async def resume(self, caller: Caller, reference: str) -> ReplicaSet:
        """Lets a rollout go on."""
        return await self._change(caller, reference, lambda before, now: before.resume(now))

    async def roll_back(self, caller: Caller, reference: str, revision: int) -> ReplicaSet:
        """Goes back to a revision; 0 means the one before."""
        return await self._change(caller, reference, lambda before, now: before.roll_back(revision, now))

    async def _change(self, caller: Caller, reference: str, change: Change) -> ReplicaSet:
        async with self._unit_of_work(caller) as work:
            before = await work.replica_sets.get(reference, caller, lock=True)
            now = await work.nodes.now()
            after = change(before, now)
            if before.deleted_at is not None and after is not before:
                raise ReplicaSetNotFoundError(reference)
            if after is not before:
                await work.replica_sets.save(after)
                await work.commit(ReplicaSetStatusChanged(after, now))
        self._hints.sets_changed()
        return after


def _made(
    set_id: ReplicaSetId,
    caller: Caller,
    model: Model,
    name: str,
    replicas: int,
    template: Template,
    deadline: timedelta,
    now: datetime,
) -> ReplicaSet:
    return ReplicaSet(
        replica_set_id=set_id,
        org_id=model.org_id,
        user_id=caller.user_id,
        created_at=now,
        changed_at=now,
        name=name or model.name,
        model_id=model.model_id,
        model_name=model.name,
        replicas=replicas,
        templates={1: replace(template, model_digest=model.digest)},
        progress_deadline=deadline,
    )
