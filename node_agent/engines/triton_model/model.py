"""Runs an ONNX graph inside Triton, for servers without the ONNX backend and for models with steps around the graph.

Triton hands over the requests of one batch; they are joined along the first axis, run at once, and parted again. A
request that cannot be read gets an error of its own and leaves the others alone.
"""

import json
from collections.abc import Sequence
from typing import Any

# Beside this file, where Triton's stub looks for modules.
import model_inputs
import model_outputs
import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils

_PLAIN = {"kind": "tensor"}
_FLOATS = {"tensor(float16)": np.float16}

Feed = dict[str, Any]


class TritonPythonModel:
    """Triton's interface; one object for each instance."""

    def initialize(self, args: dict[str, str]) -> None:
        """Loads the graph. `args` are Triton's: the model's configuration as JSON, and the instance's kind."""
        config = json.loads(args["model_config"])
        parameters = {name: value["string_value"] for name, value in config["parameters"].items()}
        steps = json.loads(parameters["steps"])
        self._batched = config["max_batch_size"] > 0
        self._output_names = [tensor["name"] for tensor in config["output"]]
        self._session = _session(parameters["model"], int(parameters["threads"]), args["model_instance_kind"])
        first = self._session.get_inputs()[0]
        self._graph_input, self._dtype = first.name, _FLOATS.get(first.type, np.float32)
        self._graph_outputs = [tensor.name for tensor in self._session.get_outputs()]
        step = steps.get("input", _PLAIN)
        self._ragged = step["kind"] == "audio"
        self._read = model_inputs.reader(step)
        self._write = model_outputs.writer(steps.get("output", _PLAIN))

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answers each request of a batch, in their order."""
        answers: list[Any] = [None] * len(requests)
        groups: dict[Any, list[tuple[int, Feed]]] = {}
        for position, request in enumerate(requests):
            try:
                feed = self._feed(request)
            except ValueError as error:
                answers[position] = _refusal(str(error))
                continue
            groups.setdefault(self._group(position, feed), []).append((position, feed))
        for group in groups.values():
            for (position, _), answer in zip(group, self._run([feed for _, feed in group]), strict=True):
                answers[position] = answer
        return answers

    def _feed(self, request: Any) -> Feed:
        """What the graph takes of one request, by name."""
        given = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        if self._read is None:
            return {name: model_inputs.plain(tensor) for name, tensor in given.items()}
        return {self._graph_input: self._read(next(iter(given.values()))).astype(self._dtype)}

    def _group(self, position: int, feed: Feed) -> Any:
        """The same for requests that one run of the graph can answer."""
        if not self._batched:
            return position
        return None if self._ragged else tuple((name, feed[name].shape[1:]) for name in sorted(feed))

    def _run(self, feeds: Sequence[Feed]) -> list[Any]:
        joined = {name: model_inputs.join([feed[name] for feed in feeds]) for name in feeds[0]}
        results = self._session.run(self._graph_outputs, joined)
        results = self._write(results) if self._write else results
        answers, start = [], 0
        for feed in feeds:
            size = len(next(iter(feed.values())))
            parts = [result[start : start + size] for result in results] if self._batched else results
            tensors = [pb_utils.Tensor(*pair) for pair in zip(self._output_names, parts, strict=True)]
            answers.append(pb_utils.InferenceResponse(output_tensors=tensors))
            start += size
        return answers


def _refusal(text: str) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(text, pb_utils.TritonError.INVALID_ARG))


def _session(path: str, threads: int, kind: str) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Threads that wait for work sleep: engines share the cores with others.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    cuda = ["CUDAExecutionProvider"] if kind == "GPU" else []
    there = onnxruntime.get_available_providers()
    providers = [name for name in (*cuda, "CPUExecutionProvider") if name in there]
    return onnxruntime.InferenceSession(path, options, providers=providers)
