"""Where the wheels put the programs they carry, found without importing the wheels' own Python."""

import importlib.util
from pathlib import Path


def package_directory(name: str) -> Path:
    """The directory of an installed package; raises ModuleNotFoundError when it is not installed."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"the package {name} is not installed; run `make setup`")
    return Path(spec.origin).parent
