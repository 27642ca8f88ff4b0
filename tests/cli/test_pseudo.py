"""finefold pseudo."""

import json
import shutil

import numpy as np
import pytest

import finefold as ff
from finefold.cli.main import main
from finefold.steps import pseudo as step


def test_a_round_that_does_not_pay_is_dropped(job, tmp_path, capsys, monkeypatch):
    """Where the ledger does not say better, the table says dropped, no run is written, and the exit code is 0."""
    monkeypatch.setattr(step, "KEPT_FROM", 1.1)
    out = tmp_path / "second"
    assert main(["pseudo", str(job.run), "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert "21 unlabelled images, every fold with labels of its own" in said.out
    assert "dropped: pseudo labels do not pay here, and nothing was written" in said.out
    assert "round 1: " in said.err and ": dropped" in said.err
    assert not out.exists()


def test_kept_rounds_are_a_run_like_any_other(job, tmp_path, capsys, monkeypatch):
    """A kept round is written: it evaluates, compares with the run it came from, and predicts."""
    monkeypatch.setattr(step, "KEPT_FROM", 0.0)
    out = tmp_path / "second"
    options = ["--set", "pseudo.rounds=2", "--set", "pseudo.weight=2.0", "--set", "pseudo.share=1.0"]
    assert main(["pseudo", str(job.run), "--out", str(out), *options, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["run"] == str(out)
    assert [one["is_kept"] for one in told["rounds"]] == [True, True]
    assert all(
        sum(fold) == total
        for one in told["rounds"]
        for fold, total in zip(one["labels_per_class"], one["labels"], strict=True)
    )
    run = ff.open_run(out)
    scores = run.scores()
    assert scores["macro_f1"]["value"] == pytest.approx(told["rounds"][-1]["scores"]["macro_f1"])
    assert scores["n"] == 126  # pseudo-labelled rows train and never validate
    assert run.recipe.pseudo.weight == 2.0
    assert run.manifest["pseudo"]["rounds"] == told["rounds"]
    pair = ff.compare([job.run, out]).pairs[0]
    assert {pair.first, pair.second} == {"first", "second"}
    assert main(["predict", str(out), "--out", str(tmp_path / "answers.csv")]) == 0
    assert not np.allclose(run.ledger().predictions.probs_NK, ff.open_run(job.run).ledger().predictions.probs_NK)
    assert main(["pseudo", str(job.run), "--out", str(out), *options]) == 1
    assert "holds a finished run" in capsys.readouterr().err


def test_heads_per_attribute_learn_from_the_same_labels(portraits, tmp_path, monkeypatch):
    """A probe with a head per attribute trains each on the labels' own attribute."""
    monkeypatch.setattr(step, "KEPT_FROM", 0.0)
    data = ff.init(portraits, out=tmp_path / "data.toml").data
    before = ff.train(data, overrides=["split.folds=3", "model.heads=per_attribute"], out=tmp_path / "first")
    found = ff.pseudo(before, out=tmp_path / "second", overrides=["pseudo.rounds=1"])
    assert found.run is not None
    assert set(found.run.manifest["strengths"]) == {"mask", "gender", "age"}


@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        (["--set", "pseudo.weihgt=1"], 2, "pseudo.weihgt"),
        (["--set", "probe.power=1.0"], 2, "changes the recipe beyond [pseudo]"),
        (["nowhere"], 1, "the folder nowhere does not exist"),
    ],
)
def test_mistakes_are_told(options, code, told, job, tmp_path, capsys):
    """Misspelt keys, keys of other tables and missing folders are told; nothing is written."""
    assert main(["pseudo", str(job.run), "--out", str(tmp_path / "second"), *options]) == code
    said = capsys.readouterr()
    assert told in said.err
    assert not said.out
    assert not (tmp_path / "second").exists()


@pytest.mark.parametrize(
    ("manifest", "told"),
    [
        ({"teacher": {}}, "learned from a teacher, who says nothing of unlabelled images"),
        ({"own": {"loss": "mine"}}, "was trained with parts of your own (loss)"),
        ({"soup": {}}, "was made of other runs, and a round of pseudo labels is a training"),
    ],
)
def test_what_cannot_be_trained_again_is_refused(manifest, told, job, tmp_path, capsys):
    """Students, runs with parts of the user's own, and what no training made are told why; nothing is written."""
    shutil.copytree(job.run, tmp_path / "tuned")
    recipe = (tmp_path / "tuned" / "recipe.toml").read_text().replace('until = "probe"', 'until = "1 epochs"')
    (tmp_path / "tuned" / "recipe.toml").write_text(recipe)
    file = tmp_path / "tuned" / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **manifest}))
    assert main(["pseudo", str(tmp_path / "tuned"), "--out", str(tmp_path / "second")]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "second").exists()


def test_images_in_the_way_of_a_run_are_not_touched(job, tmp_path, capsys):
    """--out that is no run is refused before any work."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "photo.txt").write_text("mine")
    assert main(["pseudo", str(job.run), "--out", str(tmp_path / "mine")]) == 1
    assert "is not a run" in capsys.readouterr().err
    assert (tmp_path / "mine" / "photo.txt").read_text() == "mine"
