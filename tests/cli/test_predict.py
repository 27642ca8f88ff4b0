"""finefold predict. What unreadable images and templates do is in integration/test_main_job.py."""

import json
import shutil
from pathlib import Path

import pytest

from finefold.cli.main import main
from finefold.steps.run import open_run


def test_shares_beside_training_go_to_stdout(job, tmp_path, capsys):
    """stdout shows each class's answers beside its training share, and where they were written."""
    out = tmp_path / "answers.csv"
    assert main(["predict", str(job.run), "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert "share of answers" in said.out
    assert "share in training" in said.out
    assert f"wrote {out}: 21 answers" in said.out
    assert "predicting: 21 images" in said.err
    assert out.read_bytes() == job.submission.read_bytes()


def test_images_of_training_and_earlier_answers_are_told(job, tmp_path, capsys):
    """Answers for images that trained are said to be so, and answers that are written over."""
    out = tmp_path / "answers.csv"
    root = open_run(job.run).spec.root
    assert main(["predict", str(job.run), str(root), "--out", str(out)]) == 0
    said = capsys.readouterr().err
    assert "126 of 126 images are among those that the run was trained on" in said and "replace" not in said
    assert main(["predict", str(job.run), "--out", str(out)]) == 0
    said = capsys.readouterr().err
    assert f"{out} holds earlier answers, which these replace" in said and "was trained on" not in said


def test_json_is_the_side_file(job, tmp_path, capsys):
    """--json prints where the answers came from; the same lies beside them as a file."""
    out = tmp_path / "answers.csv"
    assert main(["predict", str(job.run), "--out", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    side = json.loads(out.with_suffix(".json").read_text())
    assert told.pop("file") == str(out)
    assert {**told, "written": ""} == {**side, "written": ""}
    assert told["run"] == str(job.run.resolve())
    assert sum(share["predicted"] for share in told["shares"].values()) == pytest.approx(1, abs=1e-4)


def test_shares_far_from_training_are_warned_of(job, portraits, tmp_path, capsys):
    """Images of a single class answer unlike training, and a warning says so."""
    folder = tmp_path / "normal"
    folder.mkdir()
    for number, path in enumerate(sorted((portraits / "train" / "images").glob("*/normal.*"))):
        shutil.copy(path, folder / f"{number}{path.suffix}")
    assert main(["predict", str(job.run), str(folder), "--out", str(tmp_path / "out.csv")]) == 0
    assert "warning: the answers' shares are far from the training shares" in capsys.readouterr().err


@pytest.mark.parametrize(("kind", "told"), [("nothing", "does not exist"), ("empty", "no images in")])
def test_a_folder_without_images_exits_1(kind, told, job, tmp_path, capsys):
    """A folder that is missing or holds no image is an error; nothing is written."""
    if kind == "empty":
        (tmp_path / "new").mkdir()
    assert main(["predict", str(job.run), str(tmp_path / "new"), "--out", str(tmp_path / "out.csv")]) == 1
    said = capsys.readouterr()
    assert said.err.startswith("error: ")
    assert told in said.err
    assert not said.out
    assert not (tmp_path / "out.csv").exists()


def test_a_run_without_predict_asks_for_a_folder(shapes, tmp_path, capsys):
    """Where data.toml has no [predict], the error says how to name images."""
    from finefold.steps.init import init
    from finefold.steps.train import train

    data = init(shapes, out=tmp_path / "data.toml").data
    train(data, overrides=["probe.strengths=[100.0]", "split.folds=2"], out=tmp_path / "run")
    assert main(["predict", str(tmp_path / "run"), "--out", str(tmp_path / "out.csv")]) == 1
    said = capsys.readouterr().err
    assert "no images to predict: the run's data.toml has no [predict]" in said
    assert "hint: name a folder of images: finefold predict RUN FOLDER, finefold pseudo RUN FOLDER" in said


def edited(job, tmp_path: Path, template: str, **changes: str) -> str:
    """A copy of the run whose [predict] names this template."""
    import tomllib

    import tomli_w

    shutil.copytree(job.run, tmp_path / "run")
    (tmp_path / "template.csv").write_text(template)
    tables = tomllib.loads((tmp_path / "run" / "data.toml").read_text())
    tables["predict"] |= {"template_csv": str(tmp_path / "template.csv"), **changes}
    (tmp_path / "run" / "data.toml").write_text(tomli_w.dumps(tables))
    return str(tmp_path / "run")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("missing", "1 ids of the template were not predicted, e.g. `who.jpg`"),
        ("extra", "predicted ids are not in the template, e.g. `"),
        ("twice", "1 ids stand in more than one row, e.g. `"),
        ("column", "template.csv has no column `answer` (answer_column)"),
        ("no id", "template.csv: 1 rows have no id"),
        ("gone", "template.csv: No such file"),
    ],
)
def test_a_template_that_does_not_fit_exits_1(change, told, job, tmp_path, capsys):
    """A template with missing, extra, repeated or empty ids, or without its column, is refused; nothing is written."""
    head, *rows = job.submission.read_text().splitlines()
    texts = {
        "missing": [head, *rows, "who.jpg,0"],
        "extra": [head, *rows[1:]],
        "twice": [head, *rows, rows[0]],
        "column": [head, *rows],
        "no id": [head, *rows, ",0"],
        "gone": [head],
    }
    changes = {"answer_column": "answer"} if change == "column" else {}
    run = edited(job, tmp_path, "\n".join(texts[change]) + "\n", **changes)
    if change == "gone":
        (tmp_path / "template.csv").unlink()
    assert main(["predict", run, "--out", str(tmp_path / "out.csv")]) == 1
    said = capsys.readouterr()
    assert told in said.err
    assert "hint: " in said.err
    assert not said.out
    assert not (tmp_path / "out.csv").exists()


def test_images_beyond_the_template_may_be_ignored(job, tmp_path, capsys):
    """With extra = "ignore" only the template's images are answered, in its order."""
    head, *rows = job.submission.read_text().splitlines()
    run = edited(job, tmp_path, "\n".join([head, rows[7], rows[2]]) + "\n", extra="ignore")
    assert main(["predict", run, "--out", str(tmp_path / "out.csv")]) == 0
    assert (tmp_path / "out.csv").read_text().splitlines() == [head, rows[7], rows[2]]
    capsys.readouterr()


def test_answers_may_be_names(job, tmp_path, capsys):
    """With answer = "name" the class's name is written instead of its number, and a suffix may be left off ids."""
    head, *rows = job.submission.read_text().splitlines()
    cut = [f"{row.split(',')[0].removesuffix('.jpg')},-" for row in rows]
    run = edited(job, tmp_path, "\n".join([head, *cut]) + "\n", answer="name", suffix=".jpg")
    assert main(["predict", run, "--out", str(tmp_path / "out.csv")]) == 0
    answered = [row.split(",")[1] for row in (tmp_path / "out.csv").read_text().splitlines()[1:]]
    names = list(json.loads((job.run / "manifest.json").read_text())["class_names"])
    assert answered == [names[int(row.split(",")[1])] for row in rows]
    capsys.readouterr()


def test_a_file_of_the_users_own_is_never_overwritten(job, tmp_path, capsys):
    """--out naming a file that predict did not write is refused; an earlier answer file is replaced."""
    own = tmp_path / "photo.csv"
    own.write_text("mine")
    assert main(["predict", str(job.run), "--out", str(own)]) == 1
    assert "photo.csv exists, and `finefold predict` did not write it" in capsys.readouterr().err
    assert own.read_text() == "mine"
    for _ in range(2):
        assert main(["predict", str(job.run), "--out", str(tmp_path / "answers.csv")]) == 0


def women(portraits: Path, tmp_path: Path) -> Path:
    """A folder of the training photos of all women, and of two men."""
    folder = tmp_path / "women"
    folder.mkdir()
    people = sorted((portraits / "train" / "images").iterdir())
    chosen = [one for one in people if "_female_" in one.name] + [one for one in people if "_male_" in one.name][:2]
    for person in chosen:
        for path in person.glob("[!.]*"):
            shutil.copy(path, folder / f"{person.name}-{path.name}")
    return folder


def test_other_class_shares_are_found_and_told(job, portraits, tmp_path, capsys):
    """With --adapt-prior auto, shares of these images stand beside the ledger's; what is done and assumed is told."""
    out = tmp_path / "women.csv"
    folder = women(portraits, tmp_path)
    assert main(["predict", str(job.run), str(folder), "--adapt-prior", "auto", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    for part in ("class shares of these images: gender", "BBSE, 95 % interval", "assumed: how images of a class look"):
        assert part in said
    told = json.loads(out.with_suffix(".json").read_text())["corrections"][0]
    gender = told["adaptation"]["estimates"]["gender"]
    assert gender["classes"]["female"]["em"]["value"] > gender["classes"]["female"]["before"] + 0.1
    assert ("class shares adapted to" in said) == told["adaptation"]["is_applied"]


def test_known_class_shares_are_used(job, tmp_path, capsys):
    """With --adapt-prior FILE every answer is of a class that the file gives a share; a wrong file ends before work."""
    file = tmp_path / "shares.toml"
    file.write_text("[gender]\nmale = 0.0\nfemale = 1.0\n")
    out = tmp_path / "out.csv"
    assert main(["predict", str(job.run), "--adapt-prior", str(file), "--out", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert all(share["answers"] == 0 for name, share in told["shares"].items() if "/male/" in name)
    assert told["corrections"][0]["adaptation"]["reason"] == "these shares were given"
    file.write_text("[gender]\nmale = 0.5\n")
    assert main(["predict", str(job.run), "--adapt-prior", str(file), "--out", str(tmp_path / "no.csv")]) == 1
    said = capsys.readouterr().err
    assert "`gender.female` is missing" in said
    assert "predicting" not in said


def test_scarce_classes_are_helped_where_asked(job, tmp_path, capsys):
    """With --set after.adjust=logit the answers change, and the JSON says how and what is expected of it."""
    out = tmp_path / "out.csv"
    assert main(["predict", str(job.run), "--set", "after.adjust=logit", "--out", str(out)]) == 0
    assert "probabilities corrected: logits adjusted with strength" in capsys.readouterr().out
    told = json.loads(out.with_suffix(".json").read_text())
    assert told["corrections"][0]["adjust"] == "logit"
    assert told["expected"]["macro_f1"] == told["corrections"][0]["expected"]["macro_f1"]
    assert main(["predict", str(job.run), "--set", "seed=1", "--out", str(out)]) == 2
    assert "`seed` was settled when the run was trained" in capsys.readouterr().err


def test_boxes_are_asked_for_and_answered(shapes, tmp_path, capsys):
    """A run with image.boxes takes --boxes FILE; without it the count that fell back is said."""
    data, boxes, out = tmp_path / "data.toml", tmp_path / "boxes.csv", str(tmp_path / "answers.csv")
    names = [file.relative_to(shapes).as_posix() for file in sorted(shapes.rglob("*.png"))]
    boxes.write_text("path,left,top,right,bottom\n" + "".join(f"{name},8,8,56,56\n" for name in names[1:]))
    assert main(["init", str(shapes), "--out", str(data)]) == 0
    for name, told in (("with", ["--set", f"image.boxes={boxes}"]), ("without", [])):
        settings = ["--set", "split.folds=2", "--set", "model.engine=torch", *told]
        assert main(["train", str(data), "--out", str(tmp_path / name), *settings]) == 0
    assert "1 of 48 images has no box, e.g. disc/00.png: the centre is used" in capsys.readouterr().err
    assert [one["kind"] for one in json.loads((tmp_path / "with" / "findings.json").read_text())] == ["box-missing"]
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(shapes, elsewhere)
    assert main(["predict", str(tmp_path / "with"), str(elsewhere), "--out", out]) == 0
    assert "48 of 48 images have no box" in capsys.readouterr().err
    assert main(["predict", str(tmp_path / "with"), str(elsewhere), "--out", out, "--boxes", str(boxes), "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["without box"] == ["disc/00.png"]
    assert main(["predict", str(tmp_path / "without"), str(elsewhere), "--out", out, "--boxes", str(boxes)]) == 2
    assert "was trained without" in capsys.readouterr().err
