"""finefold evaluate."""

import json
import shutil
from pathlib import Path

import pytest

from finefold.cli.main import main


def test_tables_show_every_breakdown(job, capsys):
    """Overall scores with intervals, then per attribute, class and fold, and where the pictures are."""
    assert main(["evaluate", str(job.run)]) == 0
    said = capsys.readouterr()
    assert not said.err
    scores = json.loads(job.evaluate.stdout)
    f1 = scores["macro_f1"]
    assert f"{f1['value']:.3f}  [{f1['low']:.3f}, {f1['high']:.3f}]" in said.out
    for title in ("out-of-fold scores, 126 samples in 18 groups", "per attribute", "per class", "per fold"):
        assert title in said.out
    assert all(name in said.out for name in scores["classes"])
    for fold in scores["folds"]:
        assert f"{fold['n']}" in said.out
        assert f"{fold['log_loss']:.3f}" in said.out
    assert "would add" in said.out
    assert "confusions that cost macro F1 most" in said.out
    assert f"expected calibration error   {scores['calibration']['ece']['value']:.3f}" in said.out
    assert sum(one["count"] for one in scores["calibration"]["curve"]) == 126


def test_the_dearest_class_is_told_in_a_sentence(job, capsys):
    """The class whose recall is worth most is named with its recall, the mean, and what it would add."""
    assert main(["evaluate", str(job.run), "--json"]) == 0
    costs = json.loads(capsys.readouterr().out)["costs"]
    known = [
        *costs["classes"].values(),
        *(one for part in costs["attributes"].values() for one in part["classes"].values()),
    ]
    best = max((one for one in known if one), key=lambda one: one["gain"])
    assert main(["evaluate", str(job.run)]) == 0
    said = capsys.readouterr().out
    assert (
        f"recall from {best['recall']:.3f} to the mean {best['mean_recall']:.3f} would add {best['gain']:.3f}" in said
    )
    assert "macro F1" in costs["definition"]


def test_errors_by_columns(job, capsys):
    """--by breaks errors down by fold, file measures, group sizes, attributes and columns of the data source."""
    columns = ["fold", "width", "brightness", "group-size", "gender", "race"]
    assert main(["evaluate", str(job.run), "--json", *(part for name in columns for part in ("--by", name))]) == 0
    by = json.loads(capsys.readouterr().out)["by"]
    assert list(by) == columns
    for rows in by.values():
        assert sum(row["n"] for row in rows) == 126
        assert all(row["accuracy"]["low"] <= row["accuracy"]["value"] <= row["accuracy"]["high"] for row in rows)
    assert [row["value"] for row in by["fold"]] == ["0", "1", "2"]
    assert [row["value"] for row in by["group-size"]] == ["7"]
    assert len(by["brightness"]) == 5
    assert main(["evaluate", str(job.run), "--by", "gender"]) == 0
    assert "by gender" in capsys.readouterr().out


def test_an_unknown_column_exits_2(job, capsys):
    """A column that neither the run nor its source has is a usage mistake that names those there are."""
    assert main(["evaluate", str(job.run), "--by", "source"]) == 2
    said = capsys.readouterr()
    assert "the samples have no source" in said.err and "source" not in said.err.partition("hint: ")[2]
    assert main(["evaluate", str(job.run), "--by", "agee"]) == 2
    assert "did you mean `age`?" in capsys.readouterr().err
    assert main(["evaluate", str(job.run), "--by", "colour"]) == 2
    said = capsys.readouterr()
    assert "there is no column `colour`" in said.err
    assert "group-size" in said.err
    assert "race" in said.err
    assert not said.out


def test_images_that_were_moved_are_counted(job, tmp_path, capsys):
    """Samples that the source no longer lists have an unknown value, and how many they are is said."""
    shutil.copytree(job.run, tmp_path / "run")
    text = (tmp_path / "run" / "data.toml").read_text()
    root = next(line for line in text.splitlines() if line.startswith("root"))
    shutil.copytree(Path(root.partition(" = ")[2].strip('"')), tmp_path / "images")
    moved = sorted((tmp_path / "images").iterdir())[0]
    num_moved = len(list(moved.iterdir()))
    shutil.rmtree(moved)
    (tmp_path / "run" / "data.toml").write_text(text.replace(root, f'root = "{tmp_path / "images"}"', 1))
    assert main(["evaluate", str(tmp_path / "run"), "--by", "race"]) == 0
    said = capsys.readouterr()
    assert f"{num_moved} of 126 samples are no longer in the data's source: their race is unknown" in said.err
    assert "(unknown)" in said.out


def test_a_source_that_is_gone_is_told(job, tmp_path, capsys):
    """Where the data source is gone, columns of it are an error in words, and the run's own still work."""
    shutil.copytree(job.run, tmp_path / "run")
    text = (tmp_path / "run" / "data.toml").read_text()
    root = next(line for line in text.splitlines() if line.startswith("root"))
    (tmp_path / "run" / "data.toml").write_text(text.replace(root, f'root = "{tmp_path / "gone"}"', 1))
    assert main(["evaluate", str(tmp_path / "run"), "--by", "race"]) == 1
    assert "`race` is no column that the run keeps, and its data source cannot be read" in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path / "run"), "--by", "gender"]) == 0
    capsys.readouterr()


def test_pictures_go_to_a_folder(job, tmp_path, capsys):
    """--pictures draws confusions, bars and curves, of every attribute too; never into the run."""
    before = sorted(job.run.rglob("*"))
    assert main(["evaluate", str(job.run), "--pictures", str(tmp_path / "pictures")]) == 0
    said = capsys.readouterr().out
    names = {file.name for file in (tmp_path / "pictures").iterdir()}
    assert names >= {
        "confusion.svg",
        "classes.svg",
        "reliability.svg",
        "curves.svg",
        "curves-age.svg",
        "confusion-gender.svg",
    }
    assert f"pictures: {tmp_path / 'pictures' / 'confusion.svg'}" in said
    assert main(["evaluate", str(job.run), "--pictures", str(job.run)]) == 1
    assert "the run's own folder" in capsys.readouterr().err
    assert sorted(job.run.rglob("*")) == before


def test_a_say_of_the_held_out_samples_stands_beside_the_scores(job, tmp_path, capsys):
    """Where the epoch was chosen on the fold itself, the scores say so; for the probe they do not."""
    assert main(["evaluate", str(job.run)]) == 0
    assert "flatter" not in capsys.readouterr().out
    shutil.copytree(job.run, tmp_path / "run")
    recipe = (tmp_path / "run" / "recipe.toml").read_text().replace('keep = "last"', 'keep = "best"')
    recipe = recipe.replace('until = "probe"', 'until = "1 epochs"')
    (tmp_path / "run" / "recipe.toml").write_text(recipe)
    assert main(["evaluate", str(tmp_path / "run")]) == 0
    told = capsys.readouterr().out
    assert "these scores flatter a little: each fold keeps the epoch that is best on the samples it holds out" in told


def test_a_long_list_of_absent_classes_leaves_the_numbers_standing(portraits, tmp_path, capsys):
    """Where folds lack many classes, the table names them all and still shows every fold's scores."""
    from finefold.steps.init import init
    from finefold.steps.train import train

    data = init(portraits, out=tmp_path / "data.toml").data
    train(data, overrides=["split.folds=6", "probe.strengths=[100.0]"], out=tmp_path / "run")
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "run"), "--json"]) == 0
    folds = json.loads(capsys.readouterr().out)["folds"]
    assert main(["evaluate", str(tmp_path / "run")]) == 0
    table = capsys.readouterr().out.partition("per fold")[2]
    for fold in folds:
        row = next(line for line in table.splitlines() if line.split()[:1] == [str(fold["fold"])])
        assert row.split()[1:5] == [
            str(fold["n"]),
            *(f"{fold[key]:.3f}" for key in ("accuracy", "macro_f1", "log_loss")),
        ]
        assert all(name.split("/")[0] in table for name in fold["absent"])


def test_json_has_every_score_with_its_interval(job, capsys):
    """--json gives {value, low, high, n} for each score, and classes, attributes and folds broken down."""
    assert main(["evaluate", str(job.run), "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert set(scores["macro_f1"]) == {"value", "low", "high", "n"}
    assert set(scores["attributes"]) == {"mask", "gender", "age"}
    assert len(scores["classes"]) == 18
    assert len(scores["folds"]) == 3


@pytest.mark.parametrize("kind", ["nothing", "empty", "file"])
def test_what_is_no_run_exits_1(kind, tmp_path, capsys):
    """A path that is missing, an empty folder or a file is no run, in words."""
    path = tmp_path / "run"
    if kind == "empty":
        path.mkdir()
    if kind == "file":
        path.write_text("hello")
    assert main(["evaluate", str(path)]) == 1
    said = capsys.readouterr()
    assert said.err.startswith("error: ")
    assert "is not a finished run" in said.err if kind == "empty" else "there is no run at" in said.err
    assert "hint: give the folder that `finefold train --out` wrote" in said.err
    assert not said.out


@pytest.mark.parametrize("name", ["oof.parquet", "manifest.json", "recipe.toml", "data.toml"])
@pytest.mark.parametrize("damage", ["gone", "garbage"])
def test_a_damaged_run_is_told(name, damage, job, tmp_path, capsys):
    """A run one of whose files is missing or broken is an error that names it, never a traceback."""
    shutil.copytree(job.run, tmp_path / "run")
    if damage == "gone":
        (tmp_path / "run" / name).unlink()
    else:
        (tmp_path / "run" / name).write_text("{[")
    code = main(["evaluate", str(tmp_path / "run")])
    said = capsys.readouterr()
    assert code in (1, 2)
    assert "error: " in said.err
    assert name in said.err or "is not a finished run" in said.err
    assert not said.out


def test_what_each_view_adds(tuned_runs, capsys):
    """--views asks the folds' models again: x, each line adds to the last."""
    run = tuned_runs / "first"
    assert main(["evaluate", str(run), "--views", "recipe", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    lines = found["views"]["lines"]
    assert [line["views"] for line in lines] == [["plain"], ["plain", "hflip"]]
    assert lines[-1]["log_loss"]["value"] == pytest.approx(found["log_loss"]["value"], abs=1e-6)
    assert lines[0]["gain"] == {}
    gap = lines[0]["log_loss"]["value"] - lines[1]["log_loss"]["value"]
    assert lines[1]["gain"]["log_loss"]["value"] == pytest.approx(gap)
    assert main(["evaluate", str(run), "--views", "hflip,vflip"]) == 0
    said = capsys.readouterr().out
    assert "what each view adds to those before it, out of fold" in said
    assert "+ vflip" in said


def test_views_of_a_probe(job, capsys):
    """A probe's heads are asked under any view; the plain one gives its ledger's score."""
    assert main(["evaluate", str(job.run), "--views", "plain,hflip", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["views"]["lines"][0]["macro_f1"] == pytest.approx(found["macro_f1"])
    assert len(found["views"]["lines"]) == 2


def test_views_that_cannot_be_measured_are_told(job, runs, tmp_path, capsys):
    """Views that there are none of, views of an ensemble, and images that changed since are told."""
    from finefold.steps.ensemble import make_ensemble

    assert main(["evaluate", str(job.run), "--views", "plain,sideways"]) == 2
    assert "there is no view `sideways`" in capsys.readouterr().err
    assert main(["evaluate", str(job.run), "--views", "plain,plain"]) == 2
    assert "views are to be different" in capsys.readouterr().err
    make_ensemble([runs / "joint", runs / "apart"], out=tmp_path / "both", by="mean")
    assert main(["evaluate", str(tmp_path / "both"), "--views", "recipe"]) == 2
    assert "is an ensemble: each member has views of its own" in capsys.readouterr().err
    shutil.copytree(job.run, tmp_path / "run")
    weights = sorted((tmp_path / "run").glob("fold-*/weights.safetensors"))
    shutil.copyfile(weights[1], weights[0])
    weights[0].replace(weights[1])
    shutil.copyfile(weights[2], weights[0])
    assert main(["evaluate", str(tmp_path / "run"), "--views", "plain"]) == 1
    assert "say something else of its samples than its ledger does" in capsys.readouterr().err
