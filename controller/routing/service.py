"""What is done with routes, and what that needs from storage."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Protocol

from controller.credentials.model import CredentialNotFoundError
from controller.credentials.service import CredentialStore
from controller.deployments.stores import Work as DeploymentWork
from controller.hints import Hints
from controller.routing.model import (
    Route,
    RouteChanged,
    RouteChangedError,
    RouteId,
    RouteNotFoundError,
    Visibility,
    Wish,
)
from controller.routing.providers import check_providers
from controller.routing.rules import Rules
from mesh.errors import FieldViolation, InvalidRequestError, PermissionDeniedError
from mesh.identity import Caller, OrgId, new_id
from mesh.sql.idempotency import digest_of
from mesh.sql.paging import Page, PageRequest

Change = Callable[[Route, datetime], Route]


class RouteStore(Protocol):
    async def get(self, reference: str, caller: Caller, *, lock: bool = False) -> Route: ...
    async def page(self, caller: Caller, page: PageRequest) -> Page[Route]: ...
    async def add(self, route: Route) -> None: ...
    async def save(self, route: Route) -> None: ...
    async def all(self) -> tuple[Route, ...]: ...


class RulesStore(Protocol):
    async def get(self, org_id: OrgId, *, lock: bool = False) -> Rules: ...
    async def save(self, rules: Rules) -> None: ...


class Work(DeploymentWork, Protocol):
    """One transaction, or one reading connection, with the stores on it."""

    @property
    def routes(self) -> RouteStore: ...
    @property
    def credentials(self) -> CredentialStore: ...
    @property
    def routing_rules(self) -> RulesStore: ...


class UnitOfWork(Protocol):
    """Opens transactions, and connections that only read."""

    def __call__(self, caller: Caller) -> AbstractAsyncContextManager[Work]: ...
    def reading(self, caller: Caller) -> AbstractAsyncContextManager[Work]: ...


class Routes:
    """Models as organisations show them to their clients."""

    def __init__(self, unit_of_work: UnitOfWork, hints: Hints, *, private_providers: bool = False) -> None:
        self._unit_of_work = unit_of_work
        self._hints = hints
        self._private_providers = private_providers

    async def get(self, caller: Caller, reference: str) -> Route:
        """One route, by its id or its name. RouteNotFoundError also for one of another organisation."""
        async with self._unit_of_work.reading(caller) as work:
            return await work.routes.get(reference, caller)

    async def page(self, caller: Caller, page: PageRequest) -> Page[Route]:
        """The routes that the caller sees, newest first."""
        async with self._unit_of_work.reading(caller) as work:
            return await work.routes.page(caller, page)

    async def create(self, caller: Caller, wish: Wish, request_id: str) -> Route:
        """A new route. The same `request_id` again answers the same one. RouteNameTakenError."""
        wish.check()
        check_providers(wish, private=self._private_providers)
        _may_show(caller, wish)
        route_id = RouteId(new_id("route"))
        async with self._unit_of_work(caller) as work:
            asked = digest_of(wish)
            booked = await work.requests.claim(caller.org_id, "CreateRoute", request_id, asked, route_id)
            if booked != route_id:
                return await work.routes.get(booked, caller)
            await _check_credentials(work, caller, wish)
            now = await work.nodes.now()
            made = Route(route_id, caller.org_id, caller.user_id, now, now, wish)
            await work.routes.add(made)
            await work.commit(RouteChanged(made, now))
        self._hints.routes_changed()
        return made

    async def update(self, caller: Caller, reference: str, change: Callable[[Wish], Wish], version: int) -> Route:
        """Something else is wanted. RouteChangedError when `version` is not 0 and not the route's."""

        def changed(before: Route, now: datetime) -> Route:
            after = before.change(change(before.wish), now)
            check_providers(after.wish, private=self._private_providers)
            _may_show(caller, after.wish)
            return after

        return await self._change(caller, reference, version, changed)

    async def delete(self, caller: Caller, reference: str, version: int) -> Route:
        """Clients are not led anywhere by it any more. Can be repeated."""
        return await self._change(caller, reference, version, lambda before, now: before.delete(now))

    async def _change(self, caller: Caller, reference: str, version: int, change: Change) -> Route:
        async with self._unit_of_work(caller) as work:
            before = await work.routes.get(reference, caller, lock=True)
            if version and version != before.version:
                raise RouteChangedError(before)
            now = await work.nodes.now()
            after = change(before, now)
            if after is before:
                return before
            if before.deleted_at is not None:
                raise RouteNotFoundError(reference)
            await _check_credentials(work, caller, after.wish)
            await work.routes.save(after)
            await work.commit(RouteChanged(after, now))
        self._hints.routes_changed()
        return after


async def _check_credentials(work: Work, caller: Caller, wish: Wish) -> None:
    for number, target in enumerate(wish.targets):
        if target.credential_id and not await _is_there(work, caller, target.credential_id):
            path = f"route.targets[{number}].credential_id"
            raise InvalidRequestError(FieldViolation(path, f"there is no credential {target.credential_id}"))


async def _is_there(work: Work, caller: Caller, credential_id: str) -> bool:
    try:
        # Locked, so that it is not deleted before the route is there; by its id, which a name never is.
        found = await work.credentials.get(credential_id, caller, lock=True)
    except CredentialNotFoundError:
        return False
    return found.credential_id == credential_id


def _may_show(caller: Caller, wish: Wish) -> None:
    if wish.visibility is Visibility.UNIVERSE and not caller.sees_all:
        raise PermissionDeniedError("only universe roles make a route visible to every organisation")
