"""Bugs that the platform does not have, to see that the scenarios would find them."""

from pathlib import Path

from tests.robustness.member import Member

HERE = Path(__file__).parent


def planted(member: Member, bug: str, **environment: str) -> dict[str, str]:
    """The additional environment that starts the member with the bug."""
    return {**environment, "PLANT": bug, "PYTHONPATH": f"{HERE}:{member.environment['PYTHONPATH']}"}
