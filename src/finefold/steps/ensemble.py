"""`finefold ensemble`: several runs of one split into a run that answers with all of them.

Shapes: M members, N samples, K joint classes.
"""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from finefold.data.predictions import Ledger, Predictions
from finefold.ensemble import By, Combination, Goal, fit_combination, nested_ensemble
from finefold.errors import UsageError
from finefold.metrics.paired import SCORES, Difference, draw
from finefold.recipe.loader import dump_recipe
from finefold.recipe.schema import Recipe
from finefold.report.pictures import draw_class_bars, draw_confusion
from finefold.runs.folder import RunFolder, write_json, write_text
from finefold.runs.provenance import provenance, text_hash
from finefold.steps.after import changed_after, fit_after
from finefold.steps.aligning import aligned_ledgers, run_names
from finefold.steps.evaluate import score, selection_of
from finefold.steps.run import ENSEMBLE, Run, open_run


@dataclass(frozen=True)
class Ensemble:
    """An ensemble that was made.

    Args:
        run: like any other.
        members: name -> its scores.
        weights: name -> how much it counts.
        best: name of the member of best goal.
        gains: score -> how much better the ensemble's ledger is than the best member's.
    """

    run: Run
    members: dict[str, dict[str, float]]
    weights: dict[str, float]
    best: str
    gains: dict[str, Difference | None]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, as `--json` prints them."""
        return {
            "run": str(self.run.folder.path),
            "by": self.run.manifest["by"],
            "members": [{"run": name, "weight": self.weights[name], **self.members[name]} for name in self.members],
            "best_member": self.best,
            "less_best_member": {name: one and one.to_dict() for name, one in self.gains.items()},
            "scores": self.run.scores(),
        }


def make_ensemble(
    runs: Sequence[Run | str | Path],
    *,
    out: str | Path,
    by: By = "greedy",
    goal: Goal = "macro_f1",
    overrides: Sequence[str] = (),
) -> Ensemble:
    """Combines runs, and writes a run whose ledger is nested: every fold combined by what the others gave.

    Args:
        runs: at least two, of the same split.
        out: the new run's folder.
        by: how they are combined.
        goal: what greedy selection raises.
        overrides: `after.key=value`: what is done to the ensemble's probabilities.

    Raises:
        UsageError: fewer than two runs, one twice, or an ensemble among them.
        RunError: a run is broken, they differ in split, samples, classes or labels, or `out` is taken.
    """
    start = time.perf_counter()
    opened = [run if isinstance(run, Run) else open_run(run) for run in runs]
    names = run_names(opened)
    _check(opened, names)
    after = changed_after(opened[0], overrides) if overrides else Recipe().after
    ledgers = aligned_ledgers(opened, names, verb="combined")
    probs_MNK = np.stack([ledger.predictions.probs_NK for ledger in ledgers])
    first, folder = ledgers[0], RunFolder(Path(out))
    known_N = first.labels_N >= 0
    about = [{"name": name, **run.manifest["hashes"]} for name, run in zip(names, opened, strict=True)]
    fingerprint = {"recipe": text_hash(f"{by} {goal} {after} {about}")}
    with folder.begun(fingerprint):
        fitted = fit_combination(
            probs_MNK[:, known_N], first.labels_N[known_N], first.folds_N[known_N], by=by, goal=goal
        )
        probs_NK = nested_ensemble(probs_MNK, first.labels_N, first.folds_N, by=by, goal=goal)
        ledger = replace(first, predictions=Predictions(first.predictions.ids, probs_NK, first.predictions.class_names))
        recipe = opened[0].recipe.model_copy(update={"after": after})
        selected = list(dict.fromkeys(sentence for run in opened for sentence in selection_of(run)))
        _write(folder, opened[0], recipe, ledger, fitted, selected)
        made = {
            "kind": ENSEMBLE,
            "selection": selected,
            "by": by,
            "goal": goal,
            "members": [
                _member(folder, name, run, weight)
                for name, run, weight in zip(names, opened, fitted.weights_M.tolist(), strict=True)
            ],
            "hashes": {**opened[0].manifest["hashes"], **fingerprint},
            "backbone": {"name": " + ".join(names), "weights": fingerprint["recipe"]},
            "preprocessing": {
                "hash": " + ".join(dict.fromkeys(run.manifest["preprocessing"]["hash"] for run in opened))
            },
            "engine": {"name": ENSEMBLE, "precision": "of its members", "choice": "as each member was trained"},
            "train_shares": opened[0].train_shares_K.tolist(),
            "class_names": list(first.predictions.class_names),
            "num_folds": opened[0].num_folds,
        }
        folder.finish({**provenance(), "seconds": round(time.perf_counter() - start, 2), **made})
    return _told(open_run(folder.path), names, ledgers, ledger, fitted, goal)


def members_among(runs: Sequence[str | Path]) -> tuple[list[Run | str | Path], list[str]]:
    """Runs that can be combined, as of a folder that holds an ensemble of them already; and the ensembles.

    Where fewer than two would be left, all stay, for `make_ensemble` to say what is wrong.
    """
    opened = [open_run(run) for run in runs]
    members: list[Run | str | Path] = [run for run in opened if not run.is_ensemble]
    if len(members) < 2:
        return list(opened), []
    return members, [str(run.folder.path) for run in opened if run.is_ensemble]


def _check(runs: Sequence[Run], names: Sequence[str]) -> None:
    if len(runs) < 2:
        raise UsageError("one run is no ensemble", "give two or more: finefold ensemble RUN RUN --out RUN")
    if len({run.folder.path.resolve() for run in runs}) < len(runs):
        raise UsageError("a run is given twice", "give every run once: what counts more gets a larger weight")
    nested = [name for name, run in zip(names, runs, strict=True) if run.is_ensemble]
    if nested:
        raise UsageError(f"`{nested[0]}` is an ensemble itself", "give its members instead")


def _write(
    folder: RunFolder, first: Run, recipe: Recipe, ledger: Ledger, fitted: Combination, selected: Sequence[str]
) -> None:
    """Everything but the manifest; what members share is copied from the first."""
    write_text(folder.recipe, dump_recipe(recipe))
    write_json(folder.ensemble, fitted.to_dict())
    for mine, theirs in (
        (folder.data, first.folder.data),
        (folder.samples, first.folder.samples),
        (folder.split, first.folder.split),
        (folder.findings, first.folder.findings),
    ):
        if theirs.is_file():
            mine.write_bytes(theirs.read_bytes())
    ledger.write(folder.ledger)
    scores = score(ledger, first.space.attribute_table(), recipe, selected=selected)
    write_json(folder.scores, scores)
    if not recipe.after.is_nothing:
        write_json(folder.after, fit_after(ledger, recipe.after, first.train_shares_K, first.space).to_dict())
    names = ledger.predictions.class_names
    write_text(folder.picture("confusion"), draw_confusion(scores["confusion"], names, title="Out-of-fold confusion"))
    write_text(folder.picture("classes"), draw_class_bars(scores["classes"], title="Out-of-fold F1 per class"))


def _member(folder: RunFolder, name: str, run: Run, weight: float) -> dict[str, Any]:
    """What an ensemble's manifest keeps of a member: where it is, and how it is known."""
    place = run.folder.path.resolve()
    return {
        "name": name,
        "beside": os.path.relpath(place, folder.path.resolve()),
        "path": str(place),
        "weight": weight,
        "hashes": run.manifest["hashes"],
        "written": run.manifest["written"],
    }


def _told(
    run: Run, names: Sequence[str], ledgers: Sequence[Ledger], combined: Ledger, fitted: Combination, goal: Goal
) -> Ensemble:
    drawn = [
        draw(
            one.predictions.probs_NK,
            one.labels_N,
            np.asarray(one.groups),
            one.predictions.class_names,
            {},
            resamples=run.recipe.scores.resamples,
        )
        for one in (ledger.known() for ledger in (*ledgers, combined))
    ]
    sign = -1 if goal == "log_loss" else 1
    best = max(range(len(names)), key=lambda place: sign * drawn[place].values[goal])
    values = {name: {score: one.values[score] for score in SCORES} for name, one in zip(names, drawn, strict=False)}
    gains = {score: drawn[-1].less(drawn[best], score) for score in SCORES}
    return Ensemble(run, values, dict(zip(names, fitted.weights_M.tolist(), strict=True)), names[best], gains)
