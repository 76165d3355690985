"""A directory becomes a model, whole and checked, or nothing of it stays."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Iterator

import grpc
import pytest
from aiops.models.v1 import model_pb2
from aiops.models.v1 import model_service_pb2 as pb

from tests.fakes.eventually import eventually
from tests.fakes.model_files import CONFIG, Files, chunks, header, safetensors, tiny_model, upload
from tests.fixtures.iam import refusal
from tests.fixtures.registry import EDITOR, STRANGER, Rooms, person

Messages = AsyncIterator[pb.ImportModelRequest] | Iterator[pb.ImportModelRequest]


async def test_an_import_stores_the_files_and_knows_the_model(rooms: Rooms) -> None:
    files = tiny_model()
    model = await rooms.import_model("tiny-1.0", files)
    assert (model.name, model.size_mb, model.metadata.parameters) == ("tiny-1.0", 1, 1000)
    assert (model.framework, model.task) == (model_pb2.Framework.vllm, model_pb2.Model.llm)
    assert model.owner.org_id == "org-a"
    assert model.minio_path == f"file://{rooms.storage}/blobs"
    assert model.min_gpu_memory >= model.min_vram > model.size_mb
    assert sorted(rooms.contents()) == sorted(files.values())
    by_name = await rooms.models.GetModel(pb.GetModelRequest(model_id="tiny-1.0"), metadata=EDITOR)
    by_id = await rooms.models.GetModel(pb.GetModelRequest(model_id=model.model_id), metadata=EDITOR)
    assert by_name.model == by_id.model == model
    (event,) = await rooms.events()
    assert (event["type"], event["modelId"], event["key"]) == ("system.modelDownloaded", model.model_id, model.model_id)
    assert event["sizeMb"] == 1


async def test_the_files_of_a_model_are_listed_in_pages(rooms: Rooms) -> None:
    files = {**tiny_model(), **{f"notes/{number:02}.txt": b"x" for number in range(5)}}
    model = await rooms.import_model("tiny", files)
    listed: list[model_pb2.ModelFile] = []
    request = pb.ListModelFilesRequest(model_id="tiny", page_size=3)
    while True:
        page = await rooms.models.ListModelFiles(request, metadata=EDITOR)
        listed += page.files
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert [file.path for file in listed] == sorted(files)
    assert all(file.sha256 == hashlib.sha256(files[file.path]).hexdigest() for file in listed)
    other = await rooms.import_model("other", {**files, "more.txt": b"y"})
    stolen = pb.ListModelFilesRequest(model_id=other.model_id, page_token=request.page_token)
    error = await refusal(rooms.models.ListModelFiles(stolen, metadata=EDITOR))
    assert error.reason == "INVALID_PAGE_TOKEN"
    assert model.model_id != other.model_id


async def test_the_same_files_again_are_the_same_model_and_other_files_are_refused(rooms: Rooms) -> None:
    files = tiny_model()
    model = await rooms.import_model("tiny", files)
    reordered = dict(reversed(files.items()))
    again = await rooms.models.ImportModel(upload("tiny", reordered), metadata=EDITOR)
    assert again.existed
    assert again.model == model
    error = await refusal(rooms.models.ImportModel(upload("tiny", tiny_model(rows=7)), metadata=EDITOR))
    assert (error.code, error.reason) == (grpc.StatusCode.ALREADY_EXISTS, "MODEL_EXISTS")
    assert error.metadata["model_id"] == model.model_id
    assert "delete" in error.message
    elsewhere = await rooms.import_model("tiny", tiny_model(rows=7), by=STRANGER)
    assert elsewhere.owner.org_id == "org-b"
    # config.json and tokenizer.json are the same, and there once.
    assert len(rooms.stored()) == len(files) + 1


async def test_imports_of_one_name_at_once_leave_one_model(rooms: Rooms) -> None:
    calls = [rooms.models.ImportModel(upload("tiny", tiny_model()), metadata=EDITOR) for _ in range(4)]
    answers = await asyncio.gather(*calls)
    assert len({answer.model.model_id for answer in answers}) == 1
    assert sum(not answer.existed for answer in answers) == 1
    assert len(rooms.stored()) == len(tiny_model())


async def test_a_model_in_shards_is_counted_once(rooms: Rooms) -> None:
    shard = "model-0000{}-of-00002.safetensors"
    index = {"weight_map": {"a": shard.format(1), "b": shard.format(2)}}
    files = {
        "config.json": json.dumps(CONFIG).encode(),
        shard.format(1): safetensors({"a": ("BF16", [10, 10], 200)}),
        shard.format(2): safetensors({"b": ("BF16", [5], 10)}),
        "original/consolidated.safetensors": safetensors({"all": ("F32", [105], 420)}),
        "model.safetensors.index.json": json.dumps(index).encode(),
    }
    assert (await rooms.import_model("sharded", files)).metadata.parameters == 105
    del files[shard.format(2)]
    error = await refusal(rooms.models.ImportModel(upload("half", files), metadata=EDITOR))
    assert (error.reason, error.metadata["missing"]) == ("NOT_A_MODEL", shard.format(2))
    assert len(rooms.stored()) == 5


def without(path: str) -> dict[str, bytes]:
    return {name: content for name, content in tiny_model().items() if name != path}


@pytest.mark.parametrize(
    ("files", "reason", "words"),
    [
        ({"holiday.txt": b"x"}, "NOT_A_MODEL", "no config.json and no *.safetensors"),
        (without("config.json"), "NOT_A_MODEL", "no config.json"),
        (without("model.safetensors"), "NOT_A_MODEL", "no *.safetensors"),
        ({**tiny_model(), "config.json": b"{"}, "NOT_A_MODEL", "not readable JSON"),
        ({**tiny_model(), "config.json": b"[" * 100_000}, "NOT_A_MODEL", "not readable JSON"),
        ({**tiny_model(), "pytorch_model.bin": b"x"}, "FILE_NOT_ALLOWED", "pickle"),
        ({**tiny_model(), "modeling_tiny.py": b"x"}, "FILE_NOT_ALLOWED", "program"),
        ({**tiny_model(), "movie.mp4": b"x"}, "FILE_NOT_ALLOWED", "leave it out"),
        ({**tiny_model(), "../evil.json": b"x"}, "INVALID_REQUEST", "`..`"),
        ({**tiny_model(), "/etc/evil.json": b"x"}, "INVALID_REQUEST", "relative"),
        ({**tiny_model(), "a\\b.json": b"x"}, "INVALID_REQUEST", "forward slashes"),
        ({**tiny_model(), "a//b.json": b"x"}, "INVALID_REQUEST", "empty"),
        ({**tiny_model(), "a#1.json": b"x"}, "INVALID_REQUEST", "letters"),
        ({**tiny_model(), "Config.json": b"{}"}, "INVALID_REQUEST", "same file"),
        ({**tiny_model(), "config.json/b.txt": b"{}"}, "INVALID_REQUEST", "below"),
    ],
)
async def test_what_is_no_model_is_refused_and_leaves_nothing(
    rooms: Rooms, files: Files, reason: str, words: str
) -> None:
    error = await refusal(rooms.models.ImportModel(upload("bad", files), metadata=EDITOR))
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
    assert words in error.message
    assert rooms.stored() == []
    assert await rooms.events() == []


def spoilt(change: Callable[[bytes], bytes]) -> dict[str, bytes]:
    files = tiny_model()
    return {**files, "tokenizer.json": change(files["tokenizer.json"])}


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (spoilt(lambda content: b"[]"), "CHECKSUM_MISMATCH"),
        (spoilt(lambda content: content[:-1]), "UPLOAD_INCOMPLETE"),
        (spoilt(lambda content: content + b" "), "UPLOAD_INCOMPLETE"),
        ({}, "UPLOAD_INCOMPLETE"),
    ],
)
async def test_bytes_that_differ_from_the_manifest_are_refused(rooms: Rooms, sent: Files, reason: str) -> None:
    async def messages() -> AsyncIterator[pb.ImportModelRequest]:
        yield header("bad", tiny_model())
        async for chunk in chunks(b"".join(sent.values())):
            yield chunk

    error = await refusal(rooms.models.ImportModel(messages(), metadata=EDITOR))
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
    assert rooms.stored() == []


async def test_an_upload_begins_with_one_header_of_a_sound_manifest(rooms: Rooms) -> None:
    async def twice() -> AsyncIterator[pb.ImportModelRequest]:
        yield header("bad", tiny_model())
        yield header("bad", tiny_model())

    wrong = header("bad", tiny_model())
    wrong.header.files[1].size_bytes = 1.5
    unknown = header("bad", tiny_model())
    unknown.header.files[0].sha256 = "x"
    unknown.header.files[2].size_bytes = -1
    huge = pb.ImportModelRequest(chunk=bytes(1024 * 1024 + 1))
    broken: list[tuple[Messages, list[str]]] = [
        (iter(()), ["header"]),
        (chunks(b"x"), ["header"]),
        (twice(), ["header"]),
        (iter([wrong]), ["header.files[1].size_bytes"]),
        (iter([unknown]), ["header.files[0].sha256", "header.files[2].size_bytes"]),
        (iter([header("no spaces", tiny_model())]), ["header.name"]),
        (iter([huge]), ["chunk"]),
    ]
    for messages, fields in broken:
        error = await refusal(rooms.models.ImportModel(messages, metadata=EDITOR))
        assert error.reason == "INVALID_REQUEST"
        assert [violation.field for violation in error.violations] == fields
    assert rooms.stored() == []


async def test_an_upload_that_is_cancelled_leaves_nothing(rooms: Rooms) -> None:
    begun = asyncio.Event()

    async def endless() -> AsyncIterator[pb.ImportModelRequest]:
        yield header("bad", tiny_model(rows=10_000))
        yield pb.ImportModelRequest(chunk=tiny_model()["config.json"])
        begun.set()
        await asyncio.Event().wait()

    call = rooms.models.ImportModel(endless(), metadata=EDITOR)
    async with asyncio.timeout(5):
        await begun.wait()
    await eventually(rooms.holds_objects)
    call.cancel()
    await eventually(rooms.holds_no_objects)


async def test_a_viewer_imports_nothing(rooms: Rooms) -> None:
    viewer = person(role="organization.viewer")
    refused = await refusal(rooms.models.ImportModel(upload("tiny", tiny_model()), metadata=viewer))
    assert refused.code is grpc.StatusCode.PERMISSION_DENIED
