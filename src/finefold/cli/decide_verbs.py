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

    show_correct.corrected(step(runs, overrides=override or []), runs[0], as_json=as_json)


def ensemble(
    runs: Annotated[list[Path], typer.Argument(help="two or more runs of the same split", metavar="RUN RUN...")],
    out: Annotated[Path, typer.Option(help="the ensemble's folder; never overwritten")],
    by: Annotated[
        Literal["greedy", "mean", "geometric", "rank", "vote", "stack"], typer.Option(help="how they are combined")
    ] = "greedy",
    goal: Annotated[
        Literal["macro_f1", "accuracy", "log_loss"], typer.Option(help="what greedy selection raises or lowers")
    ] = "macro_f1",
    override: Annotated[
        list[str] | None, typer.Option("--set", help="after.key=value: what is done to the ensemble's answers")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Combine runs into one that answers with all of them. Weights from the ledger, score by nesting."""
    from finefold.cli import show_ensemble
    from finefold.cli.printing import warn
    from finefold.steps.ensemble import make_ensemble as step
    from finefold.steps.ensemble import members_among

    members, others = members_among(runs)
    for name in others:
        warn(f"{name} is an ensemble itself, and left out")
    made = step(members, out=out, by=by, goal=goal, overrides=override or [])
    show_ensemble.combined(made, as_json=as_json)


def soup(
    runs: Annotated[list[Path], typer.Argument(help="runs of one split that trained the same parts", metavar="RUN...")],
    out: Annotated[Path, typer.Option(help="the soup's folder; never overwritten")],
    greedy: Annotated[
        bool, typer.Option("--greedy", help="take a run in only where the soup does not get worse by it")
    ] = False,
    goal: Annotated[
        Literal["macro_f1", "accuracy", "log_loss"], typer.Option(help="what greedy selection raises or lowers")
    ] = "macro_f1",
    folds: Annotated[
        bool, typer.Option("--folds", help="average the folds too: one model, which no sample can score")
    ] = False,
    recompute: Annotated[
        bool,
        typer.Option("--recompute-norms", help="take statistics of batch norms that trained anew, on training images"),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Average the weights of runs into one model a fold. As quick as one run; scored out of fold."""
    from finefold.cli import show_ensemble
    from finefold.cli.progress import progress

    with progress() as told:
        with told.stage("starting", 0, ""):
            from finefold.steps.soup import make_soup as step
        made = step(runs, out=out, greedy=greedy, goal=goal, over_folds=folds, recompute=recompute, progress=told)
    show_ensemble.souped(made, as_json=as_json)


def pick(
    runs: Annotated[list[Path], typer.Argument(help="runs, ensembles and soups of one split", metavar="RUN...")],
    budget_ms: Annotated[
        float | None, typer.Option(help="take the best that costs an image at most so many milliseconds", metavar="MS")
    ] = None,
    best: Annotated[bool, typer.Option("--best", help="take the best, whatever it costs")] = False,
    by: Annotated[
        Literal["macro_f1", "accuracy", "balanced_accuracy", "log_loss"], typer.Option(help="the score that counts")
    ] = "macro_f1",
    images: Annotated[int, typer.Option(min=1, help="how many are timed")] = 64,
    as_json: AsJson = False,
) -> None:
    """Show score against time per image, and pick. One fold or all, one view or all, ensembles and soups."""
    from finefold.cli import show_ensemble
    from finefold.cli.progress import progress

    with progress() as told:
        with told.stage("starting", 0, ""):
            from finefold.steps.pick import pick as step
        found = step(runs, by=by, budget_ms=budget_ms, best=best, num_images=images, progress=told)
    show_ensemble.picked(found, as_json=as_json)


def runs(
    folder: Annotated[Path, typer.Argument(help="the folder that runs lie in", metavar="DIR")],
    by: Annotated[
        Literal["macro_f1", "accuracy", "balanced_accuracy", "log_loss"], typer.Option(help="what runs are ordered by")
    ] = "macro_f1",
    as_json: AsJson = False,
) -> None:
    """List the runs of a folder, best first. With what their recipes say otherwise, minutes and date."""
    from finefold.cli import show_ensemble
    from finefold.steps.runs import list_runs as step

    show_ensemble.board(step(folder, by=by), as_json=as_json)
