"""finefold correct."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from finefold.cli.main import main
from finefold.data.predictions import Ledger, Predictions
from finefold.steps.correct import correct
from finefold.steps.reading import read_data
from finefold.steps.run import open_run
from finefold.steps.train import train


@pytest.fixture(scope="module")
def unsure(runs, tmp_path_factory):
    """The run of joint heads with probabilities in its ledger that are much too unsure: their fourth roots."""
    folder = tmp_path_factory.mktemp("unsure") / "unsure"
    shutil.copytree(runs / "joint", folder)
    run = open_run(folder)
    ledger = run.ledger()
    roots_NK = ledger.predictions.probs_NK**0.25
    probs_NK = roots_NK / roots_NK.sum(axis=1, keepdims=True)
    Ledger(
        Predictions(ledger.predictions.ids, probs_NK, ledger.predictions.class_names),
        ledger.folds_N,
        ledger.groups,
        ledger.labels_N,
    ).write(run.folder.ledger)
    return folder


def test_every_way_is_shown_with_what_it_gives(unsure, capsys):
    """A row for each calibration and adjustment, differences to doing nothing, what was fitted, and what to do next."""
    assert main(["correct", str(unsure)]) == 0
    said = capsys.readouterr()
    assert not said.err
    for part in (
        "unsure corrected, each fold by what the others gave; 126 samples",
        "calibrate = temperature",
        "calibrate = per_attribute",
        "adjust = bias",
        "classwise ECE",
        "calibrate = temperature: temperature 0.",
        "calibrate = per_attribute raises macro F1 by more than chance",
        f"to answer that way: finefold predict {unsure} --set after.calibrate=per_attribute",
    ):
        assert part in said.out


def with_probs(run: Path, folder: Path, make: Callable[[Ledger], np.ndarray]) -> Path:
    """A copy of a run with other probabilities in its ledger."""
    shutil.copytree(run, folder)
    ledger = open_run(folder).ledger()
    probs_NK = make(ledger)
    predictions = replace(ledger.predictions, probs_NK=probs_NK / probs_NK.sum(axis=1, keepdims=True))
    replace(ledger, predictions=predictions).write(open_run(folder).folder.ledger)
    return folder


def test_what_raises_macro_f1_most_is_named(runs, tmp_path, capsys):
    """Probabilities that favour one class far too much are mended, by the best way that pays; JSON names it too."""
    folder = with_probs(
        runs / "joint", tmp_path / "partial", lambda one: one.predictions.probs_NK * np.geomspace(1e4, 1, 18)
    )
    found = correct([folder])
    best = found.best
    assert best is not None
    assert best.changes["macro_f1"].low > 0
    assert best.scores["macro_f1"] == max(one.scores["macro_f1"] for one in found.tried if one.pays)
    assert main(["correct", str(folder)]) == 0
    assert f"{best.name} raises macro F1 by more than chance" in capsys.readouterr().out
    assert main(["correct", str(folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["best"] == best.name
    assert next(one["set"] for one in told["tried"] if one["name"] == best.name) == list(best.overrides)


def test_nothing_raises_what_is_perfect(runs, tmp_path, capsys):
    """A ledger without a mistake: it is said that no way pays, and none is put forward."""
    folder = with_probs(runs / "joint", tmp_path / "perfect", lambda one: np.eye(18)[one.labels_N] + 1e-6)
    assert correct([folder]).best is None
    assert main(["correct", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "none of them raises macro F1 by more than chance" in said
    assert "finefold predict" not in said


def test_a_model_that_is_too_unsure_is_mended(runs, unsure, capsys):
    """A temperature near the one that was put in lowers log loss and keeps every answer."""
    assert main(["correct", str(unsure), "--json"]) == 0
    told = {one["name"]: one for one in json.loads(capsys.readouterr().out)["tried"]}
    none, cooled = told["none"], told["calibrate = temperature"]
    assert cooled["log_loss"] < none["log_loss"] - 0.3
    assert cooled["ece"]["value"] < none["ece"]["value"]
    assert cooled["accuracy"] == none["accuracy"]
    assert none["changes"]["macro_f1"]["value"] == 0
    scores = json.loads((runs / "joint" / "scores.json").read_text())
    for score in ("macro_f1", "accuracy"):
        assert none[score] == pytest.approx(scores[score]["value"])


def test_other_runs_stand_beside_it(runs, unsure, capsys):
    """Further runs are rows of the same table, compared over the same samples."""
    assert main(["correct", str(unsure), str(runs / "joint"), "--set", "after.calibrate=temperature"]) == 0
    said = capsys.readouterr().out
    assert "run joint" in said
    assert "adjust = logit, temperature: temperature 0." in said
    change = correct([runs / "weak", runs / "joint"]).tried[-1].changes["macro_f1"]
    assert change is not None
    assert change.low > 0


def test_what_training_settled_cannot_be_set(runs, capsys):
    """An override of anything but [after] is a usage mistake."""
    assert main(["correct", str(runs / "weak"), "--set", "model.heads=joint"]) == 2
    said = capsys.readouterr().err
    assert "`model.heads` was settled when the run was trained" in said
    assert "after.adjust=logit" in said
    assert main(["correct", str(runs / "weak"), "--set", "after.adjust=logits"]) == 2
    assert "did you mean `logit`?" in capsys.readouterr().err


def test_another_split_is_refused(runs, tmp_path, capsys):
    """Runs of different splits cannot stand in one table."""
    train(read_data(runs / "data.toml"), overrides=["split.folds=2"], out=tmp_path / "two")
    assert main(["correct", str(runs / "joint"), str(tmp_path / "two")]) == 1
    assert "`joint` and `two` cannot be put side by side: they have different splits" in capsys.readouterr().err
