"""Results on stdout: one shared --format option, and the four formats."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

format_option = click.option(
    "--format",
    "output_format",
    type=click.Choice(["table", "json", "jsonl", "csv"]),
    default="table",
    show_default=True,
    help="How to print results.",
)


def emit(rows: Iterable[Mapping[str, Any]], output_format: str, *, title: str | None = None) -> None:
    """Print rows; json is one array, jsonl an object a line, csv has the columns of the first row, table of all."""
    if output_format == "jsonl":
        for row in rows:
            click.echo(json.dumps(row, ensure_ascii=False))
    elif output_format == "json":
        click.echo(json.dumps(list(rows), ensure_ascii=False, indent=2))
    elif output_format == "csv":
        _emit_csv(list(rows))
    else:
        print_table(list(rows), title=title)


def print_table(rows: Sequence[Mapping[str, Any]], *, title: str | None = None) -> None:
    """Print rows as a table as wide as the terminal; numbers to the right, floats with three decimals."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=sys.stdout, highlight=False, soft_wrap=False, width=None if sys.stdout.isatty() else 160)
    if not rows:
        click.echo("no results", err=True)
        return
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    names = list(dict.fromkeys(name for row in rows for name in row))
    for name in names:
        number = isinstance(rows[0].get(name), int | float)
        table.add_column(name, justify="right" if number else "left", no_wrap=number, overflow="fold")
    for row in rows:
        values = [row.get(name) for name in names]
        table.add_row(*(value if isinstance(value, Text) else Text(cell(value)) for value in values))
    console.print(table)


def cell(value: Any) -> str:
    """Write a value for a table."""
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, Mapping):
        return "  ".join(f"{key}={inner}" for key, inner in value.items() if inner not in (None, ""))
    if isinstance(value, list):
        return ", ".join(map(cell, value))
    return "" if value is None else str(value)


def say(message: str) -> None:
    """Tell the user something on stderr, where it disturbs no result."""
    click.echo(message, err=True)


def peak_memory() -> int:
    """Return the most bytes of memory that this process has held so far; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _emit_csv(rows: Sequence[Mapping[str, Any]]) -> None:
    if not rows:
        return
    writer = csv.DictWriter(sys.stdout, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {
                key: json.dumps(value, ensure_ascii=False) if isinstance(value, Mapping | list) else value
                for key, value in row.items()
            }
        )
