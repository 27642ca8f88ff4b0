"""`finefold lr-find`, and `finefold train --plot-lr`: learning rates, looked at before they are trained with."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from finefold.cli.options import AsJson, DataFile, Overrides, RecipeName, SplitFile

if TYPE_CHECKING:
    from finefold.recipe.schema import Recipe
    from finefold.steps.lr_find import RangeTest
    from finefold.steps.rates import RatesDrawn


def lr_find(
    data: DataFile,
    recipe: RecipeName = "quick",
    split: SplitFile = None,
    override: Overrides = None,
    phase: Annotated[int | None, typer.Option(help="which, from 1; the first that takes steps by default")] = None,
    out: Annotated[Path, typer.Option(help="the picture, an SVG; written over")] = Path("lr.svg"),
    as_json: AsJson = False,
) -> None:
    """Suggest a learning rate. A hundred steps of fold 0 with growing rates; nothing is kept but the cache."""
    from finefold.recipe.loader import load_recipe

    chosen = load_recipe(recipe, override or [])  # before torch: a misspelt key answers at once
    from finefold.cli.progress import progress

    with progress() as told:
        with told.stage("starting", 0, ""):
            from finefold.steps.lr_find import lr_find as step
            from finefold.steps.reading import read_data
        found = step(read_data(data), split, recipe=chosen, phase=phase, out=out, progress=told)
    _show_test(found, recipe, as_json=as_json)


def plot(data: Path, split: Path | None, recipe: "Recipe", *, out: Path, as_json: bool) -> None:
    """`finefold train --plot-lr`."""
    from finefold.cli.progress import progress

    with progress() as told:
        with told.stage("starting", 0, ""):
            from finefold.steps.rates import plot_rates as step
            from finefold.steps.reading import read_data
        drawn = step(read_data(data), split, recipe=recipe, out=out, progress=told)
    _show_rates(drawn, as_json=as_json)


def _show_test(found: "RangeTest", recipe: str, *, as_json: bool) -> None:
    """What a person reads after `finefold lr-find`."""
    from finefold.cli.printing import print_json, say

    if as_json:
        print_json(found.to_dict())
        return
    ended = found.stopped or "no explosion"
    say(
        f"phase {found.phase} ({found.trainable}), fold 0: {len(found.rates)} steps, "
        f"rates from {found.rates[0]:.2g} to {found.rates[-1]:.2g}; {ended}",
        f"wrote {found.file}",
        "",
    )
    if found.suggestion is None:
        say(
            f"no suggestion: the loss never fell clearly below where it started; the recipe has lr = {found.lr:.2g}",
            "look at the picture, and stay well below where the loss rises",
        )
        return
    say(
        f"suggestion: lr = {found.suggestion:.2g}  (the recipe has {found.lr:.2g})",
        f"use it: --recipe {recipe} --set phase.{found.phase}.lr={found.suggestion:.2g}; rates of the stages follow by "
        "layer_decay",
    )


def _show_rates(drawn: "RatesDrawn", *, as_json: bool) -> None:
    """What a person reads after `finefold train --plot-lr`."""
    from finefold.cli.printing import print_json, say, table

    if as_json:
        print_json(drawn.to_dict())
        return
    rows = [
        (f"{one.phase}", one.stage, f"{one.steps:,}", f"{one.peak:.2g}", f"{one.final:.2g}") for one in drawn.stages
    ]
    table("learning rates", ("phase", "stage", "steps", "peak rate", "final rate"), rows)
    say(f"wrote {drawn.file} ({drawn.steps:,} optimiser steps of fold 0; nothing was trained)")
