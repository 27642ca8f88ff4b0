"""Run folders: claimed once, finished last, never overwritten."""

import json
import os
import subprocess

import pytest

from finefold.errors import DataError, RunError
from finefold.runs.folder import RunFolder, read_json, write_json, write_text
from finefold.runs.provenance import provenance, text_hash

MADE_OF = {"recipe": "a", "data": "b", "split": "c"}


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    return RunFolder(tmp_path / "runs" / "first")


def test_a_run_is_unfinished_until_its_manifest_is_there(folder):
    """Between begin and finish there is a plan and no manifest; afterwards a manifest and no plan."""
    folder.begin(MADE_OF)
    assert not folder.is_finished
    with pytest.raises(RunError, match="is not a finished run") as caught:
        folder.read_manifest()
    assert "run the same command again: it goes on" in str(caught.value.hint)
    folder.finish({"num_folds": 3})
    assert folder.read_manifest() == {"num_folds": 3}
    assert [file.name for file in folder.path.iterdir()] == ["manifest.json"]


def test_the_same_run_may_begin_again(folder):
    """An unfinished run goes on for the same recipe, data and split, keeping what it has."""
    folder.begin(MADE_OF)
    write_text(folder.recipe, "x")
    folder.begin(MADE_OF)
    assert folder.recipe.read_text() == "x"


def test_an_unfinished_run_of_something_else_is_in_the_way(folder):
    """Another recipe or split does not go on with an unfinished run; the error says what differs."""
    folder.begin(MADE_OF)
    with pytest.raises(RunError, match="holds an unfinished run with another recipe and another split"):
        folder.begin({**MADE_OF, "recipe": "z", "split": "z"})


def test_a_finished_run_and_foreign_files_are_in_the_way(folder, tmp_path):
    """Nothing that exists is overwritten: a finished run, a folder with files, a file."""
    folder.begin(MADE_OF)
    folder.finish({})
    with pytest.raises(RunError, match="holds a finished run"):
        folder.begin(MADE_OF)
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a.txt").write_text("dear")
    for path in (tmp_path / "letters", tmp_path / "letters" / "a.txt"):
        with pytest.raises(RunError, match="exists and is not a run"):
            RunFolder(path).begin(MADE_OF)
    with pytest.raises(RunError, match="cannot make"):
        RunFolder(tmp_path / "letters" / "a.txt" / "run").begin(MADE_OF)


def test_an_empty_folder_may_be_used(tmp_path):
    """A folder with nothing in it is no obstacle."""
    RunFolder(tmp_path).begin(MADE_OF)
    assert RunFolder(tmp_path).plan.is_file()


def test_an_error_before_anything_was_written_frees_the_folder(folder):
    """A foreseen error leaves no claim behind, but never takes away what a run has written."""
    with pytest.raises(DataError), folder.begun(MADE_OF):
        raise DataError("no")
    assert not folder.path.exists()
    with pytest.raises(DataError), folder.begun(MADE_OF):
        write_text(folder.recipe, "x")
        raise DataError("no")
    assert folder.recipe.is_file()
    assert folder.plan.is_file()


def test_files_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    """A write that fails leaves the old content, no half-written file, and an error that names the place."""
    write_json(tmp_path / "a.json", {"x": 1})

    def full(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(RunError, match=r"cannot write .*a.json: No space left on device"):
        write_json(tmp_path / "a.json", {"x": 2})
    assert read_json(tmp_path / "a.json") == {"x": 1}
    assert os.listdir(tmp_path) == ["a.json"]  # noqa: PTH208


def test_a_broken_file_is_told(tmp_path):
    """JSON that does not parse is an error that names the file."""
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(RunError, match=r"cannot read .*a.json"):
        read_json(tmp_path / "a.json")


def test_provenance_names_versions_and_machine():
    """A result keeps its command, time, versions, processor and threads."""
    found = provenance()
    assert {"command", "written", "versions", "machine"} == set(found)
    assert found["versions"]["numpy"]
    assert found["machine"]["threads"] >= 1
    assert text_hash("a") != text_hash("b")


def test_a_folder_that_another_process_writes_is_refused(tmp_path):
    """Two trainings of the same thing into one folder: the second is told, and a dead process is no hindrance."""
    folder = RunFolder(tmp_path / "run")
    folder.begin({"recipe": "a"})
    plan = json.loads(folder.plan.read_text())
    folder.plan.write_text(json.dumps({**plan, "process": os.getppid()}))
    with pytest.raises(RunError, match=f"process {os.getppid()} is writing"):
        folder.begin({"recipe": "a"})
    ended = subprocess.Popen(["true"])
    ended.wait()
    folder.plan.write_text(json.dumps({**plan, "process": ended.pid}))
    folder.begin({"recipe": "a"})
    assert json.loads(folder.plan.read_text())["process"] == os.getpid()
