"""What is done with the load of replica sets, and what that needs from storage."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from controller.autoscaling.model import Reported, SetLoad
from controller.hints import Hints
from controller.nodes.model import EngineLoad
from controller.replica_sets.model import ReplicaSetId
from controller.replica_sets.service import Work as SetWork
from mesh.identity import SYSTEM, Caller


class LoadStore(Protocol):
    async def report(self, reporter: str, loads: Sequence[SetLoad]) -> None: ...
    async def forget(self) -> None: ...
    async def of(self, set_id: ReplicaSetId) -> tuple[Reported, ...]: ...
    async def engines(self, deployment_ids: Collection[str]) -> Mapping[str, EngineLoad]: ...


class Work(SetWork, Protocol):
    """One transaction, or one reading connection, with the stores on it."""

    @property
    def loads(self) -> LoadStore: ...


class UnitOfWork(Protocol):
    """Opens transactions, and connections that only read."""

    def __call__(self, caller: Caller) -> AbstractAsyncContextManager[Work]: ...
    def reading(self, caller: Caller) -> AbstractAsyncContextManager[Work]: ...


class Loads:
    """What gateways say."""

    def __init__(self, unit_of_work: UnitOfWork, hints: Hints) -> None:
        self._unit_of_work, self._hints = unit_of_work, hints

    async def report(self, reporter: str, loads: Sequence[SetLoad]) -> None:
        """Keeps what one gateway sees. Requests that wait are looked at at once."""
        async with self._unit_of_work(SYSTEM) as work:
            await work.loads.report(reporter, loads)
            await work.commit()
        if any(each.held for each in loads):
            self._hints.loads_changed()

    async def keep_house(self) -> None:
        """Removes what gateways said that are gone."""
        async with self._unit_of_work(SYSTEM) as work:
            await work.loads.forget()
            await work.commit()
