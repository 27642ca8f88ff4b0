"""The verb that learns from images without labels."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from finefold.cli.options import AsJson, Overrides, RunDir
from finefold.cli.printing import print_json, say, table

if TYPE_CHECKING:
    from finefold.steps.pseudo import PseudoLabelled

NAMES = {"macro_f1": "macro F1", "accuracy": "accuracy", "log_loss": "log loss"}


def pseudo(
    run: RunDir,
    out: Annotated[Path, typer.Option(help="the new run's folder; written only where a round is kept")],
    images: Annotated[
        Path | None,
        typer.Argument(help="unlabelled images; by default [predict] of the run's data.toml", metavar="FOLDER"),
    ] = None,
    override: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Train a run's folds on unlabelled images too, each on labels of its own model, and keep what is better.

    A round trains by the run's recipe and is kept only where the ledger says that it is better. The same command goes
    on with one that was interrupted.
    """
    from finefold.cli.progress import progress

    with progress() as told:
        with told.stage("starting", 0, ""):
            from finefold.steps.pseudo import pseudo as step
            from finefold.steps.run import open_run
        found = step(open_run(run), images, out=out, overrides=override or (), progress=told)
    if as_json:
        print_json(found.to_dict())
        return
    _rounds(found)


def _rounds(found: "PseudoLabelled") -> None:
    metric = NAMES[found.metric]
    rows = [("before", "", f"{found.scores[found.metric]:.3f}", "", "", "")]
    for number, one in enumerate(found.rounds, 1):
        gap = one.differences[found.metric]
        rows.append(
            (
                f"round {number}",
                f"{one.labels_FK.sum(axis=1).mean():,.0f}",
                f"{one.scores[found.metric]:.3f}",
                f"{gap.value:+.4f}  [{gap.low:+.4f}, {gap.high:+.4f}]",
                f"{100 * gap.better:.1f} %",
                "kept" if one.is_kept else "dropped",
            )
        )
    columns = ("round", "labels a fold", metric, "less before, 95 % interval", "better in", "")
    table(f"{found.num_images:,} unlabelled images, every fold with labels of its own", columns, rows)
    if found.run is None:
        say("dropped: pseudo labels do not pay here, and nothing was written")
        return
    say(f"kept: {found.run.folder.path}", f"next: finefold compare {found.before.folder.path} {found.run.folder.path}")
