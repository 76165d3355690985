"""I4 and I13: a row of the outbox is an event on the broker, a rolled-back one is none, each key keeps its order."""

from collections import defaultdict
from collections.abc import Sequence

from tests.robustness.final import Final
from tests.robustness.tap import Heard


def published_is_committed(final: Final, records: Sequence[Heard], earlier: int | None = None) -> list[str]:
    """Every committed event was heard, and nothing that was never committed: of the `earlier` ones, those that were
    heard before the rows were read."""
    committed = set(final.events)
    heard = {each.event_id for each in records}
    found = [f"event {row['id']} ({row['type']}) waits still" for row in final.outbox if not row["published_at"]]
    found += [
        f"event {row['id']} ({row['type']} of {row['key']}) counts as published and was never heard"
        for row in final.outbox
        if row["published_at"] and row["event_id"] not in heard
    ]
    ghosts = {each.event_id: each for each in records[:earlier] if each.event_id not in committed}.values()
    return found + [f"{each.type} of {each.key} was heard and no row tells of it" for each in ghosts]


def keys_keep_their_order(final: Final, records: Sequence[Heard]) -> list[str]:
    """The first hearing of each event follows the order of the rows of its key."""
    position = {row["event_id"]: int(row["id"]) for row in final.outbox}
    heard = defaultdict[str, list[int]](list)
    seen = set[str]()
    for each in records:
        if each.event_id in position and each.event_id not in seen:
            seen.add(each.event_id)
            heard[f"{each.topic} {each.key}"].append(position[each.event_id])
    return [f"{key} was heard as {order}" for key, order in heard.items() if order != sorted(order)]
