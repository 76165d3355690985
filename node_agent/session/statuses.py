"""Statuses on their way to the controller: in order, bounded, sent again until acknowledged."""

import asyncio
import logging
from collections import OrderedDict

from node_agent.workloads.model import Event, WorkloadStatus

log = logging.getLogger(__name__)


class StatusQueue:
    """Keeps statuses until the controller has stored them.

    A newer status of a workload replaces one of the same state that has not been sent, unless that tells of an event.
    When full, the oldest one without an event goes first: the state it told is told anew when a session opens.
    """

    def __init__(self, capacity: int = 512) -> None:
        self._capacity = capacity
        self._waiting: OrderedDict[int, WorkloadStatus] = OrderedDict()
        self._sequence = 0
        self._sent = 0
        self._filled = asyncio.Event()

    def put(self, status: WorkloadStatus) -> None:
        """Queues a status under the next sequence number."""
        for sequence in [number for number, each in self._waiting.items() if self._replaces(status, number, each)]:
            del self._waiting[sequence]
        self._sequence += 1
        self._waiting[self._sequence] = status
        if len(self._waiting) > self._capacity:
            self._drop_one()
        self._filled.set()

    async def next(self) -> tuple[int, WorkloadStatus]:
        """The oldest status that was not sent in this session, with its sequence number."""
        while True:
            for sequence, status in self._waiting.items():
                if sequence > self._sent:
                    self._sent = sequence
                    return sequence, status
            self._filled.clear()
            await self._filled.wait()

    def acknowledge(self, sequence: int) -> None:
        """The controller has stored everything up to this number."""
        for number in [number for number in self._waiting if number <= sequence]:
            del self._waiting[number]

    def rewind(self) -> None:
        """A new session: everything that is not acknowledged is sent again."""
        self._sent = 0
        self._filled.set()

    def waiting(self) -> list[WorkloadStatus]:
        """What is not acknowledged, in order."""
        return list(self._waiting.values())

    def __len__(self) -> int:
        return len(self._waiting)

    def _replaces(self, newer: WorkloadStatus, number: int, older: WorkloadStatus) -> bool:
        same = (older.key, older.epoch, older.state) == (newer.key, newer.epoch, newer.state)
        return same and number > self._sent and older.event is Event.NONE

    def _drop_one(self) -> None:
        quiet = (number for number, each in self._waiting.items() if each.event is Event.NONE)
        dropped = next(quiet, next(iter(self._waiting)))
        log.warning("too many statuses wait for the controller; one of %s is dropped", self._waiting[dropped].key)
        del self._waiting[dropped]
