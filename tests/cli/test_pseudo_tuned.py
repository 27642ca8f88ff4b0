"""finefold pseudo on runs that trained more than the probe: rounds are runs, and none learns from another fold."""

import json
import random
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import polars as pl
import pytest

import finefold as ff
from finefold.cli.main import main
from finefold.data.imageset import ImageSet
from finefold.errors import RunError
from finefold.nn.features import PrefixCache
from finefold.nn.weights import read_header, read_state, write_weights
from finefold.recipe.loader import load_recipe
from finefold.runs.folder import RunFolder, read_lines
from finefold.steps import pseudo as step
from finefold.steps.asking import fold_probs
from finefold.steps.extra import ExtraImages

SURE = ["--set", "pseudo.weight=0.5", "--set", "pseudo.share=1.0"]


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory):
    """Sixteen more pictures, half of them discs, and a file that is no picture."""
    folder = tmp_path_factory.mktemp("unlabelled")
    rng = np.random.default_rng(7)
    for number in range(16):
        canvas = rng.integers(0, 90, (64, 64, 3), dtype=np.uint8)
        centre, ink = rng.integers(24, 40, 2), rng.integers(140, 256, 3).tolist()
        if number % 2:
            cv2.circle(canvas, centre.tolist(), 14, ink, -1)
        else:
            cv2.rectangle(canvas, (centre - 14).tolist(), (centre + 14).tolist(), ink, -1)
        cv2.imwrite(str(folder / f"{number:02}.png"), canvas)
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


def test_a_kept_round_is_a_run_like_any_other(tuned_runs, unlabelled, tmp_path, capsys, monkeypatch):
    """Plan and epochs are told as `train` tells them; the ledger is of the samples alone; evaluate and predict work."""
    monkeypatch.setattr(step, "KEPT_FROM", 0.0)
    monkeypatch.setattr("finefold.steps.expecting.SHORT_ROWS", 0)
    first, out = tuned_runs / "first", tmp_path / "next"
    options = [*SURE, "--set", "pseudo.rounds=1", "--json"]
    assert main(["pseudo", str(first), str(unlabelled), "--out", str(out), *options]) == 0
    said = capsys.readouterr()
    order = [
        "of 16 images, by each fold's own model",
        "phase 2: last:1",
        "expected: training",
        "training 2 folds",
        "fold 0, epoch 2",
        "kept",
    ]
    places = [said.err.index(text) for text in order]
    assert places == sorted(places)
    told = json.loads(said.out)
    (one,) = told["rounds"]
    assert (told["images"], told["run"], one["is_kept"]) == (16, str(out), True)
    assert all(0 < count <= 16 for count in one["labels"])
    run, before = ff.open_run(out), ff.open_run(first)
    assert run.ledger().predictions.ids == before.ledger().predictions.ids
    assert run.scores()["macro_f1"]["value"] == pytest.approx(one["scores"]["macro_f1"])
    assert run.manifest["pseudo"]["rounds"] == told["rounds"]
    assert "finefold pseudo" in run.scores()["selection"][-1]
    assert not run.folder.work.exists() and not run.folder.plan.exists()
    batches = -(-(24 + one["labels"][0]) // 8)
    steps = [line["step"] for line in read_lines(run.folder.fold_log(0)) if "norm" in line]
    assert steps[-1] == 2 * batches  # an epoch is the samples and the labelled images
    assert pl.read_parquet(run.folder.fold_valid(0)).height == 24
    assert main(["predict", str(out), str(unlabelled), "--out", str(tmp_path / "answers.csv")]) == 0
    assert ff.compare([first, out]).pairs
    assert main(["pseudo", str(first), str(unlabelled), "--out", str(out), *options]) == 1
    assert "holds a finished run" in capsys.readouterr().err


def test_a_round_that_does_not_pay_leaves_nothing(tuned_runs, unlabelled, tmp_path, capsys, monkeypatch):
    """Where the ledger does not say better the round is dropped with its numbers; so is one without any label."""
    monkeypatch.setattr(step, "KEPT_FROM", 1.1)
    out, first = tmp_path / "next", str(tuned_runs / "first")
    assert main(["pseudo", first, str(unlabelled), "--out", str(out), *SURE]) == 0
    said = capsys.readouterr()
    assert "round 1: " in said.err and ": dropped" in said.err
    assert "dropped: pseudo labels do not pay here, and nothing was written" in said.out
    assert main(["pseudo", first, str(unlabelled), "--out", str(out), "--set", "pseudo.share=0.01"]) == 0
    assert "round 1: no image gets a label" in capsys.readouterr().err
    assert not out.exists()


def test_labels_of_a_fold_are_its_own_models(tuned_runs, unlabelled, tmp_path):
    """Fold 0's model saw what fold 1 holds out; whatever it says, what fold 1 is told stays as it is."""
    names = sorted(file.name for file in unlabelled.glob("[0-9]*.png"))
    images = ImageSet(names, [unlabelled / name for name in names])
    run = ff.open_run(tuned_runs / "first")
    before = fold_probs(run, images, ("plain", "hflip"))
    assert [one.fold for one in before] == [0, 1]
    shutil.copytree(run.folder.path, tmp_path / "other")
    file = tmp_path / "other" / "fold-0" / "weights.safetensors"
    state = {name: -value if name.startswith("head.heads") else value for name, value in read_state(file).items()}
    write_weights(file, state, read_header(file))
    after = fold_probs(ff.open_run(tmp_path / "other"), images, ("plain", "hflip"))
    np.testing.assert_array_equal(after[1].views_VUK, before[1].views_VUK)
    assert not np.allclose(after[0].views_VUK, before[0].views_VUK)


def test_labelling_keeps_to_the_budget_of_the_cache(tuned_runs, unlabelled, monkeypatch):
    """Rows of unlabelled images that cache.budget_gb has no room for pass the cache by, and the labels are the same."""
    images = ImageSet(["discs", "squares"], [unlabelled / "01.png", unlabelled / "02.png"])
    run = ff.open_run(tuned_runs / "second")
    kept: list[int] = []
    before = PrefixCache.fill
    monkeypatch.setattr(PrefixCache, "fill", lambda *facts, **more: (kept.append(1), before(*facts, **more))[1])
    small = replace(run, recipe=load_recipe(str(run.folder.recipe), ["cache.budget_gb=0.000001"]))
    passed = fold_probs(small, images, ("plain", "hflip"))
    assert not kept
    cached = fold_probs(run, images, ("plain", "hflip"))
    assert kept
    for one, other in zip(passed, cached, strict=True):
        np.testing.assert_allclose(one.views_VUK, other.views_VUK, atol=1e-5)
    broken = ImageSet(["broken"], [unlabelled / "broken.png"])
    with pytest.raises(RunError, match=r"^1 image without labels cannot be read any more, e\.g\. `broken`"):
        fold_probs(small, broken, ("plain",))


HEADS = """
[split]
folds = 2
[image]
size_px = 64
[model]
engine = "torch"
precision = "fp32"
heads = "joint"
[[phase]]
trainable = "head"
until = "probe"
[[phase]]
trainable = "head"
until = "4 steps"
[augment]
views = ["plain", "hflip"]
mix = "mixup"
[loss]
balance = "logit_adjust"
label_smoothing = 0.1
"""


@pytest.mark.parametrize("heads", ["per_attribute", pytest.param("separate", marks=pytest.mark.slow)])
def test_heads_of_attributes_learn_soft_labels(heads, portraits, tmp_path, monkeypatch):
    """Each attribute's head, or its own model, learns its part of soft labels, mixed with samples."""
    monkeypatch.setattr(step, "KEPT_FROM", 0.0)
    seen, read = [], ExtraImages.read
    monkeypatch.setattr(ExtraImages, "read", lambda file: seen.append(read(file)) or seen[-1])
    data = ff.init(portraits, out=tmp_path / "data.toml").data
    (tmp_path / "recipe.toml").write_text(HEADS.replace('"joint"', f'"{heads}"'))
    before = ff.train(data, recipe=str(tmp_path / "recipe.toml"), out=tmp_path / "first")
    options = ["pseudo.rounds=1", "pseudo.target=soft", "pseudo.share=1.0", "pseudo.shares=training"]
    found = ff.pseudo(before, out=tmp_path / "second", overrides=options)
    assert found.run is not None
    assert found.rounds[0].labels_FK.sum(axis=1).tolist() == [len(one) for one in seen[0].labels]
    targets = np.concatenate([one.targets_MC for one in seen[0].labels])
    assert len(targets) and (targets.max(axis=1) < 1).all()
    assert found.run.scores()["n"] == 126
    steps = [line for file in found.run.folder.fold_logs for line in read_lines(file) if "norm" in line]
    assert len(steps) == 4 * 2 * (3 if heads == "separate" else 1)
    assert len(ff.predict(found.run).predictions.ids) == 21


PROGRAM = """
import sys
import finefold as ff
from finefold.steps import pseudo
pseudo.KEPT_FROM = 0.0
options = ["pseudo.rounds=2", "pseudo.share=1.0"]
ff.pseudo(ff.open_run(sys.argv[1]), sys.argv[2], out=sys.argv[3], overrides=options)
"""


def killed_in(command: list[str], log: Path | None) -> bool:
    """Runs a command and kills it once a fold's log has steps; whether it was killed."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and log is not None:
        if len(read_lines(log)) >= 3:
            process.kill()
            process.wait()
            return True
        time.sleep(0.005)
    assert process.wait() == 0
    return False


@pytest.mark.slow  # five processes, one after the other
def test_a_killed_round_goes_on_and_ends_the_same(shapes, unlabelled, tmp_path):
    """kill -9 within the first and the second round; the same command again ends bitwise as if never stopped."""
    recipe = HEADS.replace("4 steps", "4 epochs") + "[train]\nbatch_size = 8\nsave_seconds = 0.0\n"
    (tmp_path / "recipe.toml").write_text(recipe)
    data = ff.init(shapes, out=tmp_path / "data.toml").data
    ff.train(data, recipe=str(tmp_path / "recipe.toml"), out=tmp_path / "first")
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "first"), str(unlabelled)]
    whole, killed = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "killed")
    assert not killed_in([*command, str(whole.path)], None)
    rng = random.Random(0)
    for number in (1, 2):
        log = killed.round(number).fold_log(rng.randrange(2))
        assert killed_in([*command, str(killed.path)], log)
        with pytest.raises(ff.FinefoldError, match="is not a finished run"):
            ff.open_run(killed.path)
    assert not killed_in([*command, str(killed.path)], None)
    for fold in range(2):
        mine, theirs = (read_state(one.fold_weights(fold)) for one in (whole, killed))
        assert all(np.array_equal(mine[name], theirs[name]) for name in mine) and mine.keys() == theirs.keys()
        assert read_lines(whole.fold_log(fold)) == read_lines(killed.fold_log(fold))
    assert pl.read_parquet(whole.ledger).equals(pl.read_parquet(killed.ledger))
    about = [ff.open_run(one.path).manifest["pseudo"]["rounds"] for one in (whole, killed)]
    assert about[0] == about[1] and len(about[0]) == 2
