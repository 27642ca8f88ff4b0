"""What deciding costs: bootstrap, greedy selection, class shares with intervals, counts, and folds times views.

Run from the project's root:  .venv/bin/python benchmarks/decide.py [--rows 20000] [--classes 18] [--images 48]

The first part is numbers alone: as many rows as asked for, in groups of seven. The second part trains a probe on drawn
portraits and predicts images that are new, so that the frozen prefix is computed for every view and never cached: five
folds and four views against one fold and one view, whose cost is nearly the prefix's. Nothing is asserted; numbers
belong into docs/LOG.md.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from finefold.data.synthetic import draw_portraits
from finefold.ensemble import greedy_weights
from finefold.metrics.counts import assign_to_counts
from finefold.metrics.paired import draw
from finefold.metrics.shift import estimate_shares
from finefold.steps.effort import Effort
from finefold.steps.init import init
from finefold.steps.pick import times_of
from finefold.steps.train import train

TARGET_SECONDS, TARGET_RATIO = 5.0, 4.4
VIEWS = ("plain", "hflip", "vflip", "hvflip")


def seconds_of(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def drawn_ledger(num_rows: int, num_classes: int, *, runs: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """[M, N, K] probabilities of runs that differ a little, [N] labels, [N] groups."""
    rng = np.random.default_rng(0)
    labels_N = rng.choice(num_classes, num_rows, p=rng.dirichlet(np.full(num_classes, 2.0)))
    logits_MNK = rng.normal(size=(num_rows, num_classes)) + 0.5 * rng.normal(size=(runs, num_rows, num_classes))
    logits_MNK[:, np.arange(num_rows), labels_N] += 2
    probs_MNK = np.exp(logits_MNK)
    return probs_MNK / probs_MNK.sum(axis=2, keepdims=True), labels_N, np.arange(num_rows) // 7


def numbers(num_rows: int, num_classes: int) -> None:
    probs_MNK, labels_N, groups_N = drawn_ledger(num_rows, num_classes, runs=20)
    probs_NK, names = probs_MNK[0], [str(code) for code in range(num_classes)]
    half = num_rows // 2
    wanted_K = np.bincount(np.random.default_rng(1).permutation(labels_N)[:half], minlength=num_classes)
    works: dict[str, Callable[[], object]] = {
        "bootstrap of all scores, 1,000 resamples": lambda: draw(probs_NK, labels_N, groups_N, names, {}),
        "greedy selection over 20 runs": lambda: greedy_weights(probs_MNK, labels_N),
        "class shares by EM and BBSE, intervals": lambda: estimate_shares(
            "joint", names, probs_MNK[1], probs_NK, labels_N, groups_N
        ),
        "counts assigned to half of the rows": lambda: assign_to_counts(probs_NK[:half], wanted_K),
    }
    print(f"{num_rows:,} rows, {num_classes} classes")
    for what, work in works.items():
        spent = seconds_of(work)
        print(f"  {what:<42} {spent:>6.2f} s   {spent / TARGET_SECONDS:>5.2f} of {TARGET_SECONDS:g} s", flush=True)


def folds_and_views(num_images: int, size_px: int) -> None:
    with tempfile.TemporaryDirectory(prefix="finefold-decide-") as folder:
        home = Path(folder)
        draw_portraits(home / "portraits", num_people=18, num_test=7, size_px=(384, 512))
        data = init(home / "portraits", out=home / "data.toml").data
        run = train(data, overrides=["split.folds=5", f"image.size_px={size_px}"], out=home / "run")
        paths = sorted((home / "portraits").rglob("*.jpg"))[:num_images]
        ways = ((1, VIEWS[:1]), (5, VIEWS[:1]), (1, VIEWS), (5, VIEWS))
        print(f"{len(paths)} new images of 384 x 512 px at {size_px} px, a frozen prefix")
        spent = times_of(run, [Effort(folds, views) for folds, views in ways], paths)
        for (folds, views), ms in zip(ways, spent, strict=True):
            target = f"   at most {TARGET_RATIO}" if (folds, views) == ways[-1] else ""
            what = f"{folds} fold{'s' * (folds > 1)} x {len(views)} view{'s' * (len(views) > 1)}"
            print(f"  {what:<42} {ms:>6.2f} ms  {ms / spent[0]:>5.2f} times{target}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--classes", type=int, default=18)
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--size-px", type=int, default=224)
    chosen = parser.parse_args()
    numbers(chosen.rows, chosen.classes)
    folds_and_views(chosen.images, chosen.size_px)


if __name__ == "__main__":
    main()
