"""What the registry does: import, list, delete, and what it needs from storage."""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

from controller.models import gguf, manifest, memory, onnx
from controller.models.architecture import architecture_of, read_config
from controller.models.blobs import BlobStore, Placing
from controller.models.model import (
    BLOBS,
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
    Task,
    Upload,
    megabytes,
)
from controller.models.receive import Contents, Sink, receive
from controller.models.revision import Revision, RevisionChanged, at_revision, revision_of
from mesh.clock import Clock
from mesh.identity import Caller, OrgId, new_id
from mesh.loops import Wake
from mesh.sql.paging import Page, PageRequest

PARALLEL_UPLOADS = 8
# safetensors' names of types, in the spelling of config.json.
_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


class ModelStore(Protocol):
    async def get(self, model: str, caller: Caller, *, lock: bool = False) -> Model: ...
    async def find(self, org_id: OrgId, name: str, *, lock: bool = False) -> Model | None: ...
    async def page(
        self, caller: Caller, page: PageRequest, framework: Framework | None = None, task: Task | None = None
    ) -> Page[Model]: ...
    async def add(self, model: Model) -> bool: ...
    async def save(self, model: Model) -> None: ...
    async def save_deleted(self, model: Model) -> None: ...
    async def files(self, model_id: ModelId, digest: str, page: PageRequest) -> Page[ModelFile]: ...
    async def unpurged(self, limit: int) -> tuple[ModelId, ...]: ...
    async def save_purged(self, model_id: ModelId, now: datetime) -> None: ...
    async def known(self, model_ids: Collection[str]) -> frozenset[str]: ...


class RevisionStore(Protocol):
    async def add(self, revision: Revision, files: Sequence[ModelFile]) -> None: ...
    async def find(self, model_id: ModelId, digest: str) -> Revision | None: ...
    async def get(self, model: Model, name: str) -> Revision: ...
    async def latest_number(self, model_id: ModelId) -> int: ...
    async def page(self, model_id: ModelId, page: PageRequest) -> Page[Revision]: ...
    async def forget_files(self, model_id: ModelId) -> None: ...


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
    async def paths(self, folder: str) -> dict[str, datetime]: ...


class Work(Protocol):
    """One transaction, or one reading connection, with the stores on it."""

    @property
    def models(self) -> ModelStore: ...
    @property
    def chunks(self) -> ChunkStore: ...
    @property
    def revisions(self) -> RevisionStore: ...
    @property
    def blobs(self) -> BlobStore: ...
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

    async def files(self, caller: Caller, model: str, revision: str, page: PageRequest) -> Page[ModelFile]:
        """The files of a model's revision, of the current one when it is empty; by path."""
        async with self._unit_of_work.reading(caller) as work:
            found = await work.models.get(model, caller)
            digest = (await work.revisions.get(found, revision)).digest if revision else found.digest
            return await work.models.files(found.model_id, digest, page)

    async def revisions(self, caller: Caller, model: str, page: PageRequest) -> tuple[Model, Page[Revision]]:
        """The revisions of a model, newest first, and the model, which says which is current."""
        async with self._unit_of_work.reading(caller) as work:
            found = await work.models.get(model, caller)
            return found, await work.revisions.page(found.model_id, page)

    async def roll_back(self, caller: Caller, model: str, revision: str) -> Model:
        """Makes a revision current. What is deployed stays as it is. Can be repeated."""
        async with self._unit_of_work(caller) as work:
            before = await work.models.get(model, caller, lock=True)
            found = await work.revisions.get(before, revision)
            if found.digest == before.digest:
                return before
            now = self._clock.now()
            after = at_revision(before, found, now)
            await work.models.save(after)
            await work.commit(RevisionChanged(found, caller.user_id, now))
            return after

    async def import_model(self, caller: Caller, upload: Upload, chunks: AsyncIterator[bytes]) -> Imported:
        """Stores an upload as a new model, or as a revision of the one there is; the same files answer what is there.

        Nothing of a refused upload stays: its objects are removed here, and by the sweep where that fails.
        """
        manifest.check(upload)
        onnx.check_upload(upload)
        gguf.check_upload(upload)
        async with self._unit_of_work.reading(caller) as work:
            existing = await work.models.find(caller.org_id, upload.name)
            found = await _existing(work, existing, upload) if existing else None
        if found is not None:
            return found
        async with self._places:
            return await self._store(caller, upload, chunks)

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

    async def _store(self, caller: Caller, upload: Upload, chunks: AsyncIterator[bytes]) -> Imported:
        begun, placing = self._clock.monotonic(), Placing(self._unit_of_work, self._objects)
        try:
            contents = await receive(upload, chunks, placing)
            model = self._describe(caller, ModelId(new_id("model")), upload, contents)
            return await self._add(caller, model, upload, contents, self._clock.monotonic() - begun)
        finally:
            await placing.end()

    async def _add(
        self, caller: Caller, model: Model, upload: Upload, contents: Contents, duration_seconds: float
    ) -> Imported:
        async with self._unit_of_work(caller) as work:
            downloaded = ModelDownloaded(model, duration_seconds, self._clock.now())
            if await work.models.add(model):
                await work.revisions.add(revision_of(model, 1), upload.files)
                await work.chunks.add(contents.chunks)
                await work.commit(downloaded)
                return Imported(model, existed=False)
            # There was a model of this name, or somebody imported one while the bytes came.
            other = await work.models.find(model.org_id, model.name, lock=True)
            if other is None:
                raise ModelNotFoundError(model.name)
            found = await _existing(work, other, upload)
            if found is not None:
                return found
            newer = revision_of(
                replace(model, model_id=other.model_id), await work.revisions.latest_number(other.model_id) + 1
            )
            after = at_revision(other, newer, model.changed_at)
            await work.revisions.add(newer, upload.files)
            await work.chunks.add(contents.chunks)
            await work.models.save(after)
            await work.commit(
                replace(downloaded, model=after), RevisionChanged(newer, caller.user_id, model.changed_at)
            )
            return Imported(after, existed=False)

    def _describe(self, caller: Caller, model_id: ModelId, upload: Upload, contents: Contents) -> Model:
        now = self._clock.now()
        architecture = _architecture(upload, contents)
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
            minio_path=self._objects.url_of(BLOBS),
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


async def _existing(work: Work, model: Model, upload: Upload) -> Imported | None:
    """The model, when it has these files in a revision; None when they may become one. ModelExistsError."""
    if model.digest == upload.digest or await work.revisions.find(model.model_id, upload.digest):
        return Imported(model, existed=True)
    if not model.continued_by(upload):
        raise ModelExistsError(model.name, model.model_id)
    return None


def _unread_weights_bytes(upload: Upload) -> int:
    """Weights of which only the size is known: ONNX graphs with their numbers, and pickles."""
    return sum(file.size_bytes for file in upload.files if manifest.is_onnx(file.path) or manifest.is_pickle(file.path))


def _architecture(upload: Upload, contents: Contents) -> Architecture | None:
    if upload.framework is Framework.LLAMACPP:
        first = min(path for path in contents.described if gguf.is_model(path))
        return gguf.architecture_of(contents.described[first])
    if manifest.CONFIG not in contents.documents:
        return None
    found = architecture_of(read_config(contents.documents[manifest.CONFIG]))
    if found is None or found.dtype:
        return found
    return replace(found, dtype=_DTYPES.get(contents.dtype, ""))
