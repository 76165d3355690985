"""How much memory processes really take: their proportional set size, in which shared pages count once."""

from pathlib import Path

from stack.processes import descendants


def pss_mb(pid: int) -> float:
    """Megabytes (2**20 bytes) of one process; 0 when it is gone or not ours to look at. Source: proc(5)."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    kilobytes = next((line.split()[1] for line in lines if line.startswith("Pss:")), "0")
    return int(kilobytes) / 1024


def tree_mb(pid: int) -> float:
    """Megabytes of a process and everything below it."""
    return pss_mb(pid) + sum(pss_mb(process.pid) for process in descendants(pid))
