"""Verbs that decide between runs."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from finefold.cli.options import AsJson


def compare(
    runs: Annotated[list[Path], typer.Argument(help="folders that `finefold train --out` wrote", metavar="RUN...")],
    by: Annotated[
        Literal["macro_f1", "accuracy", "balanced_accuracy", "log_loss"], typer.Option(help="what runs are ranked by")
    ] = "macro_f1",
    as_json: AsJson = False,
) -> None:
    """Say whether one run is really better. Differences over groups, on the same split."""
    from finefold.cli import show_compare
    from finefold.steps.compare import compare as step

    show_compare.compared(step(runs, by=by), as_json=as_json)


def correct(
    runs: Annotated[
        list[Path], typer.Argument(help="the run to correct, then others to put beside it", metavar="RUN [RUN...]")
    ],
    override: Annotated[
        list[str] | None, typer.Option("--set", help="after.calibrate=METHOD: what adjustments stand on")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what calibrating and adjusting for scarce classes would give. Fitted on the ledger, judged by nesting."""
    from finefold.cli import show_correct
    from finefold.steps.correct import correct as step

    show_correct.corrected(step(runs, overrides=override or []), as_json=as_json)
