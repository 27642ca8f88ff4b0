"""finefold demo."""

import csv
import json

import pytest

from finefold.cli.main import main
from finefold.steps import demo


def test_portraits_run_from_folder_to_submission(tmp_path, monkeypatch, capsys):
    """`--data portraits` draws, splits, trains and answers; stdout ends with what to try next."""
    monkeypatch.setattr(demo, "NUM_PEOPLE", 18)
    out = tmp_path / "demo"
    assert main(["demo", "--data", "portraits", "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert "macro F1" in said.out
    assert f"run:        {out / 'run'}" in said.out
    assert f"submission: {out / 'submission.csv'}  (140 answers for images no fold has seen)" in said.out
    assert said.out.rstrip().endswith("finefold init YOUR_FOLDER")
    for stage in ("drawing portraits", "decoding", "features", "heads", "predicting"):
        assert f"{stage}: " in said.err
    assert {"data.toml", "portraits", "run", "submission.csv", "submission.json"} <= {p.name for p in out.iterdir()}
    with (out / "submission.csv").open() as file:
        assert len(list(csv.reader(file))) == 141


def test_what_it_says_to_try_next_works(tmp_path, monkeypatch, capsys):
    """The commands that the demo ends with are commands that run."""
    monkeypatch.setattr(demo, "NUM_PEOPLE", 18)
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--data", "portraits", "--out", "d"]) == 0
    lines = [
        line.split("finefold ")[1].split() for line in capsys.readouterr().out.splitlines() if "  finefold " in line
    ]
    assert [line[0] for line in lines] == ["evaluate", "train", "init"]
    assert main(lines[0]) == 0
    assert main([*lines[1], "--set", "probe.strengths=[100.0]"]) == 0
    capsys.readouterr()


@pytest.mark.slow
def test_solar_cells_run_from_folder_to_submission(tmp_path, capsys):
    """The demo as it is: all solar cells, scores as measured, answers for cells no fold has seen."""
    if demo.elpv_folder() is None:
        pytest.skip("the elpv-dataset package is not installed")
    out = tmp_path / "demo"
    assert main(["demo", "--out", str(out)]) == 0
    scores = json.loads((out / "run" / "scores.json").read_text())
    assert scores["accuracy"]["value"] > 0.75
    assert scores["macro_f1"]["value"] > 0.5
    capsys.readouterr()


def test_an_existing_folder_exits_1(tmp_path, capsys):
    """The demo does not write into a folder that exists."""
    assert main(["demo", "--out", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert f"error: {tmp_path} exists" in said.err
    assert not said.out


def test_without_solar_cells_it_offers_portraits(tmp_path, monkeypatch, capsys):
    """Where the elpv-dataset package is missing, the hint names it and the way without it."""
    monkeypatch.setattr(demo, "elpv_folder", lambda: None)
    assert main(["demo", "--out", str(tmp_path / "demo")]) == 1
    said = capsys.readouterr().err
    assert "error: the elpv-dataset package is not installed" in said
    assert "finefold demo --data portraits" in said
    assert not (tmp_path / "demo").exists()
