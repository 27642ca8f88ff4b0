"""Verbs that say what a run is worth, and what it answers."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from finefold.cli.options import AsJson, RunDir


def evaluate(
    run: RunDir,
    by: Annotated[
        list[str] | None,
        typer.Option(
            help="errors by source, fold, group-size, width, height, brightness, an attribute, or a column of the data "
            "source; repeat it",
            metavar="COLUMN",
        ),
    ] = None,
    pictures: Annotated[
        Path | None, typer.Option(help="draw confusions, curves and reliability into this folder", metavar="FOLDER")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print a run's scores with 95 % intervals. Out of fold: overall, per attribute, class and fold."""
    from finefold.cli import show_scores
    from finefold.cli.progress import progress
    from finefold.steps.evaluate import evaluate as step
    from finefold.steps.evaluate import write_pictures
    from finefold.steps.run import open_run

    opened = open_run(run)
    with progress() as told:
        found = step(opened, by=by or (), progress=told)
    files = () if pictures is None else write_pictures(opened, found, pictures)
    show_scores.scores(found, pictures=files, as_json=as_json)


def predict(
    run: RunDir,
    images: Annotated[
        Path | None, typer.Argument(help="a folder; by default [predict] of the run's data.toml", metavar="FOLDER")
    ] = None,
    out: Annotated[Path, typer.Option(help="the answer file; a JSON of where it came from lies beside it")] = Path(
        "submission.csv"
    ),
    boxes: Annotated[
        Path | None, typer.Option(help="boxes of these images, for a run with image.boxes", metavar="FILE")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="exit 1 where a test image is unreadable")] = False,
    override: Annotated[
        list[str] | None, typer.Option("--set", help="after.key=value on top of the run's recipe; repeat it")
    ] = None,
    adapt_prior: Annotated[
        str | None,
        typer.Option(
            help="class shares of these images: `auto` estimates them and corrects where that pays, a TOML file says "
            "them, `off`; as [after] of the recipe says by default",
            metavar="auto|off|FILE",
        ),
    ] = None,
    pool: Annotated[
        str | None,
        typer.Option(help="decide these over each group's images together, e.g. gender,age", metavar="ATTRIBUTES"),
    ] = None,
    groups: Annotated[
        str | None,
        typer.Option(
            help="which images belong together: a column of the template, a CSV with id and group, or `cluster`, by "
            "their features",
            metavar="COLUMN|FILE|cluster",
        ),
    ] = None,
    pool_rule: Annotated[
        Literal["fitted", "mean", "product"],
        typer.Option(help="what a group's images are worth: as serves the ledger best, one image, or every one"),
    ] = "fitted",
    as_json: AsJson = False,
) -> None:
    """Answer for new images, as a checked submission. The answer is the mean of all folds."""
    if (pool is None) != (groups is None):
        lacking = "--groups: which images belong together" if groups is None else "--pool: what they share"
        raise typer.BadParameter(f"--pool and --groups go together; missing {lacking}")
    from finefold.cli import show
    from finefold.cli.progress import progress

    with progress() as told:
        with told.stage("starting", 0, ""):
            from finefold.steps.pooling import Pooling
            from finefold.steps.predict import write_answers
            from finefold.steps.run import open_run
        rule = None
        if pool is not None and groups is not None:
            rule = Pooling(tuple(name.strip() for name in pool.split(",") if name.strip()), groups, pool_rule)
        answers, written = write_answers(
            open_run(run),
            images,
            out=out,
            boxes=boxes,
            strict=strict,
            overrides=override or [],
            adapt_prior=adapt_prior,
            pooling=rule,
            progress=told,
        )
    show.answers(answers, written, as_json=as_json)
