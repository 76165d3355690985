"""Shows the stack: one line a service, live on a terminal and as plain lines elsewhere."""

import contextlib
from typing import TYPE_CHECKING, Protocol, TextIO

from stack.service import Report, State

if TYPE_CHECKING:
    from rich.table import Table


NOTE_LIMIT = 200


class Board(Protocol):
    """Where reports go."""

    def show(self, report: Report) -> None: ...

    def note(self, text: str) -> None: ...

    def ready(self, url: str, seconds: float) -> None: ...

    def close(self) -> None: ...


class PlainBoard:
    """Prints a line whenever a service changes its state, or what it waits for."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._shown: dict[str, tuple[State, int | None, str]] = {}

    def show(self, report: Report) -> None:
        note = report.note if report.state in _EXPLAINED else ""
        shown = (report.state, report.pid, note)
        if report.state is not State.WAITING and self._shown.get(report.name) != shown:
            self._shown[report.name] = shown
            self.note(line(report))

    def note(self, text: str) -> None:
        with contextlib.suppress(OSError):  # whoever read this may be gone; the stack goes on
            self._out.write(f"{text}\n")
            self._out.flush()

    def ready(self, url: str, seconds: float) -> None:
        self.note(f"aiops is ready at {url} after {seconds:.1f} s")

    def close(self) -> None: ...


class LiveBoard:
    """Redraws a table in place."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._reports: dict[str, Report] = {}
        self._live = Live(console=Console(), auto_refresh=False)
        self._live.start()

    def show(self, report: Report) -> None:
        self._reports[report.name] = report
        self._live.update(self._table(), refresh=True)

    def note(self, text: str) -> None:
        self._live.console.print(text, highlight=False)

    def ready(self, url: str, seconds: float) -> None:
        self.note(f"[bold green]aiops is ready[/] at {url} after {seconds:.1f} s; Ctrl-C stops it")

    def close(self) -> None:
        self._live.stop()

    def _table(self) -> "Table":
        from rich.table import Table

        table = Table("service", "state", "address", "pid", "", box=None, pad_edge=False)
        for report in self._reports.values():
            colour = _COLOURS.get(report.state, "yellow")
            pid = "" if report.pid is None else str(report.pid)
            table.add_row(report.name, f"[{colour}]{report.state}[/]", report.address, pid, _remark(report))
        return table


_COLOURS = {
    State.HEALTHY: "green",
    State.READY: "green",
    State.FAILED: "red",
    State.UNHEALTHY: "red",
    State.STOPPED: "dim",
}


# States whose note says why the service is not healthy; an installation's note is progress, too much for lines.
_EXPLAINED = {State.STARTING, State.UNHEALTHY}


def line(report: Report) -> str:
    """`postgres           healthy    unix socket              pid 123     0.4 s`."""
    pid = "" if report.pid is None else f"pid {report.pid}"
    return f"{report.name:<18} {report.state:<10} {report.address:<24} {pid:<12} {_remark(report)}".rstrip()


def _remark(report: Report) -> str:
    if report.note:
        return " ".join(report.note.split())[:NOTE_LIMIT]
    return f"{report.seconds:.1f} s" if report.state is State.HEALTHY else ""
