"""The pot of a soup: models that may go into it, their mean weights, and what a soup of some of them says.

Shapes: N samples, R runs, K joint classes.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from finefold.ensemble import Goal
from finefold.errors import RunError
from finefold.nn.classifier import Classifier, Tail
from finefold.nn.devices import training_device
from finefold.nn.infer import read_fold
from finefold.nn.soups import mean_state, moved_norms, recompute_norms
from finefold.nn.weights import read_header, read_state, write_weights
from finefold.recipe.training import View
from finefold.runs.folder import RunFolder
from finefold.steps.asking import Asked
from finefold.steps.effort import ledger_views
from finefold.steps.progress import Progress
from finefold.steps.run import Run
from finefold.steps.training import quick_scores, views_needed

Places = tuple[int, ...]  # of runs among those that were given
BATCH = 64  # rows whose statistics are taken together


@dataclass
class Pot:
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
    ) -> "Pot":
        """Opens the models.

        Raises:
            RunError: batch norms trained, and nobody asked for their statistics anew.
        """
        states = [read_state(weights_file(run, fold)) for run in runs for fold in range(run.num_folds)]
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
        state = mean_state([read_state(weights_file(self.runs[place], fold)) for place, fold in models])
        header = read_header(weights_file(self.runs[models[0][0]], models[0][1]))
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


def weights_file(run: Run, fold: int) -> Path:
    """A fold's weights, of a run whose folds are one model each."""
    file = run.fold_weights(fold)
    assert isinstance(file, Path)
    return file
