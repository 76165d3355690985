"""I1, I2 and I3: what was acknowledged is there, nothing nobody asked for is there, nothing is there twice."""

import json
from collections import defaultdict
from collections.abc import Sequence

from tests.robustness.final import Final, Row
from tests.robustness.history import Operation, of

CREATED, ASSIGNED = "system.deploymentCreated", "system.node.deployModel"


def acknowledged_is_final(operations: Sequence[Operation], final: Final) -> list[str]:
    """I1: every create, stop and import that was answered with success shows in the end."""
    deployments = {row["deployment_id"]: row for row in final.deployments}
    models = {row["model_id"] for row in final.models}
    found = []
    for each in of(operations, "create", "stop", "import"):
        if each.result != "ok":
            continue
        deployment_id = each.value.get("deployment_id") or each.args.get("deployment_id", "")
        if each.op == "create" and deployment_id not in deployments:
            found.append(f"create {each.args['request_id']} was acknowledged and {deployment_id} is not there")
        if each.op == "stop" and deployments.get(deployment_id, {}).get("goal") != "end":
            found.append(f"stop of {deployment_id} was acknowledged and its goal is not to end")
        if each.op == "import" and each.value["model_id"] not in models:
            found.append(f"import of {each.args['name']} was acknowledged and the model is not there")
    return found


def final_was_attempted(operations: Sequence[Operation], final: Final) -> list[str]:
    """I2: whatever was assigned to a node in this scenario was asked for by somebody, and stopped only if asked to."""
    asked = {each.args["request_id"] for each in of(operations, "create")}
    to_end = {each.args["deployment_id"] for each in of(operations, "stop")}
    assigned = _assigned(final)
    found = [f"{row['key']} was told of and is not there" for row in final.outbox if _is_ghost(row, final)]
    found += [
        f"{ids} were made for {request}, which nobody sent" for request, ids in assigned.items() if request not in asked
    ]
    mine = {each for ids in assigned.values() for each in ids}
    for row in final.deployments:
        if row["deployment_id"] in mine - to_end and row["goal"] == "end":
            found.append(f"{row['deployment_id']} is to end, which nobody asked for")
    return found


def effects_once(operations: Sequence[Operation], final: Final) -> list[str]:
    """I3: one request id makes one deployment, and every answer to it names the same one."""
    found = [f"request {request} made {sorted(ids)}" for request, ids in _assigned(final).items() if len(ids) > 1]
    named = defaultdict[str, set[str]](set)
    for each in of(operations, "create"):
        if each.result == "ok":
            named[each.args["request_id"]].add(each.value["deployment_id"])
    return found + [
        f"request {request} was answered with {sorted(ids)}" for request, ids in named.items() if len(ids) > 1
    ]


def _assigned(final: Final) -> dict[str, set[str]]:
    """The deployments that were first assigned under each request id."""
    by_request = defaultdict[str, set[str]](set)
    fresh = {row["key"] for row in final.outbox if row["type"] == CREATED}
    for row in final.outbox:
        if row["type"] == ASSIGNED:
            value = json.loads(row["value"])
            if value["jobId"] in fresh:
                # Later assignments are moves to other nodes.
                fresh.remove(value["jobId"])
                by_request[value["requestId"]].add(value["jobId"])
    return by_request


def _is_ghost(row: Row, final: Final) -> bool:
    """Whether an event tells of a deployment that nobody has."""
    return row["type"] == CREATED and all(each["deployment_id"] != row["key"] for each in final.deployments)
