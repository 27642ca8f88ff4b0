"""finefold recipe."""

import json

import pytest

from finefold.cli.main import main
from finefold.recipe.loader import load_recipe, preset_names, preset_text
from finefold.steps.init import init
from finefold.steps.split import split


def told(capsys, *arguments: object) -> tuple[dict, str]:
    """What `recipe explain --json` says on stdout, and its stderr."""
    assert main(["recipe", "explain", *map(str, arguments), "--json"]) == 0
    said = capsys.readouterr()
    return json.loads(said.out), said.err


def test_list_names_every_preset(capsys):
    """`recipe list` has a line for each preset with what it is for."""
    assert main(["recipe", "list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in found] == preset_names()
    assert all(one["about"] for one in found)
    assert main(["recipe", "list"]) == 0
    assert "The head first, then the last three stages" in capsys.readouterr().out


def test_every_value_is_printed_with_source_and_reason(capsys):
    """`recipe explain` shows each value, where it came from and why, grouped by table."""
    assert main(["recipe", "explain", "quick", "--set", "train.batch_size=64"]) == 0
    said = capsys.readouterr()
    assert 'trainable = "last:3"  (preset quick)' in said.out
    assert "batch_size = 64  (--set)\n      small enough" in said.out
    assert "accumulate = 1  (default)" in said.out
    assert not said.err


def test_a_recipe_is_shown_as_a_file(tmp_path, capsys):
    """`recipe show` prints a preset as it is written, comments too; with --set every value, which is a recipe again."""
    assert main(["recipe", "show", "quick"]) == 0
    assert capsys.readouterr().out == preset_text("quick")
    assert main(["recipe", "show", "quick", "--set", "phase.2.lr=0.5"]) == 0
    file = tmp_path / "mine.toml"
    file.write_text(capsys.readouterr().out)
    assert load_recipe(str(file)) == load_recipe("quick", ["phase.2.lr=0.5"])
    assert main(["recipe", "explain", "quick", "--set", "phase.2.lr=0.5"]) == 0
    assert "lr = 0.5  (--set)" in capsys.readouterr().out
    assert main(["recipe", "show", "quik"]) == 2
    assert "did you mean `quick`?" in capsys.readouterr().err


def test_data_says_what_its_size_means(shapes, tmp_path, capsys):
    """With --data: images per class, groups, rows of a fold, steps of an epoch and of every phase."""
    init(shapes, out=tmp_path / "data.toml")
    seen, said = told(capsys, "quick", "--data", tmp_path / "data.toml", "--set", "split.folds=4")
    assert not said
    size = seen["data"]
    assert (size["samples"], size["groups"], size["folds"]) == (48, 48, 4)
    assert (size["least"], size["median"]) == (24, 24)
    assert (size["rows"], size["steps_per_epoch"], size["phase_steps"]) == (36, 2, [0, 24])
    assert main(["recipe", "explain", "quick", "--data", str(tmp_path / "data.toml")]) == 0
    assert "images per class: least 24" in capsys.readouterr().out


def test_folds_come_from_the_split_beside_the_data(shapes, tmp_path, capsys):
    """Where a split lies beside data.toml, split.folds is its number and says that it came from there."""
    split(init(shapes, out=tmp_path / "data.toml").data, folds=3)
    seen, _ = told(capsys, "probe", "--data", tmp_path / "data.toml")
    value = next(one for one in seen["values"] if one["key"] == "split.folds")
    assert value["value"] == 3
    assert value["source"] == f"data: {tmp_path / 'data.split.csv'}"


def sides(folder, counts: dict[str, int]):
    """A data.toml of classes with so many images each; their bytes do not matter."""
    for name, count in counts.items():
        (folder / "set" / name).mkdir(parents=True)
        for number in range(count):
            (folder / "set" / name / f"{number}.png").write_bytes(b"")
    (folder / "data.toml").write_text(
        '[samples]\nroot = "set"\ntemplate = "{which}/{number}.png"\n[attributes.which]\nclasses = ['
        + ", ".join(f'"{name}"' for name in counts)
        + "]\n"
    )
    return folder / "data.toml"


def test_what_does_not_suit_the_data_is_warned_of(tmp_path, capsys):
    """Batches above the rows, scarce classes, and flips of left and right are told, each with the numbers."""
    data = sides(tmp_path, {"left": 20, "right": 60, "lost": 3})
    overrides = ["--set", "split.folds=2", "--set", "train.batch_size=99", "--set", "augment.classes.gone=light"]
    overrides += ["--set", "augment.classes.l*=light", "--set", "loss.balance=none"]
    _, said = told(capsys, "quick", "--data", data, *overrides)
    assert "warning: train.batch_size = 99 is above the" in said
    assert "class `lost` has 3 samples and the largest 60" in said
    assert "augment.views has hflip, and class `left` says which side: left" in said
    assert "predict.views has hflip, and class `right` says which side: right" in said
    assert "augment.classes names `gone`, which is no class" in said
    assert "names `l*`" not in said
    _, said = told(capsys, "quick", "--data", data, *overrides[:2], "--set", 'augment.views=["plain"]')
    assert "augment.views" not in said


def test_a_class_smaller_than_the_folds_is_told(tmp_path, capsys):
    """A class with fewer samples than folds is named."""
    _, said = told(capsys, "probe", "--data", sides(tmp_path, {"a": 20, "b": 3}))
    assert "warning: class `b` has 3 samples, fewer than the 5 folds" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["quik"], "did you mean `quick`?"),
        (["quick", "--set", "train.bach_size=1"], "did you mean `train.batch_size`?"),
        (["none.toml"], "cannot read none.toml"),
    ],
)
def test_mistakes_exit_2(arguments, said, capsys):
    """An unknown recipe, file or key exits 2 with what was meant."""
    assert main(["recipe", "explain", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_data_that_is_not_there_exits_1(capsys):
    """A data.toml that cannot be read is an error of the data."""
    assert main(["recipe", "explain", "quick", "--data", "no.toml"]) == 1
    assert "no.toml" in capsys.readouterr().err
