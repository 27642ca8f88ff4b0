"""`finefold pseudo`: the next round of a run, trained on unlabelled images too, and kept only if it is better.

Every fold trains on labels that its own model gave, see `metrics.pseudo`; real samples alone validate. A round is a run
of its own, see `steps.rounds`.

Shapes: F folds, K joint classes.
"""

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finefold.errors import UsageError
from finefold.metrics.paired import Difference, Drawn, draw
from finefold.recipe.loader import dump_recipe, load_recipe
from finefold.recipe.schema import Recipe
from finefold.runs.folder import RunFolder
from finefold.runs.provenance import provenance, text_hash
from finefold.steps.progress import SILENT, Progress
from finefold.steps.questions import image_names
from finefold.steps.rounds import check_trains_again, read_material, train_round
from finefold.steps.run import Run, open_run

KEPT_FROM = 0.95  # share of resamples of groups in which a round must be better
SCORES = ("macro_f1", "accuracy", "log_loss")


@dataclass(frozen=True)
class Round:
    """One round beside what was kept before.

    Args:
        labels_FK: how many labels each fold trained on, of each class.
        scores: of the ledger after the round.
        differences: score -> how much better than before; above 0 is better.
        is_kept: whether the round's models are the run's now.
    """

    labels_FK: NDArray[np.int64]
    scores: Mapping[str, float]
    differences: Mapping[str, Difference]
    is_kept: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "labels": self.labels_FK.sum(axis=1).tolist(),
            "labels_per_class": self.labels_FK.tolist(),
            "scores": dict(self.scores),
            "differences": {name: one.to_dict() for name, one in self.differences.items()},
            "is_kept": self.is_kept,
        }


@dataclass(frozen=True)
class PseudoLabelled:
    """What pseudo-labelling gave.

    Args:
        before: the run that it started from.
        run: the new run; None where no round was kept.
        metric: the score that decided.
        scores: of the run that it started from.
        rounds: in order; all but the last were kept, and the last may be.
        num_images: unlabelled images that could be read.
    """

    before: Run
    run: Run | None
    metric: str
    scores: Mapping[str, float]
    rounds: tuple[Round, ...]
    num_images: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `--json` prints them."""
        return {
            "before": str(self.before.folder.path),
            "run": None if self.run is None else str(self.run.folder.path),
            "metric": self.metric,
            "images": self.num_images,
            "scores": dict(self.scores),
            "rounds": [one.to_dict() for one in self.rounds],
        }


def pseudo(
    run: Run,
    images: str | Path | None = None,
    *,
    out: str | Path,
    overrides: Sequence[str] = (),
    progress: Progress = SILENT,
) -> PseudoLabelled:
    """Trains the next rounds of a run on unlabelled images too, and writes them as a run where they are better.

    Args:
        run: a finished run that was trained.
        images: a folder of unlabelled images; without one, the root of [predict] in the run's data.toml.
        out: the new run's folder; nothing is written where no round is kept.
        overrides: `pseudo.key=value`, on top of the run's recipe.
        progress: told of the stages, the plan and every epoch.

    Raises:
        UsageError: the run cannot be trained again as it was, or an override is of something else.
        RunError: `out` is in the way, or the run's images are not what they were.
        DataError: there is no image.
        TrainingError: as of `train`.
    """
    start = time.perf_counter()
    check_trains_again(run)
    recipe = _recipe(run, overrides)
    root, names = image_names(run, images)
    folder = RunFolder(Path(out))
    fingerprint = {
        "recipe": text_hash(dump_recipe(recipe)),
        "run": text_hash(run.folder.manifest.read_text("utf-8")),
        "folder of images": text_hash("\n".join([str(root.resolve()), *names])),
    }
    with folder.begun(fingerprint):
        material = read_material(run, recipe, root, names, progress)
        best, drawn, rounds = run, _drawn(run, run), list[Round]()
        scores = {name: drawn.values[name] for name in SCORES}
        while len(rounds) < recipe.pseudo.rounds:
            made = train_round(folder.round(len(rounds) + 1), best, material, progress)
            if made is None:
                progress.say(f"round {len(rounds) + 1}: no image gets a label (pseudo.share, pseudo.threshold)")
                break
            after = _drawn(run, made)
            rounds.append(_judged(made, drawn, after, recipe.train.metric))
            progress.say(round_line(len(rounds), rounds[-1], recipe.train.metric))
            if not rounds[-1].is_kept:
                break
            best, drawn = made, after
        found = PseudoLabelled(run, None, recipe.train.metric, scores, tuple(rounds), len(material.pool))
        if best is run:
            shutil.rmtree(folder.path)
            return found
        _adopt(folder, best, {**found.to_dict(), "run": str(folder.path), "root": str(root.resolve())}, start)
    return replace(found, run=open_run(folder.path, network=run.network))


def round_line(number: int, one: Round, metric: str) -> str:
    """A round in a sentence: kept or dropped, and the numbers."""
    gap = one.differences[metric]
    name = metric.replace("_", " ").replace(" f1", " F1")
    return (
        f"round {number}: {int(one.labels_FK.sum(axis=1).mean()):,} labels a fold, {name} {one.scores[metric]:.3f} "
        f"({gap.value:+.4f} [{gap.low:+.4f}, {gap.high:+.4f}], better in {100 * gap.better:.0f} % of resamples): "
        f"{'kept' if one.is_kept else 'dropped'}"
    )


def _judged(made: Run, before: Drawn, after: Drawn, metric: str) -> Round:
    differences = {name: gap for name in SCORES if (gap := after.less(before, name)) is not None}
    counts_FK = np.array(made.manifest["pseudo"]["labels_per_class"], np.int64)
    is_kept = differences[metric].better >= KEPT_FROM
    return Round(counts_FK, {name: after.values[name] for name in SCORES}, differences, is_kept)


def _drawn(run: Run, made: Run) -> Drawn:
    """The scores of a round's out-of-fold predictions, on the same resamples of the run's samples each time."""
    ledger, predictions = run.ledger(), made.ledger().predictions
    return draw(
        predictions.rows_for(ledger.predictions.ids).probs_NK,
        ledger.labels_N,
        np.asarray(ledger.groups),
        predictions.class_names,
        run.space.attribute_table(),
        codes_NA=ledger.codes_NA,
        resamples=run.recipe.scores.resamples,
    )


def _recipe(run: Run, overrides: Sequence[str]) -> Recipe:
    """The run's recipe with another [pseudo]."""
    recipe = load_recipe(str(run.folder.recipe), overrides)
    if recipe.model_copy(update={"pseudo": run.recipe.pseudo}) != run.recipe:
        raise UsageError(
            "--set changes the recipe beyond [pseudo], so the rounds could not be compared with the run",
            "train another run for that; here, set pseudo.weight, pseudo.share and the like",
        )
    return recipe


def _adopt(folder: RunFolder, best: Run, about: Mapping[str, Any], start: float) -> None:
    """Makes the best round the run; copied, so that a kill in between loses nothing."""
    shutil.copytree(
        best.folder.path, folder.path, dirs_exist_ok=True, ignore=shutil.ignore_patterns(best.folder.manifest.name)
    )
    seconds = round(time.perf_counter() - start, 2)
    folder.finish({**best.manifest, **provenance(), "seconds": seconds, "pseudo": dict(about)})
