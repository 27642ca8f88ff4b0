"""`finefold soup`: the weights of runs that started alike, averaged fold by fold, or over all folds into one model.

Fold k of a soup of runs is the mean of their fold k's models, none of which saw what fold k holds out: it has a ledger
like any run. A soup over folds has none, as every sample was trained on by all but one of the models in it.

Shapes: N samples, R runs.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from finefold.data.predictions import Predictions, write_parquet
from finefold.data.splits import read_split
from finefold.ensemble import Goal
from finefold.errors import RunError, UsageError
from finefold.metrics.paired import SCORES, Difference, Drawn, draw
from finefold.nn.weights import read_header, read_state
from finefold.recipe.loader import dump_recipe
from finefold.runs.folder import RunFolder, write_json, write_text
from finefold.runs.provenance import provenance, text_hash
from finefold.steps.aligning import aligned_ledgers, run_names
from finefold.steps.evaluate import selection_of
from finefold.steps.outputs import write_results
from finefold.steps.pot import Places, Pot, weights_file
from finefold.steps.progress import SILENT, Progress
from finefold.steps.run import FOLD_SOUP, Run, open_run


@dataclass(frozen=True)
class Soup:
    """A soup that was made.

    Args:
        run: a run like any other; over folds, one without a ledger.
        members: names of the runs.
        folds: of every fold's model, the runs whose models are in it.
        scores: name -> its scores where each is asked the same; empty over folds.
        best: name of the member of best goal; None over folds.
        gains: score -> how much better the soup's ledger is than the best member's.
    """

    run: Run
    members: tuple[str, ...]
    folds: tuple[tuple[str, ...], ...]
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    best: str | None = None
    gains: Mapping[str, Difference | None] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, as `--json` prints them."""
        return {
            "run": str(self.run.folder.path),
            "members": [{"run": name, **self.scores.get(name, {})} for name in self.members],
            "folds": [list(names) for names in self.folds],
            "best_member": self.best,
            "less_best_member": {name: one and one.to_dict() for name, one in self.gains.items()},
            "scores": self.run.scores() if self.run.has_ledger else None,
        }


def make_soup(
    runs: Sequence[Run | str | Path],
    *,
    out: str | Path,
    greedy: bool = False,
    goal: Goal = "macro_f1",
    over_folds: bool = False,
    recompute: bool = False,
    progress: Progress = SILENT,
) -> Soup:
    """Averages weights, and writes a run of them.

    Args:
        runs: at least two of the same split; one is enough over folds.
        out: the new run's folder.
        greedy: take a run in only where the soup does not get worse by it; for every fold that is seen on the others.
        goal: what greedy selection raises, and the best member is the best of.
        over_folds: all models of all folds into one.
        recompute: statistics of batch norms that trained anew, on each fold's training images.
        progress: told of prefixes and rows.

    Raises:
        UsageError: too few runs, one twice, one without models of its own, or `greedy` over folds.
        RunError: they differ in split, samples, classes, network or in what trained; batch norms trained, and
            `recompute` is not asked for; or `out` is taken.
    """
    start = time.perf_counter()
    opened = [run if isinstance(run, Run) else open_run(run) for run in runs]
    names = run_names(opened)
    _check_usage(opened, names, greedy=greedy, over_folds=over_folds)
    aligned_ledgers(opened, names, verb="averaged")
    _check_alike(opened, names)
    folder = RunFolder(Path(out))
    about = [{"name": name, **run.manifest["hashes"]} for name, run in zip(names, opened, strict=True)]
    fingerprint = {"recipe": text_hash(f"soup {greedy} {goal} {over_folds} {recompute} {about}")}
    with folder.begun(fingerprint):
        pot = Pot.of(opened, names, folder, recompute, progress)
        told: dict[str, Any] = {"greedy": greedy, "goal": goal, "over_folds": over_folds, "norms": list(pot.norms)}
        if over_folds:
            everyone = tuple((place, fold) for place in range(len(opened)) for fold in range(opened[0].num_folds))
            pot.cook(everyone, folder.fold_weights(0), pot.trained_by(None))
            write_json(folder.scores, {})
            chosen: list[Places] = [tuple(range(len(opened)))]
        else:
            chosen = pot.greedy(goal) if greedy else [tuple(range(len(opened)))] * opened[0].num_folds
            _write_folds(folder, pot, chosen)
            for place in range(len(opened)):  # for `_judged`, while there is a place to work in
                pot.said((place,))
        members = [[names[place] for place in places] for places in chosen]
        told |= {"members": about, "folds": members}
        _finish(folder, opened, told, fingerprint, start, over_folds)
    made = Soup(open_run(folder.path, network=opened[0].network), tuple(names), tuple(map(tuple, members)))
    return made if over_folds else _judged(made, pot, goal)


def _check_usage(runs: Sequence[Run], names: Sequence[str], *, greedy: bool, over_folds: bool) -> None:
    if greedy and over_folds:
        raise UsageError(
            "greedy selection looks at the ledger, and a soup over folds has none",
            "make the greedy soup of runs first, then one over its folds: finefold soup GREEDY --folds --out RUN",
        )
    if len(runs) < 2 and not over_folds:
        raise UsageError(
            "one run is no soup", "give two or more runs of a split, or --folds: the models of its folds as one"
        )
    if len({run.folder.path.resolve() for run in runs}) < len(runs):
        raise UsageError("a run is given twice", "give every run once")
    for name, run in zip(names, runs, strict=True):
        if run.is_ensemble:
            raise UsageError(f"`{name}` is an ensemble, which has no weights of its own", "give its members instead")
        if run.recipe.model.heads == "separate" and not run.recipe.is_probe_only:
            raise UsageError(
                f"`{name}` has models of its own for each attribute, which are not averaged",
                "combine its answers instead: finefold ensemble",
            )


def _check_alike(runs: Sequence[Run], names: Sequence[str]) -> None:
    """Weights can be averaged only where they are of the same parts of the same network."""
    first, first_header = runs[0], read_header(weights_file(runs[0], 0))
    shapes = _shapes(runs[0])
    for name, run in zip(names[1:], runs[1:], strict=True):
        header = read_header(weights_file(run, 0))
        what, what_of = None, "[model], [image]"
        if run.manifest["backbone"] != first.manifest["backbone"]:
            what = f"they start from other weights ({first.backbone.name}, {run.backbone.name})"
        elif run.manifest["preprocessing"]["hash"] != first.manifest["preprocessing"]["hash"]:
            what = "images are preprocessed otherwise"
        elif list(header["heads"]) != list(first_header["heads"]) or list(header.get("ordinal", {})) != list(
            first_header.get("ordinal", {})
        ):
            what = "their heads differ"
        elif header["heads"] != first_header["heads"]:
            what, what_of = "their heads raise features to other powers", "[probe] power, [model], [image]"
        elif (
            header["kind"] != first_header["kind"]
            or header.get("cut") != first_header.get("cut")
            or _shapes(run) != shapes
        ):
            what = "other parts of the network trained"
        if what:
            raise RunError(
                f"the weights of `{names[0]}` and `{name}` cannot be averaged: {what}",
                f"train both by the same {what_of} and [[phase]] trainable; "
                "answers can be combined in any case: finefold ensemble",
            )


def _shapes(run: Run) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in read_state(weights_file(run, 0)).items()}


def _write_folds(folder: RunFolder, pot: Pot, chosen: Sequence[Places]) -> None:
    """Every fold's weights and predictions, the ledger, its numbers and pictures."""
    run, samples, folds_N = pot.runs[0], pot.asked.samples, pot.asked.folds_N
    probs_NK = np.empty((len(samples), run.space.num_classes))
    for fold, places in enumerate(chosen):
        pot.cook([(place, fold) for place in places], folder.fold_weights(fold), pot.trained_by(fold))
        probs_NK[folds_N == fold] = pot.said(places)[folds_N == fold]
    predictions = Predictions(tuple(samples.ids), probs_NK, run.space.class_names)
    frame = predictions.to_frame()
    for fold in range(len(chosen)):
        write_parquet(frame.filter((folds_N == fold).tolist()), folder.fold_valid(fold))
    split, was_chosen = read_split(run.folder.split), "chosen" in run.manifest
    inherited = _inherited(pot.runs)
    write_results(folder, predictions, samples, split, run.recipe, (), was_chosen=was_chosen, inherited=inherited)


def _inherited(runs: Sequence[Run]) -> list[str]:
    """In what the held-out samples had a say for any of the members."""
    return list(dict.fromkeys(sentence for run in runs for sentence in selection_of(run)))


def _finish(
    folder: RunFolder,
    runs: Sequence[Run],
    told: Mapping[str, Any],
    fingerprint: Mapping[str, str],
    start: float,
    over_folds: bool,
) -> None:
    """What the members share is the first one's; the manifest last."""
    first = runs[0]
    mine = (folder.data, folder.samples, folder.split, folder.findings, folder.boxes)
    theirs = (first.folder.data, first.folder.samples, first.folder.split, first.folder.findings, first.folder.boxes)
    for to, source in zip(mine, theirs, strict=True):
        if source.is_file():
            to.write_bytes(source.read_bytes())
    first.backbone.copy_to(folder.backbone)
    recipe = first.recipe
    if over_folds:  # nothing can be fitted without a ledger
        recipe = recipe.model_copy(update={"after": type(recipe.after)()})
    write_text(folder.recipe, dump_recipe(recipe))
    kept = ("backbone", "preprocessing", "engine", "train_shares", "class_names", "plan", "cut", "own", "chosen")
    folder.finish(
        {
            **provenance(),
            "seconds": round(time.perf_counter() - start, 2),
            **{name: first.manifest[name] for name in kept if name in first.manifest},
            **({"kind": FOLD_SOUP} if over_folds else {}),
            "num_folds": 1 if over_folds else first.num_folds,
            "hashes": {**first.manifest["hashes"], **fingerprint},
            "selection": _inherited(runs),
            "soup": dict(told),
        }
    )


def _judged(made: Soup, pot: Pot, goal: Goal) -> Soup:
    """With every member's scores, asked on the same views, and what the soup gains on the best of them."""
    ledger = made.run.ledger()
    table = Predictions(tuple(pot.asked.samples.ids), pot.said((0,)), made.run.space.class_names)

    def drawn_of(predictions: Predictions) -> Drawn:
        known = replace(ledger, predictions=predictions.rows_for(ledger.predictions.ids)).known()
        return draw(
            known.predictions.probs_NK,
            known.labels_N,
            np.asarray(known.groups),
            predictions.class_names,
            {},
            resamples=made.run.recipe.scores.resamples,
            seed=made.run.recipe.seed,
        )

    drawn = {
        name: drawn_of(replace(table, probs_NK=pot.said((place,)))) for place, name in enumerate(made.members)
    }  # fmt: skip
    of_soup, sign = drawn_of(ledger.predictions), -1 if goal == "log_loss" else 1
    best = max(made.members, key=lambda name: sign * drawn[name].values[goal])
    scores = {name: {score: float(one.values[score]) for score in SCORES} for name, one in drawn.items()}
    return replace(made, scores=scores, best=best, gains={one: of_soup.less(drawn[best], one) for one in SCORES})
