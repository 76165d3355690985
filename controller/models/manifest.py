"""Holds the announcement of an upload against what a model may be: paths, kinds of file, and what must be there."""

import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import PurePosixPath

from controller.models.model import FileNotAllowedError, ModelFile, ModelFormat, NotAModelError, Upload
from mesh.errors import FieldViolation, InvalidRequestError
from mesh.gguf.description import SUFFIX, is_gguf

CONFIG = "config.json"
# What a LoRA adapter has instead, in the layout of Hugging Face's PEFT.
ADAPTER_CONFIG = "adapter_config.json"
INDEX = "model.safetensors.index.json"
LONGEST_PATH = 512
LARGEST_FILE = 2**43
# What is read into memory while it passes: config.json and the index of shards.
LARGEST_DOCUMENT = 8 * 1024 * 1024
_MOST_VIOLATIONS = 20
_SEGMENT = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.+@=-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
# An ONNX graph, and what it keeps beside itself once it is larger than a protobuf message may be.
_ONNX = frozenset({".onnx", ".onnx_data"})
_WEIGHTS = {".safetensors", SUFFIX, *_ONNX}
_DOCUMENTS = {".json", ".jsonl", ".yaml", ".yml", ".txt", ".md", ".jinja", ".pbtxt", ".gitattributes"}
_TOKENIZERS = {".model", ".tiktoken", ".vocab", ".spm", ".bpe", ".merges"}
_ALLOWED = frozenset(_WEIGHTS | _DOCUMENTS | _TOKENIZERS)
_ALLOWED_NAMES = frozenset({"license", "licence", "notice", "readme", "authors", "copying", "use_policy"})
_PICKLE = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".dill"})
_PROGRAM = frozenset({".py", ".pyc", ".so", ".sh", ".dll", ".exe", ".ipynb", ".js"})


def check(upload: Upload) -> None:
    """Says what is wrong before a byte is sent.

    InvalidRequestError names each field at fault, FileNotAllowedError a file that no model may have, NotAModelError
    what is missing.
    """
    violations = list(_violations(upload.files))[:_MOST_VIOLATIONS]
    if violations:
        raise InvalidRequestError(*violations)
    for file in upload.files:
        _check_kind(file.path, pickle_allowed=upload.pickle_allowed)
    _check_complete(upload)


def is_safetensors(path: str) -> bool:
    """Whether the file holds weights."""
    return path.endswith(".safetensors")


def is_weights(path: str) -> bool:
    """Whether the file's weights are loaded: those beside config.json, and not other variants in folders below."""
    return is_safetensors(path) and "/" not in path


def is_onnx(path: str) -> bool:
    """Whether the file is an ONNX graph, or holds numbers of one."""
    return PurePosixPath(path).suffix.lower() in _ONNX


def is_pickle(path: str) -> bool:
    """Whether the file runs code when it is loaded."""
    return PurePosixPath(path).suffix.lower() in _PICKLE


def problem_of(path: str) -> str:
    """Why no model may have such a file, pickles apart; empty when it may."""
    return _path_problem(path) or ("" if is_pickle(path) else _kind_problem(path))


def model_format(paths: Collection[str]) -> ModelFormat:
    """How the weights are written."""
    if any(is_weights(path) for path in paths):
        return ModelFormat.PYTORCH
    if any(is_gguf(path) for path in paths):
        return ModelFormat.GGUF
    return ModelFormat.ONNX if any(is_onnx(path) for path in paths) else ModelFormat.PYTORCH


def missing_shards(index: object, upload: Upload) -> list[str]:
    """The files that the index of shards names and the upload lacks."""
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict):
        raise NotAModelError(f"{INDEX} has no weight_map", path=INDEX)
    present = {file.path for file in upload.files}
    return sorted({str(file) for file in weight_map.values()} - present)


def _violations(files: Sequence[ModelFile]) -> Iterator[FieldViolation]:
    first: dict[str, int] = {}
    for position, file in enumerate(files):
        where = f"header.files[{position}]"
        problem = _path_problem(file.path)
        if problem:
            yield FieldViolation(f"{where}.path", problem)
        # Some storage does not tell upper from lower case.
        earlier = first.setdefault(file.path.lower(), position)
        if earlier != position:
            yield FieldViolation(f"{where}.path", f"is the same file as files[{earlier}]: {file.path}")
        if not 0 <= file.size_bytes <= LARGEST_FILE:
            yield FieldViolation(f"{where}.size_bytes", f"must be a whole number from 0 to {LARGEST_FILE}")
        if not _SHA256.fullmatch(file.sha256):
            yield FieldViolation(f"{where}.sha256", "must be 64 hexadecimal digits")
    for path, position in first.items():
        if any(str(parent) in first for parent in PurePosixPath(path).parents):
            yield FieldViolation(f"header.files[{position}].path", "lies below a path that is a file")


def _path_problem(path: str) -> str:
    if not path or len(path) > LONGEST_PATH:
        return f"must have 1 to {LONGEST_PATH} characters"
    if path.startswith("/"):
        return "must be relative"
    if "\\" in path:
        return "must have forward slashes"
    segments = path.split("/")
    if ".." in segments or "." in segments or "" in segments:
        return "must not have empty, `.` or `..` parts"
    if not all(_SEGMENT.fullmatch(segment) for segment in segments):
        return "may have letters, digits and `_ . + @ = -` between its slashes"
    return ""


def _check_kind(path: str, *, pickle_allowed: bool) -> None:
    why = "" if pickle_allowed and is_pickle(path) else _kind_problem(path)
    if why:
        raise FileNotAllowedError(f"{path} cannot be imported: {why}", path=path)


def _kind_problem(path: str) -> str:
    name = PurePosixPath(path)
    suffix = name.suffix.lower() or (name.name if name.name.startswith(".") else "")
    if suffix in _ALLOWED or name.name.lower() in _ALLOWED_NAMES:
        return ""
    if suffix in _PICKLE:
        return "it is a pickle, which runs code when it is loaded; convert the weights to safetensors"
    if suffix in _PROGRAM:
        return "it is a program, and models bring no code of their own"
    return f"models are made of {', '.join(sorted(_ALLOWED))} files; leave it out"


def _check_complete(upload: Upload) -> None:
    paths = [file.path for file in upload.files]
    weights = any(is_weights(path) or (upload.pickle_allowed and is_pickle(path)) for path in paths)
    # A graph says all that there is to know of an ONNX model, and a GGUF file of its own.
    graphs = any(is_onnx(path) or is_gguf(path) for path in paths)
    described = CONFIG in paths or ADAPTER_CONFIG in paths
    missing = [] if described or (graphs and not weights) else [CONFIG]
    if not weights and not graphs:
        missing.append("*.safetensors, *.gguf or *.onnx")
    if missing:
        raise NotAModelError(
            f"the upload is no model: it has no {' and no '.join(missing)} at its top", missing=", ".join(missing)
        )
    for file in upload.files:
        if file.path in (CONFIG, INDEX) and file.size_bytes > LARGEST_DOCUMENT:
            raise NotAModelError(f"{file.path} is larger than {LARGEST_DOCUMENT} bytes", path=file.path)
