"""OpenAI's `/v1/files` and `/v1/batches`: calls of the controller's over gRPC, with the caller's own token."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from aiops.batches.v1 import batch_service_pb2 as batches_pb
from aiops.batches.v1 import file_service_pb2 as files_pb
from aiops.batches.v1.batch_service_pb2_grpc import BatchServiceStub
from aiops.batches.v1.file_pb2 import File
from aiops.batches.v1.file_service_pb2_grpc import FileServiceStub

from gateway.edge.errors import openai_error
from gateway.web.form import BrokenFormError, Form, Part, boundary_of
from gateway.web.http import Answer, Request
from gateway.web.openai_words import batch_object, file_object, listed, refusal
from mesh.rpc.addresses import Addresses
from mesh.rpc.channel import open_channel
from mesh.rpc.status import error_from_rpc

JSON, BYTES = "application/json", "application/octet-stream"
MIB = 1024 * 1024
MOST_LISTED, FILES_LISTED, BATCHES_LISTED = 1000, 1000, 20
PURPOSE = "batch"
PURPOSES = ("batch", "batch_output")


class RefusedError(Exception):
    """What is answered instead."""

    def __init__(self, status: int, message: str, code: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = openai_error(message, code, param)


class FilesAndBatches:
    """The handler of both."""

    def __init__(self, controllers: Addresses) -> None:
        self._controllers = controllers

    async def __call__(self, request: Request) -> Answer:
        """Answers a request."""
        try:
            return await self._answer(request)
        except BrokenFormError as broken:
            return _json(400, openai_error(str(broken), "invalid_body"))
        except RefusedError as refused:
            return _json(refused.status, refused.body)
        except grpc.RpcError as error:
            said = error_from_rpc(error)
            if said.code is grpc.StatusCode.UNAVAILABLE:
                self._controllers.turn()
            return _json(*refusal(said))

    async def _answer(self, request: Request) -> Answer:
        kind, *rest = request.path.removeprefix("/v1/").rstrip("/").split("/")
        shape = (request.method, kind, *("*" if index == 0 else step for index, step in enumerate(rest)))
        handlers: dict[tuple[str, ...], Callable[[_Call], Awaitable[Answer]]] = {
            ("POST", "files"): _upload,
            ("GET", "files"): _list_files,
            ("GET", "files", "*"): _get_file,
            ("GET", "files", "*", "content"): _download,
            ("DELETE", "files", "*"): _delete_file,
            ("POST", "batches"): _create_batch,
            ("GET", "batches"): _list_batches,
            ("GET", "batches", "*"): _get_batch,
            ("POST", "batches", "*", "cancel"): _cancel_batch,
        }
        handler = handlers.get(shape)
        if handler is None:
            raise RefusedError(404, f"nothing answers {request.method} {request.path}", "unknown_url")
        channel = open_channel(self._controllers.now)
        answered = False
        try:
            answer = await handler(_Call(request, channel, rest[0] if rest else ""))
            answered = True
        finally:
            if not answered:
                await channel.close()
        return Answer(answer.status, answer.content_type, _closing(channel, answer.body))


class _Call:
    """A request on its way to the controller."""

    def __init__(self, request: Request, channel: grpc.aio.Channel, name: str) -> None:
        self.request = request
        self.files: Any = FileServiceStub(channel)
        self.batches: Any = BatchServiceStub(channel)
        self.name = name
        self.metadata = (("authorization", request.headers.get("authorization", "")),)

    @property
    def limit(self) -> int:
        """How many a list is to have; 0 when it does not say."""
        said = self.request.query.get("limit", "")
        if said and not said.isdecimal():
            raise RefusedError(400, "limit is no number", "invalid_value", "limit")
        return min(int(said or 0), MOST_LISTED)

    async def body(self) -> dict[str, Any]:
        """The JSON object that was sent."""
        read = b""
        async for piece in self.request.body:
            read += piece
            if len(read) > MIB:
                raise RefusedError(413, "the body is longer than 1 MiB", "invalid_body")
        try:
            said = json.loads(read)
        except (ValueError, RecursionError):
            said = None
        if not isinstance(said, dict):
            raise RefusedError(400, "the body is no JSON object", "invalid_body")
        return said


async def _upload(call: _Call) -> Answer:
    form = Form(boundary_of(call.request.headers.get("content-type", "")), call.request.body)
    seen = dict[str, str]()

    async def messages() -> AsyncIterator[files_pb.UploadFileRequest]:
        async for part in form.parts():
            if part.name != "file":
                seen[part.name] = await part.text()
                continue
            seen["file"] = part.filename or "upload.jsonl"
            header = files_pb.UploadFileRequest.Header(filename=seen["file"][:255], purpose=File.batch)
            yield files_pb.UploadFileRequest(header=header)
            async for message in _chunks(part):
                yield message
        # The purpose may stand behind the file: without it the call ends before the file is kept.
        if seen.get("purpose") != PURPOSE or "file" not in seen:
            raise _wrong_form(seen)

    upload = call.files.UploadFile(metadata=call.metadata)
    try:
        async for message in messages():
            await upload.write(message)
        await upload.done_writing()
    except (BrokenFormError, RefusedError):
        upload.cancel()
        raise
    except grpc.aio.UsageError:
        # The controller has answered already; what it said comes next.
        pass
    return _json(200, file_object((await upload).file))


async def _chunks(part: Part) -> AsyncIterator[files_pb.UploadFileRequest]:
    async for piece in part.content:
        for start in range(0, len(piece), MIB):
            yield files_pb.UploadFileRequest(chunk=piece[start : start + MIB])


def _wrong_form(seen: dict[str, str]) -> RefusedError:
    if "file" not in seen:
        return RefusedError(400, "the form has no 'file'", "invalid_body", "file")
    return RefusedError(400, "purpose has to be 'batch'", "invalid_value", "purpose")


async def _list_files(call: _Call) -> Answer:
    wanted = call.request.query.get("purpose", "")
    if wanted and wanted not in PURPOSES:
        return _json(200, listed([], more=False))
    request = files_pb.ListFilesRequest(
        page_size=call.limit or FILES_LISTED,
        after=call.request.query.get("after", ""),
        purpose=File.Purpose.Value(wanted) if wanted else File.PURPOSE_UNSPECIFIED,
    )
    page = await call.files.ListFiles(request, metadata=call.metadata)
    return _json(200, listed([file_object(file) for file in page.files], more=bool(page.next_page_token)))


async def _get_file(call: _Call) -> Answer:
    request = files_pb.GetFileRequest(file_id=call.name)
    return _json(200, file_object((await call.files.GetFile(request, metadata=call.metadata)).file))


async def _delete_file(call: _Call) -> Answer:
    await call.files.DeleteFile(files_pb.DeleteFileRequest(file_id=call.name), metadata=call.metadata)
    return _json(200, {"id": call.name, "object": "file", "deleted": True})


async def _download(call: _Call) -> Answer:
    # What there is to refuse is refused before the answer begins.
    await call.files.GetFile(files_pb.GetFileRequest(file_id=call.name), metadata=call.metadata)
    parts = call.files.DownloadFile(files_pb.DownloadFileRequest(file_id=call.name), metadata=call.metadata)

    async def content() -> AsyncIterator[bytes]:
        async for part in parts:
            yield part.chunk

    return Answer(200, BYTES, content())


async def _create_batch(call: _Call) -> Answer:
    said = await call.body()
    metadata = said.get("metadata") or {}
    texts = [said.get(name) or "" for name in ("input_file_id", "endpoint", "completion_window")]
    if not isinstance(metadata, dict) or not all(isinstance(each, str) for each in (*texts, *metadata.values())):
        raise RefusedError(400, "input_file_id, endpoint, completion_window and metadata are texts", "invalid_value")
    request = batches_pb.CreateBatchRequest(
        input_file_id=texts[0], endpoint=texts[1], completion_window=texts[2], metadata=metadata
    )
    return _json(200, batch_object((await call.batches.CreateBatch(request, metadata=call.metadata)).batch))


async def _list_batches(call: _Call) -> Answer:
    after = call.request.query.get("after", "")
    request = batches_pb.ListBatchesRequest(page_size=call.limit or BATCHES_LISTED, after=after)
    page = await call.batches.ListBatches(request, metadata=call.metadata)
    return _json(200, listed([batch_object(batch) for batch in page.batches], more=bool(page.next_page_token)))


async def _get_batch(call: _Call) -> Answer:
    request = batches_pb.GetBatchRequest(batch_id=call.name)
    return _json(200, batch_object((await call.batches.GetBatch(request, metadata=call.metadata)).batch))


async def _cancel_batch(call: _Call) -> Answer:
    request = batches_pb.CancelBatchRequest(batch_id=call.name)
    return _json(200, batch_object((await call.batches.CancelBatch(request, metadata=call.metadata)).batch))


def _json(status: int, content: dict[str, object]) -> Answer:
    async def body() -> AsyncIterator[bytes]:
        yield json.dumps(content).encode()

    return Answer(status, JSON, body())


async def _closing(channel: grpc.aio.Channel, body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    try:
        async for piece in body:
            yield piece
    finally:
        await channel.close()
