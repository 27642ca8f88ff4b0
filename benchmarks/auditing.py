"""What an audit of many images costs, and which of the planted faults it finds: time and peak memory by data set size.

Run from the project's root:  .venv/bin/python benchmarks/auditing.py [--counts 10000 100000] [--keep FOLDER]

Draws pictures of two kinds, each another one, and plants faults among them: copies byte by byte, near copies (cropped,
darker, mirrored, JPEG anew), pictures with the other kind's label, broken files. Each size is audited by the command in
a process of its own with a cache of its own, so that nothing is known before. The peak counts pages of the cache's
files, which the system takes back when it needs them; own memory (looked at five times a second) does not. Numbers
belong into docs/LOG.md.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

SIDE_PX = 96
KINDS = ("warm", "cold")
NUM_PLANTED = 50  # of each fault
MEASURED = """
import sys, threading, time
from finefold.cli.main import main

def memory(name):
    return int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith(name)))

def watch():
    while True:
        own[0] = max(own[0], memory("RssAnon"))
        time.sleep(0.2)

own = [0]
threading.Thread(target=watch, daemon=True).start()
code = main(sys.argv[1:])
print(f"peak_kb {memory('VmHWM')} {own[0]}", file=sys.stderr)
raise SystemExit(code)
"""

Picture = NDArray[np.uint8]


@dataclass
class Planted:
    """The faults among the pictures: names of files, or pairs of them."""

    exact: list[tuple[str, str]] = field(default_factory=list)
    near: list[tuple[str, str]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


def draw_picture(kind: int, rng: np.random.Generator) -> Picture:
    """[96, 96, 3] shapes on a ground whose colour and texture say the kind."""
    low = rng.normal(0, 30, (6, 6, 3)) + np.array([[90, 110, 160], [160, 120, 90]])[kind]
    canvas = np.ascontiguousarray(cv2.resize(low, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_CUBIC))
    for _ in range(rng.integers(6, 12)):
        x, y = rng.integers(0, SIDE_PX, 2).tolist()
        size, colour = int(rng.integers(4, 22)), rng.integers(0, 256, 3).tolist()
        if kind == 0:
            cv2.circle(canvas, (x, y), size, colour, -1, cv2.LINE_AA)
        else:
            cv2.line(canvas, (x, y), rng.integers(0, SIDE_PX, 2).tolist(), colour, size // 4 + 1, cv2.LINE_AA)
    return np.clip(canvas + rng.normal(0, 4, canvas.shape), 0, 255).astype(np.uint8)


def near_copy(picture: Picture, rng: np.random.Generator) -> Picture:
    """The same picture cropped, darker or brighter, and half of the time mirrored."""
    top, left = rng.integers(1, 6, 2)
    part = picture[top : SIDE_PX - 3, left : SIDE_PX - 3]
    moved = cv2.resize(part, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA)
    lit = np.clip(moved * rng.uniform(0.8, 1.15), 0, 255).astype(np.uint8)
    return lit[:, ::-1] if rng.random() < 0.5 else lit


def draw(folder: Path, count: int) -> Planted:
    """So many pictures in folders of a thousand, a labels.csv beside them, and what was planted."""
    rng, planted, rows = np.random.default_rng(count), Planted(), ["path,kind"]
    faulty = rng.choice(np.arange(count // 2, count), 4 * NUM_PLANTED, replace=False)
    fault_of = {int(number): place // NUM_PLANTED for place, number in enumerate(faulty)}
    for number in range(count):
        name = f"{number // 1000:04}/{number}.jpg"
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        kind = number % 2
        fault, earlier = fault_of.get(number), int(rng.integers(0, count // 4)) * 2 + kind
        source = f"{earlier // 1000:04}/{earlier}.jpg"
        if fault == 0:
            file.write_bytes((folder / source).read_bytes())
            planted.exact.append((source, name))
        elif fault == 1:
            cv2.imwrite(str(file), near_copy(cv2.imread(str(folder / source)), rng), [cv2.IMWRITE_JPEG_QUALITY, 80])
            planted.near.append((source, name))
        else:
            cv2.imwrite(str(file), draw_picture(kind, rng))
        if fault == 2:
            kind = 1 - kind
            planted.wrong.append(name)
        elif fault == 3:
            file.write_bytes(file.read_bytes()[:200])
            planted.broken.append(name)
        rows.append(f"{name},{KINDS[kind]}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return planted


def share_found(planted: Sequence[str | tuple[str, str]], told: Sequence[Sequence[str]]) -> float:
    """How many of the planted are told together in one finding."""
    sets = [set(ids) for ids in told]
    by_name: dict[str, list[set[str]]] = {}
    for ids in sets:
        for name in ids:
            by_name.setdefault(name, []).append(ids)
    wanted = [{one} if isinstance(one, str) else set(one) for one in planted]
    return sum(any(one <= ids for ids in by_name.get(next(iter(one)), [])) for one in wanted) / len(wanted)


def measure(home: Path, count: int) -> str:
    """The line of one size."""
    images, data = home / "images", home / "data.toml"
    planted = draw(images, count)
    environment = {**os.environ, "FINEFOLD_CACHE": str(home / "cache")}
    init = [sys.executable, "-m", "finefold", "init", str(images), "--out", str(data)]
    subprocess.run(init, check=True, capture_output=True, env=environment)
    command = [sys.executable, "-c", MEASURED, "audit", str(data), "--json", "--out", str(home / "page.html")]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    seconds = time.perf_counter() - start
    if done.returncode:
        sys.exit(done.stderr[-4000:])
    peak_mb, own_mb = (int(one) / 1024 for one in done.stderr.rpartition("peak_kb ")[2].split()[:2])
    found: dict[str, list[list[str]]] = {}
    for one in json.loads(done.stdout):
        found.setdefault(one["kind"], []).append(one["ids"])
    shares = [
        share_found(planted.broken, found.get("unreadable", [])),
        share_found(planted.exact, found.get("exact-duplicate", [])),
        share_found(planted.near, found.get("near-duplicate", [])),
        share_found(planted.wrong, found.get("label-suspect", [])),
    ]
    page_mb = (home / "page.html").stat().st_size / 1e6
    told = " ".join(f"{100 * share:>6.0f} %" for share in shares)
    suspects = len(found.get("label-suspect", []))
    return f"{count:>9,} {seconds:>8.1f} {peak_mb:>8,.0f} {own_mb:>8,.0f} {told} {suspects:>9,} {page_mb:>8.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--keep", type=Path, help="a new folder to leave pictures, caches and pages in")
    chosen = parser.parse_args()
    print(
        f"{'images':>9} {'seconds':>8} {'peak MB':>8} {'own MB':>8} {'broken':>8} {'exact':>8} {'near':>8} "
        f"{'labels':>8} {'suspects':>9} {'page MB':>8}"
    )
    for count in chosen.counts:
        with tempfile.TemporaryDirectory(prefix="finefold-auditing-") as folder:
            home = Path(folder) if chosen.keep is None else chosen.keep / str(count)
            print(measure(home, count), flush=True)


if __name__ == "__main__":
    main()
