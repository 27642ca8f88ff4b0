"""finefold compare."""

import json
import shutil

import numpy as np
import polars as pl
import pytest

from finefold.cli.main import main
from finefold.steps.compare import compare
from finefold.steps.reading import read_data
from finefold.steps.train import train


def test_two_runs_side_by_side(runs, capsys):
    """Scores, attributes and classes of both, the samples that only one has right, and a verdict."""
    assert main(["compare", str(runs / "weak"), str(runs / "apart")]) == 0
    said = capsys.readouterr()
    assert not said.err
    for part in ("runs by macro F1, 126 samples in 18 groups", "apart less weak", "mask accuracy", "F1 per class"):
        assert part in said.out
    assert "right in apart alone: " in said.out
    assert "by macro F1, apart is better (p < 0.001)" in said.out


def test_numbers_are_the_ledgers(runs, capsys):
    """The differences are those of the ledgers' own scores; the flipped samples are right in one run alone."""
    assert main(["compare", str(runs / "weak"), str(runs / "joint"), "--by", "accuracy", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    pair = told["pairs"][0]
    scores, right = {}, {}
    for name in ("weak", "joint"):
        scores[name] = json.loads((runs / name / "scores.json").read_text())
        ledger = pl.read_parquet(runs / name / "oof.parquet")
        classes = [column for column in ledger.columns if column not in ("id", "fold", "group", "label")]
        found = np.asarray(classes)[ledger.select(classes).to_numpy().argmax(axis=1)]
        right[name] = {
            one for one, is_right in zip(ledger["id"], found == ledger["label"].to_numpy(), strict=True) if is_right
        }
    first, second = pair["first"], pair["second"]
    assert {first, second} == {"weak", "joint"}
    for key, sign in (("accuracy", 1), ("macro_f1", 1), ("log_loss", -1)):
        expected = sign * (scores[second][key]["value"] - scores[first][key]["value"])
        assert pair["scores"][key]["value"] == pytest.approx(expected)
    assert set(pair["only_second"]) == right[second] - right[first]
    assert set(pair["only_first"]) == right[first] - right[second]
    ranked = [scores[one["run"]]["accuracy"]["value"] for one in told["ranking"]]
    assert len(ranked) == 2 and ranked == sorted(ranked, reverse=True)


def test_more_runs_are_ranked_and_corrected(runs, capsys):
    """Three runs: a ranking, every pair with a corrected p-value, and whether it can be told apart."""
    everything = [str(runs / name) for name in ("joint", "weak", "apart")]
    assert main(["compare", *everything]) == 0
    assert "corrected for 3 comparisons" in capsys.readouterr().out
    found = compare(everything)
    assert [pair.is_told_apart for pair in found.pairs if "weak" in (pair.first, pair.second)] == [True, True]
    alone = compare([runs / "joint", runs / "apart"]).pairs[0]
    pair = next(one for one in found.pairs if "weak" not in (one.first, one.second))
    assert pair.p_value >= alone.p_value
    assert pair.scores == alone.scores


def test_another_split_is_refused(runs, tmp_path, capsys):
    """Runs of different splits exit with 1, and the reason is told."""
    train(read_data(runs / "data.toml"), overrides=["split.folds=2"], out=tmp_path / "two")
    assert main(["compare", str(runs / "joint"), str(tmp_path / "two")]) == 1
    said = capsys.readouterr().err
    assert "`joint` and `two` cannot be compared: they have different splits" in said
    assert "--split FILE" in said


def test_other_labels_are_refused(runs, tmp_path, capsys):
    """A ledger with another label for a sample is not compared, and the sample is named."""
    shutil.copytree(runs / "joint", tmp_path / "other")
    ledger = pl.read_parquet(tmp_path / "other" / "oof.parquet")
    labels = ledger["label"].to_list()
    labels[0] = next(name for name in ledger.columns if "/" in name and name != labels[0])
    ledger.with_columns(pl.Series("label", labels)).write_parquet(tmp_path / "other" / "oof.parquet")
    assert main(["compare", str(runs / "joint"), str(tmp_path / "other")]) == 1
    assert f"1 sample with another evaluation label, e.g. `{ledger['id'][0]}`" in capsys.readouterr().err


@pytest.mark.parametrize(("count", "message"), [(1, "nothing to compare"), (2, "given twice")])
def test_one_run_is_no_comparison(runs, capsys, count, message):
    """One run, or the same run twice, is a usage mistake."""
    assert main(["compare", *[str(runs / "joint")] * count]) == 2
    assert message in capsys.readouterr().err
