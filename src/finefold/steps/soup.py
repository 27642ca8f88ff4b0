"""`finefold soup`: the weights of runs that started alike, averaged fold by fold, or over all folds into one model.

Fold k of a soup of runs is the mean of their fold k's models, none of which saw what fold k holds out: it has a ledger
like any run. A soup over folds has none, as every sample was trained on by all but one of the models in it.

Shapes: N samples, R runs.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from finefold.data.predictions import Predictions, write_parquet
from finefold.data.splits import read_split
from finefold.ensemble import Goal
from finefold.errors import RunError, UsageError
from finefold.metrics.paired import SCORES, Difference, Drawn, draw
from finefold.nn.classifier import Classifier, Tail
from finefold.nn.devices import training_device
from finefold.nn.infer import read_fold
from finefold.nn.soups import mean_state, moved_norms, recompute_norms
from finefold.nn.weights import read_header, read_state, write_weights
from finefold.recipe.loader import dump_recipe
from finefold.recipe.training import View
from finefold.runs.folder import RunFolder, write_json, write_text
from finefold.runs.provenance import provenance, text_hash
from finefold.steps.aligning import aligned_ledgers, run_names
from finefold.steps.asking import Asked
from finefold.steps.effort import ledger_views
from finefold.steps.outputs import write_results
from finefold.steps.progress import SILENT, Progress
from finefold.steps.run import FOLD_SOUP, Run, open_run
from finefold.steps.training import quick_scores, views_needed

Places = tuple[int, ...]  # of runs among those that were given
BATCH = 64  # rows whose statistics are taken together


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
        pot = _Pot.of(opened, names, folder, recompute, progress)
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
        _finish(folder, opened[0], {**told, "members": about, "folds": members}, fingerprint, start, over_folds)
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
    first, first_header = runs[0], read_header(_weights(runs[0], 0))
    shapes = _shapes(runs[0])
    for name, run in zip(names[1:], runs[1:], strict=True):
        header = read_header(_weights(run, 0))
        what = None
        if run.manifest["backbone"] != first.manifest["backbone"]:
            what = f"they start from other weights ({first.backbone.name}, {run.backbone.name})"
        elif run.manifest["preprocessing"]["hash"] != first.manifest["preprocessing"]["hash"]:
            what = "images are preprocessed otherwise"
        elif header["heads"] != first_header["heads"] or list(header.get("ordinal", {})) != list(
            first_header.get("ordinal", {})
        ):
            what = "their heads differ"
        elif (
            header["kind"] != first_header["kind"]
            or header.get("cut") != first_header.get("cut")
            or _shapes(run) != shapes
        ):
            what = "other parts of the network trained"
        if what:
            raise RunError(
                f"the weights of `{names[0]}` and `{name}` cannot be averaged: {what}",
                "train both by the same [model], [image] and [[phase]] trainable; "
                "answers can be combined in any case: finefold ensemble",
            )


def _weights(run: Run, fold: int) -> Path:
    file = run.fold_weights(fold)
    assert isinstance(file, Path)
    return file


def _shapes(run: Run) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in read_state(_weights(run, 0)).items()}


@dataclass
class _Pot:
    """Models that may go into a soup, and what soups of them say.

    Args:
        runs: [R].
        asked: the first run's models, on rows that serve every soup.
        norms: batch norms whose statistics differ.
        folder: of the new run.
    """

    runs: Sequence[Run]
    asked: Asked
    norms: tuple[str, ...]
    folder: RunFolder
    progress: Progress
    found: dict[Places, NDArray[np.float64]] = field(default_factory=dict)

    @classmethod
    def of(
        cls, runs: Sequence[Run], names: Sequence[str], folder: RunFolder, recompute: bool, progress: Progress
    ) -> "_Pot":
        """Opens the models.

        Raises:
            RunError: batch norms trained, and nobody asked for their statistics anew.
        """
        states = [read_state(_weights(run, fold)) for run in runs for fold in range(run.num_folds)]
        norms = moved_norms(states)
        if norms and not recompute:
            raise RunError(
                f"batch norms kept averaging while {' and '.join(f'`{name}`' for name in names)} trained, and the mean "
                f"of their statistics is that of no model's inputs ({len(norms)} of them, e.g. `{norms[0]}`)",
                "add --recompute-norms: statistics of the averaged model anew, on the training images",
            )
        views = views_needed(runs[0].recipe) if norms else ledger_views(runs[0])
        return cls(runs, Asked.of(runs[0], views, progress), norms, folder, progress)

    @property
    def views(self) -> tuple[View, ...]:
        """Those that the ledger is of."""
        return ledger_views(self.runs[0])

    def trained_by(self, fold: int | None) -> NDArray[np.int64]:
        """Places of the samples that a fold trains on; all that train where it is None."""
        is_trained_N = (self.asked.samples.train_codes_NA >= 0).any(axis=1)
        return np.flatnonzero(is_trained_N if fold is None else is_trained_N & (self.asked.folds_N != fold))

    def cook(self, models: Sequence[tuple[int, int]], file: Path, trained: NDArray[np.int64]) -> None:
        """Writes the mean of some runs' folds' weights.

        Args:
            models: numbers of run and fold.
            file: where to.
            trained: places of the samples that statistics of norms are taken on.
        """
        state = mean_state([read_state(_weights(self.runs[place], fold)) for place, fold in models])
        header = read_header(_weights(self.runs[models[0][0]], models[0][1]))
        write_weights(file, state, header)
        if self.norms and len(models) > 1:
            device = training_device()
            classifier = Classifier.read(self.asked.model.backbone, file, self.asked.run.space)
            tail = Tail(classifier, self.asked.model.backbone).to(device)
            recompute_norms(tail, self.norms, self._batches(trained), device)
            again = classifier.state_dict()
            write_weights(file, {name: again[name].cpu() for name in state}, header)

    def _batches(self, trained: NDArray[np.int64]) -> Iterator[torch.Tensor]:
        """Training rows in random order, each under a view drawn for its batch."""
        recipe = self.asked.run.recipe
        rng = np.random.default_rng(recipe.seed)
        order = rng.permutation(trained)
        for start in range(0, len(order), BATCH):
            part = order[start : start + BATCH]
            if len(part) > 1 or start == 0:
                view = recipe.augment.views[rng.integers(len(recipe.augment.views))]
                yield torch.from_numpy(self.asked.rows.read(part, view))

    def said(self, places: Places) -> NDArray[np.float64]:
        """[N, K] out-of-fold probabilities of the soup of some runs."""
        if places not in self.found:
            folds = []
            for fold in range(self.runs[0].num_folds):
                file = self.folder.work / f"soup-{fold}.safetensors"
                self.cook([(place, fold) for place in places], file, self.trained_by(fold))
                folds.append(read_fold(self.asked.model.backbone, file, self.asked.run.space))
            asked = self.asked.with_folds(folds)
            with self.progress.stage("soup", len(asked.samples) * len(self.views), "samples") as advance:
                found = [asked.out_of_fold(view, advance=advance) for view in self.views]
            self.found[places] = np.asarray(np.mean(found, axis=0))
        return self.found[places]

    def greedy(self, goal: Goal) -> list[Places]:
        """For every fold, the runs that serve the other folds' samples together."""
        labels_N, folds_N = self.asked.samples.labels_N, self.asked.folds_N
        chosen = []
        for fold in range(self.runs[0].num_folds):
            rows = (folds_N != fold) & (labels_N >= 0)

            def goal_of(places: Places, rows: NDArray[np.bool_] = rows) -> float:
                value = quick_scores(self.said(places)[rows], labels_N[rows])[goal]
                return -value if goal == "log_loss" else value

            chosen.append(greedy_places(len(self.runs), goal_of))
        return chosen


def greedy_places(num_runs: int, goal_of: Callable[[Places], float]) -> Places:
    """The best run, then each further one, best first, where the soup is not worse with it.

    References:
        Wortsman et al., Model soups, ICML 2022, recipe 1 (GreedySoup).
    """
    order = sorted(range(num_runs), key=lambda place: -goal_of((place,)))
    chosen: Places = (order[0],)
    best = goal_of(chosen)
    for place in order[1:]:
        trial = tuple(sorted((*chosen, place)))
        if (value := goal_of(trial)) >= best:
            chosen, best = trial, value
    return chosen


def _write_folds(folder: RunFolder, pot: _Pot, chosen: Sequence[Places]) -> None:
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
    was_chosen = any("chosen" in one.manifest for one in pot.runs)
    split = read_split(run.folder.split)
    write_results(folder, predictions, samples, split, run.recipe, (), was_chosen=was_chosen)


def _finish(
    folder: RunFolder,
    first: Run,
    told: Mapping[str, Any],
    fingerprint: Mapping[str, str],
    start: float,
    over_folds: bool,
) -> None:
    """What the members share is the first one's; the manifest last."""
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
            "soup": dict(told),
        }
    )


def _judged(made: Soup, pot: _Pot, goal: Goal) -> Soup:
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
