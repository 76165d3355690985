"""Models as protobuf messages and events, and uploads back."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime

from aiops.models.v1 import model_events_pb2 as events_pb
from aiops.models.v1 import model_pb2 as pb
from aiops.models.v1 import model_service_pb2 as service_pb
from aiops.types.v1 import owner_pb2
from google.protobuf.timestamp_pb2 import Timestamp

from controller.events import Encoding, Encodings
from controller.models.model import (
    Framework,
    Model,
    ModelDeleted,
    ModelDownloaded,
    ModelFile,
    ModelFormat,
    Source,
    Task,
    Upload,
)
from controller.models.revision import Revision, RevisionChanged, RevisionFacts
from mesh.clock import unix_ms
from mesh.errors import FieldViolation, InvalidRequestError

TOPIC = "aiops.models.v1"
# What the contract can say.
_LARGEST_CONTEXT = 2**32 - 1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SOURCES = {Source.HUGGINGFACE: pb.Model.huggingface, Source.CUSTOM: pb.Model.Source.custom}
_FORMATS = {
    ModelFormat.PYTORCH: pb.Model.pytorch,
    ModelFormat.ONNX: pb.Model.onnx,
    ModelFormat.TENSORRT: pb.Model.tensorrt,
    ModelFormat.GGUF: pb.Model.gguf,
}
_TASKS = {
    Task.ASR: pb.Model.asr,
    Task.TTS: pb.Model.tts,
    Task.CV: pb.Model.cv,
    Task.LLM: pb.Model.llm,
    Task.NLP: pb.Model.nlp,
}
_FRAMEWORKS = {
    Framework.TRITON: pb.Framework.triton,
    Framework.VLLM: pb.Framework.vllm,
    Framework.CUSTOM: pb.Framework.custom,
    Framework.LLAMACPP: pb.Framework.llamacpp,
}
_TASKS_READ = {number: task for task, number in _TASKS.items()}
_FRAMEWORKS_READ = {number: framework for framework, number in _FRAMEWORKS.items()}


def model_to_proto(model: Model) -> pb.Model:
    """A model of the registry."""
    return pb.Model(
        model_id=model.model_id,
        name=model.name,
        description=model.description,
        source=_SOURCES[model.source],
        source_url=model.source_url,
        framework=_FRAMEWORKS[model.framework],
        model_format=_FORMATS[model.model_format],
        task=_TASKS[model.task],
        minio_path=model.minio_path,
        size_mb=model.size_mb,
        version=model.version,
        min_gpu_memory=model.min_gpu_memory,
        min_vram=model.min_vram,
        metadata=_metadata(model),
        owner=owner_pb2.Owner(org_id=model.org_id, user_id=model.user_id),
        created_at=timestamp(model.created_at),
        changed_at=timestamp(model.changed_at),
        deleted_at=timestamp(model.deleted_at) if model.deleted_at else None,
        is_deleted=model.deleted_at is not None,
        digest=model.digest,
        pickle_allowed=model.pickle_allowed,
    )


def revision_to_proto(revision: Revision, model: Model) -> pb.ModelRevision:
    """One of the model's revisions."""
    facts = revision.facts
    return pb.ModelRevision(
        digest=revision.digest,
        number=revision.number,
        current=revision.digest == model.digest,
        size_mb=facts.size_mb,
        version=facts.version,
        metadata=_metadata(facts),
        source_url=facts.source_url,
        owner=owner_pb2.Owner(org_id=revision.org_id, user_id=revision.user_id),
        created_at=timestamp(revision.created_at),
    )


def file_to_proto(file: ModelFile) -> pb.ModelFile:
    """One file of a model."""
    return pb.ModelFile(path=file.path, size_bytes=file.size_bytes, sha256=file.sha256)


def framework_from_proto(framework: "pb.Framework.ValueType") -> Framework | None:
    """The framework to filter by; None for every one."""
    return _FRAMEWORKS_READ.get(framework)


def framework_to_proto(framework: Framework) -> "pb.Framework.ValueType":
    """A framework."""
    return _FRAMEWORKS[framework]


def task_from_proto(task: "pb.Model.Task.ValueType") -> Task | None:
    """The task to filter by; None for every one."""
    return _TASKS_READ.get(task)


async def upload_from_proto(requests: AsyncIterator[service_pb.ImportModelRequest]) -> Upload:
    """What the first message of an import announces. InvalidRequestError when it is no header."""
    async for request in requests:
        if request.WhichOneof("message") == "header":
            return _upload(request.header)
        break
    raise InvalidRequestError(FieldViolation("header", "must come first, before any chunk"))


async def chunks_from_proto(requests: AsyncIterator[service_pb.ImportModelRequest]) -> AsyncIterator[bytes]:
    """The bytes after the header. InvalidRequestError for a second header."""
    async for request in requests:
        if request.WhichOneof("message") != "chunk":
            raise InvalidRequestError(FieldViolation("header", "must come once"))
        yield request.chunk


def timestamp(moment: datetime) -> Timestamp:
    """A point in time."""
    span = moment - _EPOCH
    return Timestamp(seconds=span.days * 86_400 + span.seconds, nanos=span.microseconds * 1_000)


def _metadata(described: Model | RevisionFacts) -> pb.ModelMetadata:
    said = described.architecture
    return pb.ModelMetadata(
        parameters=described.parameters,
        languages=described.languages,
        license=described.license,
        tags=described.tags,
        architecture=said.family if said else "",
        quantization=said.quantization if said else "",
        context_length=min(said.context, _LARGEST_CONTEXT) if said else 0,
        chat_template=bool(said and said.chat_template),
    )


def _upload(header: service_pb.ImportHeader) -> Upload:
    return Upload(
        name=header.name,
        files=tuple(_file(position, file) for position, file in enumerate(header.files)),
        framework=_FRAMEWORKS_READ.get(header.framework, Framework.VLLM),
        task=_TASKS_READ.get(header.task, Task.LLM),
        version=header.version or "1.0.0",
        description=header.description,
        license=header.license,
        languages=tuple(header.languages),
        source_url=header.source_url,
        new_revision=header.new_revision,
    )


def _file(position: int, file: pb.ModelFile) -> ModelFile:
    if not file.size_bytes.is_integer():
        raise InvalidRequestError(FieldViolation(f"header.files[{position}].size_bytes", "must be a whole number"))
    return ModelFile(file.path, int(file.size_bytes), file.sha256.lower())


def _downloaded(event: ModelDownloaded) -> events_pb.ModelDownloaded:
    return events_pb.ModelDownloaded(
        type="system.modelDownloaded",
        model_id=event.model.model_id,
        size_mb=event.model.size_mb,
        duration_seconds=event.duration_seconds,
        timestamp=unix_ms(event.at),
    )


def _deleted(event: ModelDeleted) -> events_pb.ModelDeleted:
    return events_pb.ModelDeleted(
        type="system.modelDeleted",
        model_id=event.model_id,
        deleted_by=event.deleted_by,
        timestamp=unix_ms(event.at),
    )


def _revision_changed(event: RevisionChanged) -> events_pb.ModelRevisionChanged:
    return events_pb.ModelRevisionChanged(
        type="system.modelRevisionChanged",
        model_id=event.revision.model_id,
        digest=event.revision.digest,
        number=event.revision.number,
        changed_by=event.changed_by,
        timestamp=unix_ms(event.at),
    )


EVENTS: Encodings = {
    ModelDownloaded: Encoding("system.modelDownloaded", TOPIC, lambda event: str(event.model.model_id), _downloaded),
    RevisionChanged: Encoding(
        "system.modelRevisionChanged", TOPIC, lambda event: str(event.revision.model_id), _revision_changed
    ),
    ModelDeleted: Encoding("system.modelDeleted", TOPIC, lambda event: str(event.model_id), _deleted),
}
