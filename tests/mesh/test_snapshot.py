"""What changed since a look is only told by one who knows at least as much as the one who looked."""

from datetime import UTC, datetime, timedelta

import pytest

from mesh.sql.snapshot import Snapshot

AT = datetime(2026, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)


@pytest.mark.parametrize(
    ("now", "tells"),
    [
        (Snapshot(100, AT), True),
        (Snapshot(120, AT + SECOND), True),
        (Snapshot(120, AT - SECOND), False),
        (Snapshot(99, AT + SECOND), False),
        (Snapshot(2**32 + 5, AT + SECOND), False),
    ],
    ids=["nothing new", "later", "clock set back", "another server", "count begun again"],
)
def test_a_look_goes_on_from_an_earlier_one_or_begins_anew(now: Snapshot, tells: bool) -> None:
    assert now.continues(Snapshot(100, AT)) is tells
