"""finefold evaluate."""

import json
import shutil

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
    assert f"pictures: {job.run / 'confusion.svg'}" in said.out


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
