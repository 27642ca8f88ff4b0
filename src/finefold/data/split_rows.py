"""The rows of a split file, read with the line of every mistake in it."""

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from finefold.data.split_checks import (
    SHOWN,
    Mistake,
    counted,
    first_few,
    mistakes_of_groups,
    mistakes_of_numbers,
    raise_mistakes,
)
from finefold.errors import SplitError

Row = tuple[int, list[str]]  # the line it starts on, its cells

COLUMNS_HINT = "a split file has the columns id, fold and, where samples belong together, group"


def read_rows(path: Path) -> pl.DataFrame:
    """Columns id, fold, group of a split file. Without a group column every id is its own group.

    Raises:
        SplitError: the file cannot be read, or with everything that is wrong in it.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return _parse(_rows(file), where=f"{path}: ")
    except FileNotFoundError:
        hint = "make one with `finefold split data.toml --out split.csv`"
        raise SplitError(f"{path}: no such file", hint) from None
    except OSError as error:
        raise SplitError(f"{path}: cannot be read: {error.strerror}", "give the path of a split file") from error
    except UnicodeDecodeError as error:
        raise SplitError(f"{path}: not UTF-8 text: {error.reason}", "save it as CSV in UTF-8") from error
    except csv.Error as error:
        raise SplitError(f"{path}: not a CSV file: {error}", "save it as CSV, with commas") from error


def _rows(file: Iterator[str]) -> Iterator[Row]:
    reader, line = csv.reader(file, strict=True), 1
    try:
        for cells in reader:
            if cells:
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise csv.Error(f"line {line}: {error}") from error


@dataclass
class _Faults:
    """Where the rows of a file are wrong, kind by kind."""

    width: list[str] = field(default_factory=list)
    lacking: dict[str, list[str]] = field(default_factory=lambda: {"id": [], "group": []})
    fold: list[str] = field(default_factory=list)
    lines_of_twice: dict[str, list[int]] = field(default_factory=dict)

    def to_mistakes(self, num_columns: int) -> list[Mistake]:
        mistakes = []
        if self.width:
            message = f"with another number of cells than the {num_columns} of the header: {_few(self.width)}"
            mistakes.append(Mistake(f"{counted(len(self.width), 'row')} {message}", "quote texts with commas"))
        for name, lines in self.lacking.items():
            if lines:
                message = f"{counted(len(lines), 'row')} without {name}: {_few(lines)}"
                mistakes.append(Mistake(message, f"give every row its {name}"))
        if self.fold:
            message = f"{counted(len(self.fold), 'row')} with a fold that is not a whole number: {_few(self.fold)}"
            mistakes.append(Mistake(message, "number the folds from 0"))
        if self.lines_of_twice:
            told = [f"`{name}` (lines {', '.join(map(str, at))})" for name, at in self.lines_of_twice.items()]
            message = f"{counted(len(told), 'id')} more than once: {_few(told)}"
            mistakes.append(Mistake(message, "ids must be unique"))
        return mistakes


def _parse(rows: Iterator[Row], *, where: str) -> pl.DataFrame:
    _, header = next(rows, (1, []))
    header = [name.strip() for name in header]
    _check_header(header, where=where)
    at_id, at_fold = header.index("id"), header.index("fold")
    at_group = header.index("group") if "group" in header else at_id
    ids, folds, groups, faults = [], [], [], _Faults()
    first_line: dict[str, int] = {}
    for line, cells in rows:
        if len(cells) != len(header):
            faults.width.append(f"line {line} ({len(cells)})")
            continue
        name, fold, group = cells[at_id], cells[at_fold].strip(), cells[at_group]
        if not name:
            faults.lacking["id"].append(f"line {line}")
        elif name in first_line:
            faults.lines_of_twice.setdefault(name, [first_line[name]]).append(line)
        if not group and at_group != at_id:
            faults.lacking["group"].append(f"line {line}")
        if not re.fullmatch(r"[+-]?[0-9]{1,9}", fold):
            faults.fold.append(f"line {line} (`{fold}`)")
            continue
        first_line.setdefault(name, line)
        ids.append(name)
        folds.append(int(fold))
        groups.append(group)
    schema = {"id": pl.String, "fold": pl.Int32, "group": pl.String}
    frame = pl.DataFrame({"id": ids, "fold": folds, "group": groups}, schema=schema)
    mistakes = faults.to_mistakes(len(header))
    if frame.is_empty() and not mistakes:
        mistakes.append(Mistake("no rows", "list every sample with its fold"))
    if not (frame.is_empty() or faults.fold or faults.width):  # a fold may seem to lack when its row is wrong
        mistakes += mistakes_of_numbers(frame["fold"])
    if at_group != at_id:
        mistakes += mistakes_of_groups(frame.filter(pl.col("group") != ""))
    raise_mistakes(mistakes, where=where)
    return frame


def _check_header(header: Sequence[str], *, where: str) -> None:
    lacking = [name for name in ("id", "fold") if name not in header]
    twice = [name for name in ("id", "fold", "group") if header.count(name) > 1]
    mistakes = []
    if lacking:
        told = f"no column {' and '.join(f'`{name}`' for name in lacking)}; got {first_few(header) or 'no header'}"
        mistakes.append(Mistake(told, COLUMNS_HINT))
    if twice:
        mistakes.append(Mistake(f"column {first_few(twice)} more than once", COLUMNS_HINT))
    raise_mistakes(mistakes, where=where)


def _few(texts: Sequence[str]) -> str:
    rest = f" and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return ", ".join(texts[:SHOWN]) + rest
