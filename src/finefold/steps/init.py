"""`finefold init`: look at a folder, say what it holds, write data.toml."""

import glob
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from finefold.data.findings import Finding
from finefold.data.images import list_images
from finefold.data.recognise import recognise
from finefold.data.sources import missing_images, read_spec
from finefold.data.split_checks import are, counted
from finefold.errors import DataError
from finefold.runs.folder import write_text
from finefold.steps.progress import SILENT, Progress
from finefold.steps.reading import Data, check_images, read_data

HEADER = """\
# Where the samples and their labels come from. Written by `finefold init`; edit it freely.
# Class order is declared here: an answer's number is its place in the lists below.
"""

MOST_MISSING = 20  # images of a table that data.toml leaves out by their names


@dataclass(frozen=True)
class Initialised:
    """What was found.

    Args:
        data: as data.toml now describes it.
        kind: the layout, in words.
        notes: what a person should know about the guess.
        skipped: files under the root that are no images, reason to count.
        findings: unreadable images.
    """

    data: Data
    kind: str
    notes: tuple[str, ...]
    skipped: Mapping[str, int]
    findings: tuple[Finding, ...]


def init(folder: str | Path, *, out: str | Path = "data.toml", progress: Progress = SILENT) -> Initialised:
    """Recognises how `folder` is laid out, writes `out`, and looks at every image once.

    Raises:
        DataError: no such folder, nothing recognised, or `out` exists.
    """
    file = Path(out)
    layout = recognise(Path(folder))
    if file.exists():
        raise DataError(f"{file} exists", "give another --out, or delete it first")
    tables = _relative_to(layout.tables, Path(folder).resolve(), file.parent.resolve())
    write_text(file, HEADER + "\n" + tomli_w.dumps(tables))
    notes = list(layout.notes)
    try:
        if missing := _few_missing(file):
            tables["samples"]["ignore"] = [*tables["samples"].get("ignore", []), *map(glob.escape, missing)]
            write_text(file, HEADER + "\n" + tomli_w.dumps(tables))
            notes.append(
                f"{counted(len(missing), 'image')} of the table {are(len(missing))} not there, e.g. {missing[0]}: "
                f"left out by `ignore` in {file.name}"
            )
        data = read_data(file)
        _, findings = check_images(data.samples, progress=progress)
    except BaseException:  # a data.toml that cannot be read is no start, and would be in the way of the next
        file.unlink()
        raise
    return Initialised(data, layout.kind, tuple(notes), list_images(data.samples.root).skipped, tuple(findings))


def _few_missing(file: Path) -> list[str]:
    """Images that a table names and that are not there, where these are few; many say that the root is another one."""
    missing, num_named = missing_images(read_spec(file))
    return missing if len(missing) <= MOST_MISSING and len(missing) < num_named / 2 else []


def _relative_to(tables: dict[str, Any], source: Path, home: Path) -> dict[str, Any]:
    """The tables with their paths as data.toml in `home` has to say them: relative only where `source` lies in it."""

    def place(path: str) -> str:
        full = source / path
        inside = full.is_relative_to(home)
        return Path(os.path.relpath(full, home)).as_posix() if inside else full.as_posix()

    moved = {name: dict(table) if isinstance(table, dict) else table for name, table in tables.items()}
    for name, keys in (("samples", ("root", "csv")), ("predict", ("root", "template_csv"))):
        for key in keys:
            if key in moved.get(name, {}):
                moved[name][key] = place(moved[name][key])
    return moved
