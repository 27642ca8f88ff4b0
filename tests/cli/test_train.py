"""finefold train."""

import json
from pathlib import Path

import pytest

from finefold.cli.main import main
from finefold.steps.init import init
from finefold.steps.split import split

QUICK = ["--set", "probe.strengths=[100.0]"]


@pytest.fixture
def data(shapes, tmp_path) -> Path:
    """A data.toml with its split beside it."""
    split(init(shapes, out=tmp_path / "data.toml").data, folds=3)
    return tmp_path / "data.toml"


def mistake(arguments: list[str], capsys, *, code: int) -> str:
    """What a refused command says on stderr, once it has exited with `code` and said nothing on stdout."""
    assert main(["train", *arguments]) == code
    said = capsys.readouterr()
    assert not said.out
    assert "error: " in said.err
    assert "Traceback" not in said.err
    return said.err


def test_scores_go_to_stdout_and_progress_to_stderr(data, capsys):
    """stdout has the scores, the run and what to do next; stages and the split used are on stderr."""
    out = data.parent / "run"
    assert main(["train", str(data), "--out", str(out), *QUICK]) == 0
    said = capsys.readouterr()
    assert "macro F1" in said.out
    assert f"next: finefold evaluate {out}" in said.out
    assert f"split: {data.with_name('data.split.csv')}, 3 folds" in said.err
    assert "features: 48 images" in said.err
    assert "heads: " in said.err


def test_json_has_run_seconds_and_scores(data, capsys):
    """--json is the run's place, its seconds and all scores."""
    assert main(["train", str(data), "--out", str(data.parent / "run"), "--json", *QUICK]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["run"] == str(data.parent / "run")
    assert told["scores"]["accuracy"]["value"] > 0.9
    assert told["seconds"] > 0


@pytest.mark.parametrize(("verb", "out"), [("train", "run"), ("show", "sheet.png")])
def test_a_centre_that_cuts_nothing_is_told(verb, out, data, capsys):
    """A centre as large as every image is a line; one that cuts something is none."""
    told = "image.centre = [64, 80] cuts nothing: the images are at most 64 px high and 64 px wide (48 looked at)"
    for number, centre in enumerate(([64, 80], [64, 63])):
        place = data.parent / f"{number}-{out}"
        assert main([verb, str(data), "--out", str(place), "--set", f"image.centre={centre}", *QUICK]) == 0
        said = capsys.readouterr().err
        assert (told in said, "cuts nothing" in said) == ((True, True) if number == 0 else (False, False))


def test_what_is_set_lands_in_the_run(data, capsys):
    """--set changes the recipe that is written into the run."""
    arguments = ["--set", "seed=7", "--set", "scores.resamples=200", *QUICK]
    assert main(["train", str(data), "--out", str(data.parent / "run"), *arguments]) == 0
    recipe = (data.parent / "run" / "recipe.toml").read_text()
    assert "seed = 7" in recipe
    assert "resamples = 200" in recipe
    capsys.readouterr()


def test_a_misspelt_key_exits_2_with_the_nearest(data, capsys):
    """An unknown recipe key names the key that was probably meant; all mistakes are told at once."""
    arguments = ["--set", "model.bakbone=resnet18", "--set", "probe.power=2", "--out", str(data.parent / "run")]
    said = mistake([str(data), *arguments], capsys, code=2)
    assert "recipe `probe` has 2 mistakes" in said
    assert "unknown key `model.bakbone`: did you mean `model.backbone`?" in said
    assert "`probe.power`: input should be less than or equal to 1, got 2" in said
    assert not (data.parent / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--recipe", "prob"], "there is no recipe `prob`\n\nhint: did you mean `probe`?"),
        (["--recipe", "no.toml"], "cannot read no.toml"),
        (["--set", "model.heads"], "`model.heads` is not an override"),
        (["--set", "seed=1", "--set", "seed.x=1"], "`seed.x`: `seed` is a value, not a table"),
        (["--set", "model.heads=per_atribute"], "did you mean `per_attribute`?"),
        (["--set", "model.backbone=resnet18"], 'model.weights = "embedded"'),
        (["--set", "probe.strengths=[1, -1]"], "needs different numbers above 0"),
    ],
)
def test_recipe_mistakes_exit_2(arguments, told, data, capsys):
    """A recipe that is missing or impossible exits 2 and says what would do."""
    assert told in mistake([str(data), "--out", str(data.parent / "run"), *arguments], capsys, code=2)


def test_a_finished_run_is_not_overwritten(data, capsys):
    """A folder with a finished run, or with other files, is refused and left alone."""
    out = data.parent / "run"
    assert main(["train", str(data), "--out", str(out), *QUICK]) == 0
    capsys.readouterr()
    before = (out / "manifest.json").read_bytes()
    assert "holds a finished run\n\nhint: choose another --out" in mistake(
        [str(data), "--out", str(out), *QUICK], capsys, code=1
    )
    assert (out / "manifest.json").read_bytes() == before
    (data.parent / "letters").mkdir()
    (data.parent / "letters" / "a.txt").write_text("dear")
    assert "exists and is not a run" in mistake([str(data), "--out", str(data.parent / "letters")], capsys, code=1)
    assert [file.name for file in (data.parent / "letters").iterdir()] == ["a.txt"]


def test_a_split_that_leaks_a_group_is_refused(portraits, tmp_path, capsys):
    """A split with one person in two folds exits 1, names the person, and makes no run."""
    made = split(init(portraits, out=tmp_path / "data.toml").data, folds=3, out=tmp_path / "split.csv")
    first, *rest = (tmp_path / "split.csv").read_text().splitlines()
    name, fold, group = rest[0].split(",")
    for lines in ([first, f"{name},{(int(fold) + 1) % 3},{group}", *rest[1:]], _without_group(first, rest)):
        (tmp_path / "leaky.csv").write_text("\n".join(lines) + "\n")
        arguments = [str(tmp_path / "data.toml"), "--split", str(tmp_path / "leaky.csv"), "--out", str(tmp_path / "x")]
        said = mistake(arguments, capsys, code=1)
        assert "1 group is in more than one fold" in said
        assert group in said
        assert not (tmp_path / "x").exists()
    assert made.split.num_folds == 3


def _without_group(first: str, rest: list[str]) -> list[str]:
    """The same leak in a file that does not say the groups."""
    rows = [line.split(",")[:2] for line in [first, *rest]]
    rows[1][1] = str((int(rows[1][1]) + 1) % 3)
    return [",".join(row) for row in rows]


def test_a_split_of_other_samples_is_refused(data, capsys):
    """Unknown ids and missing samples are told together, with what to do."""
    file = data.with_name("data.split.csv")
    text = file.read_text()
    file.write_text(text.replace("disc/00.png", "disc/who.png"))
    said = mistake([str(data), "--out", str(data.parent / "run")], capsys, code=1)
    assert "1 id of the split not among the samples: `disc/who.png`" in said
    assert "1 sample not in the split: `disc/00.png`" in said


def test_folds_of_recipe_and_split_must_agree(data, capsys):
    """A recipe that asks for another number of folds than the split has is told so."""
    arguments = [str(data), "--out", str(data.parent / "run"), "--set", "split.folds=4"]
    assert "the recipe asks for split.folds = 4, and" in mistake(arguments, capsys, code=1)


def test_a_missing_split_is_told(data, capsys):
    """A --split that is not there is an error that names it."""
    arguments = [str(data), "--out", str(data.parent / "run"), "--split", "gone.csv"]
    assert "gone.csv" in mistake(arguments, capsys, code=1)


def test_a_tracker_that_is_not_there_exits_2(data, capsys):
    """A misspelt tracker is told before anything is read or written."""
    arguments = [str(data), "--out", str(data.parent / "run"), "--track", "tensorbord"]
    assert "did you mean `tensorboard`?" in mistake(arguments, capsys, code=2)
    assert not (data.parent / "run").exists()


def test_images_that_are_gone_are_told(shapes, tmp_path, capsys):
    """Where no image can be read, the error shows one and its reason, and no run is made."""
    import shutil

    shutil.copytree(shapes, tmp_path / "set")
    init(tmp_path / "set", out=tmp_path / "data.toml")
    for file in (tmp_path / "set").rglob("*.png"):
        file.write_bytes(b"")
    said = mistake([str(tmp_path / "data.toml"), "--out", str(tmp_path / "run")], capsys, code=1)
    assert "none of the 48 images can be read, e.g. `disc/00.png`: empty file" in said
    assert not (tmp_path / "run").exists()


def test_an_engine_may_be_chosen(data, capsys):
    """model.engine and model.precision are used, and are part of the run's provenance."""
    arguments = ["--set", "model.engine=torch", "--set", "model.precision=fp32", *QUICK]
    assert main(["train", str(data), "--out", str(data.parent / "run"), *arguments]) == 0
    assert "torch fp32" in capsys.readouterr().out
    manifest = json.loads((data.parent / "run" / "manifest.json").read_text())
    assert manifest["engine"] == {"name": "torch", "precision": "fp32", "choice": "asked for"}
