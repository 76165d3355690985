"""What commands print: a table for people or JSON for programs on standard output, notes on standard error."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from rich.progress import Progress

Row = TypeVar("Row")
Columns = Mapping[str, Callable[[Row], object]]


class Format(StrEnum):
    """How to print a result."""

    TABLE = "table"
    JSON = "json"


Output = Annotated[Format, typer.Option("--output", "-o", help="How to print the result.")]


def note(text: str) -> None:
    """Tell the user something that is not the result."""
    typer.echo(text, err=True)


def show_many(rows: Sequence["Message"], columns: "Columns[Message]", output: Format) -> None:
    """Print a list."""
    if output is Format.JSON:
        show_json([as_dict(row) for row in rows])
        return
    show_table(list(columns), ([_text(value(row)) for value in columns.values()] for row in rows))


def show_one(row: "Message", columns: "Columns[Message]", output: Format) -> None:
    """Print one object, a line for each of its columns."""
    if output is Format.JSON:
        show_json(as_dict(row))
        return
    show_table([], ([name, _text(value(row))] for name, value in columns.items()))


def show_fields(fields: Mapping[str, object], output: Format) -> None:
    """Print one object whose columns are its fields."""
    if output is Format.JSON:
        show_json(dict(fields))
    else:
        show_table([], ([name, _text(value)] for name, value in fields.items()))


def show_result(fields: Mapping[str, object], sentence: str, output: Format) -> None:
    """Print what a command did."""
    if output is Format.JSON:
        show_json(dict(fields))
    else:
        typer.echo(sentence)


def show_json(value: object) -> None:
    """Print JSON."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def show_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print columns that fit the terminal, or as wide as they are when there is none."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    table = Table(*heads, box=None, pad_edge=False, show_header=bool(heads))
    for row in rows:
        table.add_row(*row)
    if not console.is_terminal:
        console = Console(highlight=False, width=10_000)
    console.print(table)


def progress() -> "Progress":
    """A progress bar on standard error; silent when that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal, transient=True)


def as_dict(message: "Message") -> dict[str, object]:
    """The message as the REST API would give it, with every field."""
    from google.protobuf.json_format import MessageToDict

    fields: dict[str, object] = MessageToDict(message, always_print_fields_with_no_presence=True)
    return fields


def _text(value: object) -> str:
    if isinstance(value, list | tuple):
        return ",".join(str(item) for item in value)
    return str(value)
