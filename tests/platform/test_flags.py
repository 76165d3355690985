"""A flag is set on the command line and read by a program through OpenFeature."""

import asyncio

from openfeature.evaluation_context import EvaluationContext

from client.flags import FlagProvider
from tests.platform.served import Served


async def test_a_flag_that_is_set_on_the_command_line_is_seen_by_a_program(served: Served) -> None:
    await asyncio.to_thread(_use, served)


def _use(served: Served) -> None:
    aiops = served.platform.aiops_json
    made = aiops("flags", "set", "search", "--rule", "on:user=user-1,user=user-2", "--rule", "on:percent=100")
    assert (made["version"], made["variants"]) == (1, {"on": True, "off": False})
    aiops("flags", "set", "limits", "--variant", 'small={"tokens": 5}', "--default", "small")
    provider = FlagProvider(served.platform.url, served.api_key, every_s=3600)
    try:
        assert provider.refresh()
        somebody = EvaluationContext("user-7")
        assert provider.resolve_boolean_details("search", False, somebody).value is True
        # Nobody is not among a percentage.
        assert provider.resolve_boolean_details("search", True).value is False
        assert provider.resolve_object_details("limits", {}).value == {"tokens": 5}
        assert [flag["name"] for flag in aiops("flags", "list")] == ["limits", "search"]
        for name in ("limits", "search"):
            aiops("flags", "delete", name)
    finally:
        provider.shutdown()
