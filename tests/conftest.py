"""Makes every module of tests/fixtures a plugin, so that each test finds the fixtures by name; no example is timed."""

from pathlib import Path

from hypothesis import settings

# A busy machine may take its time over one example; pytest bounds the whole test.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

pytest_plugins = [
    f"tests.fixtures.{module.stem}"
    for module in sorted((Path(__file__).parent / "fixtures").glob("*.py"))
    if module.stem != "__init__"
]
