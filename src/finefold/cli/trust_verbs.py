"""Verbs that say what is wrong with the data."""

from pathlib import Path
from typing import Annotated

import typer

from finefold.cli.options import AsJson, DataFile


def audit(
    data: DataFile,
    run: Annotated[
        Path | None,
        typer.Option(help="a run on this data whose ledger is asked; else a probe is fitted", metavar="RUN"),
    ] = None,
    only: Annotated[
        str | None, typer.Option(help="kinds of findings, with commas: label-suspect,near-duplicate", metavar="KINDS")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="a page with the images in question", metavar="PAGE.html")] = None,
    fix: Annotated[
        bool, typer.Option("--fix", help="draft a patches file and a list of exclusions beside the page, for review")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Look for what is wrong with images and labels. Broken files, copies, wrong labels, shortcuts; changes nothing."""
    from finefold.cli import show_audit
    from finefold.cli.progress import progress

    kinds = [] if only is None else [kind.strip() for kind in only.split(",") if kind.strip()]
    with progress() as told:
        with told.stage("starting", 0, ""):
            from finefold.steps.audit import audit as step
            from finefold.steps.reading import read_data
        found = step(read_data(data), run=run, only=kinds, out=out, fix=fix, progress=told)
    show_audit.audited(found, as_json=as_json)
