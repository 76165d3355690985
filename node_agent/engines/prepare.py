"""Lays out the run directory that a launch plan asks for; safe to repeat."""

import shutil
from pathlib import Path

from node_agent.engines.engine import LaunchPlan


def prepare(plan: LaunchPlan) -> None:
    """Creates the plan's directories, links and files. Raises OSError (a full disk, no permission)."""
    for directory in plan.directories:
        if directory.is_symlink():
            directory.unlink()  # nothing must be written through it
        directory.mkdir(parents=True, exist_ok=True)
    for link, target in plan.links.items():
        _clear(link)
        link.symlink_to(target)
    for file, text in plan.files.items():
        _clear(file)
        file.write_text(text, encoding="utf-8")


def _clear(path: Path) -> None:
    """Removes what an earlier plan left here; through a link to a model's directory nothing is ever removed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
