"""`finefold pick`: what runs score against what an image costs them, and what to give `predict`.

Shapes: N samples, K joint classes.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from finefold.data.preprocessing import Box
from finefold.errors import RunError, UsageError
from finefold.metrics.intervals import Score
from finefold.metrics.paired import LOWER_IS_BETTER, SCORES, Difference, Drawn, draw
from finefold.nn.features import PLAIN, PrefixCache
from finefold.nn.infer import FoldEnsemble
from finefold.nn.streaming import stream_uncached
from finefold.steps.aligning import aligned_ledgers, run_names
from finefold.steps.columns import samples_of
from finefold.steps.effort import Effort, ledger_views, say_views
from finefold.steps.progress import SILENT, Progress
from finefold.steps.run import Run, open_run
from finefold.steps.views import out_of_fold_views

By = Literal["macro_f1", "accuracy", "balanced_accuracy", "log_loss"]
NUM_IMAGES = 64  # that are timed: a second or two for most networks
REPEATS = 3  # the quickest counts: whatever else runs on the machine only adds
MANY = 1_000_000  # images: what starting costs is not to be counted to each


@dataclass(frozen=True)
class Way:
    """One way to answer.

    Args:
        name: of the run.
        run: that answers.
        effort: with how many folds and which views.
        models: forward passes from the shared prefix on, an image: folds times views, of all members.
        views: under which the run answers; empty for an ensemble, whose members have their own.
        scores: score -> with interval; empty for a soup over folds, which has none.
        gap: how much better it is than the best way, at most 0 up to chance; None where it has no score.
        ms: milliseconds an image, measured here.
    """

    name: str
    run: Run
    effort: Effort
    models: int
    views: tuple[str, ...]
    scores: dict[str, Score]
    gap: Difference | None
    ms: float

    @property
    def command(self) -> str:
        """What answers so."""
        return f"finefold predict {self.run.folder.path}{self.effort.to_flags()} --out submission.csv"

    @property
    def says(self) -> str:
        """In a few words."""
        if self.run.is_ensemble:
            return f"ensemble of {len(self.run.manifest['members'])} runs"
        folds = "averaged folds" if not self.run.has_ledger else f"{self.models // len(self.views)} folds"
        return f"{'one fold' if folds == '1 folds' else folds}, {say_views(self.views)}"  # type: ignore[arg-type]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "run": self.name,
            "path": str(self.run.folder.path),
            "says": self.says,
            "models": self.models,
            "views": list(self.views),
            "scores": {name: one.to_dict() for name, one in self.scores.items()} or None,
            "less_best": self.gap and self.gap.to_dict(),
            "ms": round(self.ms, 3),
            "command": self.command,
        }


@dataclass(frozen=True)
class Picked:
    """All ways, cheapest first, and the one to take.

    Args:
        by: the score that counts.
        budget_ms: most that an image may cost; None for no limit.
        num_images: that were timed.
        ways: cheapest first.
        taken: its place among them; None where nobody asked.
    """

    by: By
    budget_ms: float | None
    num_images: int
    ways: tuple[Way, ...]
    taken: int | None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, as `--json` prints them."""
        return {
            "by": self.by,
            "budget_ms": self.budget_ms,
            "images": self.num_images,
            "ways": [way.to_dict() for way in self.ways],
            "taken": self.taken,
            "command": None if self.taken is None else self.ways[self.taken].command,
        }


def pick(
    runs: Sequence[Run | str | Path],
    *,
    by: By = "macro_f1",
    budget_ms: float | None = None,
    best: bool = False,
    num_images: int = NUM_IMAGES,
    progress: Progress = SILENT,
) -> Picked:
    """Scores every way in which the runs can answer, and measures what an image costs each.

    Args:
        runs: of one split; ensembles and soups among them.
        by: the score that counts.
        budget_ms: take the best way that costs no more.
        best: take the best way, whatever it costs.
        num_images: of the first run's own samples, that are timed.
        progress: told of what is scored and timed.

    Raises:
        UsageError: both a budget and the best are asked for, a budget that is not above 0, or a run twice.
        RunError: the runs are not of one split, or nothing keeps within the budget.
    """
    if best and budget_ms is not None:
        raise UsageError("--best takes the best whatever it costs, and --budget-ms limits that", "say one of them")
    if budget_ms is not None and not budget_ms > 0:
        raise UsageError(f"--budget-ms {budget_ms:g} leaves no time at all", "say a number above 0")
    opened = [run if isinstance(run, Run) else open_run(run) for run in runs]
    if len({run.folder.path.resolve() for run in opened}) < len(opened):
        raise UsageError("a run is given twice", "give every run once")
    names = run_names(opened)
    scored = [(name, run) for name, run in zip(names, opened, strict=True) if run.has_ledger]
    if not scored:
        raise RunError("none of these runs has a ledger, so none has a score", "give the runs they were made of too")
    ledgers = aligned_ledgers([run for _, run in scored], [name for name, _ in scored], verb="compared")
    paths, boxes = _images(opened[0], num_images)
    found: list[tuple[Way, Drawn | None]] = []
    for name, run in zip(names, opened, strict=True):
        drawn = _drawn(run, ledgers[0].predictions.ids, progress) if run.has_ledger else {}
        found += [(way, drawn.get(way.views)) for way in _ways(name, run)]
    ways = _judged(found, by, len(ledgers[0].known().labels_N))
    spent = times_of([(way.run, way.effort) for way in ways], paths, boxes, progress)
    timed = [replace(way, ms=ms) for way, ms in zip(ways, spent, strict=True)]
    ways = sorted(timed, key=lambda way: (way.ms, way.name))
    taken = _take(ways, by, budget_ms) if best or budget_ms is not None else None
    return Picked(by, budget_ms, len(paths), tuple(ways), taken)


def _ways(name: str, run: Run) -> list[Way]:
    """One fold and all of them, under the plain view and all of the recipe's; an ensemble as it is."""
    blank: dict[str, Score] = {}
    if run.is_ensemble:
        models = sum(one.num_folds * len(one.recipe.predict.views) for one in run.members())
        return [Way(name, run, Effort(), models, (), blank, None, 0.0)]
    usual = run.recipe.predict.views
    kinds = [usual] if not run.recipe.after.is_nothing else list(dict.fromkeys(((PLAIN,), usual)))
    ways = []
    for views in kinds:
        for folds in dict.fromkeys((1, run.num_folds)):
            effort = Effort(None if folds == run.num_folds else folds, None if views == usual else views)
            ways.append(Way(name, run, effort, folds * len(views), views, blank, None, 0.0))
    return ways


def _drawn(run: Run, ids: Sequence[str], progress: Progress) -> dict[tuple[str, ...], Drawn]:
    """Views -> the out-of-fold scores under them, on the same resamples for every run."""
    ledger = run.ledger()
    own = () if run.is_ensemble else ledger_views(run)
    probs = {own: ledger.predictions}
    usual = () if run.is_ensemble else run.recipe.predict.views
    asked = [views for views in dict.fromkeys(((PLAIN,), usual)) if views and views != own]
    if asked and not run.is_ensemble:
        of_view = out_of_fold_views(run, tuple(dict.fromkeys((PLAIN, *usual))), progress=progress)
        for views in asked:
            mean_NK = np.mean([of_view[view] for view in views], axis=0)
            probs[views] = replace(ledger.predictions, probs_NK=np.asarray(mean_NK))
    drawn: dict[tuple[str, ...], Drawn] = {}
    for views, predictions in probs.items():
        known = replace(ledger, predictions=predictions).known()
        place_of = {name: place for place, name in enumerate(known.predictions.ids)}
        order = np.array([place_of[name] for name in ids if name in place_of])
        drawn[views] = draw(
            known.predictions.probs_NK[order],
            known.labels_N[order],
            np.asarray(known.groups)[order],
            predictions.class_names,
            {},
            resamples=run.recipe.scores.resamples,
        )
    return drawn


def _judged(found: Sequence[tuple[Way, Drawn | None]], by: By, num_samples: int) -> list[Way]:
    """With scores, and how far each is from the best."""
    sign = -1 if by in LOWER_IS_BETTER else 1
    top = max((drawn for _, drawn in found if drawn is not None), key=lambda drawn: sign * drawn.values[by])
    return [
        way
        if drawn is None
        else replace(
            way,
            scores={
                one: drawn.score(one, num_samples) for one in SCORES
            },
            gap=drawn.less(top, by),
        )
        for way, drawn in found
    ]  # fmt: skip


def _take(ways: Sequence[Way], by: By, budget_ms: float | None) -> int:
    """The place of the best way within the budget; of those that score alike, the one of most folds."""
    can = [place for place, way in enumerate(ways) if way.scores and (budget_ms is None or way.ms <= budget_ms)]
    if not can:
        quickest = next(way for way in ways if way.scores)
        raise RunError(
            f"nothing answers within {budget_ms:g} ms an image here: the quickest, {quickest.name} with "
            f"{quickest.says}, takes {quickest.ms:.1f} ms",
            "allow more, or train a smaller backbone at a smaller image.size_px",
        )
    sign = -1 if by in LOWER_IS_BETTER else 1
    return max(can, key=lambda place: (sign * ways[place].scores[by].value, ways[place].models, -ways[place].ms))


def _images(run: Run, count: int) -> tuple[list[Path], Sequence[Box | None] | None]:
    """Some of a run's own images, evenly through its table."""
    samples = samples_of(run)
    places = np.unique(np.linspace(0, len(samples) - 1, min(count, len(samples))).round().astype(np.int64)).tolist()
    boxes = None if samples.boxes is None else [samples.boxes[place] for place in places]
    return [samples.paths[place] for place in places], boxes


def times_of(
    asked: Sequence[tuple[Run, Effort]],
    paths: Sequence[Path],
    boxes: Sequence[Box | None] | None = None,
    progress: Progress = SILENT,
) -> list[float]:
    """For each run and effort, milliseconds an image, from its file to its probabilities, nothing cached.

    All are timed in turn, several times, so that a slow moment of the machine is not one's alone. An ensemble's are its
    members' together, whatever the effort.
    """
    parts = [_trained(run, effort) for run, effort in asked]
    distinct = {_key(*pair): pair for part in parts for pair in part}
    opened: dict[Path, tuple[FoldEnsemble, PrefixCache]] = {}
    timed: dict[_Key, _Timed] = {}
    with progress.stage("timing", REPEATS * len(distinct), "goes") as advance:
        for (folder, effort), (run, _) in distinct.items():
            if folder not in opened:
                opened[folder] = _opened(run, paths[:4], boxes and boxes[:4])
            whole, cache = opened[folder]
            model = replace(whole, folds=whole.folds[: effort.folds_of(run)], views=effort.views_of(run))
            timed[folder, effort] = _Timed(model, cache)
        for _ in range(REPEATS):
            for one in timed.values():
                one.go(paths, boxes)
                advance(1)
    return [sum(1000 * timed[_key(*pair)].seconds / len(paths) for pair in part) for part in parts]


_Key = tuple[Path, Effort]


def _key(run: Run, effort: Effort) -> _Key:
    return run.folder.path.resolve(), effort


def _trained(run: Run, effort: Effort) -> list[tuple[Run, Effort]]:
    """What was trained of a run: itself, or its members and theirs."""
    if not run.is_ensemble:
        return [(run, effort)]
    return [pair for member in run.members() for pair in _trained(member, Effort())]


@dataclass
class _Timed:
    """A model, and the least seconds that it took."""

    model: FoldEnsemble
    cache: PrefixCache
    seconds: float = math.inf

    def go(self, paths: Sequence[Path], boxes: Sequence[Box | None] | None) -> None:
        """Once through all images."""
        start = time.perf_counter()
        list(stream_uncached(self.model, paths, cache=self.cache, boxes=boxes))
        self.seconds = min(self.seconds, time.perf_counter() - start)


def _opened(run: Run, paths: Sequence[Path], boxes: Sequence[Box | None] | None) -> tuple[FoldEnsemble, PrefixCache]:
    """All folds of a run, and its prefix, their engines started."""
    weights = [run.fold_weights(fold) for fold in range(run.num_folds)]
    whole = FoldEnsemble.read(run.backbone, weights, run.space).exported(run.choice, MANY)
    cache = run.prefix_cache(whole.backbone)
    list(stream_uncached(whole, paths, cache=cache, boxes=boxes))
    return whole, cache
