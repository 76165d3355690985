"""Models are downloaded from a hub: resumed, checked, refused in plain words, and not visible before they are whole."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import grpc
import pytest
import pytest_asyncio
from aiops.models.v1 import model_download_pb2, model_pb2
from aiops.models.v1 import model_service_pb2 as pb
from sqlalchemy import text

from controller.models.downloading import DownloadWorker, Rules
from mesh.identity import SYSTEM
from mesh.loops import Backoff
from tests.fakes.eventually import eventually
from tests.fakes.gguf_files import gguf, split
from tests.fakes.hub import PIECE, FakeHub, HubRepo, run_hub
from tests.fakes.model_files import tiny_model
from tests.fakes.onnx_files import identity
from tests.fixtures.iam import refusal
from tests.fixtures.registry import EDITOR, STRANGER, Metadata, Rooms, person

OWNER = person(role="organization.owner")
REPO = "acme/tiny-chat"
WEIGHTS = "model.safetensors"
AT_ONCE = Rules(lease=timedelta(seconds=5), report=timedelta(milliseconds=20), backoff=Backoff(timedelta(0)))
Job = model_download_pb2.ModelDownload


@dataclass
class Hubbed:
    """A hub with one repository, the registry, and a worker that is stepped by hand."""

    hub: FakeHub
    rooms: Rooms
    worker: DownloadWorker

    async def begin(self, repo: str = REPO, by: Metadata = EDITOR, **fields: Any) -> Job:
        fields = {"framework": model_pb2.Framework.vllm, **fields}
        request = pb.DownloadModelRequest(repo=repo, **fields)
        return (await self.rooms.models.DownloadModel(request, metadata=by)).download

    async def get(self, download_id: str, by: Metadata = EDITOR) -> Job:
        request = pb.GetModelDownloadRequest(download_id=download_id)
        return (await self.rooms.models.GetModelDownload(request, metadata=by)).download

    async def run(self, repo: str = REPO, by: Metadata = EDITOR, **fields: Any) -> Job:
        """A download to its end."""
        job = await self.begin(repo, by, **fields)
        while await self.worker.step() is not None:
            pass
        return await self.get(job.download_id, by)

    async def models(self) -> list[str]:
        answer = await self.rooms.models.ListModels(pb.ListModelsRequest(), metadata=EDITOR)
        return [model.name for model in answer.models]

    async def end_leases(self) -> None:
        """As if whoever works had not been heard of for a while."""
        async with self.rooms.database.writing(SYSTEM) as connection:
            past = text("UPDATE model_downloads SET lease_until = now() - interval '1 s' WHERE lease_until IS NOT NULL")
            await connection.execute(past)
            await connection.commit()


@pytest_asyncio.fixture
async def hubbed(rooms: Rooms) -> AsyncIterator[Hubbed]:
    """A hub with a model of a few pieces."""
    async with run_hub() as hub:
        hub.repos[REPO] = HubRepo({**tiny_model(rows=10_000), "README.md": b"# Tiny", "run.py": b"print()"})
        yield Hubbed(hub, rooms, rooms.download_worker(hub.url, AT_ONCE))


async def test_a_download_ends_as_a_model_with_what_its_card_says(hubbed: Hubbed) -> None:
    job = await hubbed.run()
    assert (job.state, job.error) == (Job.succeeded, "")
    assert job.commit == hubbed.hub.repos[REPO].commit
    assert job.bytes_done == job.bytes_total > 400_000
    assert (job.files_done, list(job.skipped_files)) == (4, ["run.py"])
    model = (await hubbed.rooms.models.GetModel(pb.GetModelRequest(model_id=job.model_id), metadata=EDITOR)).model
    assert (model.name, model.source) == ("tiny-chat", model_pb2.Model.huggingface)
    assert (model.metadata.license, list(model.metadata.languages)) == ("apache-2.0", ["en"])
    assert model.metadata.parameters == 100_000
    assert list(model.metadata.tags) == ["safetensors", "text-generation"]
    assert model.source_url == f"{hubbed.hub.url}/{REPO}/tree/{job.commit}"
    events = await hubbed.rooms.events("system.modelDownloadProgress", "system.modelDownloaded")
    states = [each["state"] for each in events if "state" in each]
    assert (states[0], states[-1]) == ("queued", "succeeded")
    assert not list((hubbed.rooms.storage.parent / "downloads").iterdir())


async def test_a_cut_download_goes_on_where_it_stopped(hubbed: Hubbed) -> None:
    hubbed.hub.cuts = [PIECE * 2 + 10, 5]
    job = await hubbed.run()
    assert job.state == Job.succeeded
    assert hubbed.hub.ranges(WEIGHTS) == ["", f"bytes={PIECE * 2 + 10}-", f"bytes={PIECE * 2 + 15}-"]


async def test_damaged_bytes_are_fetched_anew_and_never_stored(hubbed: Hubbed) -> None:
    hubbed.hub.corrupt = 2
    assert (await hubbed.run()).state == Job.succeeded
    hubbed.hub.repos["acme/broken"] = HubRepo(tiny_model(rows=9_999))
    hubbed.hub.corrupt = 10
    job = await hubbed.run("acme/broken")
    assert (job.state, job.error_reason, job.failures) == (Job.failed, "CHECKSUM_MISMATCH", 4)
    assert await hubbed.models() == ["tiny-chat"]


async def test_a_hub_in_trouble_is_tried_three_times_more(hubbed: Hubbed) -> None:
    hubbed.hub.break_down, hubbed.hub.limit_rate = 1, 2
    assert (await hubbed.run()).state == Job.succeeded
    hubbed.hub.break_down = 100
    job = await hubbed.run(name="again")
    assert (job.state, job.error_reason, job.failures) == (Job.failed, "HUB_UNAVAILABLE", 4)
    hubbed.hub.break_down = 0
    # The same call takes the failed job up.
    again = await hubbed.run(name="again")
    assert (again.state, again.download_id) == (Job.succeeded, job.download_id)


@pytest.mark.parametrize(
    ("repo", "revision", "token", "reason", "said"),
    [
        ("acme/nothing", "", "", "HUB_REPO_NOT_FOUND", "see how it is spelt"),
        (REPO, "v9", "", "HUB_REVISION_NOT_FOUND", "no branch, tag or commit 'v9'"),
        ("acme/gated", "", "", "HUB_REPO_GATED", "accept its terms"),
        ("acme/gated", "", "someone", "HUB_REPO_GATED", "accept its terms"),
        ("acme/pickled", "", "", "FILE_NOT_ALLOWED", "allow_pickle"),
        ("acme/poem", "", "", "NOT_A_MODEL", "no weights that can be served"),
    ],
)
async def test_what_cannot_be_had_is_said_in_plain_words(
    hubbed: Hubbed, repo: str, revision: str, token: str, reason: str, said: str
) -> None:
    hubbed.hub.repos["acme/gated"] = HubRepo(tiny_model(), gated=True, granted={"good"})
    hubbed.hub.repos["acme/pickled"] = HubRepo({"config.json": b"{}", "pytorch_model.bin": bytes(2000)})
    hubbed.hub.repos["acme/poem"] = HubRepo({"poem.txt": b"roses"})
    job = await hubbed.run(repo, revision=revision, token=token)
    assert (job.state, job.error_reason) == (Job.failed, reason)
    assert said in job.error
    assert await hubbed.models() == []


async def test_a_token_opens_a_gated_repository_and_is_kept_sealed(hubbed: Hubbed) -> None:
    hubbed.hub.repos["acme/gated"] = HubRepo(tiny_model(), gated=True, granted={"good-token"})
    begun = await hubbed.begin("acme/gated", token="good-token")
    async with hubbed.rooms.database.reading(SYSTEM) as connection:
        kept = (await connection.execute(text("SELECT sealed_token FROM model_downloads"))).scalar_one()
    assert kept.startswith("v1:")
    assert "good-token" not in kept + str(begun) + str(await hubbed.rooms.events())
    assert (await hubbed.run("acme/gated", token="good-token")).state == Job.succeeded
    async with hubbed.rooms.database.reading(SYSTEM) as connection:
        assert (await connection.execute(text("SELECT sealed_token FROM model_downloads"))).scalar_one() == ""


async def test_only_an_owner_allows_pickles_and_it_is_recorded(hubbed: Hubbed) -> None:
    hubbed.hub.repos["acme/pickled"] = HubRepo(
        {"config.json": b"{}", "pytorch_model.bin": bytes(2000), "optimizer.pt": bytes(9)}
    )
    error = await refusal(hubbed.begin("acme/pickled", allow_pickle=True))
    assert (error.code, error.metadata["permission"]) == (grpc.StatusCode.PERMISSION_DENIED, "allow_pickle")
    job = await hubbed.run("acme/pickled", by=OWNER, allow_pickle=True)
    assert (job.state, list(job.skipped_files)) == (Job.succeeded, ["optimizer.pt"])
    model = (await hubbed.rooms.models.GetModel(pb.GetModelRequest(model_id=job.model_id), metadata=OWNER)).model
    assert model.pickle_allowed
    told = await hubbed.rooms.events("system.modelPickleAllowed")
    assert [(each["repo"], each["allowedBy"]) for each in told] == [("acme/pickled", "user-of-org-a")]


async def test_onnx_is_taken_for_triton_and_safetensors_for_the_rest(hubbed: Hubbed) -> None:
    both = {**tiny_model(), "onnx/model.onnx": identity(), "pytorch_model.bin": bytes(5)}
    hubbed.hub.repos["acme/both"] = HubRepo(both, pipeline_tag="image-classification")
    triton = await hubbed.run("acme/both", framework=model_pb2.Framework.triton, name="eyes")
    assert (triton.state, sorted(triton.skipped_files)) == (Job.succeeded, [WEIGHTS, "pytorch_model.bin"])
    model = (await hubbed.rooms.models.GetModel(pb.GetModelRequest(model_id="eyes"), metadata=EDITOR)).model
    assert (model.model_format, model.task) == (model_pb2.Model.onnx, model_pb2.Model.cv)
    vllm = await hubbed.run("acme/both", name="words")
    assert sorted(vllm.skipped_files) == ["onnx/model.onnx", "pytorch_model.bin"]


async def test_one_of_a_repositorys_quantisations_is_taken(hubbed: Hubbed) -> None:
    parts = {f"Q8_0/m-Q8_0-0000{number}-of-00002.gguf": content for number, content in enumerate(split(), 1)}
    files = {"m-Q4_K_M.gguf": gguf(), "m-UD-Q4_K_M.gguf": gguf(words=("c",)), "mmproj-F16.gguf": b"GGUF", **parts}
    hubbed.hub.repos["acme/quants"] = HubRepo({**files, "README.md": b"# quants"})
    asked: dict[str, Any] = {"framework": model_pb2.Framework.llamacpp}
    several = await hubbed.run("acme/quants", name="any", **asked)
    assert (several.error_reason, "several models" in several.error) == ("NOT_A_MODEL", True)
    assert "m-Q4_K_M.gguf" in several.error
    none = await hubbed.run("acme/quants", name="none", quantization="Q2_K", **asked)
    assert "no such model" in none.error
    small = await hubbed.run("acme/quants", name="small", quantization="q4_k_m", **asked)
    assert (small.state, small.quantization) == (Job.succeeded, "q4_k_m")
    assert sorted(small.skipped_files) == sorted(set(files) - {"m-Q4_K_M.gguf"})
    large = await hubbed.run("acme/quants", name="large", quantization="Q8_0", **asked)
    assert large.state == Job.succeeded, large.error
    request = pb.ListModelFilesRequest(model_id="large")
    paths = [file.path for file in (await hubbed.rooms.models.ListModelFiles(request, metadata=EDITOR)).files]
    assert paths == ["README.md", "m-Q8_0-00001-of-00002.gguf", "m-Q8_0-00002-of-00002.gguf"]
    assert (await refusal(hubbed.begin("acme/quants", quantization="Q8_0"))).reason == "INVALID_REQUEST"
    other = await hubbed.run("acme/quants", name="for-vllm")
    assert "framework llamacpp" in other.error


async def test_the_same_call_is_the_same_job(hubbed: Hubbed) -> None:
    first = await hubbed.begin(request_id="r-1")
    assert (await hubbed.begin(request_id="r-1")).download_id == first.download_id
    assert (await hubbed.begin()).download_id == first.download_id
    other = await refusal(hubbed.begin("acme/other", name="tiny-chat"))
    assert (other.reason, other.metadata["download_id"]) == ("CONFLICT", first.download_id)
    assert (await refusal(hubbed.begin("acme/other", request_id="r-1"))).reason == "REQUEST_ID_REUSED"
    assert (await hubbed.run()).state == Job.succeeded
    again = await hubbed.run()
    assert (again.state, again.download_id != first.download_id) == (Job.succeeded, True)
    assert await hubbed.models() == ["tiny-chat"]


async def test_downloads_are_listed_in_pages_within_their_organisation(hubbed: Hubbed) -> None:
    jobs = [(await hubbed.begin(name=f"copy-{number}")).download_id for number in range(3)]
    request, seen = pb.ListModelDownloadsRequest(page_size=2), list[str]()
    while True:
        page = await hubbed.rooms.models.ListModelDownloads(request, metadata=EDITOR)
        seen += [each.download_id for each in page.downloads]
        request.page_token = page.next_page_token
        if not page.next_page_token:
            break
    assert sorted(seen) == sorted(jobs)
    queued = pb.ListModelDownloadsRequest(state=Job.failed)
    assert not (await hubbed.rooms.models.ListModelDownloads(queued, metadata=EDITOR)).downloads
    assert not (
        await hubbed.rooms.models.ListModelDownloads(pb.ListModelDownloadsRequest(), metadata=STRANGER)
    ).downloads
    assert (await refusal(hubbed.get(jobs[0], STRANGER))).reason == "DOWNLOAD_NOT_FOUND"


async def test_progress_is_shown_while_it_runs_and_a_cancelled_one_leaves_nothing(hubbed: Hubbed) -> None:
    hubbed.hub.hold, hubbed.hub.holds_after = asyncio.Event(), PIECE * 3
    job = await hubbed.begin()
    async with asyncio.TaskGroup() as group:
        step = group.create_task(hubbed.worker.step())
        await eventually(lambda: _came(hubbed, job.download_id, PIECE * 3))
        shown = await hubbed.get(job.download_id)
        assert (shown.state, shown.files_total) == (Job.downloading, 4)
        assert shown.bytes_total > shown.bytes_done
        assert shown.bytes_per_second > 0
        assert shown.eta_seconds > 0
        assert await hubbed.models() == []
        request = pb.CancelModelDownloadRequest(download_id=job.download_id)
        cancelled = (await hubbed.rooms.models.CancelModelDownload(request, metadata=EDITOR)).download
        assert cancelled.state == Job.cancelled
        await step
    await hubbed.worker.step()
    assert (await hubbed.get(job.download_id)).state == Job.cancelled
    assert not list((hubbed.rooms.storage.parent / "downloads").iterdir())
    assert await hubbed.models() == []


async def test_another_worker_takes_over_and_the_first_may_write_no_more(hubbed: Hubbed) -> None:
    hubbed.hub.hold, hubbed.hub.holds_after = asyncio.Event(), PIECE * 3
    job = await hubbed.begin()
    silent = Rules(lease=timedelta(minutes=5), report=timedelta(minutes=5))
    first = hubbed.rooms.download_worker(hubbed.hub.url, silent)
    async with asyncio.TaskGroup() as group:
        stuck = group.create_task(first.step())
        await eventually(lambda: _staged(hubbed, job.download_id, PIECE * 3))
        assert await hubbed.worker.step() is None
        await hubbed.end_leases()
        held, hubbed.hub.hold = hubbed.hub.hold, None
        await hubbed.worker.step()
        done = await hubbed.get(job.download_id)
        assert done.state == Job.succeeded
        assert hubbed.hub.ranges(WEIGHTS)[-1] == f"bytes={PIECE * 3}-"
        held.set()
        await stuck
    assert await hubbed.get(job.download_id) == done
    assert await hubbed.models() == ["tiny-chat"]


async def test_a_silent_hub_and_a_missing_one_are_named(hubbed: Hubbed) -> None:
    hubbed.hub.hold = asyncio.Event()
    hubbed.worker = hubbed.rooms.download_worker(hubbed.hub.url, AT_ONCE, silence=timedelta(milliseconds=200))
    job = await hubbed.run()
    assert (job.state, job.error_reason) == (Job.failed, "HUB_UNAVAILABLE")
    assert "said nothing for" in job.error
    hubbed.worker = hubbed.rooms.download_worker("http://127.0.0.1:1", AT_ONCE)
    job = await hubbed.run(name="gone")
    assert job.error_reason == "HUB_UNAVAILABLE"
    assert "AIOPS_HUB_URL" in job.error


async def _came(hubbed: Hubbed, download_id: str, size: int) -> bool:
    return (await hubbed.get(download_id)).bytes_done >= size


async def _staged(hubbed: Hubbed, download_id: str, size: int) -> bool:
    folder = hubbed.rooms.storage.parent / "downloads" / download_id
    return any(path.stat().st_size >= size for path in folder.glob("*"))
