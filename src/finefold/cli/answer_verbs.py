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
    views: Annotated[
        str | None,
        typer.Option(
            help="what each view of the images adds, e.g. plain,hflip,vflip; `recipe` for those of [predict]",
            metavar="VIEWS",
        ),
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
        found = step(opened, by=by or (), views=views or (), progress=told)
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
    counts: Annotated[
        Path | None,
        typer.Option(help="a TOML file of how many images there are of each class, by design", metavar="FILE"),
    ] = None,
    counts_in: Annotated[
        str | None,
        typer.Option(
            help="the counts hold in each of these groups: a column of the template, or a CSV with id and group",
            metavar="COLUMN|FILE",
        ),
    ] = None,
    folds: Annotated[int | None, typer.Option(min=1, help="answer with so many folds' models; all by default")] = None,
    views: Annotated[
        str | None,
        typer.Option(help="views of each image, e.g. plain,hflip; as the recipe says by default", metavar="VIEWS"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Answer for new images, as a checked submission. The answer is the mean of all folds."""
    if (pool is None) != (groups is None):
        lacking = "--groups: which images belong together" if groups is None else "--pool: what they share"
        raise typer.BadParameter(f"--pool and --groups go together; missing {lacking}")
    if counts is None and counts_in is not None:
        raise typer.BadParameter("--counts-in says where counts hold; missing --counts FILE")
    if counts is not None and pool is not None:
        raise typer.BadParameter("--counts and --pool both decide over many images at once: say one of them")
    from finefold.cli import show
    from finefold.cli.progress import progress

    with progress() as told:
        with told.stage("starting", 0, ""):
            from finefold.steps.counts import read_counts
            from finefold.steps.effort import Effort
            from finefold.steps.pooling import Pooling
            from finefold.steps.predict import write_answers
            from finefold.steps.run import open_run
            from finefold.steps.views import chosen_views
        opened, rule = open_run(run), None
        if pool is not None and groups is not None:
            rule = Pooling(tuple(name.strip() for name in pool.split(",") if name.strip()), groups, pool_rule)
        answers, written = write_answers(
            opened,
            images,
            out=out,
            boxes=boxes,
            strict=strict,
            overrides=override or [],
            adapt_prior=adapt_prior,
            pooling=rule,
            counts=None if counts is None else read_counts(counts, opened.space, counts_in),
            effort=Effort(folds, None if views is None else chosen_views(opened, views)),
            progress=told,
        )
    show.answers(answers, written, as_json=as_json)
