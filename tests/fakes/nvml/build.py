"""Compiles the stand-in."""

import subprocess
from pathlib import Path

NAME = "libnvidia-ml.so.1"


def build_nvml(directory: Path) -> Path:
    """The directory, with a libnvidia-ml.so.1 of our own in it."""
    source = Path(__file__).with_name("nvml.c")
    options = ["-shared", "-fPIC", "-Wall", "-Werror", f"-Wl,-soname,{NAME}"]
    subprocess.run(["gcc", *options, "-o", str(directory / NAME), str(source)], check=True)
    return directory
