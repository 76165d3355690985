"""I7 and I5 at rest: what should be is what is, and nothing is left over."""

from collections import Counter

from tests.robustness.final import Final


def desired_is_observed(final: Final) -> list[str]:
    """Every deployment that should run runs once, in its epoch, and answers; every other one has ended and does not."""
    found = []
    running = final.running()
    processes = Counter(_slot(mark) for mark in final.engines.values())
    for deployment_id, row in running.items():
        slot, answer = (deployment_id, str(row["epoch"])), final.answers[deployment_id]
        if row["status"] != "running":
            found.append(f"{deployment_id} should run and is {row['status']}: {row['observed'].get('error_message')}")
        if processes[slot] != 1:
            found.append(f"{deployment_id} of epoch {row['epoch']} has {processes[slot]} processes")
        if answer["status"] != 200:
            found.append(f"{deployment_id} should run and answers {answer['status']}")
        elif not answer["workload"].startswith(f"{deployment_id}/") or answer["workload"].split("/")[2] != slot[1]:
            found.append(f"{deployment_id} of epoch {row['epoch']} is answered for by {answer['workload']}")
    for row in final.deployments:
        if row["goal"] == "end" and not row["ended_at"]:
            found.append(f"{row['deployment_id']} should end and nobody told that it has")
        if row["goal"] == "end" and final.answers[row["deployment_id"]]["status"] == 200:
            found.append(f"{row['deployment_id']} has ended and still answers")
    return found


def nothing_is_left_over(final: Final) -> list[str]:
    """No process without its deployment, no node away, no lock waited for, no transaction left open."""
    wanted = {(deployment_id, str(row["epoch"])) for deployment_id, row in final.running().items()}
    found = [
        f"process {pid} is {mark}, which nobody wants"
        for pid, mark in final.engines.items()
        if _slot(mark) not in wanted
    ]
    found += [f"{row['name']} is {row['status']}" for row in final.nodes if row["status"] == "offline"]
    found += [
        f"{row['name']} has not applied revision {row['desired_revision']}" for row in final.nodes if _behind(row)
    ]
    if final.waiting_locks:
        found.append(f"{final.waiting_locks} locks are waited for")
    if final.idle_transactions:
        found.append(f"{final.idle_transactions} transactions are open and idle")
    return found


def _slot(mark: str) -> tuple[str, str]:
    workload, _, epoch, *_ = mark.rpartition("#")[2].split("/")
    return workload, epoch


def _behind(row: dict[str, object]) -> bool:
    return row.get("applied_revision", row["desired_revision"]) != row["desired_revision"]
