"""finefold pick."""

import json

import numpy as np
import pytest

import finefold as ff
from finefold.cli.main import main
from finefold.steps import pick as step
from finefold.steps.effort import Effort


@pytest.fixture
def few(tuned_runs):
    """A tuned run, and what times nothing long."""
    return [str(tuned_runs / "first"), "--images", "4"]


def test_the_table_has_every_way(few, capsys):
    """One fold and all, plain and all views, each with score and time; nothing is taken unasked."""
    assert main(["pick", *few, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {way["says"] for way in told["ways"]} == {
        "one fold, plain",
        "2 folds, plain",
        "one fold, plain + hflip",
        "2 folds, plain + hflip",
    }
    assert [way["ms"] for way in told["ways"]] == sorted(way["ms"] for way in told["ways"])
    assert all(way["ms"] > 0 for way in told["ways"])
    assert told["taken"] is None
    of_run = ff.open_run(few[0]).scores()
    both = next(way for way in told["ways"] if way["says"] == "2 folds, plain + hflip")
    assert both["scores"]["macro_f1"] == pytest.approx(of_run["macro_f1"])
    assert main(["pick", *few]) == 0
    said = capsys.readouterr().out
    assert "macro F1 against time, 4 images timed on this machine" in said
    assert "take the best with --best" in said


def test_what_is_taken_keeps_within_the_budget(few, capsys, monkeypatch):
    """--budget-ms takes the best that costs no more, --best the best of all, of equal scores that of most folds."""
    monkeypatch.setattr(step, "times_of", lambda asked, *_: [10.0 if one.folds == 1 else 20.0 for _run, one in asked])
    assert main(["pick", *few, "--best", "--by", "log_loss", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    taken = told["ways"][told["taken"]]
    losses = [way["scores"]["log_loss"]["value"] for way in told["ways"]]
    assert taken["scores"]["log_loss"]["value"] == min(losses)
    assert taken["says"].startswith("2 folds")
    assert main(["pick", *few, "--budget-ms", "15", "--by", "log_loss"]) == 0
    assert "--folds 1" in capsys.readouterr().out.splitlines()[-1]
    assert main(["pick", *few, "--budget-ms", "5"]) == 1
    assert "nothing answers within 5 ms an image here: the quickest, first with one fold" in capsys.readouterr().err


def test_runs_ensembles_and_soups_stand_together(runs, tmp_path, capsys):
    """Ensembles cost what their members cost, a soup over folds has no score and is never taken."""
    both = ff.make_ensemble([runs / "joint", runs / "apart"], out=tmp_path / "both", by="mean")
    ff.make_soup([runs / "joint"], over_folds=True, out=tmp_path / "one")
    command = ["pick", str(runs / "joint"), str(both.run.folder.path), str(tmp_path / "one"), "--images", "4", "--best"]
    assert main([*command, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    ways = {(way["run"], way["says"]): way for way in told["ways"]}
    assert ways["both", "ensemble of 2 runs"]["models"] == 6
    assert ways["one", "averaged folds, plain"]["scores"] is None
    assert told["ways"][told["taken"]]["run"] != "one"
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "cannot be told" in said
    assert "next: finefold predict" in said


def test_what_was_picked_answers(tuned_runs, shapes, tmp_path, capsys):
    """`predict --folds --views` is the mean of so many models under these views, and says so in its JSON."""
    run = ff.open_run(tuned_runs / "first")
    out = tmp_path / "a.csv"
    options = ["--folds", "1", "--views", "plain", "--out", str(out)]
    assert main(["predict", str(run.folder.path), str(shapes), *options]) == 0
    about = json.loads((tmp_path / "a.json").read_text())
    assert (about["folds"], about["views"]) == (1, ["plain"])
    assert "the ledger is of other views" in about["expected"]["basis"]
    one = ff.predict(run, shapes, effort=Effort(1)).predictions.probs_NK
    everything = ff.predict(run, shapes).predictions.probs_NK
    assert not np.allclose(one, everything)
    assert main(["predict", str(run.folder.path), str(shapes), "--folds", "1", "--out", str(out)]) == 0
    assert json.loads((tmp_path / "a.json").read_text())["expected"]["basis"].endswith("one fold's too")
    capsys.readouterr()


def test_mistakes_are_told(few, runs, tmp_path, capsys):
    """Both flags, no time at all, a run twice, more folds than there are, corrections of other views: in words."""
    joint = str(runs / "joint")
    both = str(ff.make_ensemble([joint, runs / "apart"], out=tmp_path / "both", by="mean").run.folder.path)
    out = ["--out", str(tmp_path / "a.csv")]
    for arguments, code, words in [
        (["pick", *few, "--best", "--budget-ms", "3"], 2, "say one of them"),
        (["pick", *few, "--budget-ms", "0"], 2, "leaves no time at all"),
        (["pick", *few, few[0]], 2, "a run is given twice"),
        (["pick", *few, joint], 1, "cannot be compared: their classes differ"),
        (["predict", joint, "--folds", "9", *out], 2, "--folds 9"),
        (["predict", both, "--folds", "1", *out], 2, "its members answer, each with its own folds and views"),
        (["predict", joint, "--views", "hflip", "--set", "after.adjust=logit", *out], 2, "leave --views out"),
    ]:
        assert main(arguments) == code
        assert words in capsys.readouterr().err
