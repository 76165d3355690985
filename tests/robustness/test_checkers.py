"""Each checker accepts what a sound platform leaves and objects to the same with one thing wrong."""

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.robustness.checkers import chats, convergence, limits, linearizable, mutations, outbox
from tests.robustness.final import Final
from tests.robustness.history import History, Operation, Result, read
from tests.robustness.samples import Sample, Samples
from tests.robustness.tap import Heard


def operation(
    op: str, call: float, ret: float, result: Result = "ok", value: dict[str, Any] | None = None, **args: Any
) -> Operation:
    return Operation(call, "client", op, args, ret, result, value or {})


def deployment(deployment_id: str, goal: str = "run", epoch: int = 1, **fields: Any) -> dict[str, Any]:
    status, ended = ("running", None) if goal == "run" else ("stopped", "2026-01-01")
    return {
        "deployment_id": deployment_id,
        "goal": goal,
        "epoch": epoch,
        "status": status,
        "ended_at": ended,
        "observed": {},
        **fields,
    }


def event(number: int, key: str, kind: str = "system.deploymentStatus", **value: str) -> dict[str, Any]:
    return {
        "id": number,
        "event_id": f"e{number}",
        "topic": "t",
        "key": key,
        "type": kind,
        "value": json.dumps(value),
        "published_at": "2026-01-01",
    }


def heard(row: dict[str, Any]) -> Heard:
    return Heard(row["event_id"], row["topic"], row["key"], row["type"], json.loads(row["value"]))


CREATES = [
    operation("create", 0, 1, "unknown", request_id="r1"),
    operation("create", 2, 3, value={"deployment_id": "d1"}, request_id="r1"),
    operation("create", 2, 3, value={"deployment_id": "d2"}, request_id="r2"),
    operation("stop", 4, 5, deployment_id="d2"),
    operation("import", 4, 5, value={"model_id": "m1"}, name="m"),
]
OUTBOX = [
    event(1, "d1", "system.deploymentCreated"),
    event(2, "n1", "system.node.deployModel", jobId="d1", requestId="r1"),
    event(3, "d2", "system.deploymentCreated"),
    event(4, "n1", "system.node.deployModel", jobId="d2", requestId="r2"),
    event(5, "d1"),
]
FINAL = Final(
    deployments=[deployment("d1"), deployment("d2", "end")],
    models=[{"model_id": "m1"}],
    nodes=[{"name": "node-1", "status": "online", "desired_revision": 2, "applied_revision": 2}],
    outbox=OUTBOX,
    events=["e0", *(row["event_id"] for row in OUTBOX)],
    engines={11: "/home#d1/0/1/transformers/9000"},
    answers={"d1": {"status": 200, "workload": "d1/0/1/transformers/9000", "pid": 11}, "d2": {"status": 404}},
    waiting_locks=0,
    idle_transactions=0,
)
RECORDS = [heard(row) for row in OUTBOX]
MUTATIONS = (mutations.acknowledged_is_final, mutations.final_was_attempted, mutations.effects_once)


def everything(operations: list[Operation], final: Final, records: list[Heard]) -> list[str]:
    """What the checkers of final states say."""
    return [
        *(each for check in MUTATIONS for each in check(operations, final)),
        *outbox.published_is_committed(final, records),
        *outbox.keys_keep_their_order(final, records),
        *convergence.desired_is_observed(final),
        *convergence.nothing_is_left_over(final),
    ]


def test_a_sound_end_is_accepted() -> None:
    assert everything(CREATES, FINAL, [*RECORDS, RECORDS[1]]) == []


@pytest.mark.parametrize(
    ("wrong", "objection"),
    [
        ({"deployments": [deployment("d1")]}, "create r2 was acknowledged and d2 is not there"),
        ({"deployments": [deployment("d1"), deployment("d2")]}, "stop of d2 was acknowledged"),
        ({"models": []}, "import of m was acknowledged"),
        ({"deployments": [deployment("d1", "end"), deployment("d2", "end")]}, "d1 is to end, which nobody asked for"),
        ({"outbox": [*OUTBOX, event(6, "d9", "system.deploymentCreated")]}, "event 6"),
        ({"outbox": [*OUTBOX[:-1], {**OUTBOX[-1], "published_at": None}]}, "event 5 (system.deploymentStatus) waits"),
        ({"events": ["e1", "e2", "e3", "e4"]}, "was heard and no row tells of it"),
        ({"engines": {}}, "d1 of epoch 1 has 0 processes"),
        ({"engines": {11: "/home#d1/0/1/t/1", 12: "/home#d1/0/1/t/2"}}, "d1 of epoch 1 has 2 processes"),
        ({"engines": {11: "/home#d1/0/1/t/1", 12: "/home#d2/0/1/t/2"}}, "process 12 is /home#d2"),
        ({"answers": {"d1": {"status": 503}, "d2": {"status": 404}}}, "d1 should run and answers 503"),
        ({"answers": {"d1": {"status": 200, "workload": "d1/0/0/t/1"}, "d2": {"status": 404}}}, "is answered for by"),
        ({"answers": {**FINAL.answers, "d2": {"status": 200}}}, "d2 has ended and still answers"),
        ({"nodes": [{**FINAL.nodes[0], "status": "offline"}]}, "node-1 is offline"),
        ({"nodes": [{**FINAL.nodes[0], "applied_revision": 1}]}, "node-1 has not applied revision 2"),
        ({"waiting_locks": 1}, "1 locks are waited for"),
        ({"idle_transactions": 1}, "1 transactions are open and idle"),
    ],
)
def test_an_end_with_one_thing_wrong_is_rejected(wrong: dict[str, Any], objection: str) -> None:
    assert any(objection in each for each in everything(CREATES, replace(FINAL, **wrong), RECORDS))


def test_a_request_that_made_two_deployments_is_rejected() -> None:
    twice = [
        *OUTBOX,
        event(6, "d3", "system.deploymentCreated"),
        event(7, "n1", OUTBOX[1]["type"], jobId="d3", requestId="r1"),
    ]
    assert mutations.effects_once(CREATES, replace(FINAL, outbox=twice)) == ["request r1 made ['d1', 'd3']"]
    other = [*CREATES, operation("create", 6, 7, value={"deployment_id": "d3"}, request_id="r1")]
    assert mutations.effects_once(other, FINAL) == ["request r1 was answered with ['d1', 'd3']"]


def test_events_out_of_the_order_of_their_key_are_rejected() -> None:
    assert outbox.keys_keep_their_order(FINAL, [RECORDS[4], *RECORDS[:4]]) == ["t d1 was heard as [5, 1]"]


def chat(call: float, ret: float, epoch: int, pid: int, result: Result = "ok") -> Operation:
    return operation("chat", call, ret, result, {"workload": f"d1/0/{epoch}/t/1", "pid": pid})


def test_chats_that_go_on_are_accepted_and_a_pause_or_a_failure_is_not() -> None:
    fine = [chat(moment, moment + 0.1, 1, 11) for moment in range(10)]
    assert chats.answers_go_on(fine, pause_s=2) == []
    assert chats.answers_go_on([*fine[:3], *fine[7:]], pause_s=2) == ["for 5.0 s no chat was answered"]
    failed = [*fine, chat(3, 3.1, 1, 11, "unknown")]
    assert chats.answers_go_on(failed, allowed=1, pause_s=2) == []
    assert chats.answers_go_on(failed, pause_s=2)[0].startswith("1 of 11 chats failed")
    assert chats.answers_go_on([]) == ["no chat was answered at all"]


def test_an_older_epoch_that_answers_after_a_newer_one_is_rejected() -> None:
    moved = [chat(0, 1, 1, 11), chat(2, 3, 2, 12), chat(2.5, 3.5, 1, 11)]
    assert chats.epochs_only_grow(moved) == []
    assert chats.epochs_only_grow([*moved, chat(4, 5, 1, 11)]) == ["d1: epoch 1 answered after epoch 2 had"]


def test_two_processes_of_one_epoch_that_take_turns_are_rejected() -> None:
    assert chats.one_instance_at_a_time([chat(0, 1, 1, 11), chat(2, 3, 1, 12), chat(4, 5, 1, 12)]) == []
    turns = [chat(0, 1, 1, 11), chat(2, 3, 1, 12), chat(4, 5, 1, 11)]
    assert chats.one_instance_at_a_time(turns) == ["d1: process 11 of epoch 1 answered again after another one had"]


def test_growth_beyond_a_cap_and_calls_beyond_their_deadline_are_rejected() -> None:
    samples = Samples([Sample("ctl-1", 100, 50, 10)], [5])
    assert limits.within_caps(samples, limits.Caps()) == []
    assert limits.within_caps(samples, limits.Caps(rss_mb=99, connections=4)) == [
        "ctl-1 had more than 99 rss_mb",
        "the database had 5 connections",
    ]
    assert limits.calls_end([operation("get", 0, 11)], 10) == []
    assert limits.calls_end([operation("get", 0, 13)], 10) == ["get of client took 13.0 s"]


def test_an_order_is_found_where_there_is_one_and_not_where_there_is_none() -> None:
    history = [
        operation("create", 0, 1, "unknown", request_id="r1"),
        operation("create", 0.5, 2, value={"deployment_id": "d1"}, request_id="r1"),
        operation("get", 1, 3, value={"status": "running"}, deployment_id="d1"),
        operation("stop", 2, 9, "unknown", deployment_id="d1"),
        operation("get", 3, 4, value={"status": "stopped"}, deployment_id="d1"),
        operation("get", 5, 6, value={"status": "stopped"}, deployment_id="d1"),
    ]
    assert linearizable.deployments_are_registers(history) == []
    stale = operation("get", 7, 8, value={"status": "running"}, deployment_id="d1")
    assert linearizable.deployments_are_registers([*history, stale]) == ["no order explains d1"]


def register(value: int, step: Operation) -> list[int]:
    """A compare-and-set register."""
    if step.op == "write":
        return [step.args["value"]]
    if step.op == "swap":
        return [step.args["new"]] if value == step.args["old"] else []
    return [value] if step.args["value"] == value else []


def test_a_thousand_operations_of_six_clients_are_judged_and_one_wrong_read_is_found() -> None:
    choose, value, history = random.Random(1), 0, []  # noqa: S311 - repeatable
    for number in range(1000):
        moment, width = float(number), choose.random() * 3
        kind = choose.choice(["write", "read", "swap"])
        if kind == "write":
            value = number
            history.append(operation("write", moment - width, moment + width))
            history[-1].args = {"value": value}
        elif kind == "swap":
            history.append(operation("swap", moment - width, moment + width, old=value, new=number))
            value = number
        else:
            history.append(operation("read", moment - width, moment + width))
            history[-1].args = {"value": value}
    assert linearizable.explained(history, 0, register)
    reads = [each for each in history if each.op == "read"]
    reads[len(reads) // 2].args = {"value": -1}
    assert not linearizable.explained(history, 0, register)


def test_a_history_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    with History(tmp_path / "history.jsonl") as history, history.operation("c", "get", deployment_id="d1") as one:
        one.done("ok", status="running")
    assert read(tmp_path / "history.jsonl") == history.operations
