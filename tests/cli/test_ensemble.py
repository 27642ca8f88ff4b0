"""finefold ensemble."""

import json
import shutil

import numpy as np
import pytest

from finefold.cli.main import main
from finefold.steps.ensemble import make_ensemble
from finefold.steps.predict import predict
from finefold.steps.reading import read_data
from finefold.steps.run import open_run
from finefold.steps.train import train


def test_an_ensemble_is_a_run_like_any_other(runs, tmp_path, capsys):
    """It is made, says what members count and gain, and then evaluates and compares as any run does."""
    out = tmp_path / "both"
    assert main(["ensemble", str(runs / "joint"), str(runs / "apart"), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    for part in ("members, combined by greedy", "every fold combined by what the others gave", f"run: {out}"):
        assert part in said
    assert main(["evaluate", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["macro_f1"] == json.loads((out / "scores.json").read_text())["macro_f1"]
    assert main(["compare", str(out), str(runs / "weak")]) == 0
    assert "both is better" in capsys.readouterr().out
    run = open_run(out)
    assert run.is_ensemble
    assert [member.folder.path.name for member in run.members()] == ["joint", "apart"]


@pytest.mark.parametrize("by", ["mean", "geometric", "rank", "vote", "stack", "greedy"])
def test_it_answers_with_its_members(runs, tmp_path, by):
    """New images get the members' answers combined, whatever way; a ledger row for every sample."""
    made = make_ensemble([runs / "joint", runs / "apart"], out=tmp_path / by, by=by)
    answers = predict(made.run)
    singles = [predict(member).predictions for member in made.run.members()]
    if by in ("mean", "greedy"):
        weights = made.run.manifest["members"]
        expected_NK = sum(one["weight"] * single.probs_NK for one, single in zip(weights, singles, strict=True))
        assert np.allclose(answers.predictions.probs_NK, expected_NK)
    assert answers.predictions.ids == singles[0].ids
    assert np.allclose(answers.predictions.probs_NK.sum(axis=1), 1)
    assert len(made.run.ledger().predictions) == 126


def test_its_submission_says_what_it_is(runs, tmp_path, capsys):
    """A submission is written with the corrections asked for, and its JSON names the members."""
    out = tmp_path / "both"
    options = ["--by", "geometric", "--set", "after.adjust=logit", "--out", str(out)]
    assert main(["ensemble", str(runs / "joint"), str(runs / "apart"), *options]) == 0
    assert main(["predict", str(out), "--out", str(tmp_path / "answers.csv")]) == 0
    assert "probabilities corrected: logits adjusted" in capsys.readouterr().out
    told = json.loads((tmp_path / "answers.json").read_text())
    assert told["backbone"]["name"] == "joint + apart"
    assert told["images"] == 21


def test_what_is_no_ensemble_is_told(runs, tmp_path, capsys):
    """One run, a run twice, an ensemble as a member, or another split: each refused with what to do."""
    joint, apart, out = str(runs / "joint"), str(runs / "apart"), str(tmp_path / "out")
    assert main(["ensemble", joint, "--out", out]) == 2
    assert "one run is no ensemble" in capsys.readouterr().err
    assert main(["ensemble", joint, joint, "--out", out]) == 2
    assert "a run is given twice" in capsys.readouterr().err
    make_ensemble([joint, apart], out=tmp_path / "both", by="mean")
    assert main(["ensemble", joint, str(tmp_path / "both"), "--out", out]) == 2
    assert "`both` is an ensemble itself" in capsys.readouterr().err
    assert (
        main(["ensemble", joint, apart, str(tmp_path / "both"), "--by", "mean", "--out", str(tmp_path / "more")]) == 0
    )
    said = capsys.readouterr()
    assert "both is an ensemble itself, and left out" in said.err
    assert "alone" in said.out and "by macro F1 it " in said.out
    assert [one.folder.path.name for one in open_run(tmp_path / "more").members()] == ["joint", "apart"]
    train(read_data(runs / "data.toml"), overrides=["split.folds=2"], out=tmp_path / "two")
    assert main(["ensemble", joint, str(tmp_path / "two"), "--out", out]) == 1
    assert "`joint` and `two` cannot be combined: they have different splits" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_members_that_moved_along_are_found_and_lost_ones_are_told(runs, tmp_path, capsys):
    """Moved together, ensemble and members find each other; a lost or replaced member is an error that names it."""
    here = tmp_path / "here"
    for name in ("joint", "apart"):
        shutil.copytree(runs / name, here / name)
    make_ensemble([here / "joint", here / "apart"], out=here / "both", by="mean")
    there = here.rename(tmp_path / "there")
    assert len(open_run(there / "both").members()) == 2
    (there / "apart").rename(there / "gone")
    assert main(["predict", str(there / "both"), "--out", str(tmp_path / "a.csv")]) == 1
    assert "its member `apart` is gone" in capsys.readouterr().err
    shutil.copytree(runs / "weak", there / "apart")
    assert main(["predict", str(there / "both"), "--out", str(tmp_path / "a.csv")]) == 1
    assert "another run lies in the place of its member" in capsys.readouterr().err
    assert main(["inspect", str(there / "both")]) == 1
    assert "is an ensemble and has no network of its own" in capsys.readouterr().err
