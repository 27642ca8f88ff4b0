"""finefold lr-find, and what train draws of learning rates and epochs."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from finefold.cli.main import main
from finefold.data.cachedir import cache_root
from finefold.recipe.loader import load_recipe
from finefold.steps.init import init
from finefold.steps.lr_find import lr_find
from finefold.steps.reading import read_data

RECIPE = """
[split]
folds = 2
[model]
engine = "torch"
precision = "fp32"
[[phase]]
trainable = "head"
until = "2 epochs"
lr = 1e-2
[[phase]]
trainable = "last:1"
until = "3 epochs"
lr = 1e-3
layer_decay = 0.05
[augment]
views = ["plain"]
[train]
batch_size = 8
"""


@pytest.fixture(scope="module")
def home(shapes, tmp_path_factory) -> Path:
    """A folder with a data.toml and a recipe of two phases that take steps."""
    folder = tmp_path_factory.mktemp("rates")
    init(shapes, out=folder / "data.toml")
    (folder / "recipe.toml").write_text(RECIPE)
    return folder


def asked(verb: str, home: Path, *more: str) -> list[str]:
    return [verb, str(home / "data.toml"), "--recipe", str(home / "recipe.toml"), *more]


def files_of(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*")}


@pytest.fixture(scope="module")
def first(home, tmp_path_factory) -> Path:
    """The picture of a range test that was asked for from Python, and its numbers beside it."""
    file = tmp_path_factory.mktemp("first") / "lr.svg"
    found = lr_find(read_data(home / "data.toml"), recipe=load_recipe(str(home / "recipe.toml")), out=file)
    file.with_suffix(".json").write_text(json.dumps(found.to_dict()))
    return file


def test_a_blank_head_gets_a_suggestion(home, first, tmp_path, capsys):
    """A head that knows nothing learns: a rate is drawn and told; nothing else is left, and twice is alike."""
    state, before = torch.random.get_rng_state(), files_of(home)
    assert main(asked("lr-find", home, "--out", str(tmp_path / "lr.svg"))) == 0
    said = capsys.readouterr()
    assert "phase 1 (head), fold 0: " in said.out
    assert "suggestion: lr = " in said.out and "(the recipe has 0.01)" in said.out
    assert f"use it: --recipe {home / 'recipe.toml'} --set phase.1.lr=" in said.out
    assert "range test: " in said.err
    assert "suggestion" in first.read_text()
    assert (tmp_path / "lr.svg").read_bytes() == first.read_bytes()
    assert files_of(tmp_path) == {"lr.svg"} and files_of(home) == before
    assert torch.equal(torch.random.get_rng_state(), state)


def test_rates_grow_by_one_ratio(first):
    """From 1e-6 to 1 where nothing explodes, a loss for each."""
    found = json.loads(first.with_suffix(".json").read_text())
    assert found["phase"] == 1 and found["trainable"] == "head" and found["fold"] == 0 and found["lr"] == 0.01
    rates = np.array(found["rates"])
    assert rates[0] == pytest.approx(1e-6) and np.allclose(rates[1:] / rates[:-1], 1e6 ** (1 / 99))
    assert len(found["losses"]) == len(found["smoothed"]) == len(rates) <= 100
    assert rates[-1] == pytest.approx(1) or found["stopped"]
    assert 1e-6 < found["suggestion"] < 1


@pytest.mark.slow  # trains until the loss explodes; the ramp is tested by itself
def test_another_phase_is_tested_and_an_explosion_ends_it(home, tmp_path, capsys):
    """--phase 2 trains the last stage, says that phase 1 is passed over, and stops where the loss explodes."""
    exploding = ("--set", "optim.name=sgd", "--set", "optim.momentum=0.99", "--set", "train.clip_norm=0")
    assert main(asked("lr-find", home, "--phase", "2", "--out", str(tmp_path / "lr.svg"), *exploding, "--json")) == 0
    said = capsys.readouterr()
    assert "phases before phase 2 are passed over" in said.err
    found = json.loads(said.out)
    assert found["trainable"] == "last:1"
    assert "exploded" in found["stopped"] or "finite" in found["stopped"]
    assert len(found["rates"]) < 100


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--phase", "3"), "the recipe has 2 phases"),
        (("--phase", "0"), "write --phase 1 or --phase 2"),
        (("--out", "lr.png"), "lr.png is no .svg"),
        (("--set", "optim.nam=sgd"), "did you mean `optim.name`?"),
    ],
)
def test_mistakes_exit_2(more, told, home, capsys):
    """A phase that is not there, a picture of another kind and a misspelt key are told before anything is read."""
    assert main(asked("lr-find", home, *more)) == 2
    said = capsys.readouterr()
    assert told in said.err and not said.out


def test_a_recipe_without_steps_has_no_rates(home, tmp_path, capsys):
    """Both verbs refuse a recipe that only fits the head, and name one that trains."""
    for verb, option in (("lr-find", "--out"), ("train", "--plot-lr")):
        assert main([verb, str(home / "data.toml"), "--recipe", "probe", option, str(tmp_path / "lr.svg")]) == 2
        said = capsys.readouterr().err
        assert "takes no steps" in said and "--recipe quick" in said
    assert files_of(tmp_path) == set()


def test_rates_are_drawn_without_training(home, tmp_path, monkeypatch, capsys):
    """--plot-lr writes the picture and a table, makes no run, and computes and caches nothing."""
    monkeypatch.setenv("FINEFOLD_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "rates.svg"
    assert main(asked("train", home, "--plot-lr", str(file), "--out", str(tmp_path / "run"), "--json")) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["file"] == str(file) and told["steps"] == 2 * 3 + 3 * 3  # 24 samples of fold 0 in batches of 8
    rows = [(one["phase"], one["stage"], one["peak"]) for one in told["stages"]]
    assert [row[:2] for row in rows[:2]] == [(1, "head"), (2, "head")] and rows[2][0] == 2
    assert rows[0][2] == pytest.approx(1e-2) and rows[1][2] == pytest.approx(1e-3)
    assert rows[2][2] == pytest.approx(5e-5)
    assert all(one["final"] == pytest.approx(0.01 * one["peak"]) for one in told["stages"])
    assert "phase 2: last:1" in file.read_text() and "1e-3" in file.read_text()
    assert not (tmp_path / "run").exists() and not list(cache_root().rglob("*.rows"))


def test_the_table_of_rates(home, tmp_path, capsys):
    """Without --json there is a line per phase and stage, and where the picture is; sampling changes the steps."""
    more = ("--set", "train.batch_size=4", "--plot-lr", str(tmp_path / "rates.svg"))
    assert main(asked("train", home, *more)) == 0
    said = capsys.readouterr().out
    assert "peak rate" in said and "final rate" in said
    assert f"wrote {tmp_path / 'rates.svg'} (30 optimiser steps of fold 0; nothing was trained)" in said


def test_rates_are_drawn_where_the_split_left_a_broken_file_out(shapes, tmp_path, capsys):
    """A split lacks what does not decode: neither rates nor a recipe's sizes need it; a sound image is asked for."""
    folder = tmp_path / "images"
    shutil.copytree(shapes, folder)
    (folder / "disc" / "98.png").write_bytes(b"no image")
    init(folder, out=tmp_path / "data.toml")
    (tmp_path / "recipe.toml").write_text(RECIPE)
    data = str(tmp_path / "data.toml")
    assert main(["split", data, "--folds", "2"]) == 0
    assert "disc/98.png" not in (tmp_path / "data.split.csv").read_text()
    asking = asked("train", tmp_path, "--plot-lr", str(tmp_path / "rates.svg"))
    capsys.readouterr()
    assert main([*asking, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 2 * 3 + 3 * 3
    assert main(["recipe", "explain", "quick", "--data", data]) == 0
    shutil.copy(folder / "disc" / "00.png", folder / "disc" / "99.png")
    capsys.readouterr()
    assert main(asking) == 1
    assert "1 sample not in the split: `disc/99.png`" in capsys.readouterr().err


@pytest.mark.slow  # a whole training; the drawing is tested by itself
def test_a_tuned_run_draws_its_history(home, tmp_path, capsys):
    """Training writes history.svg, with every fold and phase in it, and names the pictures."""
    brief = ("--set", "train.batch_size=24")
    assert main(asked("train", home, "--out", str(tmp_path / "run"), "--set", "scores.resamples=100", *brief)) == 0
    assert "pictures in it: classes.svg, confusion.svg, history.svg" in capsys.readouterr().out
    history = (tmp_path / "run" / "history.svg").read_text()
    assert all(name in history for name in ("fold 0", "fold 1", "phase 1", "phase 2", "macro F1, held out"))


@pytest.mark.slow
@pytest.mark.parametrize("heads", ["separate", "per_attribute"])
def test_every_way_to_heads_has_rates(portraits, tmp_path, capsys, heads):
    """With a model or a head per attribute both verbs work; of separate models the first attribute's is tested."""
    init(portraits, out=tmp_path / "data.toml")
    (tmp_path / "recipe.toml").write_text(RECIPE)
    more = ("--set", f"model.heads={heads}", "--set", "train.batch_size=32")
    if heads == "per_attribute":
        more += ("--set", 'model.ordinal=["age"]')
    assert main(asked("train", tmp_path, "--plot-lr", str(tmp_path / "rates.svg"), *more)) == 0
    capsys.readouterr()
    assert main(asked("lr-find", tmp_path, "--out", str(tmp_path / "lr.svg"), *more, "--json")) == 0
    said = capsys.readouterr()
    assert ("that of `mask` is tested" in said.err) == (heads == "separate")
    assert len(json.loads(said.out)["rates"]) > 10
