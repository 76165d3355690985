"""How an ONNX model is to be served: `serving.json` beside it, held against its graph.

Without that file clients send the graph's own tensors. `input` of kind `image` or `audio` and `output` of kind `labels`
or `ctc` name steps that the server takes for them, so that clients send a picture or a recording and read words.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from mesh.onnx.graph import ANY, Graph, Tensor

MODEL = "model.onnx"
SERVING = "serving.json"
LARGEST_SERVING = 1024 * 1024
_MOST_IN_A_BATCH = 4096
_LONGEST_DELAY_US = 10_000_000
_SECTIONS = {"batching", "instances", "input", "output"}
_BATCHING = {"max_batch_size", "preferred_batch_sizes", "max_queue_delay_us"}
_FLOATS = ("FP32", "FP16")
# What may be chosen anew for each deployment.
OPTIONS = frozenset({*_BATCHING, "instances"})


class ServingError(ValueError):
    """The model cannot be served as `serving.json` says; the message says what to change."""


@dataclass(frozen=True, slots=True)
class Batching:
    """How requests share an execution. `max_batch_size` 0 runs each alone."""

    max_batch_size: int = 16
    preferred_batch_sizes: tuple[int, ...] = ()
    max_queue_delay_us: int = 1_000


@dataclass(frozen=True, slots=True)
class Serving:
    """What clients send and get, and how it runs. Shapes without the batch where `batching` allows one.

    `steps` is what the server has to do besides running the graph, as `serving.json` says it; empty for plain tensors.
    """

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    batching: Batching
    instances: int = 1
    steps: Mapping[str, Any] | None = None


def serving_of(graph: Graph, document: bytes = b"", chosen: Mapping[str, str] | None = None) -> Serving:
    """How the graph is served under that `serving.json`; `chosen` options come first. Raises ServingError."""
    if not graph.inputs or not graph.outputs:
        raise ServingError("the graph has no inputs or no outputs")
    asked = _with_chosen(_document(document), chosen or {})
    batching = _batching(asked.get("batching"), graph)
    instances = _whole(asked, "instances", 1, 64, 1)
    serving = _plain(graph, batching, instances)
    if "input" not in asked and "output" not in asked:
        return serving
    return _with_steps(graph, serving, asked)


def _document(content: bytes) -> dict[str, Any]:
    if not content:
        return {}
    try:
        asked = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ServingError(f"{SERVING} is not readable JSON: {error}") from error
    if not isinstance(asked, dict):
        raise ServingError(f"{SERVING} must hold a JSON object")
    _only(asked, _SECTIONS, SERVING)
    return asked


def _with_chosen(asked: dict[str, Any], chosen: Mapping[str, str]) -> dict[str, Any]:
    """The document with the options written into their places."""
    try:
        numbers = {name: [int(each) for each in text.split(",")] for name, text in chosen.items()}
    except ValueError:
        named = ", ".join(f"{name}={text}" for name, text in chosen.items())
        raise ServingError(f"options are whole numbers, preferred_batch_sizes several with commas: {named}") from None
    values = {name: found if name == "preferred_batch_sizes" else found[0] for name, found in numbers.items()}
    batching = {name: value for name, value in values.items() if name in _BATCHING}
    instances = {name: value for name, value in values.items() if name not in _BATCHING}
    if not batching:
        return asked | instances
    before = asked.get("batching", {})
    if not isinstance(before, dict):
        return asked
    # Sizes that were preferred under another maximum mean nothing under this one.
    kept = {} if "max_batch_size" in batching else {"preferred_batch_sizes": before.get("preferred_batch_sizes", [])}
    section = {name: value for name, value in before.items() if name != "preferred_batch_sizes"}
    return asked | instances | {"batching": section | kept | batching}


def _batching(asked: Any, graph: Graph) -> Batching:
    """Requests may share an execution where every tensor leaves its first size open."""
    tensors = (*graph.inputs, *graph.outputs)
    fixed = next((tensor for tensor in tensors if not tensor.shape or tensor.shape[0] != ANY), None)
    usual = Batching(max_batch_size=0) if fixed else Batching()
    if asked is None:
        return usual
    section = _section(asked, "batching", _BATCHING)
    most = _whole(section, "max_batch_size", 0, _MOST_IN_A_BATCH, usual.max_batch_size)
    if most and fixed:
        raise ServingError(
            f"batching needs tensors whose first size is open; {fixed} has a fixed one: export the model with a "
            "dynamic first axis, or set max_batch_size to 0"
        )
    delay = _whole(section, "max_queue_delay_us", 0, _LONGEST_DELAY_US, usual.max_queue_delay_us)
    preferred = section.get("preferred_batch_sizes", [])
    sound = isinstance(preferred, list) and all(_is_whole(size) and 0 < size <= most for size in preferred)
    if not sound:
        raise ServingError(f"preferred_batch_sizes must be numbers from 1 to max_batch_size ({most})")
    return Batching(most, tuple(preferred), delay)


def _plain(graph: Graph, batching: Batching, instances: int) -> Serving:
    first = 1 if batching.max_batch_size else 0
    return Serving(
        tuple(replace(tensor, shape=tensor.shape[first:]) for tensor in graph.inputs),
        tuple(replace(tensor, shape=tensor.shape[first:]) for tensor in graph.outputs),
        batching,
        instances,
    )


def _with_steps(graph: Graph, plain: Serving, asked: Mapping[str, Any]) -> Serving:
    if len(graph.inputs) != 1 or len(graph.outputs) != 1 or not plain.batching.max_batch_size:
        raise ServingError("steps before and after the graph need one input, one output, and batching")
    steps = {"input": _input(asked.get("input"), graph.inputs[0]), "output": _output(asked.get("output"), graph)}
    kind = steps["input"]["kind"]
    inputs = (Tensor(kind, "BYTES", (1,)),) if kind != "tensor" else plain.inputs
    return replace(plain, inputs=inputs, outputs=_outputs(steps["output"], plain.outputs), steps=steps)


def _input(asked: Any, tensor: Tensor) -> dict[str, Any]:
    kind = asked.get("kind") if isinstance(asked, dict) else "tensor" if asked is None else ""
    if kind == "tensor":
        return {"kind": kind}
    if kind == "image":
        section = _section(asked, "input", {"kind", "mean", "std"})
        return {"kind": kind, **_image(section, tensor)}
    if kind == "audio":
        section = _section(asked, "input", {"kind", "sample_rate", "max_seconds"})
        if tensor.datatype not in _FLOATS or len(tensor.shape) != 2:
            raise ServingError(f"audio is fed to a float tensor [batch, samples]; the graph takes {tensor}")
        if tensor.shape[1] != ANY:
            raise ServingError(f"audio has any length; {tensor} has a fixed one")
        rate = _whole(section, "sample_rate", 1000, 192_000, 16_000)
        return {"kind": kind, "sample_rate": rate, "max_seconds": _whole(section, "max_seconds", 1, 3600, 30)}
    raise ServingError("input.kind must be tensor, image or audio")


def _image(section: Mapping[str, Any], tensor: Tensor) -> dict[str, Any]:
    shape = tensor.shape
    channels = shape[1] if len(shape) == 4 else 0
    if tensor.datatype not in _FLOATS or channels not in (1, 3) or ANY in shape[2:]:
        raise ServingError(
            f"an image is fed to a float tensor [batch, 1 or 3, height, width] of fixed size; the graph takes {tensor}"
        )
    mean, std = _numbers(section, "mean", channels, 0.0), _numbers(section, "std", channels, 1.0)
    if 0.0 in std:
        raise ServingError("input.std must not be 0")
    return {"channels": channels, "height": shape[2], "width": shape[3], "mean": mean, "std": std}


def _output(asked: Any, graph: Graph) -> dict[str, Any]:
    tensor = graph.outputs[0]
    kind = asked.get("kind") if isinstance(asked, dict) else "tensor" if asked is None else ""
    if kind == "tensor":
        return {"kind": kind}
    if kind == "labels":
        section = _section(asked, "output", {"kind", "labels", "top"})
        labels = _words(section, "labels", tensor, rank=2)
        return {"kind": kind, "labels": labels, "top": _whole(section, "top", 1, len(labels), min(3, len(labels)))}
    if kind == "ctc":
        section = _section(asked, "output", {"kind", "symbols", "blank"})
        symbols = _words(section, "symbols", tensor, rank=3)
        return {"kind": kind, "symbols": symbols, "blank": _whole(section, "blank", 0, len(symbols) - 1, 0)}
    raise ServingError("output.kind must be tensor, labels or ctc")


def _words(section: Mapping[str, Any], name: str, tensor: Tensor, rank: int) -> list[str]:
    """One word for each place of the output's last axis."""
    words = section.get(name)
    if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
        raise ServingError(f"output.{name} must be a list of strings")
    if tensor.datatype not in _FLOATS or len(tensor.shape) != rank or tensor.shape[-1] not in (ANY, len(words)):
        layout = "[batch, class]" if rank == 2 else "[batch, time, symbol]"
        raise ServingError(f"{len(words)} {name} need a float tensor {layout}; the graph gives {tensor}")
    return words


def _outputs(step: Mapping[str, Any], plain: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    if step["kind"] == "labels":
        return Tensor("label", "BYTES", (step["top"],)), Tensor("score", "FP32", (step["top"],))
    if step["kind"] == "ctc":
        return (Tensor("text", "BYTES", (1,)),)
    return plain


def _section(asked: Any, name: str, known: set[str]) -> dict[str, Any]:
    if not isinstance(asked, dict):
        raise ServingError(f"{name} must be a JSON object")
    _only(asked, known, name)
    return asked


def _only(asked: Mapping[str, Any], known: set[str], where: str) -> None:
    unknown = sorted(set(asked) - known)
    if unknown:
        raise ServingError(f"{where} has the unknown {', '.join(unknown)}; known are {', '.join(sorted(known))}")


def _whole(section: Mapping[str, Any], name: str, least: int, most: int, usual: int) -> int:
    value = section.get(name, usual)
    if not _is_whole(value) or not least <= value <= most:
        raise ServingError(f"{name} must be a whole number from {least} to {most}")
    return int(value)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _numbers(section: Mapping[str, Any], name: str, count: int, usual: float) -> list[float]:
    values = section.get(name, [usual] * count)
    if (
        not isinstance(values, list)
        or len(values) != count
        or not all(isinstance(each, int | float) for each in values)
    ):
        raise ServingError(f"input.{name} must be {count} numbers, one for each channel")
    return [float(each) for each in values]
