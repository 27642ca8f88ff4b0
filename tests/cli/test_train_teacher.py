"""finefold train --teacher: a run that learns from another one, fold by fold."""

import json
import shutil

import numpy as np
import pytest

import finefold as ff
from finefold.cli.main import main
from finefold.data.samples import SampleTable
from finefold.data.splits import read_split
from finefold.nn.weights import read_header, read_state, write_weights
from finefold.steps.asking import Asked
from finefold.steps.columns import sample_table
from finefold.steps.progress import SILENT
from finefold.steps.teaching import teach


def facts(run):
    return SampleTable(sample_table(run), run.space, run.spec.root), read_split(run.folder.split)


def test_the_teacher_of_a_fold_is_its_own_model(tuned_runs):
    """Fold k is taught by fold k's model alone, of what that trained on; of what it holds out there is nothing."""
    run = ff.open_run(tuned_runs / "first")
    samples, split = facts(run)
    folds_N = split.folds_for(samples.ids)
    taught_FNK = teach(run, samples, split, SILENT)
    asked = Asked.of(run, run.recipe.predict.views)
    for fold in (0, 1):
        assert np.isnan(taught_FNK[fold, folds_N == fold]).all()
        rows = np.flatnonzero(folds_N != fold)
        said = np.mean([asked.probs(fold, rows, view) for view in run.recipe.predict.views], axis=0)
        np.testing.assert_allclose(taught_FNK[fold, rows], said, atol=1e-6)


def test_what_other_folds_know_reaches_no_student(tuned_runs, tmp_path):
    """Fold 0's model saw what fold 1 holds out; whatever it says, fold 1's targets stay as they are."""
    run = ff.open_run(tuned_runs / "first")
    samples, split = facts(run)
    before = teach(run, samples, split, SILENT)
    shutil.copytree(run.folder.path, tmp_path / "other")
    file = tmp_path / "other" / "fold-0" / "weights.safetensors"
    state = {name: -value if name.startswith("head.heads") else value for name, value in read_state(file).items()}
    write_weights(file, state, read_header(file))
    after = teach(ff.open_run(tmp_path / "other"), samples, split, SILENT)
    np.testing.assert_array_equal(after[1], before[1])
    assert not np.allclose(after[0], before[0], equal_nan=True)


def test_an_ensemble_teaches_by_what_the_other_folds_gave(tuned_runs, tmp_path):
    """A fold's teacher is the mean of the members' models of that fold, held-out samples untouched."""
    made = ff.make_ensemble([tuned_runs / "first", tuned_runs / "second"], out=tmp_path / "both", by="mean")
    samples, split = facts(made.run)
    both = teach(made.run, samples, split, SILENT)
    alone = [teach(member, samples, split, SILENT) for member in made.run.members()]
    np.testing.assert_allclose(both, np.mean(alone, axis=0), atol=1e-6)


def test_a_student_learns_what_its_teacher_says(tuned_runs, tmp_path, capsys):
    """A student taught by the teacher alone trains by its split, says whose it is, and resembles it."""
    out, teacher = tmp_path / "student", tuned_runs / "first"
    command = ["train", str(tuned_runs / "data.toml"), "--recipe", str(tuned_runs / "recipe.toml")]
    options = ["--teacher", str(teacher), "--set", "distill.weight=1.0", "--out", str(out)]
    assert main([*command, *options, "--json"]) == 0
    said = capsys.readouterr()
    assert f"teacher: {teacher}, each fold by its own models" in said.err
    assert json.loads(said.out)["scores"]["accuracy"]["value"] > 0.8
    run = ff.open_run(out)
    assert run.manifest["hashes"]["split"] == ff.open_run(teacher).manifest["hashes"]["split"]
    assert run.manifest["teacher"]["path"] == str(teacher.resolve())
    assert not run.folder.teacher.exists()


def test_teachers_that_cannot_teach_are_told(tuned_runs, runs, tmp_path, capsys):
    """The probe learns from nobody; a teacher of another split, other classes, or without a ledger is refused."""
    first, out = tuned_runs / "first", str(tmp_path / "out")
    data, recipe = str(tuned_runs / "data.toml"), str(tuned_runs / "recipe.toml")
    ff.make_soup([first], over_folds=True, out=tmp_path / "one")
    data_of = ff.read_data(tuned_runs / "data.toml")
    ff.write_split(ff.make_split(data_of, folds=2, seed=7), tmp_path / "other.csv")
    for arguments, code, words in [
        ([data, "--recipe", "probe", "--teacher", str(first)], 2, "the recipe fits the probe alone"),
        ([data, "--recipe", recipe, "--teacher", str(runs / "joint")], 1, "has other classes than the data"),
        ([data, "--recipe", recipe, "--teacher", str(tmp_path / "one")], 1, "is one model averaged over folds"),
        ([data, "--recipe", recipe, "--teacher", str(tmp_path / "gone")], 1, "there is no run at"),
        (
            [data, "--recipe", recipe, "--teacher", str(first), "--split", str(tmp_path / "other.csv")],
            1,
            "was trained by another split",
        ),
    ]:
        assert main(["train", *arguments, "--out", out]) == code
        assert words in capsys.readouterr().err
    with pytest.raises(ff.FinefoldError, match=r"distill\.weight"):
        ff.load_recipe("quick", ["distill.weight=2"])
