"""Revisions are immutable, listed and rolled back to; equal files are stored once, for as long as one needs them."""

import asyncio
from typing import Any

import grpc
from aiops.models.v1 import model_pb2
from aiops.models.v1 import model_service_pb2 as pb

from tests.fakes.model_files import Files, tiny_model, upload
from tests.fixtures.iam import refusal
from tests.fixtures.registry import EDITOR, STRANGER, Metadata, Rooms, person

CARD = {"README.md": b"# Tiny"}


async def bring(rooms: Rooms, files: Files, name: str = "tiny", **fields: Any) -> pb.ImportModelResponse:
    fields = {"new_revision": True, **fields}
    return await rooms.models.ImportModel(upload(name, files, **fields), metadata=EDITOR)


async def revisions(rooms: Rooms, by: Metadata = EDITOR) -> list[model_pb2.ModelRevision]:
    request, found = pb.ListModelRevisionsRequest(model_id="tiny", page_size=2), list[model_pb2.ModelRevision]()
    while True:
        page = await rooms.models.ListModelRevisions(request, metadata=by)
        found += page.revisions
        if not page.next_page_token:
            return found
        request.page_token = page.next_page_token


async def roll_back(rooms: Rooms, revision: str, by: Metadata = EDITOR) -> model_pb2.Model:
    request = pb.RollbackModelRequest(model_id="tiny", revision=revision)
    return (await rooms.models.RollbackModel(request, metadata=by)).model


async def paths(rooms: Rooms, revision: str = "") -> dict[str, str]:
    request = pb.ListModelFilesRequest(model_id="tiny", revision=revision)
    answer = await rooms.models.ListModelFiles(request, metadata=EDITOR)
    return {file.path: file.sha256 for file in answer.files}


async def test_other_files_become_the_newest_revision_and_can_be_rolled_back(rooms: Rooms) -> None:
    first = await rooms.import_model("tiny")
    await bring(rooms, {**tiny_model(rows=200), **CARD}, version="2.0.0", license="mit")
    third = (await bring(rooms, tiny_model(rows=300))).model
    assert (third.model_id, third.metadata.parameters) == (first.model_id, 3000)
    listed = await revisions(rooms)
    assert {each.number: each.current for each in listed} == {1: False, 2: False, 3: True}
    second = next(each for each in listed if each.number == 2)
    assert (second.version, second.metadata.license, second.metadata.parameters) == ("2.0.0", "mit", 2000)
    assert "README.md" in await paths(rooms, "2")
    assert "README.md" not in await paths(rooms)
    for name in ("2", second.digest):
        back = await roll_back(rooms, name)
        assert (back.digest, back.version, back.metadata.parameters) == (second.digest, "2.0.0", 2000)
    assert "README.md" in await paths(rooms)
    assert [each.number for each in await revisions(rooms) if each.current] == [2]
    told = await rooms.events("system.modelRevisionChanged")
    assert [(each["number"], each["changedBy"]) for each in told] == [
        (2, "user-of-org-a"),
        (3, "user-of-org-a"),
        (2, "user-of-org-a"),
    ]


async def test_a_revision_that_is_there_is_not_brought_twice(rooms: Rooms) -> None:
    await rooms.import_model("tiny")
    await bring(rooms, tiny_model(rows=200))
    again = await bring(rooms, tiny_model())
    assert again.existed
    # What is current is only changed by a rollback, or by new files.
    assert [each.current for each in await revisions(rooms) if each.number == 2] == [True]
    answers = await asyncio.gather(*(bring(rooms, tiny_model(rows=300)) for _ in range(4)))
    assert sum(not each.existed for each in answers) == 1
    assert sorted(each.number for each in await revisions(rooms)) == [1, 2, 3]


async def test_what_is_deployed_keeps_its_revision_and_new_deployments_take_the_current(rooms: Rooms) -> None:
    node_id = await rooms.join("node-1")
    await rooms.import_model("tiny")
    older = await rooms.deploy()
    await bring(rooms, {**tiny_model(rows=200), **CARD})
    newer = await rooms.deploy()
    listed = {each.number: each.digest for each in await revisions(rooms)}
    assert (older.model_revision, newer.model_revision) == (listed[1], listed[2])
    desired = await rooms.workloads.desired(node_id, None)
    brought = {each.workload_id: {file.path for file in each.files} for each in desired.workloads}
    assert "README.md" in brought[newer.deployment_id]
    assert "README.md" not in brought[older.deployment_id]
    stored = {
        f"{workload.artifact_url}/{file.object_path}" for workload in desired.workloads for file in workload.files
    }
    assert stored == {f"file://{rooms.storage}/{path}" for path in rooms.stored()}


async def test_equal_files_are_stored_once_until_nobody_needs_them(rooms: Rooms) -> None:
    await asyncio.gather(*(rooms.import_model(f"copy-{number}") for number in range(3)))
    assert len(rooms.stored()) == len(tiny_model())
    await rooms.import_model("tiny", {**tiny_model(), **CARD}, by=STRANGER)
    for number in range(3):
        assert len(rooms.stored()) == len(tiny_model()) + 1
        await rooms.models.DeleteModel(pb.DeleteModelRequest(model_id=f"copy-{number}"), metadata=EDITOR)
        await rooms.sweep.step()
    assert sorted(rooms.contents()) == sorted({**tiny_model(), **CARD}.values())
    await rooms.models.DeleteModel(pb.DeleteModelRequest(model_id="tiny"), metadata=STRANGER)
    await rooms.sweep.step()
    assert rooms.stored() == []


async def test_imports_deletions_and_the_sweep_at_once_never_break_a_revision(rooms: Rooms) -> None:
    async def churn(number: int) -> None:
        for turn in range(4):
            name = f"churn-{number}-{turn}"
            await rooms.import_model(name)
            await rooms.models.DeleteModel(pb.DeleteModelRequest(model_id=name), metadata=EDITOR)
            await rooms.sweep.remove_deleted()

    await asyncio.gather(*(churn(number) for number in range(3)))
    await rooms.import_model("tiny")
    await asyncio.gather(rooms.sweep.remove_deleted(), rooms.sweep.remove_deleted())
    assert sorted(rooms.contents()) == sorted(tiny_model().values())


async def test_a_refused_revision_leaves_what_is_there(rooms: Rooms) -> None:
    await rooms.import_model("tiny")
    broken = {**tiny_model(rows=9), "model.safetensors": bytes(64)}
    assert (await refusal(bring(rooms, broken))).reason == "SAFETENSORS_INVALID"
    assert sorted(rooms.contents()) == sorted(tiny_model().values())
    error = await refusal(roll_back(rooms, "7"))
    assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND, "MODEL_REVISION_NOT_FOUND")
    assert (await refusal(roll_back(rooms, "1", STRANGER))).reason == "MODEL_NOT_FOUND"
    viewer = person(role="organization.viewer")
    assert (await refusal(roll_back(rooms, "1", viewer))).code is grpc.StatusCode.PERMISSION_DENIED
    assert (await refusal(revisions(rooms, STRANGER))).reason == "MODEL_NOT_FOUND"
