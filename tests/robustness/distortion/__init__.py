"""Programs whose wall clock and whose fsync a test distorts while they run.

The wall clock is distorted where the platform's own code reads it (`tests/robustness/plants`), for a library that moved
it below gRPC would let gRPC wait by a clock that the kernel does not have; fsync is distorted by a preloaded library.
"""

import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_name("distortion.c")


@dataclass(frozen=True)
class Distortion:
    """The control file of one program, and the environment to start it with (for its clock, plant `wall_clock` too)."""

    library: Path
    control: Path

    @property
    def environment(self) -> dict[str, str]:
        return {"LD_PRELOAD": str(self.library), "DISTORTION": str(self.control)}

    def set(self, *, wall_s: float = 0.0, fsync_errno: int = 0, fsync_ms: int = 0) -> None:
        """From now on; without arguments everything is as it should be."""
        with self.control.open("r+b") as file:
            file.write(struct.pack("=qqq", int(wall_s * 1e9), fsync_errno, fsync_ms))


def distortion(directory: Path, name: str) -> Distortion:
    """A distortion that does nothing yet. The library is compiled once per directory."""
    library, control = directory / "distortion.so", directory / f"distortion-{name}"
    if not library.exists():
        subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-Wall", "-o", str(library), str(SOURCE)], check=True)
    control.write_bytes(bytes(24))
    return Distortion(library, control)
