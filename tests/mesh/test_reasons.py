"""Every error that a service raises on purpose carries a reason of the contract."""

import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiops.errors.v1.reason_pb2 import Reason

from mesh.errors import DomainError
from mesh.rpc.status import CODES

REASONS = set(Reason.DESCRIPTOR.values_by_name)
ROOT = Path(__file__).parents[2]
SOURCES = ("mesh", "controller", "inference_router", "gateway", "node_agent", "stack", "cli")


def every_error() -> list[type[DomainError]]:
    """The subclasses of DomainError in all the modules that define one."""
    for source in SOURCES:
        for path in (ROOT / source).rglob("*.py"):
            if "DomainError" in path.read_text():
                importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    return sorted(set(descendants(DomainError)), key=lambda error: (error.__module__, error.__name__))


def descendants(error: type[DomainError]) -> Iterator[type[DomainError]]:
    for child in error.__subclasses__():
        yield child
        yield from descendants(child)


@pytest.mark.parametrize("error", every_error(), ids=lambda error: f"{error.__module__}.{error.__name__}")
def test_the_reason_is_in_the_contract(error: type[DomainError]) -> None:
    assert error.reason in REASONS
    assert error.kind in CODES
    assert error.__name__.endswith("Error")
