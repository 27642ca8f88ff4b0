"""Blank ages in a CSV, from `init` to `compare`: what is known of a sample is trained and scored, all three ways."""

import json
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import accuracy_score, f1_score

from finefold.cli.main import main
from finefold.data.samples import SampleTable
from finefold.steps.reading import read_data
from finefold.steps.run import open_run

WAYS = ("joint", "per_attribute", "separate")
NUM_BLANK, NUM_STRANGE = 36, 1
TUNED = """
[split]
folds = 2
[model]
engine = "torch"
precision = "fp32"
[[phase]]
trainable = "head"
until = "probe"
[[phase]]
trainable = "last:1"
until = "1 epochs"
[augment]
views = ["plain"]
mix = "mixup"
mix_share = 1.0
[scores]
resamples = 100
"""


@pytest.fixture(scope="module")
def data(portraits, tmp_path_factory) -> Path:
    """A data.toml of the portraits as a CSV says them: two shots of everyone without age, one without gender."""
    home = tmp_path_factory.mktemp("missing")
    rows = []
    for file in sorted((portraits / "train" / "images").glob("*/*.*")):
        _, gender, _, age = file.parent.name.rsplit("_", 3)
        shot = {"normal": "normal", "incorrect_mask": "incorrect"}.get(file.stem, "wear")
        is_blank = file.stem in ("mask4", "mask5")
        rows.append([f"{file.parent.name}/{file.name}", file.parent.name, shot, gender, None if is_blank else age])
    rows[0][3] = "?"
    assert "incorrect" in rows[0]
    pl.DataFrame(rows, ["path", "person", "mask", "gender", "age"], orient="row").write_csv(home / "labels.csv")
    (home / "data.toml").write_text(
        f"""
[samples]
root = "{portraits / "train" / "images"}"
csv = "labels.csv"
path = "path"
group = "person"
[attributes.mask]
classes = ["wear", "incorrect", "normal"]
[attributes.gender]
classes = ["male", "female"]
missing = ["?"]
[attributes.age]
bands = {{ "<30" = 30, "30-59" = 60, ">=60" = "inf" }}
missing = [""]
[label]
joint = ["mask", "gender", "age"]
"""
    )
    return home / "data.toml"


def train(data: Path, way: str, out: Path, *more: str) -> None:
    arguments = ["train", str(data), "--out", str(out), "--set", f"model.heads={way}", "--json", *more]
    assert main([*arguments, "--set", "split.folds=2", "--set", "scores.resamples=100"]) == 0


@pytest.fixture(scope="module")
def probes(data, tmp_path_factory) -> dict[str, Path]:
    """A probe of every way."""
    home = tmp_path_factory.mktemp("probes")
    for way in WAYS:
        train(data, way, home / way, "--set", "probe.strengths=[100.0]")
    return {way: home / way for way in WAYS}


def known(samples: SampleTable, name: str) -> np.ndarray:
    return samples.codes_NA[:, samples.space.names.index(name)]


def check_scores(run: Path, data: Path) -> None:
    """Every sample is in the ledger, and all scores are scikit-learn's on the rows that are known."""
    opened, samples = open_run(run), read_data(data).samples
    ledger, scores = opened.ledger(), opened.scores()
    assert ledger.predictions.ids == tuple(samples.ids)
    assert (ledger.labels_N < 0).sum() == NUM_BLANK + NUM_STRANGE
    assert scores["missing"] == {"gender": NUM_STRANGE, "age": NUM_BLANK}
    assert scores["n"] == 126 - NUM_BLANK - NUM_STRANGE
    for name, probs_NC in ledger.predictions.marginals(opened.space.attribute_table()).items():
        codes_N = known(samples, name)
        true, found = codes_N[codes_N >= 0], probs_NC.argmax(axis=1)[codes_N >= 0]
        assert scores["attributes"][name]["accuracy"]["n"] == len(true)
        assert scores["attributes"][name]["accuracy"]["value"] == pytest.approx(accuracy_score(true, found))
        assert scores["attributes"][name]["macro_f1"]["value"] == pytest.approx(f1_score(true, found, average="macro"))
    rows = samples.labels_N >= 0
    true, found = samples.labels_N[rows], ledger.predictions.codes_N[rows]
    assert scores["accuracy"]["value"] == pytest.approx(accuracy_score(true, found))


@pytest.mark.parametrize("way", WAYS)
def test_a_probe_is_scored_where_labels_are_known(way, probes, data):
    """Joint scores are of samples known whole, an attribute's of those where it is known; all are predicted."""
    check_scores(probes[way], data)


def test_heads_train_on_what_they_know(probes):
    """Heads per attribute and models per attribute are the same in a probe; a joint head is another."""
    tables = {way: pl.read_parquet(run / "oof.parquet").drop("label codes") for way, run in probes.items()}
    assert tables["per_attribute"].equals(tables["separate"])
    assert not tables["per_attribute"].equals(tables["joint"])


@pytest.mark.slow  # workers train folds; the losses of partial labels are tested by themselves
@pytest.mark.parametrize("way", ["per_attribute", "joint", "separate"])
def test_training_on_uses_partial_labels(way, data, tmp_path, capsys):
    """A stage trains from mixed images with gaps in their labels, all three ways, and says what becomes of them."""
    (tmp_path / "recipe.toml").write_text(TUNED)
    train(data, way, tmp_path / "run", "--recipe", str(tmp_path / "recipe.toml"))
    said = capsys.readouterr().err
    assert f"{NUM_BLANK} of 126 samples have no `age`: it is neither trained nor scored there" in said
    assert ("steps take them for all classes that they may be" in said) == (way == "joint")
    check_scores(tmp_path / "run", data)
    losses = [
        json.loads(line)["loss"]
        for log in tmp_path.glob("run/**/log.jsonl")
        for line in log.read_text().splitlines()
        if "norm" in line
    ]
    assert np.isfinite(losses).all()
    assert len(losses) > 0


def test_evaluate_says_what_is_missing(probes, capsys):
    """Tables are of whole labels, and each attribute with gaps is named with their number."""
    assert main(["evaluate", str(probes["per_attribute"])]) == 0
    said = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert f"out-of-fold scores, {126 - NUM_BLANK - NUM_STRANGE} samples in 18 groups" in said
    assert f"{NUM_BLANK} samples have no `age`: they count for the attributes they have" in said
    assert f"{NUM_STRANGE} samples have no `gender`" in said


def test_runs_with_gaps_are_compared(probes, capsys):
    """The ways are told beside each other on the rows that are known."""
    assert main(["compare", *(str(probes[way]) for way in ("joint", "per_attribute")), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["n"] == 126 - NUM_BLANK - NUM_STRANGE
    for one in found["ranking"]:
        scores = open_run(probes[one["run"]]).scores()
        assert one["accuracy"] == pytest.approx(scores["accuracy"]["value"])
        assert one["attributes"]["age"] == pytest.approx(scores["attributes"]["age"]["accuracy"]["value"])


def test_split_counts_partial_labels(data, tmp_path, capsys):
    """The table of folds has a row for each partial label beside the classes, spread evenly like them."""
    assert main(["split", str(data), "--folds", "2", "--out", str(tmp_path / "split.csv"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert sum(told["sizes"]) == 126
    first, second = told["classes"]["wear/male/(missing)"]
    assert (first + second, abs(first - second)) == (NUM_BLANK // 2, 2)  # of nine people with two each
    assert sum(map(sum, told["classes"].values())) == 126


def test_blanks_must_be_declared(data, tmp_path, capsys):
    """Without the declaration the same file is refused, and the hint says what to write."""
    text = data.read_text().replace('missing = [""]', "").replace('"labels.csv"', f'"{data.parent / "labels.csv"}"')
    (tmp_path / "data.toml").write_text(text)
    assert main(["split", str(tmp_path / "data.toml")]) == 1
    said = capsys.readouterr().err
    assert f"[attributes.age]: {NUM_BLANK} values are not numbers, e.g. (empty)" in said
    assert 'missing = [""]' in said


def test_init_declares_blanks(portraits, data, tmp_path, capsys):
    """`init` finds the CSV, declares the blanks of its columns and counts them."""
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "photos").symlink_to(portraits / "train" / "images")
    rows = pl.read_csv(data.parent / "labels.csv", infer_schema=False)
    old = (rows["age"].cast(pl.Int64) >= 45).cast(pl.String).replace({"true": "old", "false": "young"})
    rows.with_columns(path="photos/" + pl.col("path"), age=old, gender=rows["gender"].replace("?", "male")).write_csv(
        folder / "labels.csv"
    )
    assert main(["init", str(folder), "--out", str(tmp_path / "data.toml"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["missing"] == {"age": NUM_BLANK}
    assert read_data(tmp_path / "data.toml").samples.num_missing() == {"age": NUM_BLANK}


@pytest.mark.parametrize("way", ["joint", "per_attribute"])
def test_gaps_are_no_answers_in_any_table(way, probes, tmp_path, capsys):
    """Costs, certainty, curves, calibration and slices are of the samples that are known; pictures are drawn."""
    options = ["--by", "gender", "--by", "fold", "--pictures", str(tmp_path / "pictures"), "--json"]
    assert main(["evaluate", str(probes[way]), *options]) == 0
    found = json.loads(capsys.readouterr().out)
    num_whole = 126 - NUM_BLANK - NUM_STRANGE
    assert sum(one["count"] for one in found["calibration"]["curve"]) == num_whole
    assert all(sum(row["n"] for row in rows) == num_whole for rows in found["by"].values())
    ages = found["ranking"]["attributes"]["age"]
    assert sum(one["auc"]["n"] for one in ages.values()) == 126 - NUM_BLANK
    assert found["certainty"]["attributes"]["mask"]["wear"]["groups"] == 18
    assert (tmp_path / "pictures" / "reliability.svg").exists()
    assert main(["evaluate", str(probes[way])]) == 0
    capsys.readouterr()


def test_rules_and_pseudo_labels_live_with_gaps(probes, portraits, tmp_path, monkeypatch, capsys):
    """Pooling is measured on what is known, and pseudo-labelled rounds train beside partial labels."""
    from finefold.steps import pseudo

    run, images = str(probes["per_attribute"]), str(portraits / "eval" / "images")
    names = sorted(file.name for file in (portraits / "eval" / "images").iterdir())
    (tmp_path / "groups.csv").write_text("id,group\n" + "".join(f"{name},{name[:1]}\n" for name in names))
    options = ["--pool", "gender,age", "--groups", str(tmp_path / "groups.csv")]
    assert main(["predict", run, images, "--out", str(tmp_path / "answers.csv"), *options]) == 0
    assert "on the ledger" in capsys.readouterr().out
    monkeypatch.setattr(pseudo, "KEPT_FROM", 0.0)
    assert main(["pseudo", run, images, "--out", str(tmp_path / "second"), "--set", "pseudo.rounds=1"]) == 0
    assert "kept: " in capsys.readouterr().out
    assert open_run(tmp_path / "second").scores()["missing"] == {"gender": NUM_STRANGE, "age": NUM_BLANK}
