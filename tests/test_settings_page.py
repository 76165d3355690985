"""The page of settings names every variable that a service reads, and none that nobody reads."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
VARIABLE = re.compile(r"AIOPS_[A-Z_]*[A-Z]")


def read_by_services() -> set[str]:
    sources = [*ROOT.glob("*/settings.py"), ROOT / "mesh" / "settings.py"]
    return {name for path in sources for name in VARIABLE.findall(path.read_text())}


def test_every_setting_is_on_the_page() -> None:
    assert read_by_services() - set(VARIABLE.findall((ROOT / "docs" / "settings.md").read_text())) == set()


def test_every_setting_on_the_page_is_read() -> None:
    assert set(VARIABLE.findall((ROOT / "docs" / "settings.md").read_text())) - read_by_services() == set()
