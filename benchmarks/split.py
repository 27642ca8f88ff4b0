"""How long and how much memory a split of a million samples takes: `python benchmarks/split.py`.

Two layouts of 1,000,000 samples in 150,000 groups, 18 classes, 5 folds: groups that all look alike, and
groups that all look different (each sample's class drawn at random, long-tailed). Each runs in a process
of its own, so that the peak is its own. Target: under 20 s and 2 GB each.
"""

import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
from numpy.typing import NDArray

from finefold.data.splits import describe_balance, make_split, read_split, write_split

NUM_SAMPLES, NUM_GROUPS, NUM_CLASSES, FOLDS = 1_000_000, 150_000, 18, 5


def alike(group_N: NDArray[np.int64]) -> NDArray[np.int64]:
    """Every group holds the first classes once each, in order."""
    return np.arange(len(group_N)) // NUM_GROUPS % NUM_CLASSES


def different(group_N: NDArray[np.int64]) -> NDArray[np.int64]:
    """Every sample draws its class, the most common 30 times as often as the rarest."""
    shares_K = 1 / np.arange(1, NUM_CLASSES + 1) ** 1.2
    return np.random.default_rng(0).choice(NUM_CLASSES, len(group_N), p=shares_K / shares_K.sum())


LAYOUTS = {"alike": alike, "different": different}


def peak_mb() -> float:
    """The most memory this process has held, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)


def measure(layout: str) -> None:
    """Split one layout, write and read it, print seconds, memory and balance."""
    group_N = np.arange(NUM_SAMPLES) % NUM_GROUPS
    labels_N = LAYOUTS[layout](group_N)
    if layout == "alike":  # the ids as a table reads them, the groups in no order
        group_N = np.random.default_rng(1).permutation(NUM_GROUPS)[group_N]
    ids = pl.Series([f"{i:07d}" for i in range(NUM_SAMPLES)])
    groups = pl.Series([f"{group:06d}" for group in group_N])
    names = [f"class {k}" for k in range(NUM_CLASSES)][: int(labels_N.max()) + 1]
    before_mb, start = peak_mb(), time.perf_counter()
    split = make_split(ids, labels_N, groups, class_names=names, folds=FOLDS)
    seconds, after_mb = time.perf_counter() - start, peak_mb()
    balance = describe_balance(split, labels_N, names)
    wanted_K = balance.counts_FK.mean(axis=0)
    worst = np.abs(balance.counts_FK / wanted_K - 1).max()
    print(
        f"{layout:>10}: split {seconds:5.1f} s, peak {after_mb:,.0f} MB ({before_mb:,.0f} MB before), hash {split.hash}"
    )
    with TemporaryDirectory() as folder:
        start = time.perf_counter()
        write_split(split, Path(folder) / "split.csv")
        assert read_split(Path(folder) / "split.csv") == split
    print(f"{'':>10}  write, read, compare {time.perf_counter() - start:.1f} s, peak {peak_mb():,.0f} MB")
    print(f"{'':>10}  largest deviation of a class {worst:.4%}, fold sizes {balance.sizes_F.tolist()}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        measure(sys.argv[1])
    else:
        for layout in LAYOUTS:
            subprocess.run([sys.executable, __file__, layout], check=True)
