"""Whether a history of one object can be explained by some order of its operations, each between its call and return.

The search is that of J. Wing and C. Gong, "Testing and Verifying Concurrent Objects" (1993), with the memory of
G. Lowe, "Testing for Linearizability" (2017): a configuration (what is done, and the state) is visited once. Objects
are independent, so each is judged alone. An operation of unknown outcome may take effect at any time after its call, or
never.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from tests.robustness.history import Operation, of

Step = Callable[[Any, Operation], list[Any]]


def explained(operations: Sequence[Operation], initial: Any, step: Step) -> bool:
    """Whether an order exists. `step` answers the states an operation may lead to; none when it cannot happen there."""
    operations = [each for each in operations if each.result != "fail"]
    ends = [each.ret if each.result == "ok" else math.inf for each in operations]
    must = sum(1 << index for index, each in enumerate(operations) if each.result == "ok")
    stack, visited = [(0, initial)], {(0, initial)}
    while stack:
        done, state = stack.pop()
        if done & must == must:
            return True
        horizon = min(ends[index] for index in range(len(operations)) if not done >> index & 1)
        for index, each in enumerate(operations):
            if done >> index & 1 or each.call > horizon:
                continue
            for after in step(state, each):
                configuration = (done | 1 << index, after)
                if configuration not in visited:
                    visited.add(configuration)
                    stack.append(configuration)
    return False


def deployments_are_registers(operations: Sequence[Operation]) -> list[str]:
    """Creates, stops and looks of every deployment have an order: absent, then to run, then to end."""
    by_request = {
        each.args["request_id"]: each.value["deployment_id"] for each in of(operations, "create") if each.result == "ok"
    }
    histories = defaultdict[str, list[Operation]](list)
    for each in of(operations, "create", "stop", "get"):
        deployment_id = each.args.get("deployment_id") or by_request.get(each.args.get("request_id", ""))
        if deployment_id:
            histories[deployment_id].append(each)
    return [f"no order explains {key}" for key, each in histories.items() if not explained(each, "absent", _goal)]


def _goal(state: str, operation: Operation) -> list[str]:
    """The life of a deployment: a create that is repeated changes nothing, and nothing comes back."""
    if operation.op == "create":
        return ["run" if state == "absent" else state]
    if state == "absent":
        return []
    if operation.op == "stop":
        return ["end"]
    if operation.result != "ok":
        return [state]
    return [state] if (operation.value["status"] == "stopped") == (state == "end") else []
