"""`finefold doctor`."""

from typing import TYPE_CHECKING, Annotated

import typer

from finefold.cli.options import AsJson

if TYPE_CHECKING:
    from finefold.data.findings import Finding
    from finefold.doctor.diagnosis import Diagnosis

SHOWN = 5  # ids of a finding


def doctor(
    target: Annotated[
        str,
        typer.Argument(
            help="a data.toml, a run, or a function of yours that makes a data set", metavar="DATA.toml|RUN|MODULE:NAME"
        ),
    ],
    only: Annotated[list[str] | None, typer.Option(help="make this check alone; repeat it", metavar="NAME")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what is wrong before you train. Do labels belong to their images, and more. Exit 1 on an error."""
    from finefold.cli.progress import progress

    with progress() as told:
        with told.stage("starting", 0, ""):
            from finefold.steps.doctor import doctor as step
        found = step(target, only=only or [], progress=told)
    _show(found, as_json=as_json)
    if not found.is_sound:
        raise typer.Exit(1)


def _show(found: "Diagnosis", *, as_json: bool) -> None:
    from finefold.cli.printing import print_json, say

    if as_json:
        print_json(list(found.to_list()))
        return
    for check in found.checks:
        mark = "-" if not check.is_done else "x" if check.findings else "+"
        say(f"{mark} {check.name}: {check.says}")
    for finding in found.findings:
        say("", *_lines(finding))
    if not found.findings:
        say("", "nothing found")


def _lines(finding: "Finding") -> list[str]:
    """A finding as a person reads it."""
    lines = [f"{finding.severity}: {finding.kind}", f"  cause   {finding.cause}", f"  remedy  {finding.remedy}"]
    if finding.ids:
        more = f" and {len(finding.ids) - SHOWN} more" if len(finding.ids) > SHOWN else ""
        lines.append(f"  images  {', '.join(finding.ids[:SHOWN])}{more}")
    return lines
