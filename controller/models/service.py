"""What the registry does: import, list, delete, and what it needs from storage."""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

from controller.models import manifest, memory, onnx
from controller.models.architecture import architecture_of, read_config
from controller.models.model import (
    Architecture,
    Chunks,
    Framework,
    Model,
    ModelDeleted,
    ModelDownloaded,
    ModelExistsError,
    ModelFile,
    ModelId,
    ModelInUseError,
    ModelNotFoundError,
    StorageUnavailableError,
    Task,
    Upload,
    megabytes,
)
from controller.models.receive import Contents, Sink, receive
from mesh.clock import Clock
from mesh.errors import UnavailableError
from mesh.identity import SYSTEM, Caller, OrgId, new_id
from mesh.loops import Wake
from mesh.sql.paging import Page, PageRequest

FOLDER = "models"
PARALLEL_UPLOADS = 8
# safetensors' names of types, in the spelling of config.json.
_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


class ModelStore(Protocol):
    async def get(self, model: str, caller: Caller, *, lock: bool = False) -> Model: ...
    async def find(self, org_id: OrgId, name: str) -> Model | None: ...
    async def page(
        self, caller: Caller, page: PageRequest, framework: Framework | None = None, task: Task | None = None
    ) -> Page[Model]: ...
    async def add(self, model: Model, files: Sequence[ModelFile]) -> bool: ...
    async def save_deleted(self, model: Model) -> None: ...
    async def files(self, model_id: ModelId, page: PageRequest) -> Page[ModelFile]: ...
    async def all_files(self, model_ids: Collection[ModelId]) -> dict[ModelId, tuple[ModelFile, ...]]: ...
    async def unpurged(self, limit: int) -> tuple[ModelId, ...]: ...
    async def save_purged(self, model_id: ModelId, now: datetime) -> None: ...
    async def known(self, model_ids: Collection[str]) -> frozenset[str]: ...


class ModelUsage(Protocol):
    """Who uses models."""

    async def active_of(self, model_id: ModelId) -> Sequence[str]: ...


class ChunkStore(Protocol):
    """What the chunks of stored files are, by the file's sha256."""

    async def add(self, chunks: Mapping[str, Chunks]) -> None: ...
    async def of(self, sha256s: Collection[str]) -> dict[str, Chunks]: ...


class Objects(Protocol):
    """Object storage."""

    def url_of(self, folder: str) -> str: ...
    def create(self, path: str, size_bytes: int) -> Sink: ...
    async def remove(self, folder: str) -> None: ...
    async def folders(self, folder: str) -> dict[str, datetime]: ...


class Work(Protocol):
    """One transaction, or one reading connection, with the stores on it."""

    @property
    def models(self) -> ModelStore: ...
    @property
    def chunks(self) -> ChunkStore: ...
    @property
    def deployments(self) -> ModelUsage: ...
    async def commit(self, *events: object) -> None: ...


class UnitOfWork(Protocol):
    """Opens transactions, and connections that only read."""

    def __call__(self, caller: Caller) -> AbstractAsyncContextManager[Work]: ...
    def reading(self, caller: Caller) -> AbstractAsyncContextManager[Work]: ...


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import answers. `existed`: the same files were there under this name; nothing was stored."""

    model: Model
    existed: bool


class Models:
    """The models of organisations."""

    def __init__(self, unit_of_work: UnitOfWork, objects: Objects, clock: Clock, deleted: Wake) -> None:
        self._unit_of_work = unit_of_work
        self._objects = objects
        self._clock = clock
        self._deleted = deleted
        self._places = asyncio.Semaphore(PARALLEL_UPLOADS)

    async def get(self, caller: Caller, model: str) -> Model:
        """One model, by id or by name."""
        async with self._unit_of_work.reading(caller) as work:
            return await work.models.get(model, caller)

    async def page(
        self, caller: Caller, page: PageRequest, framework: Framework | None, task: Task | None
    ) -> Page[Model]:
        """The models that the caller sees, newest first."""
        async with self._unit_of_work.reading(caller) as work:
            return await work.models.page(caller, page, framework, task)

    async def files(self, caller: Caller, model: str, page: PageRequest) -> Page[ModelFile]:
        """The files of a model, by path."""
        async with self._unit_of_work.reading(caller) as work:
            found = await work.models.get(model, caller)
            return await work.models.files(found.model_id, page)

    async def import_model(self, caller: Caller, upload: Upload, chunks: AsyncIterator[bytes]) -> Imported:
        """Stores an upload as a new model; the same files under the same name answer the model that is there.

        Nothing of a refused upload stays: its objects are removed here, and by the sweep where that fails.
        """
        manifest.check(upload)
        onnx.check_upload(upload)
        async with self._unit_of_work.reading(caller) as work:
            existing = await work.models.find(caller.org_id, upload.name)
        if existing is not None:
            return _same(existing, upload)
        model_id = ModelId(new_id("model"))
        async with self._places:
            return await self._store(caller, model_id, upload, chunks)

    async def delete(self, caller: Caller, model: str) -> None:
        """Takes a model out of the registry; its objects follow. ModelInUseError while it is deployed."""
        async with self._unit_of_work(caller) as work:
            found = await work.models.get(model, caller, lock=True)
            deployments = await work.deployments.active_of(found.model_id)
            if deployments:
                raise ModelInUseError(found.model_id, deployments)
            now = self._clock.now()
            await work.models.save_deleted(found.delete(now))
            await work.commit(ModelDeleted(found.model_id, found.org_id, caller.user_id, now))
        self._deleted.set()

    async def _store(self, caller: Caller, model_id: ModelId, upload: Upload, chunks: AsyncIterator[bytes]) -> Imported:
        begun, kept = self._clock.monotonic(), False
        try:
            contents = await receive(upload, chunks, self._objects, f"{FOLDER}/{model_id}")
            model = self._describe(caller, model_id, upload, contents)
            imported = await self._add(caller, model, upload, contents, self._clock.monotonic() - begun)
            kept = imported.model.model_id == model_id
            return imported
        finally:
            if not kept:
                await self._discard(model_id)

    async def _discard(self, model_id: ModelId) -> None:
        """Removes what an import stored, unless its row was committed after all; what stays now is swept later."""
        with suppress(UnavailableError, StorageUnavailableError):
            async with self._unit_of_work.reading(SYSTEM) as work:
                committed = await work.models.known([model_id])
            if not committed:
                await self._objects.remove(f"{FOLDER}/{model_id}")

    async def _add(
        self, caller: Caller, model: Model, upload: Upload, contents: Contents, duration_seconds: float
    ) -> Imported:
        async with self._unit_of_work(caller) as work:
            if await work.models.add(model, upload.files):
                await work.chunks.add(contents.chunks)
                await work.commit(ModelDownloaded(model, duration_seconds, self._clock.now()))
                return Imported(model, existed=False)
            # Somebody imported under this name while the bytes came.
            other = await work.models.find(model.org_id, model.name)
            if other is None:
                raise ModelNotFoundError(model.name)
            return _same(other, upload)

    def _describe(self, caller: Caller, model_id: ModelId, upload: Upload, contents: Contents) -> Model:
        now = self._clock.now()
        architecture = _architecture(contents)
        weights_bytes = contents.weights_bytes or _unread_weights_bytes(upload)
        return Model(
            model_id=model_id,
            name=upload.name,
            org_id=caller.org_id,
            user_id=caller.user_id,
            description=upload.description,
            source=upload.source,
            source_url=upload.source_url,
            framework=upload.framework,
            model_format=manifest.model_format([file.path for file in upload.files]),
            task=upload.task,
            minio_path=self._objects.url_of(f"{FOLDER}/{model_id}"),
            size_mb=megabytes(sum(file.size_bytes for file in upload.files)),
            version=upload.version,
            min_gpu_memory=memory.min_gpu_memory_mb(weights_bytes, architecture),
            min_vram=memory.min_vram_mb(weights_bytes),
            parameters=contents.parameters,
            languages=upload.languages,
            license=upload.license,
            digest=upload.digest,
            weights_bytes=weights_bytes,
            architecture=architecture,
            created_at=now,
            changed_at=now,
            tags=upload.tags,
            pickle_allowed=upload.pickle_allowed,
        )


def _same(model: Model, upload: Upload) -> Imported:
    if model.digest != upload.digest:
        raise ModelExistsError(model.name, model.model_id)
    return Imported(model, existed=True)


def _unread_weights_bytes(upload: Upload) -> int:
    """Weights of which only the size is known: ONNX graphs with their numbers, and pickles."""
    return sum(file.size_bytes for file in upload.files if manifest.is_onnx(file.path) or manifest.is_pickle(file.path))


def _architecture(contents: Contents) -> Architecture | None:
    if manifest.CONFIG not in contents.documents:
        return None
    found = architecture_of(read_config(contents.documents[manifest.CONFIG]))
    if found is None or found.dtype:
        return found
    return replace(found, dtype=_DTYPES.get(contents.dtype, ""))
