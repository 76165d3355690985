"""Holds an upload for llama.cpp against what it can serve: one model in GGUF files, whose headers tell the truth."""

import asyncio

from controller.models.model import Architecture, Framework, GgufInvalidError, NotAModelError, Upload
from controller.models.safetensors import Tensors
from mesh.gguf.description import Description, describe, is_gguf, parts_of
from mesh.gguf.header import GgufError, Header, HeaderReader

# What llama.cpp keeps its cache in when nothing is said.
_CACHE_DTYPE = "float16"


class GgufReader:
    """Takes a file's bytes as they come, keeps no more than the header, and says what is wrong with it."""

    def __init__(self, path: str, file_size: int) -> None:
        self._path = path
        self._reader = HeaderReader(file_size)

    async def feed(self, content: bytes) -> None:
        """The next bytes. GgufInvalidError as soon as the header is known to be wrong."""
        if self._reader.complete:
            return
        try:
            # A vocabulary is many small steps.
            await asyncio.to_thread(self._reader.feed, content)
        except GgufError as error:
            raise GgufInvalidError(self._path, str(error)) from error

    def finish(self) -> tuple[Tensors, Description]:
        """What the file holds. GgufInvalidError when it is no model, or not the part that its name says."""
        try:
            header = self._reader.finish()
        except GgufError as error:
            raise GgufInvalidError(self._path, str(error)) from error
        problem = _problem(self._path, header)
        if problem:
            raise GgufInvalidError(self._path, problem)
        return Tensors(header.parameters, header.size_bytes), describe(header)


def is_model(path: str) -> bool:
    """Whether llama.cpp is given the file: one at the top."""
    return is_gguf(path) and "/" not in path


def check_upload(upload: Upload) -> None:
    """Says what is missing or too much before a byte is sent. Raises NotAModelError."""
    models = sorted(file.path for file in upload.files if is_model(file.path))
    if upload.framework is not Framework.LLAMACPP:
        if models and all(is_model(file.path) or not file.path.endswith(".safetensors") for file in upload.files):
            raise NotAModelError(f"{models[0]} is served by llama.cpp: import it with framework llamacpp")
        return
    if not models:
        raise NotAModelError("llama.cpp serves a *.gguf file at the top; the upload has none", missing="*.gguf")
    wanted = parts_of(models[0])
    missing = ", ".join(sorted(set(wanted) - set(models))[:10])
    if missing:
        raise NotAModelError(f"the model was split, and the upload lacks {missing}", missing=missing)
    if len(models) > len(wanted):
        named = ", ".join(models[:10])
        raise NotAModelError(f"a model is one GGUF file, or the parts of one; the upload has {named}", files=named)


def architecture_of(description: Description) -> Architecture | None:
    """What the model's memory depends on; None when its header does not say enough."""
    said = description
    if not (said.layers and said.heads and said.context and said.head_dim):
        return None
    return Architecture(
        said.layers,
        said.kv_heads,
        said.head_dim,
        said.context,
        _CACHE_DTYPE,
        said.heads,
        said.architecture,
        said.quantization,
        chat_template=bool(said.chat_template),
    )


def _problem(path: str, header: Header) -> str:
    parts, number = len(parts_of(path)), header.values.get("split.no", 0)
    if header.values.get("split.count", 0) not in ((0, 1) if parts == 1 else (parts,)):
        return f"it is one of {header.values['split.count']} parts, and its name does not say so"
    if parts > 1 and parts_of(path)[int(number) if isinstance(number, int) and number < parts else 0] != path:
        return f"it is part {number}, counted from 0, and its name says another"
    kind = header.values.get("general.type", "model")
    if kind != "model":
        return f"it is no model but {kind!r}"
    # The first part alone describes the model, and may hold no tensor.
    if number == 0 and not header.values.get("general.architecture"):
        return "it does not say its general.architecture"
    return "" if header.tensors or parts > 1 else "it holds no tensor"
