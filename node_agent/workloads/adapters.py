"""Makes running engines have the LoRA adapters that are wanted, neither more nor fewer."""

import asyncio
import shutil
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Protocol

from mesh.errors import DomainError
from node_agent.cache.service import ModelCache
from node_agent.engines.live import Adapters
from node_agent.workloads.model import AdapterStatus, Process, WorkloadAdapter
from node_agent.workloads.probe import ask

RETRY = timedelta(seconds=5)
_LONGEST_ERROR = 500


class Served(Protocol):
    """The workload whose engine is kept."""

    @property
    def wanted_adapters(self) -> tuple[WorkloadAdapter, ...]: ...
    def adapted(self, statuses: tuple[AdapterStatus, ...]) -> None:
        """Takes down what became of them."""
        ...


class AdapterKeeper:
    """Knows how adapters are changed in each kind of engine. Safe to run again at any time."""

    def __init__(self, cache: ModelCache, by_engine: Mapping[str, Adapters]) -> None:
        self._cache = cache
        self._by_engine = by_engine

    async def step(self, served: Served, process: Process, directory: Path) -> timedelta | None:
        """Loads what is missing and unloads what is too much; `directory` is the workload's own place for adapters.

        The files are copied there: an engine in a container sees that directory and not the machine's cache.
        """
        wanted = {each.name: each for each in served.wanted_adapters}
        calls = self._by_engine.get(process.engine)
        if calls is None:
            refusal = f"the engine {process.engine} takes no adapters; deploy with vLLM"
            served.adapted(tuple(AdapterStatus(name, error=refusal) for name in wanted))
            return None
        origin = process.readiness.health_url.rpartition("/")[0]
        status, answer = await ask(calls.listing(origin))
        if status != 200:
            raise OSError(f"the engine answers {status} when asked for its adapters")
        present = calls.loaded(answer)
        for name in present - wanted.keys():
            await ask(calls.unload(origin, name))
            await asyncio.to_thread(shutil.rmtree, directory / name, ignore_errors=True)
        statuses = [await self._have(each, name in present, calls, origin, directory) for name, each in wanted.items()]
        served.adapted(tuple(statuses))
        return None if all(each.loaded for each in statuses) else RETRY

    async def _have(
        self, adapter: WorkloadAdapter, loaded: bool, calls: Adapters, origin: str, directory: Path
    ) -> AdapterStatus:
        if loaded:
            return AdapterStatus(adapter.name, loaded=True)
        try:
            path = await self._bring(adapter, directory)
            status, answer = await ask(calls.load(origin, adapter.name, path))
        except (DomainError, OSError, TimeoutError) as error:
            return AdapterStatus(adapter.name, error=str(error) or "the engine did not answer in time")
        if status == 200:
            return AdapterStatus(adapter.name, loaded=True)
        return AdapterStatus(adapter.name, error=f"the engine refuses it: {answer[:_LONGEST_ERROR]}")

    async def _bring(self, adapter: WorkloadAdapter, directory: Path) -> Path:
        """The adapter's files in a directory of its own. Raises DomainError and OSError."""
        place = directory / adapter.name
        self._cache.hold(adapter.artifact)
        try:
            await self._cache.obtain(adapter.artifact, lambda _percent: None)
            folder: Path = await self._cache.lay_out(adapter.artifact)
            with suppress(FileNotFoundError):
                await asyncio.to_thread(shutil.rmtree, place)
            await asyncio.to_thread(shutil.copytree, folder, place)
        finally:
            self._cache.release(adapter.artifact)
        return place
