"""`finefold doctor`."""

from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Annotated

import typer

from finefold.cli.options import AsJson

if TYPE_CHECKING:
    from finefold.data.findings import Finding
    from finefold.doctor.diagnosis import Checked
    from finefold.steps.doctor import Examined

SHOWN = 4  # ids of a finding
INDENT = " " * 10


def doctor(
    target: Annotated[
        str,
        typer.Argument(
            help="a data.toml, a run, or a function of yours that makes a data set",
            metavar="DATA.toml|RUN|MODULE:FUNCTION",
        ),
    ],
    only: Annotated[list[str] | None, typer.Option(help="make this check alone; repeat it", metavar="CHECK")] = None,
    fix: Annotated[
        Path | None,
        typer.Option(help="write label patches that mend a wrong pairing, to look at", metavar="PATCHES.csv"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what is wrong before you train. Do labels belong to their images, and more. Exit 1 on an error."""
    from finefold.cli.progress import progress

    with progress() as told:
        with told.stage("starting", 0, ""):
            from finefold.steps.doctor import doctor as step
        found = step(target, only=only or [], fix=fix, progress=told)
    _show(found, as_json=as_json)
    if not found.diagnosis.is_sound:
        raise typer.Exit(1)


def _show(found: "Examined", *, as_json: bool) -> None:
    """What a person reads, or the findings as JSON."""
    from finefold.cli.printing import print_json, say, some_of

    if as_json:
        print_json(list(found.diagnosis.to_list()))
        return
    for check in found.diagnosis.checks:
        say(*_check_lines(check))
    for finding in found.diagnosis.findings:
        say("", *_finding_lines(finding))
    if not found.diagnosis.findings:
        say("", "nothing found")
    if found.fix is not None:
        say("", f"wrote {found.num_patches:,} patches to {found.fix}: look at them, then name the file in data.toml:")
        say(f'    [samples] patches = "{found.fix}"')
        told = [name for one in found.diagnosis.findings for name in one.evidence.get("unlabelled", ())]
        if unlabelled := list(dict.fromkeys(told)):  # of several attributes an image may be told several times
            one = len(unlabelled) == 1
            what = "1 image has" if one else f"{len(unlabelled):,} images have"
            says = f"{what} no label under this pairing and {'keeps another' if one else 'keep others'}: look at"
            say("", *_wrapped(f"{says} {some_of(unlabelled, SHOWN)}, and patch or exclude what is wrong"))
    if any(not check.is_done for check in found.diagnosis.checks):
        say("", "some checks were not done: each says above what it lacks")


def _check_lines(check: "Checked") -> list[str]:
    mark = "not done" if not check.is_done else "found" if check.findings else "ok"
    text = check.says.removeprefix("not done: ")
    return _wrapped(f"{mark:<9} {check.name}: {text}")


def _finding_lines(finding: "Finding") -> list[str]:
    """A finding as a person reads it."""
    from finefold.cli.printing import some_of

    lines = _wrapped(f"{finding.severity:<9} {finding.kind}: {finding.cause}")
    lines += _wrapped(f"{'remedy':<9} {finding.remedy}")
    if finding.ids:
        lines += _wrapped(f"{'images':<9} {some_of(finding.ids, SHOWN)}")
    return lines


def _wrapped(text: str) -> list[str]:
    from finefold.cli.printing import console

    return wrap(
        text, max(60, console().width), subsequent_indent=INDENT, break_long_words=False, break_on_hyphens=False
    )
