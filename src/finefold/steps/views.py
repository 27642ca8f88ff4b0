"""What each view of an image adds, out of fold: the folds' models are asked again, nothing trains.

Shapes: N samples, K joint classes.
"""

from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from finefold.data.predictions import Ledger
from finefold.errors import RunError, UsageError
from finefold.metrics.paired import SCORES, Drawn, draw
from finefold.recipe.training import View
from finefold.steps.asking import Asked
from finefold.steps.effort import ledger_views
from finefold.steps.progress import SILENT, Progress
from finefold.steps.run import Run

RECIPE = "recipe"
CHANGED = 5e-3  # mean difference of probabilities beyond what another processor's rounding makes
DEFINITION = (
    "each line is the mean of the probabilities under the views up to it, every sample by the model that did not see "
    "it; `gain` is how much better it is than the line before, over the same resamples of groups; above 0 is better"
)


def chosen_views(run: Run, said: str | Sequence[str]) -> tuple[View, ...]:
    """Views by name, `recipe` for those of the run's recipe.

    Raises:
        UsageError: there is no such view, one is named twice, or none.
    """
    names = [name.strip() for name in said.split(",")] if isinstance(said, str) else list(said)
    if names == [RECIPE]:
        return run.recipe.predict.views
    known: tuple[View, ...] = get_args(View)
    unknown = [name for name in names if name not in known]
    if unknown or len(set(names)) < len(names) or not names:
        problem = f"there is no view `{unknown[0]}`" if unknown else "views are to be different, and at least one"
        raise UsageError(problem, f"views are {', '.join(known)}, or `{RECIPE}` for those of the run's recipe")
    return tuple(view for name in names for view in known if view == name)


def view_gains(run: Run, views: Sequence[View], *, progress: Progress = SILENT) -> dict[str, Any]:
    """The score under the first view, and what each further one adds, as JSON values.

    Args:
        run: with models of its own.
        views: in the order in which they are added.
        progress: told of prefixes that the cache lacks, and of samples done.

    Raises:
        UsageError: the run is an ensemble.
        RunError: the run's images are not what they were.
    """
    if run.is_ensemble:
        names = ", ".join(one["name"] for one in run.manifest["members"])
        raise UsageError(
            f"{run.folder.path} is an ensemble: each member has views of its own", f"evaluate its members: {names}"
        )
    probs = out_of_fold_views(run, views, progress=progress)
    ledger = run.ledger()
    lines: list[dict[str, Any]] = []
    before: Drawn | None = None
    for place, view in enumerate(views):
        so_far = views[: place + 1]
        drawn = _drawn(run, ledger, np.mean([probs[one] for one in so_far], axis=0))
        alone = _drawn(run, ledger, probs[view]) if place else drawn
        num_known = len(ledger.known().labels_N)
        lines.append(
            {
                "view": view,
                "views": list(so_far),
                **{name: drawn.score(name, num_known).to_dict() for name in SCORES},
                "gain": {} if before is None else {name: _less(drawn, before, name) for name in SCORES},
                "alone": {name: float(alone.values[name]) for name in SCORES},
            }
        )
        before = drawn
    return {"lines": lines, "definition": DEFINITION, "recipe": list(run.recipe.predict.views)}


def out_of_fold_views(
    run: Run, views: Sequence[View], *, progress: Progress = SILENT
) -> dict[View, NDArray[np.float64]]:
    """View -> [N, K] out-of-fold probabilities in the order of the run's ledger.

    Raises:
        RunError: the run's images are not what they were.
    """
    ledger = run.ledger()
    asked = Asked.of(run, views, progress)
    with progress.stage("asking", len(asked.samples) * len(views), "samples") as advance:
        found = {view: asked.out_of_fold(view, advance=advance) for view in views}
    place_of = {name: place for place, name in enumerate(asked.samples.ids)}
    order = np.array([place_of[name] for name in ledger.predictions.ids])
    probs = {view: one[order] for view, one in found.items()}
    of_ledger = ledger_views(run)
    if set(of_ledger) <= set(views):
        again_NK = np.mean([probs[view] for view in of_ledger], axis=0)
        apart = float(abs(again_NK - ledger.predictions.probs_NK).mean())
        if apart > CHANGED:
            raise RunError(
                f"the models of {run.folder.path} say something else of its samples than its ledger does "
                f"(probabilities differ by {apart:.3f} on average): images were changed since it was trained",
                "train it again on the images as they are",
            )
    return probs


def _drawn(run: Run, ledger: Ledger, probs_NK: NDArray[np.float64]) -> Drawn:
    return draw(
        probs_NK,
        ledger.labels_N,
        np.asarray(ledger.groups),
        ledger.predictions.class_names,
        run.space.attribute_table(),
        codes_NA=ledger.codes_NA,
        resamples=run.recipe.scores.resamples,
        seed=run.recipe.seed,
    )


def _less(after: Drawn, before: Drawn, name: str) -> dict[str, float] | None:
    gap = after.less(before, name)
    return None if gap is None else gap.to_dict()
