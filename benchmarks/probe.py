"""The main job against the loop a tutorial would write: same images, weights, folds, machine, one run.

    make bench-probe                       # everything, about ten minutes on 2 cores
    .venv/bin/python benchmarks/probe.py --skip-memory

Every job of finefold is a process of its own with a cache of its own, so that wall time and peak memory
are what a user sees. The tutorial loop (torchvision transforms, DataLoader, frozen backbone, a linear
head trained with Adam for 5 epochs in each of 5 folds) is timed on a sample of its steps and scaled to
all of them; its score comes from training the same head on cached features, which is the same
arithmetic because its backbone is frozen and its images are not augmented. Maskfaces is measured where
`../shared/data/maskfaces` is present.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

BIN = Path(sys.executable).with_name("finefold")
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "maskfaces"
EPOCHS, BATCH = 5, 32
WARM_UP_STEPS, TIMED_STEPS = 3, 20


@dataclass(frozen=True)
class Job:
    """What a process cost."""

    seconds: float
    peak_mb: float


LAUNCHER = """
import json, os, subprocess, sys
child = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(child.pid, 0)
print(json.dumps([status, usage.ru_maxrss / 1024]))
"""


def finefold(*arguments: object, cwd: Path) -> Job:
    """Runs the command line in a process of its own, from a small one: a child's peak starts at its parent's size."""
    command = [sys.executable, "-c", LAUNCHER, str(BIN), *map(str, arguments)]
    start = time.perf_counter()
    environment = os.environ | {"FINEFOLD_CACHE": str(cwd / "cache")}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=True)
    status, peak_mb = json.loads(done.stdout)
    if status:
        sys.exit(f"finefold {' '.join(map(str, arguments))} failed:\n{done.stderr}")
    return Job(time.perf_counter() - start, peak_mb)


def main_job(source: Path, work: Path) -> tuple[Path, list[tuple[str, Job]]]:
    """init, split, train cold, train warm, predict-ready run; the run's folder and what each cost."""
    jobs = [
        ("init", finefold("init", source, "--out", "data.toml", cwd=work)),
        ("split", finefold("split", "data.toml", "--folds", 5, cwd=work)),
    ]
    shutil.rmtree(work / "cache")  # cold means nothing cached at all, the exported model included
    jobs.append(("train, cold", finefold("train", "data.toml", "--out", "runs/cold", cwd=work)))
    jobs.append(("train, warm", finefold("train", "data.toml", "--out", "runs/warm", cwd=work)))
    return work / "runs" / "cold", jobs


def engine_rates(run: Path, work: Path) -> tuple[float, float]:
    """Images per second: on ready tensors, and through the whole way from files, engine started in both."""
    os.environ["FINEFOLD_CACHE"] = str(work / "cache-rates")
    import finefold as ff
    from finefold.data.samples import SampleTable
    from finefold.nn.engines import Choice, measure_rate
    from finefold.nn.features import PrefixCache
    from finefold.steps.run import open_run

    opened = open_run(run)
    table: SampleTable = ff.read_data(opened.folder.data).samples
    engine = opened.manifest["engine"]
    from finefold.nn.backbones import Backbone

    cache = PrefixCache(Backbone.read(opened.folder.backbone), Choice(engine["name"], engine["precision"], ""), 10**8)
    ready = measure_rate(cache.engine(), cache.backbone, batches=40)
    start = time.perf_counter()
    cache.compute(table.ids, table.paths)
    return ready, len(table) / (time.perf_counter() - start)


def tutorial(run: Path) -> tuple[float, float, float, float]:
    """Seconds the tutorial loop would take in all, its images/s, and its accuracy and macro F1."""
    import torch
    from PIL import Image
    from sklearn.metrics import accuracy_score, f1_score
    from torch.utils.data import DataLoader, Dataset
    from torchvision import transforms

    from finefold.data.predictions import Ledger
    from finefold.nn.backbones import Backbone
    from finefold.steps.run import open_run

    opened = open_run(run)
    backbone = Backbone.read(opened.folder.backbone)
    ledger = Ledger.read(opened.folder.ledger)
    paths = [opened.spec.root / name for name in _paths(opened.folder.samples, ledger.predictions.ids)]
    num_classes = opened.space.num_classes
    network = backbone.build().network
    view = transforms.Compose(
        [
            transforms.Resize(256, transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize([127 / 255] * 3, [128 / 255] * 3),
        ]
    )

    class Images(Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return len(paths)

        def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
            return view(Image.open(paths[row]).convert("RGB")), int(ledger.labels_N[row])

    head = torch.nn.Linear(backbone.num_features, num_classes)
    optimiser = torch.optim.Adam(head.parameters(), 1e-3)
    loader = DataLoader(Images(), BATCH, shuffle=True, num_workers=2)
    start = 0.0
    for step, (images, labels) in enumerate(loader):
        if step == WARM_UP_STEPS:
            start = time.perf_counter()
        if step == WARM_UP_STEPS + TIMED_STEPS:
            break
        with torch.no_grad():
            features = network(images)
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(head(features), labels).backward()
        optimiser.step()
    rate = TIMED_STEPS * BATCH / (time.perf_counter() - start)
    folds = int(ledger.folds_N.max()) + 1
    seen = EPOCHS * (folds - 1) * len(paths) + len(paths)  # every epoch's training rows, and each fold predicted once
    predicted = _tutorial_predictions(opened, ledger, num_classes)
    accuracy = accuracy_score(ledger.labels_N, predicted)
    return seen / rate, rate, accuracy, f1_score(ledger.labels_N, predicted, average="macro")


def _paths(samples: Path, ids: tuple[str, ...]) -> list[str]:
    import polars as pl

    frame = pl.read_parquet(samples)
    path_of = dict(zip(frame["id"], frame["path"], strict=True))
    return [path_of[name] for name in ids]


def _tutorial_predictions(opened: object, ledger: object, num_classes: int) -> np.ndarray:
    """What the tutorial's heads answer out of fold, trained on cached features."""
    import torch

    from finefold.nn.backbones import Backbone
    from finefold.nn.engines import Choice
    from finefold.nn.features import PrefixCache

    engine = opened.manifest["engine"]  # type: ignore[attr-defined]
    cache = PrefixCache(Backbone.read(opened.folder.backbone), Choice(engine["name"], engine["precision"], ""), 10**8)  # type: ignore[attr-defined]
    ids = ledger.predictions.ids  # type: ignore[attr-defined]
    rows = cache.compute(ids, [opened.spec.root / name for name in _paths(opened.folder.samples, ids)]).rows_ND  # type: ignore[attr-defined]
    features, labels = torch.from_numpy(rows.astype(np.float32)), torch.from_numpy(ledger.labels_N.copy())  # type: ignore[attr-defined]
    predicted = np.empty(len(labels), np.int64)
    for fold in range(int(ledger.folds_N.max()) + 1):  # type: ignore[attr-defined]
        torch.manual_seed(fold)
        held = torch.from_numpy(ledger.folds_N == fold)  # type: ignore[attr-defined]
        head = torch.nn.Linear(features.shape[1], num_classes)
        optimiser = torch.optim.Adam(head.parameters(), 1e-3)
        for _ in range(EPOCHS):
            for chosen in (~held).nonzero()[:, 0][torch.randperm(int((~held).sum()))].split(BATCH):
                optimiser.zero_grad()
                torch.nn.functional.cross_entropy(head(features[chosen]), labels[chosen]).backward()
                optimiser.step()
        with torch.no_grad():
            predicted[held.numpy()] = head(features[held]).argmax(dim=1).numpy()
    return predicted


def ensemble_ratio(run: Path, work: Path) -> float:
    """Seconds to predict with all folds over seconds with one, images not cached, engine started anew."""
    os.environ["FINEFOLD_CACHE"] = str(work / "cache-rates")
    from finefold.nn.engines import Choice
    from finefold.nn.infer import FoldEnsemble
    from finefold.steps.run import open_run

    opened = open_run(run)
    names = _paths(opened.folder.samples, opened.ledger().predictions.ids)[:1000]
    engine = opened.manifest["engine"]
    seconds = []
    for folds in (1, opened.num_folds):
        shutil.rmtree(work / "cache-rates" / "features", ignore_errors=True)
        weights = [opened.folder.fold_weights(fold) for fold in range(folds)]
        model = FoldEnsemble.read(opened.backbone, weights, opened.space)
        start = time.perf_counter()
        model.probs(
            names,
            [opened.spec.root / name for name in names],
            choice=Choice(engine["name"], engine["precision"], ""),
            max_pixels=10**8,
            fallback_K=opened.train_shares_K,
        )
        seconds.append(time.perf_counter() - start)
    return seconds[1] / seconds[0]


def memory(work: Path) -> None:
    """Peak memory of training on 1,000 and on 20,000 generated images."""
    peaks = {}
    for count in (1_000, 20_000):
        folder = work / f"generated-{count}"
        rng = np.random.default_rng(count)
        for number in range(count):
            path = folder / "images" / f"class{number % 4}" / f"{number:06d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            small = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            small[..., number % 3] //= 2
            cv2.imwrite(str(path), cv2.resize(small, (256, 256)))
        finefold("init", folder / "images", "--out", "data.toml", cwd=folder)
        peaks[count] = finefold("train", "data.toml", "--out", "run", cwd=folder).peak_mb
        print(f"  {count:>6,} generated images: peak {peaks[count]:,.0f} MB")
        shutil.rmtree(folder)
    print(f"  growth: {(peaks[20_000] - peaks[1_000]) / 19:.1f} MB per 1,000 images")


def bench(name: str, source: Path, work: Path) -> None:
    """All measurements on one data set."""
    work.mkdir(parents=True)
    run, jobs = main_job(source, work)
    scores = json.loads((run / "scores.json").read_text())
    print(f"\n{name}: {scores['n']:,} images, {len(scores['classes'])} classes, 5 folds")
    for label, job in jobs:
        rate = f"{scores['n'] / job.seconds:7.0f} images/s" if label.startswith("train") else " " * 16
        print(f"  {label:<14} {job.seconds:7.1f} s  {rate}  peak {job.peak_mb:6,.0f} MB")
    cold, warm = jobs[-2][1].seconds, jobs[-1][1].seconds
    seconds, rate, accuracy, f1 = tutorial(run)
    print(f"  tutorial loop  {seconds:7.1f} s  {rate:7.0f} images/s  (scaled from {TIMED_STEPS} steps of {BATCH})")
    print(f"  ratio: {seconds / cold:.0f}x cold, {seconds / warm:.0f}x warm")
    own = f"accuracy {scores['accuracy']['value']:.3f}, macro F1 {scores['macro_f1']['value']:.3f}"
    print(f"  {own}; tutorial: accuracy {accuracy:.3f}, macro F1 {f1:.3f}")
    ready, whole = engine_rates(run, work)
    print(f"  engine on ready tensors {ready:.0f} images/s, from files {whole:.0f}: {100 * whole / ready:.0f} %")
    print(f"  predicting with 5 folds against one: {ensemble_ratio(run, work):.2f}x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--skip-memory", action="store_true", help="leave out 1,000 against 20,000 images")
    arguments = parser.parse_args()
    import elpv_dataset

    with tempfile.TemporaryDirectory(prefix="finefold-bench-") as name:
        work = Path(name)
        start = time.perf_counter()
        for _ in range(5):
            subprocess.run([BIN, "--help"], stdout=subprocess.DEVNULL, check=True)
        print(f"finefold --help: {(time.perf_counter() - start) / 5:.2f} s")
        bench("ELPV", Path(elpv_dataset.__file__).parent / "data", work / "elpv")
        if SHARED.is_dir():
            bench("maskfaces", SHARED, work / "maskfaces")
        else:
            print("\nmaskfaces: not measured, ../shared/data/maskfaces is absent")
        if not arguments.skip_memory:
            print("\nmemory:")
            memory(work)


if __name__ == "__main__":
    main()
