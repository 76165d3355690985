"""A model, the files it is made of, and the reasons why a directory is no model."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum
from typing import NewType

from mesh.errors import DomainError, Kind
from mesh.identity import OrgId, UserId

ModelId = NewType("ModelId", str)
MIB = 1024 * 1024
# The folder of object storage that files lie in, by what is in them.
BLOBS = "blobs"


class Source(Enum):
    """Where a model came from."""

    HUGGINGFACE = "huggingface"
    CUSTOM = "custom"


class Framework(Enum):
    """What serves a model."""

    TRITON = "triton"
    VLLM = "vllm"
    CUSTOM = "custom"
    LLAMACPP = "llamacpp"


class ModelFormat(Enum):
    """How a model's weights are written."""

    PYTORCH = "pytorch"
    ONNX = "onnx"
    TENSORRT = "tensorrt"
    GGUF = "gguf"


class Task(Enum):
    """What a model is for."""

    ASR = "asr"
    TTS = "tts"
    CV = "cv"
    LLM = "llm"
    NLP = "nlp"


class ModelNotFoundError(DomainError):
    """There is no such model, or none that the caller may see."""

    kind, reason = Kind.NOT_FOUND, "MODEL_NOT_FOUND"

    def __init__(self, model: str) -> None:
        super().__init__(f"there is no model {model}; GET /models lists those there are", model=model)


class ModelExistsError(DomainError):
    """The organisation has another model of that name."""

    kind, reason = Kind.EXISTS, "MODEL_EXISTS"

    def __init__(self, name: str, model_id: str) -> None:
        super().__init__(
            f"there is a model {name!r} ({model_id}) with other files; import them as its new revision, under another "
            "name, or delete it first",
            name=name,
            model_id=model_id,
        )


class ModelInUseError(DomainError):
    """The model is deployed."""

    kind, reason = Kind.PRECONDITION, "MODEL_IN_USE"

    def __init__(self, model_id: str, deployments: Sequence[str]) -> None:
        named = ", ".join(deployments)
        super().__init__(
            f"model {model_id} is deployed as {named}; stop that first", model_id=model_id, deployments=named
        )


class NotAModelError(DomainError):
    """The upload lacks something that every model has."""

    kind, reason = Kind.INVALID, "NOT_A_MODEL"


class FileNotAllowedError(DomainError):
    """The upload has a file that no model may have."""

    kind, reason = Kind.INVALID, "FILE_NOT_ALLOWED"


class SafetensorsInvalidError(DomainError):
    """A safetensors file is truncated or its header does not tell the truth."""

    kind, reason = Kind.INVALID, "SAFETENSORS_INVALID"

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path} is no sound safetensors file: {problem}", path=path)


class GgufInvalidError(DomainError):
    """A GGUF file is truncated, is no model, or its header does not tell the truth."""

    kind, reason = Kind.INVALID, "GGUF_INVALID"

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path} is no sound GGUF model: {problem}", path=path)


class ChecksumMismatchError(DomainError):
    """The bytes of a file are not those that the manifest announced."""

    kind, reason = Kind.INVALID, "CHECKSUM_MISMATCH"

    def __init__(self, path: str, expected: str, actual: str) -> None:
        super().__init__(
            f"{path} has the sha256 {actual}, the manifest says {expected}; the file changed or was damaged on its way",
            path=path,
            expected=expected,
            actual=actual,
        )


class UploadIncompleteError(DomainError):
    """The upload ended early, or went on after its end."""

    kind, reason = Kind.INVALID, "UPLOAD_INCOMPLETE"


class StorageUnavailableError(DomainError):
    """The object storage does not do what it was asked for."""

    kind, reason = Kind.UNAVAILABLE, "STORAGE_UNAVAILABLE"


@dataclass(frozen=True, slots=True)
class ModelFile:
    """One file of a model. `path` is relative, with forward slashes; `sha256` in lower-case hex.

    `object_path` is where object storage has it, below its URL; empty where that does not matter.
    """

    path: str
    size_bytes: int
    sha256: str
    object_path: str = ""


@dataclass(frozen=True, slots=True)
class Chunks:
    """The parts of a stored file: each `size_bytes` long but the last, their sha256 in order, 32 bytes each."""

    size_bytes: int
    sha256s: bytes


@dataclass(frozen=True, slots=True)
class Architecture:
    """What a decoder's memory depends on, as its files say; `dtype` like "bfloat16", empty when not said.

    `heads` are those of attention, 0 where an earlier version did not keep them. `family`, `quantization` and whether
    there is a `chat_template` are what the header of a GGUF file says.
    """

    layers: int
    kv_heads: int
    head_dim: int
    context: int
    dtype: str = ""
    heads: int = 0
    family: str = ""
    quantization: str = ""
    chat_template: bool = False


@dataclass(frozen=True, slots=True)
class Upload:
    """What an import announces before the bytes: the model's description and every file, in the order of the bytes."""

    name: str
    files: tuple[ModelFile, ...]
    framework: Framework = Framework.VLLM
    task: Task = Task.LLM
    version: str = "1.0.0"
    description: str = ""
    license: str = ""
    languages: tuple[str, ...] = ()
    source_url: str = ""
    tags: tuple[str, ...] = ()
    pickle_allowed: bool = False
    downloaded: bool = False
    new_revision: bool = False

    @property
    def source(self) -> Source:
        """Whose model it is: the hub's when it came from there, or its URL says so."""
        if self.downloaded:
            return Source.HUGGINGFACE
        host = self.source_url.partition("://")[2].partition("/")[0]
        return Source.HUGGINGFACE if host in ("huggingface.co", "hf.co") else Source.CUSTOM

    @property
    def digest(self) -> str:
        """The sha256 of the manifest, whatever its order: the revision of the artefact."""
        lines = sorted(f"{file.sha256} {file.size_bytes} {file.path}\n" for file in self.files)
        return hashlib.sha256("".join(lines).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Model:
    """A model of the registry. Sizes in megabytes (2²⁰ bytes), rounded up; `digest` is the sha256 of its manifest.

    `parameters` and `weights_bytes` are counted in the headers of the weights; `architecture` is None when the files
    do not say enough to know the size of a KV cache.
    """

    model_id: ModelId
    name: str
    org_id: OrgId
    user_id: UserId
    description: str
    source: Source
    source_url: str
    framework: Framework
    model_format: ModelFormat
    task: Task
    minio_path: str
    size_mb: int
    version: str
    min_gpu_memory: int
    min_vram: int
    parameters: int
    languages: tuple[str, ...]
    license: str
    digest: str
    weights_bytes: int
    architecture: Architecture | None
    created_at: datetime
    changed_at: datetime
    deleted_at: datetime | None = None
    tags: tuple[str, ...] = ()
    pickle_allowed: bool = False

    @property
    def storage_url(self) -> str:
        """What the paths of the files' objects lie below."""
        return self.minio_path.removesuffix(f"/{BLOBS}")

    def continued_by(self, upload: Upload) -> bool:
        """Whether the upload may become this model's newest revision: it says so, or comes from the same repository."""
        repository = upload.source_url.rpartition("/tree/")[0]
        same = bool(repository) and self.source_url.rpartition("/tree/")[0] == repository
        return upload.new_revision or (upload.downloaded and same)

    def delete(self, now: datetime) -> "Model":
        """Out of the registry; its files follow."""
        return replace(self, deleted_at=now, changed_at=now)


@dataclass(frozen=True, slots=True)
class ModelDownloaded:
    """An import is complete."""

    model: Model
    duration_seconds: float
    at: datetime


@dataclass(frozen=True, slots=True)
class ModelDeleted:
    """A model left the registry."""

    model_id: ModelId
    org_id: OrgId
    deleted_by: UserId
    at: datetime


def megabytes(size_bytes: int) -> int:
    """Bytes in units of 2²⁰, rounded up, and never 0 for something."""
    return -(-size_bytes // MIB)
