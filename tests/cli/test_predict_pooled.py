"""finefold predict --pool."""

import csv
import json
import shutil
import tomllib

import numpy as np
import pytest
import tomli_w

from finefold.cli.main import main
from finefold.metrics.intervals import group_codes
from finefold.steps.ensemble import make_ensemble
from finefold.steps.pooling import Pooling, pooled_ledger
from finefold.steps.predict import write_answers
from finefold.steps.run import open_run


def answers_of(file):
    with file.open() as lines:
        return {row[0]: int(row[1]) for row in list(csv.reader(lines))[1:]}


@pytest.fixture
def grouped(job, tmp_path):
    """A CSV that puts the test images into groups of seven, by their place in the template."""
    names = list(answers_of(job.submission))
    file = tmp_path / "groups.csv"
    file.write_text("id,group\n" + "".join(f"{name},{place // 7}\n" for place, name in enumerate(names)))
    return file, names


def test_a_groups_images_answer_alike(job, grouped, tmp_path, capsys):
    """With groups from a CSV, gender and age are the same within a group, and what that gives is told."""
    file, names = grouped
    out = tmp_path / "answers.csv"
    assert main(["predict", str(job.run), "--out", str(out), "--pool", "gender,age", "--groups", str(file)]) == 0
    said = capsys.readouterr().out
    codes = answers_of(out)
    for start in (0, 7, 14):
        assert len({codes[name] % 6 for name in names[start : start + 7]}) == 1
    assert "pooled gender and age over 3 groups, the largest of 7, 0 images alone" in said
    assert "macro F1 from" in said and "on the ledger" in said
    assert "transductive" not in said
    (told,) = json.loads(out.with_suffix(".json").read_text())["corrections"]
    assert told["kind"] == "pool" and told["attributes"] == ["gender", "age"] and not told["is_transductive"]
    assert json.loads(out.with_suffix(".json").read_text())["expected"]["macro_f1"] == told["expected"]["macro_f1"]


def test_nothing_is_pooled_unless_asked_for(job, tmp_path, capsys):
    """Without --pool the answers are those of each image alone, and no correction is written."""
    out = tmp_path / "answers.csv"
    assert main(["predict", str(job.run), "--out", str(out)]) == 0
    assert out.read_bytes() == job.submission.read_bytes()
    assert json.loads(out.with_suffix(".json").read_text())["corrections"] == []
    capsys.readouterr()


@pytest.mark.slow
def test_clustered_groups_are_marked(job, tmp_path, capsys):
    """Groups found by clustering are said to be, on the terminal and in the JSON."""
    out = tmp_path / "answers.csv"
    assert main(["predict", str(job.run), "--out", str(out), "--pool", "gender", "--groups", "cluster"]) == 0
    assert "transductive: groups were found by clustering" in capsys.readouterr().out
    (told,) = json.loads(out.with_suffix(".json").read_text())["corrections"]
    assert told["is_transductive"]
    assert 0 <= told["ledger"]["pairs_f1"] <= 1


@pytest.mark.slow
def test_an_ensembles_groups_are_found_by_its_first_members_features(runs, tmp_path):
    """An ensemble has no network of its own; its images are clustered as those of its first member."""
    made = make_ensemble([runs / "joint", runs / "apart"], out=tmp_path / "both", by="mean").run
    rule = Pooling(("gender",), "cluster")
    tally, _ = write_answers(made, out=tmp_path / "both.csv", pooling=rule)
    alone, _ = write_answers(open_run(runs / "joint"), out=tmp_path / "joint.csv", pooling=rule)
    (ours,), (theirs,) = tally.corrections, alone.corrections
    assert ours["is_transductive"] and ours["groups"] == theirs["groups"]
    assert ours["ledger"]["pairs_f1"] == theirs["ledger"]["pairs_f1"]


def test_a_column_of_the_template_says_groups(job, grouped, tmp_path, capsys):
    """Groups may be a column of the template, and a blank one leaves an image alone."""
    run = tmp_path / "run"
    shutil.copytree(job.run, run)
    _, names = grouped
    rows = "".join(f"{name},0,{'' if place == 20 else place // 7}\n" for place, name in enumerate(names))
    (tmp_path / "template.csv").write_text("ImageID,ans,who\n" + rows)
    tables = tomllib.loads((run / "data.toml").read_text())
    tables["predict"] |= {"template_csv": str(tmp_path / "template.csv")}
    (run / "data.toml").write_text(tomli_w.dumps(tables))
    out = tmp_path / "answers.csv"
    assert main(["predict", str(run), "--out", str(out), "--pool", "gender", "--groups", "who"]) == 0
    assert "pooled gender over 4 groups, the largest of 7, 1 images alone" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        (["--pool", "gender"], 2, "--pool and --groups go together; missing --groups"),
        (["--groups", "cluster"], 2, "--pool and --groups go together; missing --pool"),
        (["--pool", "colour", "--groups", "cluster"], 2, "there is no attribute `colour`"),
        (["--pool", "age,age", "--groups", "cluster"], 2, "names an attribute twice"),
        (["--pool", "mask", "--groups", "cluster"], 1, "`mask` differs within 18 of 18 training groups"),
        (["--pool", "gender", "--groups", "nowhere"], 1, "`nowhere` is neither a column of the template nor a file"),
    ],
)
def test_what_cannot_be_pooled_is_told(options, code, told, job, tmp_path, capsys):
    """One option without the other, unfit attributes and groups from nowhere are told; nothing is written."""
    assert main(["predict", str(job.run), "--out", str(tmp_path / "answers.csv"), *options]) == code
    said = capsys.readouterr()
    assert told in said.err
    assert not said.out
    assert not (tmp_path / "answers.csv").exists()


def test_images_without_a_group_are_told(job, grouped, tmp_path, capsys):
    """A CSV that lacks an image, or a column, is refused in words."""
    file, names = grouped
    out = ["--out", str(tmp_path / "answers.csv"), "--pool", "gender", "--groups", str(file)]
    file.write_text("".join(line for line in file.read_text().splitlines(keepends=True) if names[3] not in line))
    assert main(["predict", str(job.run), *out]) == 1
    assert f"1 image without a group in `{file}`, e.g. `{names[3]}`" in capsys.readouterr().err
    file.write_text("name,group\n")
    assert main(["predict", str(job.run), *out]) == 1
    assert "has no column `id`" in capsys.readouterr().err


@pytest.mark.parametrize("rule", ["mean", "product", "fitted"])
def test_the_ledger_says_what_a_rule_gives(job, rule):
    """Before is the run's own score; what is fitted is nested, so that groups of one give no gain but by chance."""
    run = open_run(job.run)
    ledger = run.ledger()
    groups_N, _ = group_codes(np.asarray(ledger.groups))
    found = pooled_ledger(run, ledger, Pooling(("gender", "age"), "x", rule), groups_N)
    assert found.before["macro_f1"].value == pytest.approx(run.scores()["macro_f1"]["value"])
    gap = found.after["macro_f1"].value - found.before["macro_f1"].value
    assert found.difference.value == pytest.approx(gap)
    alone = pooled_ledger(run, ledger, Pooling(("gender", "age"), "x", rule), np.arange(len(groups_N)))
    assert abs(alone.difference.value) < 0.1


def test_pooling_is_measured_on_what_was_corrected_before(job, grouped, tmp_path, capsys):
    """After a correction, pooling starts from the ledger under that correction, and the answers' JSON tells of both."""
    out = tmp_path / "answers.csv"
    options = ["--set", "after.adjust=logit", "--pool", "gender,age", "--groups", str(grouped[0])]
    assert main(["predict", str(job.run), "--out", str(out), *options]) == 0
    capsys.readouterr()
    about = json.loads(out.with_suffix(".json").read_text())
    after, pooled = about["corrections"]
    assert (after["kind"], pooled["kind"]) == ("after", "pool")
    assert pooled["ledger"]["before"]["macro_f1"]["value"] == pytest.approx(after["expected"]["macro_f1"]["value"])
    assert about["expected"]["macro_f1"] == pooled["expected"]["macro_f1"]
