"""finefold runs."""

import json
import shutil

import pytest

from finefold.cli.main import main
from finefold.steps.ensemble import make_ensemble


def test_runs_are_listed_with_what_tells_them_apart(runs, capsys):
    """Best first, score with interval, minutes, date, and only the keys of recipes that differ."""
    assert main(["runs", str(runs)]) == 0
    said = capsys.readouterr()
    assert "3 runs by macro F1" in said.out
    assert 'model.heads="per_attribute"' in said.out
    assert "probe.strengths=[1e+06]" in said.out
    assert "seed" not in said.out
    assert not said.err


def test_numbers_are_those_of_the_runs(runs, capsys):
    """--json holds each run's own scores, in the order asked for; the commonest recipe differs in nothing."""
    assert main(["runs", str(runs), "--by", "log_loss", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    losses = [one["scores"]["log_loss"]["value"] for one in told["runs"]]
    assert losses == sorted(losses)
    for one in told["runs"]:
        scores = json.loads((runs / one["run"] / "scores.json").read_text())
        assert one["scores"]["macro_f1"] == scores["macro_f1"]
    assert {one["run"]: one["differs"] for one in told["runs"]}["joint"] == {}


def test_ensembles_unfinished_and_broken_runs_are_told(runs, tmp_path, capsys):
    """An ensemble says how it was made; unfinished runs are named; a broken one is a warning, and the rest is shown."""
    for name in ("joint", "apart", "weak"):
        shutil.copytree(runs / name, tmp_path / "deeper" / name)
    make_ensemble([tmp_path / "deeper" / "joint", tmp_path / "deeper" / "apart"], out=tmp_path / "both")
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "unfinished.json").write_text("{}")
    (tmp_path / "deeper" / "weak" / "scores.json").write_text("nonsense")
    assert main(["runs", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert "ensemble=greedy of joint 0." in said.out
    assert "deeper/joint" in said.out
    assert "unfinished: begun" in said.out
    assert "warning: deeper/weak: cannot read" in said.err


def test_other_splits_are_warned_of(runs, tmp_path, capsys):
    """Where runs have different splits, a column says which, and a warning that they cannot be compared."""
    for name in ("joint", "apart"):
        shutil.copytree(runs / name, tmp_path / name)
    manifest = json.loads((tmp_path / "apart" / "manifest.json").read_text())
    manifest["hashes"]["split"] = "0123456789abcdef"
    (tmp_path / "apart" / "manifest.json").write_text(json.dumps(manifest))
    assert main(["runs", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert "012345" in said.out
    assert "2 different splits: only runs of one split can be compared" in said.err


@pytest.mark.parametrize(("where", "told"), [("nowhere", "there is no folder"), ("", "no run in")])
def test_a_folder_without_runs_exits_1(tmp_path, capsys, where, told):
    """A folder that is missing or holds no run is an error with what to do."""
    assert main(["runs", str(tmp_path / where)]) == 1
    said = capsys.readouterr().err
    assert told in said
    assert "hint: " in said
