"""OpenAI's own client uploads a file, has it answered by a real engine and reads the answers; the command line too."""

import json
from pathlib import Path
from typing import Literal

import pytest
from openai import AsyncOpenAI, BadRequestError, NotFoundError

from tests.fakes.eventually import eventually
from tests.fixtures.engines import ENGINE_TIMEOUT_S
from tests.platform.served import Served, question

pytestmark = pytest.mark.timeout(ENGINE_TIMEOUT_S)
CHAT: Literal["/v1/chat/completions"] = "/v1/chat/completions"
ENDED = ("completed", "failed", "expired", "cancelled")
WITHIN_S = 90.0


def asked(model: str, count: int) -> bytes:
    """A file of short chats; the last one is for a model that there is not."""
    models = [*[model] * (count - 1), "no-such-model"]
    lines = [
        {"custom_id": f"chat-{number}", "method": "POST", "url": CHAT, "body": question(each)}
        for number, each in enumerate(models)
    ]
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


async def test_openais_client_has_a_file_of_chats_answered(served: Served) -> None:
    async with AsyncOpenAI(base_url=f"{served.platform.url}/v1", api_key=served.api_key) as client:
        file = await client.files.create(file=("chats.jsonl", asked(served.model, 4)), purpose="batch")
        assert (file.filename, file.purpose, file.status) == ("chats.jsonl", "batch", "processed")
        assert (await client.files.retrieve(file.id)).bytes == file.bytes == len(asked(served.model, 4))
        begun = await client.batches.create(
            input_file_id=file.id, endpoint=CHAT, completion_window="24h", metadata={"why": "a test"}
        )
        assert (begun.object, begun.status, begun.metadata) == ("batch", "validating", {"why": "a test"})

        async def has_ended() -> bool:
            return (await client.batches.retrieve(begun.id)).status in ENDED

        await eventually(has_ended, WITHIN_S)
        done = await client.batches.retrieve(begun.id)
        assert done.status == "completed"
        assert done.request_counts is not None
        assert (done.request_counts.total, done.request_counts.completed, done.request_counts.failed) == (4, 3, 1)
        assert done.output_file_id is not None
        assert done.error_file_id is not None
        answers = [json.loads(line) for line in (await client.files.content(done.output_file_id)).text.splitlines()]
        assert [each["custom_id"] for each in answers] == ["chat-0", "chat-1", "chat-2"]
        assert {each["response"]["body"]["object"] for each in answers} == {"chat.completion"}
        errors = [json.loads(line) for line in (await client.files.content(done.error_file_id)).text.splitlines()]
        assert [(each["custom_id"], each["response"]["status_code"]) for each in errors] == [("chat-3", 404)]
        # Pages of one, each behind the last.
        listed = [batch.id async for batch in client.batches.list(limit=1)]
        assert begun.id in listed
        assert len(listed) == len(set(listed))
        names = [each.id async for each in client.files.list(purpose="batch_output")]
        assert {done.output_file_id, done.error_file_id} <= set(names)
        assert (await client.batches.cancel(begun.id)).status == "completed"
        assert (await client.files.delete(file.id)).deleted
        with pytest.raises(NotFoundError):
            await client.files.retrieve(file.id)
        with pytest.raises(BadRequestError, match="purpose"):
            await client.files.create(file=("x.jsonl", b"{}"), purpose="assistants")
        with pytest.raises(BadRequestError, match="endpoint"):
            await client.batches.create(input_file_id="file-1", endpoint="/v1/moderations", completion_window="24h")


async def test_the_command_line_begins_shows_and_cancels_a_batch(served: Served, tmp_path: Path) -> None:
    file = tmp_path / "chats.jsonl"
    file.write_bytes(asked(served.model, 2))
    begun = served.platform.aiops_json("batches", "create", str(file))

    async def has_ended() -> bool:
        return bool(served.platform.aiops_json("batches", "show", begun["batchId"])["status"] in ENDED)

    await eventually(has_ended, WITHIN_S)
    done = served.platform.aiops_json("batches", "show", begun["batchId"])
    assert begun["batchId"] in {each["batchId"] for each in served.platform.aiops_json("batches", "list")}
    printed = served.platform.aiops("files", "cat", done["outputFileId"]).stdout
    assert json.loads(printed)["custom_id"] == "chat-0"
    assert served.platform.aiops_json("batches", "cancel", begun["batchId"])["status"] == "completed"
    assert done["inputFileId"] in {each["fileId"] for each in served.platform.aiops_json("files", "ls")}
