"""What is done with replica sets, and what that needs from storage."""

from collections.abc import Callable, Collection
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Protocol

from controller.deployments.adapters import require_adapter
from controller.deployments.model import DeploymentId
from controller.deployments.refusals import AdaptersUnavailableError
from controller.deployments.stores import Work as DeploymentWork
from controller.deployments.workload import Adapter
from controller.hints import Hints
from controller.models.model import Model
from controller.models.revision import at_revision
from controller.replica_sets.decide import Member
from controller.replica_sets.model import (
    PROGRESS_DEADLINE,
    ReplicaSet,
    ReplicaSetId,
    ReplicaSetNotFoundError,
    ReplicaSetStatusChanged,
    SetChanges,
    Template,
    TemplateWish,
    Unchanged,
)
from controller.replica_sets.scaling import Autoscaling
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
    async def standby(self) -> tuple[DeploymentId, ...]: ...
    async def autoscaled(self) -> tuple[ReplicaSetId, ...]: ...
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
        template: TemplateWish,
        deadline: timedelta | None,
        request_id: str,
        autoscaling: Autoscaling | None = None,
    ) -> ReplicaSet:
        """A new set. The same `request_id` again answers the same set.

        ReplicaSetExistsError, ModelNotFoundError, ModelRevisionNotFoundError, and as for the adapters of deployments.
        """
        set_id = ReplicaSetId(new_id("set"))
        asked = digest_of(model, replicas, name, template, deadline, *filter(None, [autoscaling]))
        async with self._unit_of_work(caller) as work:
            booked = await work.requests.claim(caller.org_id, "CreateReplicaSet", request_id, asked, set_id)
            if booked != set_id:
                return await work.replica_sets.get(booked, caller)
            found = await work.models.get(model, caller, lock=True)
            pinned = await _pinned(work, caller, template, found)
            now = await work.nodes.now()
            made = _made(set_id, caller, found, name, replicas, pinned, deadline or PROGRESS_DEADLINE, now)
            made = replace(made, autoscaling=autoscaling)
            await work.replica_sets.add(made)
            await work.commit(ReplicaSetStatusChanged(made, now))
        self._hints.sets_changed()
        self._hints.routes_changed()
        return made

    async def update(self, caller: Caller, reference: str, changes: SetChanges) -> ReplicaSet:
        """Scales, or rolls out the next revision, with the state of the model that is asked for or is current now."""
        template: Template | None = None
        async with self._unit_of_work.reading(caller) as work:
            known = await work.replica_sets.get(reference, caller)
            if changes.template is not None:
                model = await work.models.get(known.model_id, caller)
                template = await _pinned(work, caller, changes.template, model)

        def change(before: ReplicaSet, now: datetime) -> ReplicaSet:
            after = before if changes.replicas is None else before.scale(changes.replicas, now)
            if template is not None:
                after = after.roll_out(template, now)
            if changes.progress_deadline is not None:
                after = replace(after, progress_deadline=changes.progress_deadline, changed_at=now)
            if not isinstance(changes.autoscaling, Unchanged):
                after = after.autoscale(changes.autoscaling, now)
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
        self._hints.routes_changed()
        return after


async def _pinned(work: Work, caller: Caller, asked: TemplateWish, model: Model) -> Template:
    """The template with the state of the model and the adapters that it names, as they are from now on."""
    revision = await work.revisions.get(model, asked.model_revision or model.digest)
    adapters = []
    for name in asked.adapters:
        adapter = await work.models.get(name, caller)
        await require_adapter(work, model.org_id, adapter)
        adapters.append(Adapter(adapter.model_id, adapter.name, adapter.digest))
    most = asked.template.engine_options.max_adapters
    if len(adapters) > most:
        raise AdaptersUnavailableError(
            f"{len(adapters)} adapters are asked for and each replica takes {most}; raise engine_options.max_adapters"
        )
    template = replace(
        asked.template, model_digest=revision.digest, model_revision=revision.number, adapters=tuple(adapters)
    )
    template.wish(model.model_id).check(at_revision(model, revision, model.changed_at))
    return template


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
        templates={1: template},
        progress_deadline=deadline,
    )
