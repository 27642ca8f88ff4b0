"""finefold, fastai's Learner and Lightning with a plain loop: same images, folds, weights and machine, in one go.

    make bench-train                                       # everything, about an hour and a half on 2 cores
    .venv/bin/python benchmarks/peers.py --quick-check     # very few steps of everything: does it run?
    .venv/bin/python benchmarks/peers.py --only all        # one part of it
    .venv/bin/python benchmarks/peers.py --full            # every fold and epoch really trained, hours

Three jobs. `head`: frozen backbone, a head for 5 epochs in each of 5 folds (finefold: `--recipe probe`). `all`: one
epoch of everything trainable. `quick`: finefold's preset, on ELPV with whole cells and four flips. Each is a process
of its own. Peers train one fold of `head` really, which gives their score and, times 5, their wall time; `all` is
timed on its steps after a warm-up. The last column says how each line came about. Scores of peers are of fold 0, and
finefold's are given for fold 0 beside those of all folds.

fastai is what its vision tutorial shows: DataBlock with Resize(224), vision_learner on a timm name, freeze,
fit_one_cycle, unfreeze. Its frozen body keeps training its batch norms, which is its default. Lightning is what its
transfer learning page shows: a LightningModule with a frozen backbone under no_grad and in evaluation mode, a linear
head, Adam, torchvision transforms, a DataLoader with as many workers as processors; progress bars, loggers and
checkpoints are off for both. Both live in an environment of their own (--env), made once by pip with the project's
constraints, so that torch is the same on all sides; the project's own environment is not touched.

Memory is what a job's processes hold together, at its peak, looked at twice a second, or less often where looking
would take more than 2 % of a processor; pages of libraries count once.
finefold's `all` trains folds side by side; its rate is theirs together. Of its whole runs, images/s is the data set's
size over the wall time. On CUDA there are rows with AMP and torch.compile.
"""

import argparse
import contextlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MASKFACES = ROOT.parent / "shared" / "data" / "maskfaces"
PEERS = ("fastai", "lightning")
JOBS = ("head", "all", "quick")
PACKAGES = ("torch", "torchvision", "timm", "fastai", "lightning")
BACKBONE = "tf_efficientnet_lite0"
RESULT = "RESULT "  # begins the line in which a child says what it found
EPOCHS, FOLDS = 5, 5
BATCH = {"finefold": 32, "lightning": 32, "fastai": 64}  # fastai's is its default
WARM_UP_STEPS, TIMED_STEPS = 5, 20
CHECK_STEPS, CHECK_BATCH, CHECK_PER_CLASS = (1, 3), 8, 10  # of --quick-check
FLIPS = '["plain", "hflip", "vflip", "hvflip"]'
CELLS = (  # a solar cell is the same upside down, and its edges count: what the preset's header has as well
    "image.crop_fraction=1.0",
    f"augment.views={FLIPS}",
    f"predict.views={FLIPS}",
)
SHORTEST_PAUSE = 0.5  # seconds between looks at the memory; fifty times as long as a look takes, where that is more
NUM_THREADS = len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Task:
    """What a child is to do.

    Args:
        work: folder with samples.json and backbone.safetensors.
        side: who does it.
        job: "head" or "all".
        batch: images per step.
        steps: of warm-up, and timed.
        folds: trained to their end; none where steps alone are timed.
        variant: "" or, on CUDA, "amp" or "amp+compile".
        norms: finefold's batch norms in `all`, "running" as the peers' or "frozen", its default.
    """

    work: str
    side: str
    job: str
    batch: int
    steps: tuple[int, int]
    folds: tuple[int, ...] = ()
    variant: str = ""
    norms: str = "running"


@dataclass(frozen=True)
class Row:
    """A line of the table; None is what was not measured."""

    job: str
    side: str
    images_per_second: float
    seconds: float
    peak_mb: float
    gpu_peak_mb: float | None
    scored_on: str
    accuracy: float | None
    macro_f1: float | None
    fold_0_accuracy: float | None
    fold_0_macro_f1: float | None
    two_class_accuracy: float | None
    how: str


# Measuring, on either side


class Enough(Exception):  # noqa: N818, no error
    """All steps that were to be timed are."""


class Clock:
    """Images and the time after every training step; a rate without the first steps.

    Args:
        warm_up, timed: steps.
        is_cut: whether the training is over then.
    """

    def __init__(self, warm_up: int, timed: int, *, is_cut: bool) -> None:
        self._warm_up, self._last, self._is_cut = warm_up, warm_up + timed, is_cut
        self._images = [0]
        self._times = [time.perf_counter()]

    def tick(self, num_images: int) -> None:
        """A step is over; waits for a GPU where one may still be at work."""
        if len(self._times) in (self._warm_up, self._last):
            _wait_for_gpu()
        self._images.append(self._images[-1] + num_images)
        self._times.append(time.perf_counter())

    @property
    def is_over(self) -> bool:
        """Whether training can stop."""
        return self._is_cut and len(self._times) > self._last

    @property
    def rate(self) -> float:
        """Images per second over the timed steps."""
        last = min(self._last, len(self._times) - 1)
        images = self._images[last] - self._images[self._warm_up]
        return images / (self._times[last] - self._times[self._warm_up])


def _wait_for_gpu() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.synchronize()


@dataclass(frozen=True)
class Cost:
    """What a process and its children took, and the result it told."""

    seconds: float
    peak_mb: float
    gpu_peak_mb: float | None
    result: dict[str, Any]


def run_process(command: Sequence[object], *, cache: Path) -> Cost:
    """Runs a process to its end, with every processor, and watches it."""
    threads = {name: str(NUM_THREADS) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "FINEFOLD_THREADS")}
    environment = {**os.environ, **threads, "FINEFOLD_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as complained:
        child = subprocess.Popen([str(part) for part in command], stdout=said, stderr=complained, env=environment)
        peaks: list[tuple[float, float]] = [(0.0, 0.0)]
        over = threading.Event()
        watcher = threading.Thread(target=_watch, args=(child.pid, peaks, over))
        watcher.start()
        code = child.wait()
        seconds = time.perf_counter() - start
        over.set()
        watcher.join()
        said.seek(0)
        complained.seek(0)
        lines = said.read().splitlines()
        if code:
            sys.exit(f"{' '.join(map(str, command))} ended with {code}:\n{complained.read()[-4000:]}")
    told = [line.removeprefix(RESULT) for line in lines if line.startswith(RESULT)]
    memory, gpu = (max(column) for column in zip(*peaks, strict=True))
    return Cost(seconds, memory, gpu or None, json.loads(told[-1]) if told else {})


def _watch(pid: int, peaks: list[tuple[float, float]], over: threading.Event) -> None:
    before, pause = _gpu_mb(), SHORTEST_PAUSE
    while not over.wait(pause):
        start = time.perf_counter()
        peaks.append((_memory_mb(_family(pid)), max(0.0, _gpu_mb() - before)))
        pause = max(SHORTEST_PAUSE, 50 * (time.perf_counter() - start))


def _family(pid: int) -> list[int]:
    """A process and all below it."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):  # it ended meanwhile
            continue
    family = [pid]
    for member in family:
        family += [child for child, parent in parents.items() if parent == member]
    return family


def _memory_mb(family: Sequence[int]) -> float:
    """What processes hold together; libraries' pages count once, whoever else on the machine maps them too."""
    held, mapped = 0.0, 0.0
    for pid in family:
        try:
            sizes = {**_sizes_mb(f"/proc/{pid}/smaps_rollup"), **_sizes_mb(f"/proc/{pid}/status")}
        except OSError:  # it ended meanwhile
            continue
        held += sizes.get("Pss_Anon", 0.0) + sizes.get("Pss_Shmem", 0.0)
        mapped = max(mapped, sizes.get("RssFile", 0.0))
    return held + mapped


def _sizes_mb(file: str) -> dict[str, float]:
    """The lines of a /proc file that say a size."""
    lines = [line.split() for line in Path(file).read_text().splitlines() if line.endswith(" kB")]
    return {words[0].rstrip(":"): int(words[1]) / 1024 for words in lines}


def _gpu_mb() -> float:
    """Memory in use on the first GPU, whoever uses it; 0 where there is none."""
    if shutil.which("nvidia-smi") is None:
        return 0.0
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"]
    answer = subprocess.run(command, capture_output=True, text=True)
    return float(answer.stdout) if answer.returncode == 0 and answer.stdout.strip().isdecimal() else 0.0


# The children: each imports its own library


def child_versions(_task: Task | None = None) -> dict[str, Any]:
    """What the peers' environment holds, imported."""
    import importlib

    return {name: importlib.import_module(name).__version__ for name in PACKAGES}


def _read_samples(task: Task) -> dict[str, Any]:
    return json.loads((Path(task.work) / "samples.json").read_text())


def _rows(samples: dict[str, Any], fold: int) -> tuple[list[int], list[int]]:
    """Rows that a fold trains on, and those it holds out."""
    folds, trained = samples["folds"], samples["train_labels"]
    numbers = range(len(folds))
    return [n for n in numbers if folds[n] != fold and trained[n] >= 0], [n for n in numbers if folds[n] == fold]


def _child_result(
    task: Task, clock: Clock, fits: Sequence[float], probs: dict[int, Any], device: str
) -> dict[str, Any]:
    """What a peer tells: its rate, the seconds of every fold it trained, and the file of their probabilities."""
    import numpy as np

    file = Path(task.work) / f"{task.side}-{task.job}{task.variant}.npz"
    np.savez(file, **{str(fold): values for fold, values in probs.items()})
    return {"rate": clock.rate, "fit_seconds": list(fits), "probs": str(file), "device": device}


def child_fastai(task: Task) -> dict[str, Any]:
    """fastai as its tutorial shows it."""
    import pandas as pd
    import torch
    from fastai.vision import all as fv

    torch.set_num_threads(NUM_THREADS)
    samples = _read_samples(task)
    clock = Clock(*task.steps, is_cut=not task.folds)

    class Ticks(fv.Callback):  # type: ignore[misc]
        def after_batch(self) -> None:
            if self.training:
                clock.tick(len(self.xb[0]))
                if clock.is_over:
                    raise fv.CancelFitException

    fits, probs, device = [], {}, ""
    for fold in task.folds or (0,):
        trained, valid = _rows(samples, fold)
        labels = [samples["train_labels"][row] for row in trained] + [samples["labels"][row] for row in valid]
        frame = pd.DataFrame(
            {
                "file": [samples["paths"][row] for row in trained + valid],
                "label": [samples["classes"][label] for label in labels],
            }
        )
        block = fv.DataBlock(
            blocks=(fv.ImageBlock, fv.CategoryBlock(vocab=samples["classes"], sort=False)),
            get_x=fv.ColReader("file"),
            get_y=fv.ColReader("label"),
            splitter=fv.IndexSplitter(list(range(len(trained), len(frame)))),
            item_tfms=fv.Resize(224),
        )
        start = time.perf_counter()
        learn = fv.vision_learner(
            block.dataloaders(frame, bs=task.batch),
            BACKBONE,
            metrics=fv.accuracy,
            pretrained_cfg_overlay=_timm_source(task, samples),
        )
        _check_weights(learn.model[0], task)
        device = str(next(learn.model.parameters()).device)
        if task.variant:
            learn.to_fp16()
        if "compile" in task.variant:
            learn.model.compile()
        with learn.no_bar(), learn.no_logging():
            learn.freeze()
            if task.job == "head":
                learn.fit_one_cycle(EPOCHS if task.folds else 1000, cbs=Ticks())
            else:
                if task.folds:
                    learn.fit_one_cycle(1)
                learn.unfreeze()
                learn.fit_one_cycle(1 if task.folds else 1000, slice(1e-5, 1e-3), cbs=Ticks())
            fits.append(time.perf_counter() - start)
            if task.folds:
                probs[fold] = learn.get_preds(ds_idx=1)[0].numpy()
    return _child_result(task, clock, fits, probs, device)


def _timm_source(task: Task, samples: dict[str, Any]) -> dict[str, Any]:
    """timm's way to say: these are the pretrained weights, and what they were trained on."""
    file = Path(task.work) / "backbone.safetensors"
    return {"file": str(file), "num_classes": 0, "mean": samples["mean"], "std": samples["std"]}


def _check_weights(module: Any, task: Task) -> None:
    """A peer that silently started from other weights would measure something else."""
    import torch
    from safetensors.torch import load_file

    given = load_file(Path(task.work) / "backbone.safetensors")
    held = {name.removeprefix("model."): value for name, value in module.state_dict().items()}
    wrong = [name for name, value in given.items() if name not in held or not torch.equal(value, held[name].cpu())]
    if wrong:
        sys.exit(f"{task.side} does not hold the weights that it was given: {wrong[:5]}")


def child_lightning(task: Task) -> dict[str, Any]:
    """Lightning as its transfer learning page shows it."""
    import lightning as L
    import timm
    import torch
    from PIL import Image
    from safetensors.torch import load_file
    from torch.nn import functional as F
    from torch.utils.data import DataLoader, Dataset
    from torchvision import transforms

    torch.set_num_threads(NUM_THREADS)
    samples = _read_samples(task)
    clock = Clock(*task.steps, is_cut=not task.folds)
    num_classes = len(samples["classes"])
    view = transforms.Compose(
        [
            transforms.Resize(256, transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(samples["mean"], samples["std"]),
        ]
    )

    class Images(Dataset):  # type: ignore[type-arg]
        def __init__(self, rows: Sequence[int], labels: Sequence[int]) -> None:
            self.rows, self.labels = rows, labels

        def __len__(self) -> int:
            return len(self.rows)

        def __getitem__(self, number: int) -> tuple[torch.Tensor, int]:
            row = self.rows[number]
            return view(Image.open(samples["paths"][row]).convert("RGB")), self.labels[row]

    class Model(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = timm.create_model(BACKBONE, num_classes=0)
            self.backbone.load_state_dict(load_file(Path(task.work) / "backbone.safetensors"))
            self.head = torch.nn.Linear(self.backbone.num_features, num_classes)
            self.is_frozen = True

        def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
            if not self.is_frozen:
                return self.head(self.backbone(images_BCHW))
            self.backbone.eval()
            with torch.no_grad():
                features_BD = self.backbone(images_BCHW)
            return self.head(features_BD)

        def training_step(self, batch: Any, _number: int) -> torch.Tensor:
            images_BCHW, labels_B = batch
            return F.cross_entropy(self(images_BCHW), labels_B)

        def validation_step(self, batch: Any, _number: int) -> None:
            images_BCHW, labels_B = batch
            self.log("val_loss", F.cross_entropy(self(images_BCHW), labels_B))

        def predict_step(self, batch: Any, _number: int) -> torch.Tensor:
            return self(batch[0]).float().softmax(1)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            trained = self.head.parameters() if self.is_frozen else self.parameters()
            return torch.optim.Adam(trained, 1e-3 if self.is_frozen else 1e-4)

    class Ticks(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, _module: Any, _said: Any, batch: Any, _number: int) -> None:
            clock.tick(len(batch[0]))
            trainer.should_stop = clock.is_over

    def trainer(epochs: int, *callbacks: L.Callback) -> L.Trainer:
        return L.Trainer(
            max_epochs=epochs,
            callbacks=list(callbacks),
            devices=1,
            precision=("bf16-mixed" if task.variant else "32-true"),
            limit_val_batches=1.0 if task.folds else 0,
            num_sanity_val_steps=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )

    fits, probs, device = [], {}, ""
    for fold in task.folds or (0,):
        trained, valid = _rows(samples, fold)
        workers = {"num_workers": NUM_THREADS, "batch_size": task.batch}
        train_loader = DataLoader(Images(trained, samples["train_labels"]), shuffle=True, **workers)
        valid_loader = DataLoader(Images(valid, samples["labels"]), **workers)
        start = time.perf_counter()
        L.seed_everything(fold, verbose=False)
        model = Model()
        if "compile" in task.variant:
            model.backbone.compile()
        if task.job == "all":
            if task.folds:
                trainer(1).fit(model, train_loader, valid_loader)
            model.is_frozen = False
        epochs = 1000 if not task.folds else EPOCHS if task.job == "head" else 1
        fitter = trainer(epochs, Ticks())
        fitter.fit(model, train_loader, valid_loader)
        fits.append(time.perf_counter() - start)
        device = str(fitter.strategy.root_device)
        if task.folds:
            probs[fold] = torch.cat(trainer(1).predict(model, valid_loader)).cpu().numpy()
    return _child_result(task, clock, fits, probs, device)


def child_finefold(task: Task) -> dict[str, Any]:
    """finefold's own training path with everything trainable, let go of once enough steps were told."""
    import finefold as ff
    from finefold.scale.processes import num_workers

    side_by_side = num_workers(FOLDS)
    warm_up, timed = task.steps
    clock = Clock(warm_up * side_by_side, timed * side_by_side, is_cut=True)

    class Progress:
        @contextmanager
        def stage(self, name: str, _total: int, _unit: str) -> Iterator[Callable[[int], None]]:
            yield tick if name == "training" else lambda _done: None

        def say(self, line: str) -> None:
            print(line, file=sys.stderr)

    def tick(steps: int) -> None:
        clock.tick(steps * task.batch)
        if clock.is_over:
            raise Enough

    recipe = Path(task.work) / "all-steps.toml"
    recipe.write_text(_all_recipe("100000 steps", task))
    out = Path(task.work) / f"all-{task.norms}{task.variant}"
    try:
        ff.train(ff.read_data(Path(task.work) / "data.toml"), recipe=str(recipe), out=out, progress=Progress())
    except Enough:
        return {"rate": clock.rate, "side_by_side": side_by_side}
    sys.exit("finefold's training ended before its steps were counted")


def _all_recipe(until: str, task: Task) -> str:
    precision = "auto" if task.variant else "fp32"
    return (
        f'[[phase]]\ntrainable = "head"\nuntil = "probe"\n\n[[phase]]\ntrainable = "all"\nuntil = "{until}"\n'
        f'lr = 1e-3\nlayer_decay = 0.75\nbatch_norm = "{task.norms}"\n\n[train]\nbatch_size = {task.batch}\n'
        f'precision = "{precision}"\ncompile = {str("compile" in task.variant).lower()}\n'
    )


CHILDREN = {
    "versions": child_versions,
    "fastai": child_fastai,
    "lightning": child_lightning,
    "finefold": child_finefold,
}


# The parent, in the project's environment


def make_environment(folder: Path) -> Path:
    """The peers' Python, in `folder`; made where it is not there yet, or was made for other constraints."""
    python, ready = folder / "bin" / "python", folder / "made-for.txt"
    wanted = (ROOT / "constraints.txt").read_text()
    if ready.is_file() and ready.read_text() == wanted:
        return python
    tell(f"making {folder}: {', '.join(PACKAGES)} (minutes, 6 GB)")
    subprocess.run([getattr(sys, "_base_executable", sys.executable), "-m", "venv", "--clear", folder], check=True)
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    ways = {
        "the project's constraints": ["--constraint", ROOT / "constraints.txt", *PACKAGES],
        "pip's own choice of versions": [*PACKAGES],
    }
    for way, arguments in ways.items():
        if subprocess.run([*install, *arguments, "pandas", "safetensors"], capture_output=True).returncode == 0:
            check = subprocess.run([python, __file__, "--child", "versions"], capture_output=True, text=True)
            if check.returncode == 0:
                ready.write_text(wanted)
                return python
        tell(f"not with {way}")
    sys.exit(f"{', '.join(PEERS)} cannot be installed here; the peers need a package registry")


def tell(line: str) -> None:
    """What goes on; stdout is for results."""
    print(line, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Bench:
    """One data set's measurements.

    Args:
        work: everything lies here.
        source: folder of the images.
        peers: Python of the peers' environment.
        is_check: very few steps.
        is_full: nothing is scaled.
        variants: of `all`.
        settings: of `quick`, on this data.
    """

    work: Path
    source: Path
    peers: Path
    is_check: bool
    is_full: bool
    variants: tuple[str, ...]
    settings: tuple[str, ...]

    @property
    def steps(self) -> tuple[int, int]:
        return CHECK_STEPS if self.is_check else (WARM_UP_STEPS, TIMED_STEPS)

    def finefold(self, *arguments: object, cache: str = "cache") -> Cost:
        """The command line, in the bench's folder."""
        command = [sys.executable, "-m", "finefold", *arguments]
        return run_process(command, cache=self.work / cache)

    def task(self, side: str, job: str, **more: Any) -> Task:
        return Task(str(self.work), side, job, CHECK_BATCH if self.is_check else BATCH[side], self.steps, **more)

    def child(self, task: Task) -> Cost:
        """A child at its task."""
        python = sys.executable if task.side == "finefold" else self.peers
        command = [python, __file__, "--child", task.side, "--task", json.dumps(asdict(task))]
        cost = run_process(command, cache=self.work / "cache")
        tell(f"  {task.job}: {task.side} {task.variant} ({cost.seconds:.0f} s)")
        return cost

    def prepare(self) -> None:
        """data.toml and the split, by finefold."""
        self.work.mkdir(parents=True)
        data = self.work / "data.toml"
        self.finefold("init", self.source, "--out", data)
        self.finefold("split", data, "--folds", FOLDS)
        shutil.rmtree(self.work / "cache", ignore_errors=True)  # cold means nothing cached at all

    def train(self, name: str, recipe: object, cache: str, settings: Sequence[str] = ()) -> Cost:
        """`finefold train` into the folder `name`."""
        command = ["train", self.work / "data.toml", "--recipe", recipe, "--out", self.work / name]
        cost = self.finefold(*command, *(part for one in settings for part in ("--set", one)), cache=cache)
        tell(f"  {name}: finefold ({cost.seconds:.0f} s)")
        return cost

    def share(self) -> dict[str, Any]:
        """What the peers need, from finefold's finished run: readable samples, labels, folds, weights."""
        import polars as pl

        from finefold.nn.backbones import Backbone
        from finefold.steps.run import open_run

        run = open_run(self.work / "head")
        backbone = Backbone.read(run.folder.backbone)
        backbone.copy_to(self.work / "backbone.safetensors")  # its keys are timm's already
        ledger = run.ledger()
        frame = pl.DataFrame({"id": ledger.predictions.ids, "fold": ledger.folds_N}).join(
            pl.read_parquet(run.folder.samples), on="id", how="left", maintain_order="left"
        )
        told = {
            "paths": [str(run.spec.root / path) for path in frame["path"]],
            "labels": frame["label"].to_list(),
            "train_labels": frame["train_label"].fill_null(-1).to_list(),
            "folds": frame["fold"].to_list(),
            "classes": list(run.space.class_names),
            "mean": [value / 255 for value in backbone.preprocessing.mean],
            "std": [value / 255 for value in backbone.preprocessing.std],
        }
        (self.work / "samples.json").write_text(json.dumps(told))
        return told

    def run_row(self, job: str, side: str, name: str, cost: Cost, samples: dict[str, Any], how: str) -> Row:
        """A line for a finished run of finefold."""
        import polars as pl

        ledger = pl.read_parquet(self.work / name / "oof.parquet")
        probs_NK = ledger.select(samples["classes"]).to_numpy()
        scores = _scores(samples, probs_NK, range(len(samples["labels"])))
        fold_0 = _scores(samples, probs_NK, _rows(samples, 0)[1])
        row = Row(
            job,
            side,
            len(probs_NK) / cost.seconds,
            cost.seconds,
            cost.peak_mb,
            cost.gpu_peak_mb,
            f"{FOLDS} folds",
            *scores[:2],
            *fold_0[:2],
            scores[2],
            how,
        )
        tell(_line(row))
        return row

    def peer_row(self, task: Task, samples: dict[str, Any]) -> Row:
        """A line for a peer's child, or finefold's that times steps."""
        import numpy as np

        cost = self.child(task)
        rate, fits = cost.result["rate"], cost.result.get("fit_seconds", [])
        num_trained = len(_rows(samples, 0)[0])
        num_folds, epochs = (FOLDS, EPOCHS) if task.job == "head" else (1, 1)
        if task.job == "all":
            seconds, how = num_trained / rate, f"an epoch of one fold at the rate of {self.steps[1]} steps"
        elif not task.folds:
            seconds, how = num_folds * epochs * num_trained / rate, f"scaled from {self.steps[1]} steps, no validation"
        elif len(task.folds) < num_folds:
            seconds = cost.seconds + (num_folds - len(fits)) * float(np.mean(fits))
            how = f"{len(fits)} fold trained and scaled to {num_folds}"
        else:
            seconds, how = cost.seconds, "measured"
        side = " ".join(filter(None, [task.side, task.variant]))
        if task.side == "finefold":
            side += f", norms {task.norms}"
            how += f", {cost.result['side_by_side']} folds side by side"
        row = Row(task.job, side, rate, seconds, cost.peak_mb, cost.gpu_peak_mb, "", None, None, None, None, None, how)
        row = _scored(row, cost.result["probs"], samples) if task.folds else row
        tell(_line(row))
        return row

    def head(self, sides: Sequence[str]) -> tuple[list[Row], dict[str, Any]]:
        """Frozen backbone, 5 folds; and what the peers need."""
        cold = self.train("head", "probe", "cache")
        samples = self.share()
        rows = [self.run_row("head", "finefold, cold", "head", cold, samples, "measured")]
        folds = tuple(range(FOLDS)) if self.is_full else () if self.is_check else (0,)
        if sides:
            warm = self.train("head-warm", "probe", "cache")
            rows.append(self.run_row("head", "finefold, warm", "head-warm", warm, samples, "measured"))
        return rows + [self.peer_row(self.task(side, "head", folds=folds), samples) for side in sides], samples

    def everything(self, sides: Sequence[str], samples: dict[str, Any]) -> list[Row]:
        """One epoch of everything trainable."""
        tasks = []
        for variant in self.variants:
            tasks += [self.task("finefold", "all", variant=variant, norms=norms) for norms in ("running", "frozen")]
            folds = (0,) if self.is_full and not variant else ()
            tasks += [self.task(side, "all", variant=variant, folds=folds) for side in sides]
        rows = [self.peer_row(task, samples) for task in tasks]
        if self.is_full:
            recipe = self.work / "all-epoch.toml"
            recipe.write_text(_all_recipe("1 epochs", tasks[0]))
            cost = self.train("all", recipe, "cache")
            rows.append(self.run_row("all", "finefold, 5 folds", "all", cost, samples, "measured, probe first"))
        return rows

    def quick(self, samples: dict[str, Any]) -> list[Row]:
        """finefold's preset, nothing cached."""
        recipe: object = "quick"
        if self.is_check:
            recipe = self.work / "quick.toml"
            preset = (ROOT / "src/finefold/recipe/presets/quick.toml").read_text()
            recipe.write_text(preset.replace("12 epochs", "1 epochs"))
        cost = self.train("quick", recipe, "cache" if self.is_check else "cache-quick", self.settings)
        return [self.run_row("quick", "finefold", "quick", cost, samples, "measured")]

    def tuned_epochs(self) -> float:
        """Epochs that the preset trains, its probe aside."""
        recipe = tomllib.loads((self.work / "quick" / "recipe.toml").read_text())
        lengths = [phase["until"].split() for phase in recipe["phase"]]
        return sum(float(words[0]) for words in lengths if words[-1].startswith("epoch"))


def _scores(samples: dict[str, Any], probs_NK: Any, rows: Sequence[int]) -> tuple[float, float, float | None]:
    """Accuracy, macro F1 over all classes, and for ELPV's degrees of a defect the accuracy of "above 1/2"."""
    import numpy as np
    from sklearn.metrics import accuracy_score, f1_score

    numbers = list(rows)
    truth_N, probs_NK = np.asarray(samples["labels"])[numbers], probs_NK[numbers]
    found_N = probs_NK.argmax(axis=1)
    known = np.arange(probs_NK.shape[1])
    macro_f1 = float(f1_score(truth_N, found_N, labels=known, average="macro", zero_division=0))
    degrees = [name.replace(" ", "/").rpartition("/")[0] for name in samples["classes"]]
    two_class = None
    if set(degrees) == {"0", "1/3", "2/3", "1"}:
        is_high_K = np.array([degree in ("2/3", "1") for degree in degrees])
        two_class = float((is_high_K[truth_N] == (probs_NK[:, is_high_K].sum(axis=1) > 0.5)).mean())
    return float(accuracy_score(truth_N, found_N)), macro_f1, two_class


def _scored(row: Row, file: str, samples: dict[str, Any]) -> Row:
    """The row with scores of the folds that were trained."""
    import numpy as np

    with np.load(file) as saved:
        folds = sorted(int(name) for name in saved.files)
        probs_NK = np.zeros((len(samples["labels"]), len(samples["classes"])))
        for fold in folds:
            probs_NK[_rows(samples, fold)[1]] = saved[str(fold)]
    rows = [number for number, fold in enumerate(samples["folds"]) if fold in folds]
    scores = _scores(samples, probs_NK, rows)
    fold_0 = _scores(samples, probs_NK, _rows(samples, 0)[1])
    told = asdict(row) | {
        "scored_on": f"{FOLDS} folds" if len(folds) == FOLDS else "fold 0",
        "accuracy": scores[0],
        "macro_f1": scores[1],
        "fold_0_accuracy": fold_0[0],
        "fold_0_macro_f1": fold_0[1],
        "two_class_accuracy": scores[2],
    }
    return Row(**told)


def ratios(rows: Sequence[Row], tuned_epochs: float) -> dict[str, float]:
    """How many times faster finefold is: by wall for `head` and `quick`, by images/s for `all`."""
    found = {}
    by_job = {job: [row for row in rows if row.job == job] for job in JOBS}
    for job, ours_by in (("head", "finefold, cold"), ("head", "finefold, warm")):
        for ours in (row for row in by_job[job] if row.side == ours_by):
            for peer in (row for row in by_job[job] if row.side.startswith(PEERS)):
                found[f"head, wall: {peer.side} / {ours.side}"] = peer.seconds / ours.seconds
    for ours in (row for row in by_job["all"] if ", norms" in row.side):
        variant = ours.side.removeprefix("finefold").partition(",")[0]
        for peer in (row for row in by_job["all"] if row.side in [f"{name}{variant}" for name in PEERS]):
            found[f"all, images/s: {ours.side} / {peer.side}"] = ours.images_per_second / peer.images_per_second
    for ours in by_job["quick"]:
        for peer in (row for row in by_job["all"] if row.side in PEERS):
            name = f"quick, wall: {FOLDS} folds of {tuned_epochs:g} epochs of everything in {peer.side} / quick"
            found[name] = FOLDS * tuned_epochs * peer.seconds / ours.seconds
    return found


def show(title: str, rows: Sequence[Row], found: dict[str, float]) -> None:
    """The table and the ratios."""
    print(f"\n{title}")
    head = f"{'job':<6} {'side':<30} {'images/s':>8} {'wall s':>9} {'peak MB':>8} {'GPU MB':>7} "
    print(head + f"{'accuracy':>8} {'macro F1':>8} {'fold 0':>13} {'two-class':>9}  how")
    for row in rows:
        print(_line(row))
    for name, value in found.items():
        print(f"  {value:8.2f}x  {name}")


def _line(row: Row) -> str:
    """A line of the table."""
    fold_0 = f"{_number(row.fold_0_accuracy)} {_number(row.fold_0_macro_f1)}"
    gpu = "-" if row.gpu_peak_mb is None else f"{row.gpu_peak_mb:,.0f}"
    return (
        f"{row.job:<6} {row.side:<30} {row.images_per_second:>8.1f} {row.seconds:>9,.1f} {row.peak_mb:>8,.0f} "
        f"{gpu:>7} {_number(row.accuracy):>8} {_number(row.macro_f1):>8} {fold_0:>13} "
        f"{_number(row.two_class_accuracy):>9}  {row.how}{f'; scores of {row.scored_on}' if row.scored_on else ''}"
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def few_images(source: Path, folder: Path) -> Path:
    """A folder per class with a few of a source's images, for --quick-check."""
    import finefold as ff

    data_file = folder / "all.toml"
    folder.mkdir(parents=True)
    subprocess.run(
        [sys.executable, "-m", "finefold", "init", source, "--out", data_file], check=True, capture_output=True
    )
    table = ff.read_data(data_file).samples
    names = [name.replace("/", " ") for name in table.space.class_names]
    counts = [0] * len(names)
    for path, label in zip(table.paths, table.labels_N, strict=True):
        if counts[label] < CHECK_PER_CLASS:
            counts[label] += 1
            target = folder / "images" / names[label] / f"{counts[label]}{path.suffix}"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    return folder / "images"


def measure(
    arguments: argparse.Namespace, source: Path, work: Path, python: Path
) -> tuple[list[Row], dict[str, float]]:
    """All rows of one data set."""
    import torch

    variants = ("", "amp", "amp+compile") if torch.cuda.is_available() else ("",)
    images = few_images(source, work / "few") if arguments.quick_check else source
    settings = CELLS if work.name == "ELPV" else ()
    bench = Bench(work / "bench", images, python, arguments.quick_check, arguments.full, variants, settings)
    bench.prepare()
    only = arguments.only or JOBS
    rows, samples = bench.head(arguments.sides if "head" in only else ())
    if "all" in only:
        rows += bench.everything(arguments.sides, samples)
    if "quick" in only:
        rows += bench.quick(samples)
    return rows, ratios(rows, bench.tuned_epochs() if "quick" in only else 0.0)


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cached = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "finefold-peers"
    parser.add_argument("--env", type=Path, default=cached, help="the peers' environment, made where it is missing")
    parser.add_argument("--only", nargs="+", choices=JOBS, help="some of the jobs; the probe always runs once")
    parser.add_argument("--sides", nargs="+", choices=PEERS, default=PEERS, help="some of the peers")
    parser.add_argument("--maskfaces", type=Path, nargs="?", const=MASKFACES, help="measure this folder of faces too")
    parser.add_argument("--full", action="store_true", help="train every fold and epoch, scale nothing; hours")
    parser.add_argument("--quick-check", action="store_true", help="few images and steps: whether everything runs")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="a new folder to leave runs and caches in")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--child", choices=CHILDREN, help=argparse.SUPPRESS)
    parser.add_argument("--task", type=json.loads, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    arguments = read_arguments()
    if arguments.child:
        task = Task(**{**arguments.task, "steps": tuple(arguments.task["steps"])}) if arguments.task else None
        print(RESULT + json.dumps(CHILDREN[arguments.child](task)))
        return
    import elpv_dataset

    from finefold.data.machine import processor_name, versions

    python = make_environment(arguments.env.expanduser().resolve())
    peers = run_process([python, __file__, "--child", "versions"], cache=arguments.env).result
    machine = {"processor": processor_name(), "threads": NUM_THREADS, "load": os.getloadavg()[0]}
    told: dict[str, Any] = {"machine": machine, "peers": peers, "finefold": versions(), "data": {}}
    tell(f"{machine}\npeers: {peers}\nfinefold: torch {versions()['torch']}, Python {platform.python_version()}")
    sources = {"ELPV": Path(elpv_dataset.__file__).parent / "data"}
    if arguments.maskfaces:
        sources["maskfaces"] = arguments.maskfaces
    with contextlib.ExitStack() as stack:
        work = arguments.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="finefold-peers-")))
        for title, source in sources.items():
            tell(title)
            rows, found = measure(arguments, source, work / title, python)
            told["data"][title] = {"rows": [asdict(row) for row in rows], "ratios": found}
            if not arguments.json:
                show(title + (", a check of a few images" if arguments.quick_check else ""), rows, found)
    if arguments.json:
        print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
