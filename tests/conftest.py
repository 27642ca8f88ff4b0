"""What tests share: a cache of their own, no network, drawn people, and one main job done from outside."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest

from offline import offline_guard
from offline.processes import Done, run_finefold

# Before torch is loaded: its threads otherwise spin at barriers, which on busy processors takes 20 times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The cache of this session; the user's own is never touched."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FINEFOLD_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session", autouse=True)
def _guarded() -> None:
    offline_guard.watch(end_process=False)


@pytest.fixture(autouse=True)
def offline(_guarded: None) -> Iterator[list[str]]:
    """Fails every test during which anything tried to leave this machine, even where the refusal was swallowed."""
    offline_guard.attempts.clear()
    yield offline_guard.attempts
    assert not offline_guard.attempts, f"tried to reach {offline_guard.attempts}"


@pytest.fixture(scope="session")
def portraits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """126 drawn photos of 18 people, three of each gender and age band, and 21 to answer for."""
    from finefold.data.synthetic import draw_portraits

    folder = tmp_path_factory.mktemp("portraits")
    draw_portraits(folder, num_people=18, num_test=21, size_px=(96, 128))
    return folder


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 small pictures in a folder per class, `disc` and `square`: enough for whatever only needs a run."""
    folder = tmp_path_factory.mktemp("shapes")
    rng = np.random.default_rng(0)
    for name in ("disc", "square"):
        (folder / name).mkdir()
        for number in range(24):
            canvas = rng.integers(0, 90, (64, 64, 3), dtype=np.uint8)
            centre, size_px = rng.integers(24, 40, 2), int(rng.integers(8, 20))
            ink = rng.integers(140, 256, 3).tolist()
            if name == "disc":
                cv2.circle(canvas, centre.tolist(), size_px, ink, -1)
            else:
                cv2.rectangle(canvas, (centre - size_px).tolist(), (centre + size_px).tolist(), ink, -1)
            cv2.imwrite(str(folder / name / f"{number:02}.png"), canvas)
    return folder


@dataclass(frozen=True)
class Job:
    """The main job as a user's shell sees it.

    Args:
        folder: where the commands ran.
        init, split, train, evaluate, predict: what each said.
    """

    folder: Path
    init: Done
    split: Done
    train: Done
    evaluate: Done
    predict: Done

    @property
    def data(self) -> Path:
        return self.folder / "data.toml"

    @property
    def run(self) -> Path:
        return self.folder / "runs" / "first"

    @property
    def submission(self) -> Path:
        return self.folder / "submission.csv"


@pytest.fixture(scope="session")
def job(portraits: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """The main job on the portraits, from outside: a process per command, none of which can leave this machine."""
    folder = tmp_path_factory.mktemp("job")
    return Job(
        folder,
        run_finefold("init", portraits, "--out", "data.toml", cwd=folder),
        run_finefold("split", "data.toml", "--folds", 3, "--seed", 0, "--out", "split.csv", cwd=folder),
        run_finefold("train", "data.toml", "--split", "split.csv", "--out", "runs/first", cwd=folder),
        run_finefold("evaluate", "runs/first", "--json", cwd=folder),
        run_finefold("predict", "runs/first", "--out", "submission.csv", cwd=folder),
    )


@pytest.fixture(scope="session")
def runs(portraits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three probes of one split on drawn people: `joint` heads, heads `apart`, and very `weak` heads."""
    from finefold.steps.init import init
    from finefold.steps.reading import read_data
    from finefold.steps.train import train

    home = tmp_path_factory.mktemp("runs")
    init(portraits, out=home / "data.toml")
    data = read_data(home / "data.toml")
    folds = "split.folds=3"
    train(data, overrides=[folds], out=home / "joint")
    train(data, overrides=[folds, "model.heads=per_attribute"], out=home / "apart")
    train(data, overrides=[folds, "probe.strengths=[1000000.0]"], out=home / "weak")
    return home


TUNED = """
[split]
folds = 2
[image]
size_px = 64
[model]
engine = "torch"
precision = "fp32"
[[phase]]
trainable = "head"
until = "probe"
[[phase]]
trainable = "last:1"
until = "2 epochs"
[predict]
views = ["plain", "hflip"]
[train]
batch_size = 8
"""


@pytest.fixture(scope="session")
def tuned_runs(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two networks tuned on the small pictures, `first` and `second`, one split and other seeds."""
    from finefold.steps.init import init
    from finefold.steps.reading import read_data
    from finefold.steps.split import make_split
    from finefold.steps.train import train

    home = tmp_path_factory.mktemp("tuned-runs")
    init(shapes, out=home / "data.toml")
    (home / "recipe.toml").write_text(TUNED)
    data = read_data(home / "data.toml")
    split = make_split(data, folds=2)
    for seed, name in enumerate(("first", "second")):
        train(data, split, recipe=str(home / "recipe.toml"), overrides=[f"seed={seed}"], out=home / name)
    return home
