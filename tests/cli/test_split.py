"""finefold split."""

import json
from pathlib import Path

import polars as pl
import pytest

from finefold.cli.main import main
from finefold.steps.init import init


@pytest.fixture
def data(shapes, tmp_path) -> Path:
    init(shapes, out=tmp_path / "data.toml")
    return tmp_path / "data.toml"


def test_it_writes_beside_data_toml_and_shows_the_balance(data, capsys):
    """By default the split lies beside data.toml; a table shows samples per fold and class."""
    assert main(["split", str(data), "--folds", "4"]) == 0
    said = capsys.readouterr()
    file = data.with_name("data.split.csv")
    assert f"wrote {file} (hash " in said.out
    assert f"next: finefold train {data} --recipe probe --out runs/first" in said.out
    assert "samples per fold" in said.out
    assert "disc" in said.out
    table = pl.read_csv(file)
    assert table.columns == ["id", "fold", "group"]
    assert table["fold"].value_counts()["count"].to_list() == [12] * 4


def test_what_could_not_be_reached_is_told(portraits, tmp_path, capsys):
    """Three people for five folds: the classes that some folds lack are named, people stay whole, exit 0."""
    init(portraits, out=tmp_path / "data.toml")
    assert main(["split", str(tmp_path / "data.toml"), "--folds", "5"]) == 0
    said = capsys.readouterr().out
    assert "not reached: class `wear/male/<30` has 3 groups for 5 folds" in said


def test_json_says_the_same(data, capsys):
    """--json has the file, its hash, sizes and counts per class and fold."""
    assert main(["split", str(data), "--folds", "3", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["folds"], told["sizes"]) == (3, [16, 16, 16])
    assert told["classes"] == {"disc": [8, 8, 8], "square": [8, 8, 8]}
    assert told["unreached"] == []
    assert len(told["hash"]) == 16


def test_a_seed_repeats_and_another_differs(data, tmp_path, capsys):
    """The same seed gives the same bytes; another seed another split."""
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert main(["split", str(data), "--seed", str(seed), "--out", str(tmp_path / "splits" / f"{name}.csv")]) == 0
    first, again, other = ((tmp_path / "splits" / f"{name}.csv").read_bytes() for name in "abc")
    assert first == again != other
    capsys.readouterr()


def test_another_split_is_not_written_over(data, capsys):
    """A split file that holds another split stays; the same split again is fine."""
    assert main(["split", str(data), "--seed", "1"]) == 0
    assert main(["split", str(data), "--seed", "1"]) == 0
    before = data.with_name("data.split.csv").read_bytes()
    capsys.readouterr()
    assert main(["split", str(data), "--seed", "2"]) == 1
    said = capsys.readouterr()
    assert "holds another split of the same samples" in said.err
    new = data.with_name("data.split.new.csv")
    anew = f"`finefold split {data} --folds 5 --seed 2 --out {new}`, then `finefold train {data} --split {new}`"
    assert anew in said.err
    assert not said.out
    assert data.with_name("data.split.csv").read_bytes() == before


def test_excluded_samples_leave_the_others_their_folds(data, tmp_path, capsys):
    """What data.toml excludes after the split was made: training takes the split less that; the file stays as it is."""
    assert main(["split", str(data), "--folds", "2"]) == 0
    before = data.with_name("data.split.csv").read_bytes()
    (tmp_path / "out.csv").write_text("id,reason\ndisc/03.png,copy\nsquare/04.png,copy\n")
    data.write_text(data.read_text().replace("[samples]\n", '[samples]\nexclude = "out.csv"\n'))
    capsys.readouterr()
    assert main(["train", str(data), "--recipe", "probe", "--out", str(tmp_path / "run")]) == 0
    assert "data.split.csv, 2 folds, less 2 samples that data.toml excludes" in capsys.readouterr().err
    old, used = (pl.read_csv(file, columns=["id", "fold"]) for file in (before, tmp_path / "run" / "split.csv"))
    assert used.sort("id").equals(old.filter(~pl.col("id").is_in(["disc/03.png", "square/04.png"])).sort("id"))
    assert main(["recipe", "explain", "quick", "--data", str(data)]) == 0
    assert main(["split", str(data), "--folds", "2"]) == 1
    said = capsys.readouterr().err
    assert "is there and fits, less 2 samples that data.toml excludes: training takes it so" in said
    assert "nothing is to be done" in said and "--out" in said
    assert data.with_name("data.split.csv").read_bytes() == before


def test_a_split_of_other_samples_names_the_commands(data, tmp_path, capsys):
    """Ids that are no samples, excluded or not, are an error of training and of the split that is to replace it."""
    file = data.with_name("data.split.csv")
    assert main(["split", str(data), "--folds", "2"]) == 0
    file.write_text(file.read_text().replace("disc/03.png", "disc/99.png"))
    capsys.readouterr()
    assert main(["train", str(data), "--recipe", "probe", "--out", str(tmp_path / "run")]) == 1
    said = capsys.readouterr().err
    assert "1 id of the split not among the samples: `disc/99.png`" in said
    assert "`finefold split DATA.toml --out NEW.csv`, then `finefold train DATA.toml --split NEW.csv`" in said
    assert main(["split", str(data), "--folds", "2"]) == 1
    said = capsys.readouterr().err
    assert "holds another split, which does not fit the samples" in said
    assert f"--split {tmp_path / 'data.split.new.csv'}" in said


@pytest.mark.parametrize(("folds", "said"), [("1", "cannot split into 1 fold"), ("60", "60 folds")])
def test_impossible_numbers_of_folds_exit_1(data, folds, said, capsys):
    """Fewer than two folds, or more than there are samples, are errors that say what would do."""
    assert main(["split", str(data), "--folds", folds]) == 1
    told = capsys.readouterr().err
    assert "error: " in told
    assert said in told
    assert "hint: " in told


def test_a_missing_or_broken_data_toml_exits_1(data, capsys):
    """A data.toml that is missing, malformed or has an unknown key is told with the nearest known key."""
    assert main(["split", str(data.with_name("no.toml"))]) == 1
    assert "error: cannot read" in capsys.readouterr().err
    text = data.read_text()
    data.write_text(text.replace("class_folders", "class_foldres"))
    assert main(["split", str(data)]) == 1
    said = capsys.readouterr().err
    assert "unknown key `samples.class_foldres`: did you mean `samples.class_folders`?" in said
    data.write_text("[samples")
    assert main(["split", str(data)]) == 1
    assert "is not valid TOML" in capsys.readouterr().err
