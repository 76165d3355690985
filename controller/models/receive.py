"""Takes the bytes of an upload, checks each file as it passes and stores it; a part of it is in memory, never more."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Protocol

from controller.models.architecture import read_config
from controller.models.gguf import GgufReader, is_model
from controller.models.hashing import Digests
from controller.models.manifest import CONFIG, INDEX, is_safetensors, is_weights, missing_shards
from controller.models.model import (
    ChecksumMismatchError,
    Chunks,
    ModelFile,
    NotAModelError,
    Upload,
    UploadIncompleteError,
)
from controller.models.onnx import GraphReader, check_graph, is_read
from controller.models.safetensors import SafetensorsReader, Tensors
from mesh.gguf.description import Description, is_gguf
from mesh.onnx.graph import Graph
from mesh.onnx.serving import SERVING

# A client that sends nothing for so long is gone.
LONGEST_SILENCE_S = 60.0


class Sink(Protocol):
    async def write(self, content: bytes) -> None: ...
    async def close(self) -> Digests: ...


class Place(Protocol):
    """Where the files of an upload go."""

    async def open(self, file: ModelFile) -> Sink: ...
    async def keep(self, file: ModelFile) -> None: ...


@dataclass(slots=True)
class Contents:
    """What was found in the files on their way: the tensors of each weight file, and the documents that were read.

    `chunks` are those of each file, by the file's sha256, `described` is what each GGUF file says of itself.
    """

    tensors: dict[str, Tensors] = field(default_factory=dict)
    chunks: dict[str, Chunks] = field(default_factory=dict)
    documents: dict[str, bytes] = field(default_factory=dict)
    described: dict[str, Description] = field(default_factory=dict)
    graph: Graph | None = None

    @property
    def parameters(self) -> int:
        """Numbers in the weights."""
        return sum(each.parameters for each in self._weights()) + (self.graph.parameters if self.graph else 0)

    @property
    def weights_bytes(self) -> int:
        """Bytes of the weights."""
        return sum(each.size_bytes for each in self._weights())

    @property
    def dtype(self) -> str:
        """The type of most of the weights, in safetensors' spelling."""
        sizes = Counter[str]()
        for each in self._weights():
            sizes[each.dtype] += each.size_bytes
        return sizes.most_common(1)[0][0] if sizes else ""

    def _weights(self) -> list[Tensors]:
        found = [each for path, each in self.tensors.items() if is_weights(path)]
        return found or [each for path, each in self.tensors.items() if is_model(path)]


async def receive(upload: Upload, chunks: AsyncIterator[bytes], place: Place) -> Contents:
    """Stores the upload's files, in the order of its manifest.

    Raises UploadIncompleteError, ChecksumMismatchError, SafetensorsInvalidError, GgufInvalidError or NotAModelError;
    what was stored until then is left to the caller.
    """
    contents, source = Contents(), _Bytes(chunks)
    for file in upload.files:
        graph = GraphReader() if is_read(upload, file.path) else None
        await _store(file, source, await place.open(file), contents, graph)
        await place.keep(file)
    await source.expect_end()
    _check_documents(upload, contents)
    return contents


async def _store(file: ModelFile, source: "_Bytes", sink: Sink, contents: Contents, graph: GraphReader | None) -> None:
    document = bytearray() if file.path in (CONFIG, INDEX, SERVING) else None
    reader = SafetensorsReader(file.path, file.size_bytes) if is_safetensors(file.path) else None
    gguf = GgufReader(file.path, file.size_bytes) if is_gguf(file.path) else None
    missing = file.size_bytes
    try:
        while missing:
            piece = await source.take(missing, file)
            missing -= len(piece)
            if gguf is not None:
                await gguf.feed(piece)
            if reader is not None:
                await reader.feed(piece)
            if graph is not None:
                await graph.feed(piece)
            if document is not None:
                document += piece
            await sink.write(piece)
    finally:
        # Also what failed is completed, so that the storage keeps no parts of it that nobody can list and remove.
        stored = await sink.close()
    if stored.sha256 != file.sha256:
        raise ChecksumMismatchError(file.path, file.sha256, stored.sha256)
    contents.chunks[file.sha256] = stored.chunks
    if document is not None:
        contents.documents[file.path] = bytes(document)
    if reader is not None:
        contents.tensors[file.path] = reader.finish()
    if gguf is not None:
        contents.tensors[file.path], contents.described[file.path] = gguf.finish()
    if graph is not None:
        contents.graph = graph.finish()


def _check_documents(upload: Upload, contents: Contents) -> None:
    if contents.graph is not None:
        paths = [file.path for file in upload.files]
        check_graph(contents.graph, contents.documents.get(SERVING, b""), paths)
    elif CONFIG in contents.documents:
        read_config(contents.documents[CONFIG])
    if INDEX not in contents.documents:
        return
    try:
        index = json.loads(contents.documents[INDEX])
    except (ValueError, RecursionError) as error:
        raise NotAModelError(f"{INDEX} is not readable JSON: {error}", path=INDEX) from error
    missing = missing_shards(index, upload)
    if missing:
        named = ", ".join(missing[:10])
        raise NotAModelError(f"{INDEX} names files that the upload lacks: {named}", missing=named)


class _Bytes:
    """The chunks of an upload as one row of bytes."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = b""

    async def take(self, at_most: int, file: ModelFile) -> bytes:
        """Some of the next bytes. UploadIncompleteError when there are none."""
        content = self._rest or await self._next()
        if not content:
            raise UploadIncompleteError(
                f"the upload ended {at_most} bytes before the end of {file.path}; send every file whole",
                path=file.path,
                missing_bytes=str(at_most),
            )
        piece, self._rest = content[:at_most], content[at_most:]
        return piece

    async def expect_end(self) -> None:
        """UploadIncompleteError when bytes follow that no file of the manifest owns."""
        if self._rest or await self._next():
            raise UploadIncompleteError(
                "bytes follow after the last file of the manifest; a file grew or the manifest is not whole"
            )

    async def _next(self) -> bytes:
        try:
            async with asyncio.timeout(LONGEST_SILENCE_S):
                async for chunk in self._chunks:
                    if chunk:
                        return chunk
        except TimeoutError as error:
            raise UploadIncompleteError(f"nothing was sent for {LONGEST_SILENCE_S:.0f} s; begin again") from error
        return b""
