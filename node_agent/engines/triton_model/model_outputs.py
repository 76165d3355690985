"""From what the graph gives to what clients read: classes and words."""

from collections.abc import Callable
from typing import Any

import numpy as np

Step = dict[str, Any]


def writer(step: Step) -> Callable[[Any], list[Any]] | None:
    """A function from the graph's outputs to the client's, None where they are the same."""
    if step["kind"] == "labels":
        return lambda results: _labels(results[0], step)
    if step["kind"] == "ctc":
        return lambda results: [np.array([[_text(frames, step)] for frames in results[0]], dtype=object)]
    return None


def _labels(scores: Any, step: Step) -> list[Any]:
    """The best classes of each row, best first, and their scores."""
    best = np.argsort(-scores, axis=1)[:, : step["top"]]
    names = np.array([[step["labels"][place].encode() for place in row] for row in best], dtype=object)
    return [names, np.take_along_axis(scores, best, axis=1).astype(np.float32)]


def _text(frames: Any, step: Step) -> bytes:
    """The likeliest symbol of each frame, repetitions and blanks dropped.

    A. Graves et al., "Connectionist Temporal Classification", 2006, section 3.2, best path decoding.
    """
    path = frames.argmax(axis=1)
    kept = [place for before, place in zip([-1, *path[:-1]], path, strict=True) if place not in (before, step["blank"])]
    return "".join(step["symbols"][place] for place in kept).strip().encode()
