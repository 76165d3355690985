"""Plants one bug into a program of the platform: Python imports this file by itself where its folder is on the path.

PLANT names the bugs, separated by commas. The product knows nothing of them: a module is changed right after its
import.
"""

import datetime
import importlib.abc
import importlib.machinery
import importlib.util
import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

PLANT = os.environ.get("PLANT", "")
Change = Callable[[ModuleType], None]


def stale_workloads_live_on(workloads: Any) -> None:
    """No fencing: what a node is not told to run any more it keeps."""
    workloads.Workloads._end_all_but = lambda self, keys, revision: None


def acknowledged_before_commit(work: Any) -> None:
    """Every third change is answered and never made."""
    committed, count = work.Work.commit, [0]

    async def commit(self: Any, *events: object) -> None:
        count[0] += any(type(event).__name__ == "DeploymentCreated" for event in events)
        if count[0] % 3 or not any(type(event).__name__ == "DeploymentCreated" for event in events):
            await committed(self, *events)

    work.Work.commit = commit


def published_before_commit(work: Any) -> None:
    """Events are made permanent before the change that they tell of."""

    async def commit(self: Any, *events: object) -> None:
        rows = work.envelopes(self._encodings, events, self._clock.now(), "")
        async with self._connection.engine.connect() as other:
            await other.exec_driver_sql("SELECT set_config('aiops.org', '*', false)")
            await work.outbox.append(other, *rows)
            await other.commit()
        await work.failpoint("commit.before")
        await self._connection.commit()

    work.Work.commit = commit


def no_request_ids(idempotency: Any) -> None:
    """A request id is not looked up."""

    async def claim(self: Any, org_id: str, method: str, request_id: str, digest: str, object_id: str) -> str:
        return object_id

    idempotency.RequestIds.claim = claim


def unbounded_connections(database: Any) -> None:
    """The pool grows with whoever asks."""
    create = database.create_async_engine
    database.create_async_engine = lambda url, **options: create(url, **{**options, "max_overflow": -1})


def audience_ignored(tokens: Any) -> None:
    """A token for somebody else will do."""
    tokens._OPTIONS = {**tokens._OPTIONS, "verify_aud": False}


def tokens_for_another_audience(signing: Any) -> None:
    """What signs in here is for somebody else (no bug: the way to such a token)."""
    signing.AUDIENCE = "another-platform"


def old_session_removes_the_new(liveness: Any) -> None:
    """The end of any session counts as the node's."""

    async def close_session(self: Any, node_id: str, session_epoch: int, cause: str) -> None:
        async with self._unit_of_work(liveness.SYSTEM) as work:
            await work.standings.disconnect(node_id)
            await work.commit()

    liveness.Liveness.close_session = close_session


def liveness_by_wall_clock(clock: Any) -> None:
    """Spans are measured with a clock that is set."""
    clock.SystemClock.monotonic = lambda self: self.now().timestamp()


def checksums_unread(blobs: Any) -> None:
    """Whatever has the name of a file is that file."""
    blobs.BlobStore.has = lambda self, file: (self._blobs / file.sha256).exists()


def marked_before_published(relay: Any) -> None:
    """Events count as published before they are."""

    async def step(self: Any) -> object:
        await self._look_after()
        claimed = await self._claim()
        if claimed.envelopes:
            await self._settle(claimed, claimed.envelopes, "")
            await relay.failpoint("relay.claimed")
            await self._publish(claimed.envelopes)
        return None

    relay.Relay.step = step


def invalid_configuration(clusters: Any) -> None:
    """Every model's cluster is one that Envoy refuses (no bug of ours: a fault)."""
    sound = clusters.model_cluster

    def model_cluster(route: Any) -> Any:
        cluster = sound(route)
        cluster.connect_timeout.FromSeconds(-1)
        return cluster

    clusters.model_cluster = model_cluster


def wall_clock(clock: Any) -> None:
    """The wall clock is as far ahead as the file says that DISTORTION names (no bug: a fault)."""
    now = clock.SystemClock.now

    def distorted(self: Any) -> Any:
        ahead = struct.unpack_from("=q", Path(os.environ["DISTORTION"]).read_bytes())[0]
        return now(self) + datetime.timedelta(microseconds=ahead / 1000)

    clock.SystemClock.now = distorted


PLANTS: dict[str, tuple[str, Change]] = {
    "stale_workloads_live_on": ("node_agent.workloads.service", stale_workloads_live_on),
    "acknowledged_before_commit": ("controller.work", acknowledged_before_commit),
    "published_before_commit": ("controller.work", published_before_commit),
    "no_request_ids": ("mesh.sql.idempotency", no_request_ids),
    "unbounded_connections": ("mesh.sql.database", unbounded_connections),
    "audience_ignored": ("mesh.tokens", audience_ignored),
    "tokens_for_another_audience": ("controller.iam.signing", tokens_for_another_audience),
    "old_session_removes_the_new": ("controller.nodes.liveness", old_session_removes_the_new),
    "wall_clock": ("mesh.clock", wall_clock),
    "liveness_by_wall_clock": ("mesh.clock", liveness_by_wall_clock),
    "checksums_unread": ("node_agent.cache.blobs", checksums_unread),
    "marked_before_published": ("mesh.events.relay", marked_before_published),
    "invalid_configuration": ("gateway.models.clusters", invalid_configuration),
}


class Planter(importlib.abc.MetaPathFinder):
    """Finds one module as everybody does, and changes it when it is there."""

    def __init__(self, name: str, change: Change) -> None:
        self._name, self._change = name, change

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name != self._name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.loader is not None
        run = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            run(module)
            self._change(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]  # of this one loader
        return spec


for _plant in filter(None, PLANT.split(",")):
    sys.meta_path.insert(0, Planter(*PLANTS[_plant]))
