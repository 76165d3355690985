"""Removes objects that belong to no model: those of deleted models, and those of imports that did not finish."""

from datetime import datetime, timedelta

from controller.models.blobs import collect
from controller.models.model import BLOBS, ModelId
from controller.models.service import Objects, UnitOfWork
from mesh.clock import Clock
from mesh.identity import SYSTEM

INTERVAL = timedelta(minutes=1)
ORPHAN_INTERVAL = timedelta(hours=1)
ORPHAN_AGE = timedelta(days=1)
_BATCH = 100


class Sweep:
    """Level-triggered: it looks at what there is, so that it can be repeated, and run by every controller at once."""

    def __init__(self, unit_of_work: UnitOfWork, objects: Objects, clock: Clock) -> None:
        self._unit_of_work = unit_of_work
        self._objects = objects
        self._clock = clock
        self._orphans_due = clock.now()

    async def step(self) -> timedelta | None:
        """Removes what is due; comes back at once when there is more."""
        more = await self.remove_deleted()
        if self._clock.now() >= self._orphans_due:
            await self.remove_orphans()
            self._orphans_due = self._clock.now() + ORPHAN_INTERVAL
        return timedelta() if more else None

    async def remove_deleted(self) -> bool:
        """Lets go of deleted models' files, and removes those that nothing needs; says whether there may be more."""
        async with self._unit_of_work.reading(SYSTEM) as work:
            model_ids = await work.models.unpurged(_BATCH)
        for model_id in model_ids:
            await self._mark(model_id, self._clock.now())
        more = await collect(self._unit_of_work, self._objects)
        return more or len(model_ids) == _BATCH

    async def remove_orphans(self) -> None:
        """Removes objects that are no stored file's and older than a day: an import may still be on its way."""
        objects = await self._objects.paths(BLOBS)
        oldest = self._clock.now() - ORPHAN_AGE
        old = [path for path, modified in objects.items() if modified < oldest]
        for start in range(0, len(old), _BATCH):
            batch = old[start : start + _BATCH]
            async with self._unit_of_work.reading(SYSTEM) as work:
                known = await work.blobs.known(batch)
            for path in batch:
                if path not in known:
                    await self._objects.remove(path.rpartition("/")[0])

    async def _mark(self, model_id: ModelId, now: datetime) -> None:
        async with self._unit_of_work(SYSTEM) as work:
            await work.revisions.forget_files(model_id)
            await work.models.save_purged(model_id, now)
            await work.commit()
