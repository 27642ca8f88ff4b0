"""What a person reads after `finefold audit`."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from finefold.cli.printing import print_json, say, table

if TYPE_CHECKING:
    from finefold.data.findings import Finding
    from finefold.steps.audit import Audit

WORST = 10  # findings told of a kind
DRAFTS = ("patches", "exclude")  # what data.toml calls the lists, in the order in which they are written


def audited(found: "Audit", *, as_json: bool) -> None:
    """The findings: one line per kind, then the worst of each, then what to do."""
    if as_json:
        print_json(found.to_list())
        return
    rows = [(check.kind, _count(found.of(check.kind), check.is_done), check.says) for check in found.checks]
    table(f"audit of {found.data.file}", ("kind", "found", "what was looked at"), rows)
    for check in found.checks:
        _worst(check.kind, found.of(check.kind))
    for file in found.written:
        say(f"wrote {file}")
    say(*_next(found))


def _count(findings: "Sequence[Finding]", is_done: bool) -> str:
    if not is_done:
        return "not done"
    if not findings:
        return "none"
    return f"{len(findings):,} {min((one.severity for one in findings), key=('error', 'warning', 'info').index)}"


def _worst(kind: str, findings: "Sequence[Finding]") -> None:
    if not findings:
        return
    say(f"{kind}:")
    for one in findings[:WORST]:
        where = f"{one.ids[0]}: " if one.ids and kind == "unreadable" else ""
        say(f"  {where}{one.cause}")
    if len(findings) > WORST:
        say(f"  and {len(findings) - WORST:,} more")
    say("")


def _next(found: "Audit") -> list[str]:
    """What to do with it."""
    if not found.findings:
        return ["nothing was found"]
    drafts = [file for file in found.written if file.suffix == ".csv"]
    if drafts:
        home, split = found.data.file.parent.resolve(), found.data.default_split
        keys = [next(key for key in DRAFTS if f".{key}." in file.name) for file in drafts]
        lines = [f'  {key} = "{os.path.relpath(file, home)}"' for key, file in zip(keys, drafts, strict=True)]
        lists, them = ("both lists", "them") if len(drafts) > 1 else ("the list", "it")
        return [
            f"next: look at each line of {lists}, delete those that are wrong, and name {them} in {found.data.file}:",
            "  [samples]",
            *lines,
            *([f"  {split.name} can stay: all others keep their folds"] if split.is_file() else ()),
        ]
    if found.written:
        return [f"next: open the page; finefold audit {found.data.file} --fix drafts corrections"]
    return [f"next: finefold audit {found.data.file} --out audit.html --fix  shows the images and drafts corrections"]
