"""What predicting many images costs: peak memory of 1,000 against 50,000, and what a few images cost beyond their work.

Run from the project's root:  .venv/bin/python benchmarks/streaming.py [--counts 1000 50000] [--size-px 64]

Draws pictures of 40 px, each another one, and predicts them with a probe on drawn portraits in a process of its own.
Small inputs (--size-px) make the forward pass cheap; memory does not depend on it. Numbers belong into docs/LOG.md.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from finefold.data.synthetic import draw_portraits
from finefold.nn.streaming import CACHED_IMAGES
from finefold.steps.init import init
from finefold.steps.predict import predict, write_answers
from finefold.steps.run import Run
from finefold.steps.train import train

MEASURED = """
import sys, time
from pathlib import Path
from finefold.steps.predict import write_answers
from finefold.steps.run import open_run
def peak_kb():  # of this program alone: what getrusage says holds its parent's as well
    return next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
run = open_run(sys.argv[1])
before = peak_kb()
start = time.perf_counter()
tally, _ = write_answers(run, sys.argv[2], out=sys.argv[3])
seconds = time.perf_counter() - start
print(len(tally), seconds, before, peak_kb())
"""


def draw(folder: Path, count: int) -> Path:
    """So many different small pictures, a thousand to a folder."""
    rng = np.random.default_rng(0)
    canvas = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
    for number in range(count):
        if number % 1000 == 0:
            (folder / f"{number // 1000:04}").mkdir(parents=True)
        canvas[:2, :4] = rng.integers(0, 256, (2, 4, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{number // 1000:04}" / f"{number}.png"), canvas)
    return folder


def trained(home: Path, size_px: int) -> Run:
    """A probe on drawn portraits."""
    draw_portraits(home / "portraits", num_people=18, num_test=7, size_px=(96, 128))
    data = init(home / "portraits", out=home / "data.toml").data
    return train(data, overrides=[f"image.size_px={size_px}", "split.folds=3"], out=home / "run")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", type=int, nargs="+", default=[1000, 50_000])
    parser.add_argument("--size-px", type=int, default=64)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="finefold-streaming-") as folder:
        home = Path(folder)
        run = trained(home, chosen.size_px)
        few = draw(home / "few", 20)
        write_answers(run, few, out=home / "few.csv")
        start = time.perf_counter()
        predict(run, few)
        plain = time.perf_counter() - start
        start = time.perf_counter()
        write_answers(run, few, out=home / "few.csv")
        print(f"20 images, cached: predict {plain:.3f} s, with journal and file {time.perf_counter() - start:.3f} s")
        print(f"{'images':>9} {'rows kept':>9} {'seconds':>8} {'images/s':>8} {'before MB':>9} {'peak MB':>8}")
        peaks = []
        for count in chosen.counts:
            images = draw(home / f"images-{count}", count)
            command = [sys.executable, "-c", MEASURED, str(run.folder.path), str(images), str(home / f"{count}.csv")]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            rows, seconds, before, peak = map(float, done.stdout.split())
            assert rows == count
            peaks.append((count, peak / 1000))
            kept = "yes" if count <= CACHED_IMAGES else "no"
            print(
                f"{count:>9,} {kept:>9} {seconds:>8.1f} {count / seconds:>8.0f} "
                f"{before / 1000:>9.0f} {peak / 1000:>8.0f}",
                flush=True,
            )
        (first, low), (last, high) = peaks[0], peaks[-1]
        if last > first:
            print(f"each image more: {1e6 * (high - low) / (last - first):,.0f} bytes")


if __name__ == "__main__":
    main()
