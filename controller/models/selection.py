"""Which files of a repository make the model: its weights in one format, and what belongs to them."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from controller.models.download import HubFile, Repository, Wanted
from controller.models.manifest import (
    INDEX,
    LARGEST_DOCUMENT,
    is_onnx,
    is_pickle,
    is_safetensors,
    is_weights,
    problem_of,
)
from controller.models.model import FileNotAllowedError, Framework, NotAModelError
from mesh.gguf.description import is_gguf, parts_of

# Where exporters put the graph, the usual place first.
GRAPHS = ("model.onnx", "onnx/model.onnx")
# GGUF files that are no model of their own: a picture model's eyes, and what a quantisation was tuned with.
_COMPANIONS = re.compile(r"mmproj|imatrix", re.IGNORECASE)
_MOST_NAMED = 30
# Pickles that training leaves behind and nobody serves.
_TRAINING = ("optimizer", "scheduler", "training_args", "rng_state", "scaler", "trainer_state")


@dataclass(frozen=True, slots=True)
class Selection:
    """What is downloaded and what is left out."""

    files: tuple[HubFile, ...]
    skipped: tuple[str, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes of the files to download."""
        return sum(file.size_bytes for file in self.files)


def select(repository: Repository, wanted: Wanted) -> Selection:
    """The files to download. FileNotAllowedError for weights that are pickles alone, NotAModelError without any."""
    if wanted.framework is Framework.LLAMACPP:
        files = _one_gguf(repository, wanted.quantization)
        return _selection(repository, [*files, *(file for file in repository.files if _belongs(file))])
    holds = _weights_test(repository, wanted)
    files = [file for file in repository.files if holds(file.path) or (_belongs(file) and not _is_index(file, holds))]
    repository_of_triton = any(file.path == "config.pbtxt" for file in files)
    if holds is is_onnx and wanted.framework is Framework.TRITON and not repository_of_triton:
        files = _one_graph(files)
    return _selection(repository, files)


def _selection(repository: Repository, files: Sequence[HubFile]) -> Selection:
    chosen = {file.path for file in files}
    skipped = tuple(file.path for file in repository.files if file.path not in chosen)
    return Selection(tuple(sorted(files, key=lambda file: file.path)), skipped)


def _weights_test(repository: Repository, wanted: Wanted) -> Callable[[str], bool]:
    """What tells the weights to take: safetensors first, or ONNX for Triton, and pickles last."""
    paths = [file.path for file in repository.files if not _hidden(file.path) and not problem_of(file.path)]
    formats = [is_onnx, is_weights] if wanted.framework is Framework.TRITON else [is_weights, is_onnx]
    for holds in formats:
        if any(holds(path) for path in paths):
            return holds
    if not any(_is_served_pickle(path) for path in paths):
        if any(is_gguf(path) for path in paths):
            raise NotAModelError(
                f"{repository.repo} has its weights in GGUF files; download it with framework llamacpp",
                repo=repository.repo,
            )
        raise NotAModelError(
            f"{repository.repo} has no weights that can be served: no *.safetensors and no *.onnx; choose a repository "
            "that has them",
            repo=repository.repo,
        )
    if not wanted.allow_pickle:
        raise FileNotAllowedError(
            f"{repository.repo} has its weights as pickles alone, which run code when they are loaded; choose a "
            "repository with safetensors, or let an owner download it with allow_pickle",
            repo=repository.repo,
        )
    return _is_served_pickle


def _one_gguf(repository: Repository, quantization: str) -> list[HubFile]:
    """All parts of the one GGUF model that is meant, at the top. NotAModelError with those there are."""
    models: dict[str, list[HubFile]] = {}
    for file in repository.files:
        if is_gguf(file.path) and not _hidden(file.path) and not _COMPANIONS.search(file.path):
            models.setdefault(parts_of(file.path)[0], []).append(file)
    if not models:
        raise NotAModelError(f"{repository.repo} has no *.gguf file", repo=repository.repo)
    # Of names that end alike the shortest is the plain one.
    fitting = sorted(
        (path for path in models if _is_quantized_so(path, quantization)), key=lambda path: (len(path), path)
    )
    if not fitting or (len(fitting) > 1 and not quantization):
        named, problem = ", ".join(sorted(models)[:_MOST_NAMED]), "no such model" if quantization else "several models"
        raise NotAModelError(
            f"{repository.repo} has {problem}; name the quantization of one of: {named}", repo=repository.repo
        )
    return [replace(file, stored_as=PurePosixPath(file.path).name) for file in models[fitting[0]]]


def _is_quantized_so(path: str, quantization: str) -> bool:
    """Whether the file is named by the quantisation, at its end or by its folder's name."""
    wanted, file = quantization.lower(), PurePosixPath(path.lower())
    stem = re.sub(r"-\d{5}-of-\d{5}$", "", file.stem)
    return stem == wanted or stem.endswith(tuple(f"{mark}{wanted}" for mark in "-._")) or file.parent.name == wanted


def _one_graph(files: Sequence[HubFile]) -> list[HubFile]:
    """Triton serves one graph, `model.onnx` at the top: the repository's own, or that of its folder of exports."""
    graphs = [file.path for file in files if file.path.endswith(".onnx")]
    graph = next((path for path in GRAPHS if path in graphs), graphs[0])
    # Numbers beside a graph are called by its name, and the graph names them without their folder.
    kept = [file for file in files if not is_onnx(file.path) or file.path.startswith(graph)]
    folder = graph.rpartition("/")[0]
    moved = {graph: GRAPHS[0]}
    return [
        replace(file, stored_as=moved.get(file.path, file.path.removeprefix(f"{folder}/")))
        if is_onnx(file.path)
        else file
        for file in kept
    ]


def _belongs(file: HubFile) -> bool:
    """Whether a file that holds no weights is part of the model: configuration, tokenizer, card."""
    weights = is_safetensors(file.path) or is_onnx(file.path) or is_gguf(file.path) or is_pickle(file.path)
    document = file.path.endswith(".json") and file.size_bytes > 8 * LARGEST_DOCUMENT
    return not weights and not document and not _hidden(file.path) and not problem_of(file.path)


def _is_index(file: HubFile, holds: Callable[[str], bool]) -> bool:
    """Whether it lists shards of weights that are left out."""
    return file.path == INDEX and holds is not is_weights


def _is_served_pickle(path: str) -> bool:
    return is_pickle(path) and "/" not in path and not path.startswith(_TRAINING)


def _hidden(path: str) -> bool:
    return any(part.startswith(".") for part in PurePosixPath(path).parts)
