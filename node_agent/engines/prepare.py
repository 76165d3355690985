"""Lays out the run directory that a launch plan asks for; safe to repeat."""

from node_agent.engines.engine import LaunchPlan


def prepare(plan: LaunchPlan) -> None:
    """Creates the plan's directories and links. Raises OSError (a full disk, a file in the way)."""
    for directory in plan.directories:
        directory.mkdir(parents=True, exist_ok=True)
    for link, target in plan.links.items():
        if link.is_symlink() and link.readlink() == target:
            continue
        link.unlink(missing_ok=True)
        link.symlink_to(target)
