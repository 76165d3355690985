"""Models are listed, found and deleted within their organisation."""

import os
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from aiops.models.v1 import model_pb2
from aiops.models.v1 import model_service_pb2 as pb

from controller.deployments.workload import WorkloadState
from controller.models.reconcile import ORPHAN_AGE
from tests.fakes.model_files import tiny_model, upload
from tests.fixtures.iam import refusal
from tests.fixtures.registry import ADMIN, EDITOR, STRANGER, Metadata, Rooms, person


async def names(rooms: Rooms, by: Metadata = EDITOR, **filters: Any) -> list[str]:
    answer = await rooms.models.ListModels(pb.ListModelsRequest(**filters), metadata=by)
    return [model.name for model in answer.models]


async def test_models_are_listed_newest_first_in_pages(rooms: Rooms) -> None:
    for number in range(5):
        await rooms.import_model(f"tiny-{number}")
        rooms.clock.advance(timedelta(seconds=1))
    request, pages = pb.ListModelsRequest(page_size=2), []
    while True:
        page = await rooms.models.ListModels(request, metadata=EDITOR)
        pages.append([model.name for model in page.models])
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert pages == [["tiny-4", "tiny-3"], ["tiny-2", "tiny-1"], ["tiny-0"]]
    request.task = model_pb2.Model.cv
    error = await refusal(rooms.models.ListModels(request, metadata=EDITOR))
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_PAGE_TOKEN")


async def test_models_are_filtered_by_framework_and_task(rooms: Rooms) -> None:
    await rooms.import_model("chat")
    fields = {"framework": model_pb2.Framework.custom, "task": model_pb2.Model.cv}
    await rooms.models.ImportModel(upload("eyes", tiny_model(), **fields), metadata=EDITOR)
    assert await names(rooms, framework=model_pb2.Framework.custom) == ["eyes"]
    assert await names(rooms, task=model_pb2.Model.llm) == ["chat"]
    assert await names(rooms, framework=model_pb2.Framework.custom, task=model_pb2.Model.llm) == []


async def test_another_organisation_sees_nothing_of_a_model(rooms: Rooms) -> None:
    model = await rooms.import_model("secret")
    assert await names(rooms, STRANGER) == []
    assert await names(rooms, person("org-b", "universe.viewer")) == ["secret"]
    calls: list[Callable[[str], Awaitable[object]]] = [
        lambda name: rooms.models.GetModel(pb.GetModelRequest(model_id=name), metadata=STRANGER),
        lambda name: rooms.models.ListModelFiles(pb.ListModelFilesRequest(model_id=name), metadata=STRANGER),
        lambda name: rooms.models.DeleteModel(pb.DeleteModelRequest(model_id=name), metadata=STRANGER),
        lambda name: rooms.deploy(name, STRANGER),
    ]
    for call in calls:
        for name in (model.model_id, "secret"):
            error = await refusal(call(name))
            assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")
    assert await names(rooms) == ["secret"]


async def test_a_name_means_a_model_of_ones_own_organisation(rooms: Rooms) -> None:
    theirs = await rooms.import_model("tiny", by=STRANGER)
    lookup = pb.GetModelRequest(model_id="tiny")
    error = await refusal(rooms.models.GetModel(lookup, metadata=ADMIN))
    assert error.reason == "MODEL_NOT_FOUND"
    by_id = await rooms.models.GetModel(pb.GetModelRequest(model_id=theirs.model_id), metadata=ADMIN)
    assert by_id.model == theirs


async def test_a_deleted_model_is_gone_with_its_objects_and_frees_its_name(rooms: Rooms) -> None:
    model = await rooms.import_model("tiny")
    await rooms.models.DeleteModel(pb.DeleteModelRequest(model_id="tiny"), metadata=EDITOR)
    assert await names(rooms) == []
    again = await refusal(rooms.models.DeleteModel(pb.DeleteModelRequest(model_id=model.model_id), metadata=EDITOR))
    assert again.reason == "MODEL_NOT_FOUND"
    (event,) = await rooms.events("system.modelDeleted")
    assert (event["modelId"], event["deletedBy"]) == (model.model_id, "user-of-org-a")
    await rooms.import_model("tiny", tiny_model(rows=7))
    assert len(rooms.stored()) == len(tiny_model()) + 1
    for _ in range(2):
        await rooms.sweep.step()
        assert sorted(rooms.contents()) == sorted(tiny_model(rows=7).values())


async def test_a_deployed_model_cannot_be_deleted_until_it_is_stopped(rooms: Rooms) -> None:
    await rooms.join("node-1")
    model = await rooms.import_model("tiny")
    deployment = await rooms.deploy()
    request = pb.DeleteModelRequest(model_id=model.model_id)
    error = await refusal(rooms.models.DeleteModel(request, metadata=EDITOR))
    assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "MODEL_IN_USE")
    assert error.metadata["deployments"] == deployment.deployment_id
    await rooms.report(deployment, state=WorkloadState.RUNNING)
    assert (await refusal(rooms.models.DeleteModel(request, metadata=EDITOR))).reason == "MODEL_IN_USE"
    await rooms.stop(deployment.deployment_id)
    await rooms.models.DeleteModel(request, metadata=EDITOR)
    assert await names(rooms) == []


async def test_only_old_objects_of_no_model_are_swept_away(rooms: Rooms) -> None:
    await rooms.import_model("tiny")
    mine = set(rooms.stored())
    for folder in ("blob-orphan", "blob-young"):
        sink = rooms.objects.create(f"blobs/{folder}/{'ab' * 32}", 2)
        await sink.write(b"{}")
        await sink.close()
    age = (rooms.clock.now() - ORPHAN_AGE - timedelta(minutes=1)).timestamp()
    for path in rooms.stored():
        if "young" not in path:
            os.utime(Path(rooms.storage, path), (age, age))
    for _ in range(2):
        await rooms.sweep.remove_orphans()
    assert {path.split("/")[1] for path in set(rooms.stored()) - mine} == {"blob-young"}
    assert mine < set(rooms.stored())


@pytest.mark.parametrize("size", [1001, 2**32 - 1])
async def test_a_page_has_a_limit(rooms: Rooms, size: int) -> None:
    error = await refusal(rooms.models.ListModels(pb.ListModelsRequest(page_size=size), metadata=EDITOR))
    assert [violation.field for violation in error.violations] == ["page_size"]
