"""Flags belong to an organisation, are replaced whole, and are told."""

from typing import Any

import pytest
from aiops.flags.v1 import flag_service_pb2 as pb
from google.protobuf.json_format import MessageToDict, ParseDict

from tests.fixtures.iam import refusal
from tests.fixtures.registry import EDITOR, STRANGER, Metadata, Rooms, person


def wish(name: str = "beta", **fields: Any) -> pb.SetFlagRequest:
    usual = {"name": name, "variants": {"on": True, "off": False}, "default_variant": "off"}
    return ParseDict({**usual, **fields}, pb.SetFlagRequest())


async def names(rooms: Rooms, by: Metadata = EDITOR) -> list[str]:
    return [flag.name for flag in (await rooms.flags.ListFlags(pb.ListFlagsRequest(), metadata=by)).flags]


async def test_a_flag_is_replaced_whole_and_every_change_is_told(rooms: Rooms) -> None:
    rule = {"variant": "on", "user_ids": ["user-1"], "percent": 50}
    made = (await rooms.flags.SetFlag(wish(rules=[rule], description="new pages"), metadata=EDITOR)).flag
    assert (made.version, made.rules[0].percent, made.variants["on"].bool_value) == (1, 50, True)
    again = (await rooms.flags.SetFlag(wish(rules=[rule], description="new pages"), metadata=EDITOR)).flag
    assert again.version == 1
    objects: dict[str, Any] = {"variants": {"a": {"model": "tiny", "deep": {"n": 1}}}, "default_variant": "a"}
    after = (await rooms.flags.SetFlag(wish(**objects), metadata=EDITOR)).flag
    assert (after.version, list(after.rules), after.description) == (2, [], "")
    (listed,) = (await rooms.flags.ListFlags(pb.ListFlagsRequest(), metadata=EDITOR)).flags
    assert listed == after
    assert MessageToDict(listed.variants["a"]) == {"model": "tiny", "deep": {"n": 1}}
    await rooms.flags.DeleteFlag(pb.DeleteFlagRequest(name="beta"), metadata=EDITOR)
    assert await names(rooms) == []
    told = [(each["flag"]["version"], each["isDeleted"]) for each in await rooms.events("system.flagChanged")]
    assert told == [(1, False), (2, False), (2, True)]


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"variants": {"a": True, "b": "x"}, "default_variant": "a"}, "variants"),
    ({"variants": {"a": [1]}, "default_variant": "a"}, "variants"),
    ({"default_variant": "gone"}, "default_variant"),
    ({"rules": [{"variant": "gone"}]}, "rules[0].variant"),
    ({"name": "no name"}, "name"),
]


@pytest.mark.parametrize(("fields", "at_fault"), WRONG)
async def test_what_makes_no_sense_is_refused_and_the_field_is_named(
    rooms: Rooms, fields: dict[str, Any], at_fault: str
) -> None:
    error = await refusal(rooms.flags.SetFlag(wish(**fields), metadata=EDITOR))
    assert (error.reason, error.violations[0].field) == ("INVALID_REQUEST", at_fault)


async def test_an_organisation_has_its_own_flags_and_pages_of_them_come_to_an_end(rooms: Rooms) -> None:
    for number in range(5):
        await rooms.flags.SetFlag(wish(f"flag-{number}"), metadata=EDITOR)
    assert await names(rooms, STRANGER) == []
    gone = await refusal(rooms.flags.DeleteFlag(pb.DeleteFlagRequest(name="flag-1"), metadata=STRANGER))
    assert gone.reason == "FLAG_NOT_FOUND"
    reader = person(role="organization.viewer")
    assert (await refusal(rooms.flags.SetFlag(wish(), metadata=reader))).reason == "PERMISSION_DENIED"
    seen, token = list[str](), ""
    while True:
        page = await rooms.flags.ListFlags(pb.ListFlagsRequest(page_size=2, page_token=token), metadata=reader)
        seen += [flag.name for flag in page.flags]
        if not (token := page.next_page_token):
            break
    assert seen == [f"flag-{number}" for number in range(5)]
