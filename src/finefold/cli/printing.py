"""What the command line prints with: tables, lines and JSON on stdout, warnings on stderr."""

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

PLAIN_WIDTH = 120  # of tables that do not go to a terminal


def console() -> Console:
    """Stdout, as wide as the terminal."""
    return Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH, highlight=False, soft_wrap=True)


def say(*lines: str) -> None:
    """Lines on stdout."""
    for line in lines:
        console().print(Text(line))


def warn(line: str) -> None:
    """A line on stderr."""
    print(f"warning: {line}", file=sys.stderr)


def some_of(names: Sequence[str], most: int) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def print_json(values: Any) -> None:
    """JSON on stdout."""
    print(json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False))


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table on stdout; cells stay whole, but for columns of long text."""
    made = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    rows = list(rows)
    for number, name in enumerate(columns):
        longest = max(len(cell) for cell in (name, *(row[number] for row in rows)))
        is_text = longest > PLAIN_WIDTH // 2  # only such a column may be wrapped; cells of the others stay whole
        justify: Literal["left", "right"] = "right" if number and not is_text else "left"
        made.add_column(
            name,
            justify=justify,
            no_wrap=not is_text,
            overflow="fold" if is_text else "ellipsis",
            min_width=None if is_text else longest,
        )
    for row in rows:
        made.add_row(*map(Text, row))
    console().print(made)


def as_share(value: float) -> str:
    """0.123 -> 12.3 %."""
    return f"{100 * value:.1f} %"


def as_bytes(count: float) -> str:
    """12345678 -> 12 MB."""
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
