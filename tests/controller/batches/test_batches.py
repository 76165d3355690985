"""Batches of a real controller: each request is answered once, whoever dies meanwhile, and mistakes name their line."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg
import grpc
import pytest
import pytest_asyncio
from aiops.batches.v1 import batch_service_pb2 as pb
from aiops.batches.v1 import file_pb2
from aiops.batches.v1 import file_service_pb2 as files_pb
from aiops.batches.v1.batch_pb2 import Batch
from aiops.batches.v1.batch_service_pb2_grpc import BatchServiceStub
from aiops.batches.v1.file_service_pb2_grpc import FileServiceStub
from aiops.iam.v1.auth_service_pb2 import LoginRequest
from aiops.iam.v1.auth_service_pb2_grpc import AuthServiceStub

from mesh.rpc.channel import open_channel
from tests.fakes.engine_http import Engine, running_engine
from tests.fakes.eventually import eventually
from tests.fixtures.controller_process import ADMIN_EMAIL, ADMIN_PASSWORD, RunningController

CHAT = "/v1/chat/completions"
ENDED = (Batch.completed, Batch.failed, Batch.expired, Batch.cancelled)
WITHIN_S = 60.0


@dataclass
class User:
    """The first user of a controller whose gateway is one engine."""

    controller: RunningController
    engine: Engine
    metadata: tuple[tuple[str, str], ...] = ()

    async def sign_in(self) -> None:
        async with open_channel(self.controller.api) as channel:
            login = LoginRequest(email=ADMIN_EMAIL, password=ADMIN_PASSWORD)
            tokens = (await AuthServiceStub(channel).Login(login)).tokens
        self.metadata = (("authorization", f"Bearer {tokens.access_token}"),)

    async def upload(self, content: bytes) -> str:
        def parts() -> Iterator[files_pb.UploadFileRequest]:
            header = files_pb.UploadFileRequest.Header(filename="asked.jsonl", purpose=file_pb2.File.batch)
            yield files_pb.UploadFileRequest(header=header)
            for start in range(0, len(content), 7_000):
                yield files_pb.UploadFileRequest(chunk=content[start : start + 7_000])

        async with open_channel(self.controller.api) as channel:
            done: Any = await FileServiceStub(channel).UploadFile(parts(), metadata=self.metadata)
        return str(done.file.file_id)

    async def content(self, file_id: str) -> list[dict[str, Any]]:
        async with open_channel(self.controller.api) as channel:
            request = files_pb.DownloadFileRequest(file_id=file_id)
            call = FileServiceStub(channel).DownloadFile(request, metadata=self.metadata)
            content = b"".join([part.chunk async for part in call])
        return [json.loads(line) for line in content.splitlines()]

    async def begin(self, content: bytes, window: str = "") -> Batch:
        file_id = await self.upload(content)
        async with open_channel(self.controller.api) as channel:
            request = pb.CreateBatchRequest(input_file_id=file_id, endpoint=CHAT, completion_window=window)
            return (await BatchServiceStub(channel).CreateBatch(request, metadata=self.metadata)).batch

    async def get(self, batch_id: str) -> Batch:
        async with open_channel(self.controller.api) as channel:
            request = pb.GetBatchRequest(batch_id=batch_id)
            return (await BatchServiceStub(channel).GetBatch(request, metadata=self.metadata)).batch

    async def cancel(self, batch_id: str) -> Batch:
        async with open_channel(self.controller.api) as channel:
            request = pb.CancelBatchRequest(batch_id=batch_id)
            return (await BatchServiceStub(channel).CancelBatch(request, metadata=self.metadata)).batch

    async def ended(self, batch_id: str) -> Batch:
        seen = Batch()

        async def has_ended() -> bool:
            seen.CopyFrom(await self.get(batch_id))
            return seen.status in ENDED

        await eventually(has_ended, WITHIN_S)
        return seen


@pytest_asyncio.fixture
async def user(new_controller: RunningController) -> AsyncIterator[User]:
    """Signed in, with a controller that serves."""
    async with running_engine("one") as engine:
        new_controller.environment["AIOPS_URL"] = f"http://127.0.0.1:{engine.port}"
        await asyncio.to_thread(new_controller.start)
        user = User(new_controller, engine)
        await user.sign_in()
        yield user


def asked(texts: Sequence[str], **more: Any) -> bytes:
    """A file with a request for each text, whose custom_id is its place."""
    return b"".join(
        json.dumps(
            {
                "custom_id": f"request-{number}",
                "method": "POST",
                "url": CHAT,
                "body": {"model": "tiny", "messages": [{"role": "user", "content": text}], **more},
            }
        ).encode()
        + b"\n"
        for number, text in enumerate(texts)
    )


@pytest.mark.timeout(240)
async def test_a_killed_controller_is_followed_by_one_that_asks_only_what_has_no_answer(
    user: User, database: str
) -> None:
    texts = [f"text {number}" for number in range(20)] + ["hold"] * 4 + ["refuse"]
    begun = await user.begin(asked(texts))

    async def is_held() -> bool:
        kept = await _kept(database)
        return kept >= 20 and _times(user.engine)["hold"] >= 1

    await eventually(is_held, WITHIN_S)
    await asyncio.to_thread(user.controller.kill)
    user.engine.release.set()
    await _end_leases(database)
    await asyncio.to_thread(user.controller.start)
    done = await user.ended(begun.batch_id)
    assert (done.status, done.counts.total, done.counts.completed, done.counts.failed) == (Batch.completed, 25, 24, 1)
    output, errors = await user.content(done.output_file_id), await user.content(done.error_file_id)
    assert [line["custom_id"] for line in output] == [f"request-{number}" for number in range(24)]
    said = output[7]["response"]
    assert (said["status_code"], said["body"]["choices"][0]["message"]["content"]) == (200, "one: text 7")
    assert [(line["custom_id"], line["response"]["status_code"]) for line in errors] == [("request-24", 400)]
    # What had its answer before the crash was asked no second time.
    times = _times(user.engine)
    assert {times[text] for text in texts[:20]} == {1}


@pytest.mark.timeout(240)
async def test_mistakes_are_named_and_what_was_answered_is_kept(user: User, database: str) -> None:
    await _mistakes_name_their_line_and_nothing_is_asked(user)
    await _what_was_answered_before_a_cancellation_or_the_end_of_its_time_is_kept(user, database)
    await _a_file_stays_while_a_batch_needs_it(user)


async def _mistakes_name_their_line_and_nothing_is_asked(user: User) -> None:
    lines = asked(["a", "b"]).splitlines()
    wrong = [
        lines[0],
        b"{not json",
        lines[0],
        json.dumps({**json.loads(lines[1]), "url": "/v1/embeddings"}).encode(),
        json.dumps({**json.loads(lines[1]), "body": {"model": "tiny", "stream": True}}).encode(),
    ]
    refused = await user.ended((await user.begin(b"\n".join(wrong))).batch_id)
    assert refused.status == Batch.failed
    assert [(error.line, error.code) for error in refused.errors] == [
        (2, "invalid_json_line"),
        (3, "duplicate_custom_id"),
        (4, "invalid_url"),
        (5, "invalid_request"),
    ]
    assert user.engine.seen == []
    empty = await user.ended((await user.begin(b"\n\n")).batch_id)
    assert [error.code for error in empty.errors] == ["empty_file"]


async def _what_was_answered_before_a_cancellation_or_the_end_of_its_time_is_kept(user: User, database: str) -> None:
    for end, code in ((Batch.cancelled, "batch_cancelled"), (Batch.expired, "batch_expired")):
        begun = await user.begin(asked(["first", "hold", "hold"]), "1h")

        async def is_counted(batch_id: str = begun.batch_id) -> bool:
            return (await user.get(batch_id)).counts.completed == 1

        await eventually(is_counted, WITHIN_S)
        if end == Batch.cancelled:
            await user.cancel(begun.batch_id)
        else:
            # As if its hour were over.
            await _change(database, "UPDATE batches SET expires_at = now()")
        done = await user.ended(begun.batch_id)
        assert (done.status, done.counts.total, done.counts.completed, done.counts.failed) == (end, 3, 1, 0)
        assert [line["custom_id"] for line in await user.content(done.output_file_id)] == ["request-0"]
        unanswered = await user.content(done.error_file_id)
        assert {line["error"]["code"] for line in unanswered} == {code}
        assert [line["custom_id"] for line in unanswered] == ["request-1", "request-2"]
        assert await user.cancel(begun.batch_id) == done


async def _a_file_stays_while_a_batch_needs_it(user: User) -> None:
    begun = await user.begin(asked(["hold"]))
    async with open_channel(user.controller.api) as channel:
        stub = FileServiceStub(channel)
        delete = files_pb.DeleteFileRequest(file_id=begun.input_file_id)
        with pytest.raises(grpc.aio.AioRpcError, match="works at file"):
            await stub.DeleteFile(delete, metadata=user.metadata)
        user.engine.release.set()
        await user.ended(begun.batch_id)
        await stub.DeleteFile(delete, metadata=user.metadata)
        with pytest.raises(grpc.aio.AioRpcError, match="there is no file"):
            await stub.DeleteFile(delete, metadata=user.metadata)


def _times(engine: Engine) -> Counter[str]:
    """How often the engine was asked each text."""
    return Counter(json.loads(request.body)["messages"][0]["content"] for request in engine.seen)


async def _kept(database: str) -> int:
    """How many answers are safe."""
    connection = await asyncpg.connect(database.replace("+asyncpg", ""))
    try:
        await connection.execute("SELECT set_config('aiops.org', '*', false)")
        return int(await connection.fetchval("SELECT count(*) FROM batch_lines WHERE answer <> ''"))
    finally:
        await connection.close()


async def _end_leases(database: str) -> None:
    """As if the dead controller's lease had run out."""
    await _change(database, "UPDATE batches SET lease_until = now() - interval '1 s'")


async def _change(database: str, statement: str) -> None:
    connection = await asyncpg.connect(database.replace("+asyncpg", ""))
    try:
        await connection.execute("SELECT set_config('aiops.org', '*', false)")
        await connection.execute(statement)
    finally:
        await connection.close()
