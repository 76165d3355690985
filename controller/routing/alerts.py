"""What router and gateway report: something of the routing was refused, and the last good state stays in force."""

from dataclasses import dataclass
from datetime import datetime

from controller.routing.service import UnitOfWork
from mesh.identity import SYSTEM, Caller


@dataclass(frozen=True, slots=True)
class RoutingRefused:
    """Something was refused."""

    subject: str
    reason: str
    reported_by: str
    at: datetime


class Alerts:
    """Makes events of reports."""

    def __init__(self, unit_of_work: UnitOfWork) -> None:
        self._unit_of_work = unit_of_work

    async def refused(self, caller: Caller, subject: str, reason: str) -> None:
        """Tells the platform."""
        async with self._unit_of_work(SYSTEM) as work:
            await work.commit(RoutingRefused(subject, reason, caller.subject, await work.nodes.now()))
