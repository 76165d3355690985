"""I5 and I6 as clients see them: who answered, in which order, and that somebody always did."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise

from tests.robustness.history import Operation, of


def answers_go_on(operations: Sequence[Operation], *, allowed: int = 0, pause_s: float = 5.0) -> list[str]:
    """I6: chats are answered all the time. `allowed` may fail; between two answers at most `pause_s` passes."""
    chats = of(operations, "chat")
    failed = [each for each in chats if each.result != "ok"]
    found = [f"{len(failed)} of {len(chats)} chats failed, e.g. {failed[0].value}"] if len(failed) > allowed else []
    answered = sorted(each.ret for each in chats if each.result == "ok")
    if not answered:
        return [*found, "no chat was answered at all"]
    longest = max((after - before for before, after in pairwise(answered)), default=0.0)
    return found + ([f"for {longest:.1f} s no chat was answered"] if longest > pause_s else [])


def epochs_only_grow(operations: Sequence[Operation]) -> list[str]:
    """I5: once an epoch of a replica slot has answered, no older one answers a chat that began later."""
    found = []
    for workload, chats in _by_workload(operations).items():
        newest, since = 0, 0.0
        for each in sorted(chats, key=lambda chat: chat.ret):
            epoch = _epoch(each)
            if epoch < newest and each.call > since:
                found.append(f"{workload}: epoch {epoch} answered after epoch {newest} had")
            if epoch > newest:
                newest, since = epoch, each.ret
    return found


def one_instance_at_a_time(operations: Sequence[Operation]) -> list[str]:
    """I5: within an epoch the answers of two processes never interleave: one has ended when the next begins."""
    found = []
    for workload, chats in _by_workload(operations).items():
        gone = dict[int, tuple[int, float]]()
        now: tuple[int, int] | None = None
        for each in sorted(chats, key=lambda chat: chat.ret):
            who = (_epoch(each), int(each.value["pid"]))
            if who[1] in gone and gone[who[1]][0] == who[0] and each.call > gone[who[1]][1]:
                found.append(f"{workload}: process {who[1]} of epoch {who[0]} answered again after another one had")
            if now is not None and now != who:
                gone[now[1]] = (now[0], each.ret)
            now = who
    return found


def _by_workload(operations: Sequence[Operation]) -> dict[str, list[Operation]]:
    chats = defaultdict[str, list[Operation]](list)
    for each in of(operations, "chat"):
        if each.result == "ok" and "workload" in each.value:
            chats[each.value["workload"].split("/")[0]].append(each)
    return chats


def _epoch(chat: Operation) -> int:
    return int(chat.value["workload"].split("/")[2])
