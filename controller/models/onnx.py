"""Holds an ONNX upload for Triton against what can be served: its graph and its `serving.json`."""

from collections.abc import Collection

from controller.models.model import Framework, NotAModelError, Upload
from mesh.onnx.graph import Graph, OnnxError, OnnxReader
from mesh.onnx.serving import LARGEST_SERVING, MODEL, SERVING, ServingError, serving_of

REPOSITORY = "config.pbtxt"


class GraphReader:
    """Takes a `model.onnx` as it comes and keeps what its graph takes and gives. Raises NotAModelError."""

    def __init__(self) -> None:
        self._reader = OnnxReader()

    async def feed(self, content: bytes) -> None:
        """The next bytes."""
        try:
            self._reader.feed(content)
        except OnnxError as error:
            raise _unsound(error) from error

    def finish(self) -> Graph:
        """What was read."""
        try:
            return self._reader.finish()
        except OnnxError as error:
            raise _unsound(error) from error


def is_read(upload: Upload, path: str) -> bool:
    """Whether the file is the graph that Triton will serve."""
    return upload.framework is Framework.TRITON and path == MODEL


def check_upload(upload: Upload) -> None:
    """Says which files are missing before a byte is sent. Raises NotAModelError."""
    if upload.framework is not Framework.TRITON:
        return
    paths = {file.path for file in upload.files}
    if not paths & {MODEL, REPOSITORY}:
        raise NotAModelError(
            f"Triton serves a {MODEL} or a model repository with a {REPOSITORY} at the top; the upload has neither",
            missing=MODEL,
        )
    large = next((file for file in upload.files if file.path == SERVING and file.size_bytes > LARGEST_SERVING), None)
    if large:
        raise NotAModelError(f"{SERVING} is larger than {LARGEST_SERVING} bytes", path=SERVING)


def check_graph(graph: Graph, serving: bytes, paths: Collection[str]) -> None:
    """Whether the graph can be served as `serving.json` says, and all of its weights are there. NotAModelError."""
    missing = sorted(graph.external_files - set(paths))
    if missing:
        named = ", ".join(missing[:10])
        raise NotAModelError(f"{MODEL} keeps weights in files that the upload lacks: {named}", missing=named)
    try:
        serving_of(graph, serving)
    except ServingError as error:
        raise NotAModelError(str(error), path=SERVING if serving else MODEL) from error


def _unsound(error: OnnxError) -> NotAModelError:
    return NotAModelError(f"{MODEL} cannot be served: {error}", path=MODEL)
