"""The main job, folder to submission, from outside and from Python; nothing in it leaves this machine."""

import csv
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import tomli_w

import finefold as ff
from finefold.cli.main import main
from finefold.data.synthetic import portrait_answers
from finefold.errors import RunError, SubmissionError, WeightsError
from finefold.nn.heads import FoldHeads
from finefold.steps.split import split as split_step
from offline import offline_guard
from offline.processes import finish, run_finefold, start

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "five_lines.py"
QUICK = ["probe.strengths=[100.0]"]  # one strength where scores are not the point


def read_csv(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


# --- the guard -----------------------------------------------------------------------------------------


def test_the_guard_ends_a_process_that_connects(tmp_path):
    """The guard that the main job runs under does end a process at its first attempt to leave the machine."""
    for code in (
        "import socket; socket.create_connection(('192.0.2.1', 80), timeout=1)",
        "import socket; socket.getaddrinfo('example.org', 443)",
        "import urllib.request as u\ntry:\n u.urlopen('https://example.org')\nexcept BaseException: pass",
    ):
        done = finish(start("-c", code, cwd=tmp_path), code=1)
        assert "offline guard: this process tried to reach" in done.stderr
    finish(start("-c", "import socket; socket.socket(socket.AF_INET).connect_ex(('127.0.0.1', 9))", cwd=tmp_path))


def test_the_guard_fails_a_test_that_connects(offline):
    """The guard around every test sees an attempt even where the refusal is swallowed."""
    import socket

    with pytest.raises(PermissionError, match="offline guard"):
        socket.create_connection(("192.0.2.1", 80), timeout=1)
    assert offline_guard.attempts is offline
    assert len(offline) == 1
    offline.clear()


# --- from outside --------------------------------------------------------------------------------------


def test_the_job_says_what_it_found(job):
    """`init` names the layout, the groups and the answers wanted; every command says where it wrote."""
    assert job.init.stdout.startswith("mask layout (people with a folder each): 126 samples in 18 groups")
    assert "[predict] answers for 21 images in eval/images" in job.init.stdout
    assert "wrote split.csv (hash " in job.split.stdout
    assert "run: runs/first" in job.train.stdout
    assert "wrote submission.csv: 21 answers" in job.predict.stdout


def test_the_run_is_whole(job):
    """A run holds everything that later verbs and people need, and nothing unfinished."""
    names = {str(path.relative_to(job.run)) for path in job.run.rglob("*") if path.is_file()}
    folds = {f"fold-{fold}/{name}" for fold in range(3) for name in ("weights.safetensors", "valid.parquet")}
    plain = {"recipe.toml", "data.toml", "samples.parquet", "split.csv", "backbone.safetensors", "oof.parquet"}
    assert names == folds | plain | {
        "scores.json",
        "findings.json",
        "confusion.svg",
        "classes.svg",
        "manifest.json",
    }
    manifest = json.loads((job.run / "manifest.json").read_text())
    assert manifest["features"]["images"] == 126
    assert manifest["engine"]["name"] in ("torch", "openvino", "onnxruntime")
    assert set(manifest["hashes"]) == {"recipe", "data", "split"}


def test_people_stay_in_one_fold(job):
    """The ledger has every sample once, with the fold of the split file, and nobody in two folds."""
    ledger = pl.read_parquet(job.run / "oof.parquet")
    split = pl.read_csv(job.folder / "split.csv", infer_schema=False)
    assert ledger["id"].n_unique() == len(ledger) == len(split) == 126
    joined = ledger.select("id", "fold").cast(pl.String).join(split, on=["id", "fold"])
    assert len(joined) == 126
    assert ledger.group_by("group").agg(pl.col("fold").n_unique())["fold"].max() == 1


def test_scores_are_sane(job):
    """Masks, which are plain to see, are told far above chance; every score lies inside its interval."""
    scores = json.loads(job.evaluate.stdout)
    assert scores["attributes"]["mask"]["accuracy"]["low"] > 0.8  # the largest class has 5 of 7
    assert scores["attributes"]["mask"]["macro_f1"]["value"] > 0.6
    assert scores["attributes"]["gender"]["accuracy"]["value"] > 0.6
    assert scores["accuracy"]["value"] > 2 * 5 / 42  # twice the share of the largest joint class
    for name in ("macro_f1", "accuracy", "balanced_accuracy", "weighted_f1", "log_loss"):
        assert scores[name]["low"] <= scores[name]["value"] <= scores[name]["high"]
        assert scores[name]["n"] == 126
    assert len(scores["classes"]) == 18
    assert json.loads((job.run / "scores.json").read_text()) == scores


def test_the_submission_is_the_template_filled_in(job, portraits):
    """Ids and their order are the template's; answers are class numbers, and masks among them mostly right."""
    template, answered = read_csv(portraits / "eval" / "info.csv"), read_csv(job.submission)
    assert answered[0] == ["ImageID", "ans"]
    assert [row[0] for row in answered] == [row[0] for row in template]
    truth = portrait_answers(num_test=21)
    assert np.mean([int(code) // 6 == truth[name] // 6 for name, code in answered[1:]]) > 0.8
    side = json.loads(job.submission.with_suffix(".json").read_text())
    assert (side["images"], side["unreadable"]) == (21, [])
    assert side["hashes"] == json.loads((job.run / "manifest.json").read_text())["hashes"]


def test_a_run_is_told_where_it_came_from(job):
    """The manifest keeps the command, the versions and the machine."""
    manifest = json.loads((job.run / "manifest.json").read_text())
    assert manifest["command"].endswith("train data.toml --split split.csv --out runs/first")
    assert {"python", "torch", "numpy", "finefold"} <= set(manifest["versions"])


def test_a_run_that_moved_still_works(job, tmp_path):
    """A run folder carried elsewhere evaluates to the same scores and answers the same."""
    moved = tmp_path / "elsewhere" / "renamed"
    shutil.copytree(job.run, moved)
    run = ff.open_run(moved)
    assert run.scores() == json.loads(job.evaluate.stdout)
    again = run.predict().to_submission(run.spec.predict.template_csv, tmp_path / "again.csv")
    assert again.read_bytes() == job.submission.read_bytes()


def test_the_readmes_five_lines_run(job, tmp_path):
    """The example script runs as it stands, and writes the same answers as the command line on the same folds."""
    shutil.copy(job.data, tmp_path / "data.toml")
    done = finish(start(EXAMPLE, tmp_path / "data.toml", tmp_path, cwd=tmp_path))
    assert "'value'" in done.stdout
    template = read_csv(Path(ff.read_data(tmp_path / "data.toml").spec.predict.template_csv))
    assert [row[0] for row in read_csv(tmp_path / "submission.csv")] == [row[0] for row in template]
    assert (tmp_path / "run" / "manifest.json").is_file()


# --- from Python, on the same cached features ---------------------------------------------------------------


@pytest.fixture(scope="module")
def data(job) -> ff.Data:
    return ff.read_data(job.data)


def test_heads_per_attribute_imply_the_joint(job, data, tmp_path):
    """With a head per attribute the ledger holds the products of their probabilities, and scores stay sane."""
    run = ff.train(data, job.folder / "split.csv", overrides=["model.heads=per_attribute", *QUICK], out=tmp_path / "r")
    ledger = run.ledger()
    assert sorted(run.manifest["strengths"]) == ["age", "gender", "mask"]
    table = run.space.attribute_table()
    marginals = ledger.predictions.marginals(table)
    product_NK = run.space.joint_probs([marginals[name] for name in run.space.names])
    assert np.allclose(product_NK, ledger.predictions.probs_NK, atol=1e-9)
    heads = FoldHeads.read(run.folder.fold_weights(0)).heads
    assert {name: len(head.bias_C) for name, head in heads.items()} == {"mask": 3, "gender": 2, "age": 3}
    assert run.scores()["attributes"]["mask"]["accuracy"]["value"] > 0.8
    assert len(run.predict().predictions.class_names) == 18


def test_other_training_bands_are_scored_on_the_same_truth(job, data, tmp_path):
    """`train_bands` and `train_drop` change what training sees, never what scores are measured against."""
    tables = data.spec.file.model_dump(mode="json", by_alias=True, exclude_none=True)
    tables["attributes"]["age"] |= {"train_bands": {"<30": 28, "30-59": 58, ">=60": "inf"}, "train_drop": [[54, 55]]}
    (tmp_path / "data.toml").write_text(tomli_w.dumps(tables))
    other = ff.read_data(tmp_path / "data.toml")
    assert other.samples.labels_N.tolist() == data.samples.labels_N.tolist()
    assert other.samples.train_labels_N.tolist() != data.samples.train_labels_N.tolist()
    plain, changed = (
        ff.train(each, job.folder / "split.csv", overrides=QUICK, out=tmp_path / name)
        for name, each in (("plain", data), ("changed", other))
    )
    truth, same = plain.ledger(), changed.ledger()
    assert truth.predictions.ids == same.predictions.ids
    assert np.array_equal(truth.labels_N, same.labels_N)
    assert not np.allclose(truth.predictions.probs_NK, same.predictions.probs_NK)
    shares = [run.scores()["classes"] for run in (plain, changed)]
    assert [c["support"] for c in shares[0].values()] == [c["support"] for c in shares[1].values()]
    assert not np.allclose(plain.train_shares_K, changed.train_shares_K)


@dataclass(frozen=True)
class Damaged:
    """A run on portraits of which some files are no images.

    Args:
        data: where it was described.
        run: its run folder.
        bad_train, bad_test: the unreadable files.
    """

    data: Path
    run: Path
    bad_train: str
    bad_test: str


@pytest.fixture(scope="module")
def damaged(portraits, tmp_path_factory) -> Damaged:
    folder = tmp_path_factory.mktemp("damaged")
    shutil.copytree(portraits, folder / "set")
    train = sorted((folder / "set" / "train" / "images").rglob("mask*.*"))[3]
    test = sorted((folder / "set" / "eval" / "images").iterdir())[4]
    train.write_bytes(b"")
    test.write_bytes(test.read_bytes()[:300])
    ff.init(folder / "set", out=folder / "data.toml")
    run = ff.train(ff.read_data(folder / "data.toml"), overrides=["split.folds=3", *QUICK], out=folder / "run")
    return Damaged(folder / "data.toml", run.folder.path, f"{train.parent.name}/{train.name}", test.name)


def test_an_unreadable_training_image_is_left_out_and_named(damaged):
    """A labelled file that is no image is in no ledger and no fold; findings.json says which and why."""
    ledger = pl.read_parquet(damaged.run / "oof.parquet")
    assert len(ledger) == 125
    assert damaged.bad_train not in ledger["id"]
    (finding,) = json.loads((damaged.run / "findings.json").read_text())
    assert (finding["ids"], finding["evidence"]["reason"]) == ([damaged.bad_train], "empty file")


def test_a_split_with_an_image_that_broke_since_still_serves(damaged, portraits, tmp_path):
    """A split file that names a sample which is no longer readable is used less that sample."""
    whole = tmp_path / "whole.toml"
    ff.init(portraits, out=whole)
    split_step(ff.read_data(whole), folds=3, out=tmp_path / "split.csv")
    run = ff.train(ff.read_data(damaged.data), tmp_path / "split.csv", overrides=QUICK, out=tmp_path / "run")
    assert len(run.ledger().predictions) == 125


def test_an_unreadable_test_image_gets_the_training_shares(damaged, tmp_path, capsys):
    """It is answered with the training class shares, named in a warning and in the side file; others are as ever."""
    out = tmp_path / "submission.csv"
    assert main(["predict", str(damaged.run), "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert f"warning: {damaged.bad_test}: truncated; it gets the training class shares" in said.err
    assert damaged.bad_test not in said.out
    side = json.loads(out.with_suffix(".json").read_text())
    assert [finding["ids"] for finding in side["unreadable"]] == [[damaged.bad_test]]
    run = ff.open_run(damaged.run)
    answered = dict(read_csv(out)[1:])
    assert len(answered) == 21
    assert int(answered[damaged.bad_test]) == int(run.train_shares_K.argmax())
    predictions = run.predict().predictions
    (row,) = (row for row, name in enumerate(predictions.ids) if name == damaged.bad_test)
    assert np.allclose(predictions.probs_NK[row], run.train_shares_K)


def test_strict_makes_an_unreadable_test_image_a_failure(damaged, tmp_path, capsys):
    """With --strict the exit code is 1 and the file is named; the answers are written all the same."""
    out = tmp_path / "strict.csv"
    assert main(["predict", str(damaged.run), "--out", str(out), "--strict"]) == 1
    said = capsys.readouterr()
    assert f"error: 1 test image cannot be read: `{damaged.bad_test}`" in said.err
    assert not said.out
    assert len(read_csv(out)) == 22


def test_an_unfinished_run_goes_on(job, data, tmp_path):
    """Without its manifest a run is unfinished; the same recipe, samples and split go on with it."""
    first = ff.train(data, job.folder / "split.csv", overrides=QUICK, out=tmp_path / "run")
    fingerprint = {**first.manifest["hashes"], "data": data.samples.hash}
    first.folder.manifest.unlink()
    first.folder.plan.write_text(json.dumps(fingerprint))
    before = first.folder.ledger.read_bytes()
    with pytest.raises(RunError, match="is not a finished run"):
        ff.open_run(first.folder.path)
    with pytest.raises(RunError, match="holds an unfinished run with another recipe"):
        ff.train(data, job.folder / "split.csv", overrides=["seed=3"], out=tmp_path / "run")
    assert first.folder.ledger.read_bytes() == before
    again = ff.train(data, job.folder / "split.csv", overrides=QUICK, out=tmp_path / "run")
    assert again.folder.ledger.read_bytes() == before
    assert not again.folder.plan.exists()


def test_a_mistake_does_not_claim_the_folder(job, data, tmp_path):
    """A run that ends in an error before anything was written leaves its folder free for the mended command."""
    with pytest.raises(WeightsError):
        wrong = ["model.backbone=resnet18", f"model.weights={tmp_path / 'gone.pth'}"]
        ff.train(data, job.folder / "split.csv", overrides=wrong, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    ff.train(data, job.folder / "split.csv", overrides=QUICK, out=tmp_path / "run")


def test_a_folder_of_other_images_is_answered_as_a_table(job, portraits, tmp_path):
    """Given a folder, `predict` answers for its images by name, with every class's probability."""
    folder = tmp_path / "new"
    (folder / "deep").mkdir(parents=True)
    source = sorted((portraits / "eval" / "images").iterdir())
    shutil.copy(source[0], folder / "b.jpg")
    shutil.copy(source[1], folder / "deep" / "a.jpg")
    assert main(["predict", str(job.run), str(folder), "--out", str(tmp_path / "out.csv")]) == 0
    table = pl.read_csv(tmp_path / "out.csv")
    assert table["id"].to_list() == ["b.jpg", "deep/a.jpg"]
    assert table.columns[:3] == ["id", "class", "prob"]
    assert len(table.columns) == 3 + 18
    sums = table.select(pl.sum_horizontal(pl.col("^prob .*$"))).to_series()
    assert np.allclose(sums, 1, atol=1e-6)
    answered = dict(read_csv(job.submission)[1:])
    names = ff.open_run(job.run).space.class_names
    assert table["class"].to_list() == [names[int(answered[path.name])] for path in source[:2]]


def test_answers_and_template_must_belong_together(job, tmp_path):
    """Ids that the template lacks or has beyond the images are refused, naming one of each."""
    answers = ff.open_run(job.run).predict()
    rows = read_csv(job.submission)
    (tmp_path / "other.csv").write_text(
        "ImageID,ans\n" + "".join(f"{name},0\n" for name, _ in rows[2:]) + "who.jpg,0\n"
    )
    with pytest.raises(SubmissionError) as caught:
        answers.to_submission(tmp_path / "other.csv", tmp_path / "out.csv")
    assert "1 ids of the template were not predicted, e.g. `who.jpg`" in caught.value.message
    assert f"1 predicted ids are not in the template, e.g. `{rows[1][0]}`" in caught.value.message
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.slow  # the hub is asked again and again for most of a minute
def test_unreachable_weights_are_an_error_in_words(job, tmp_path):
    """`weights = "pretrained"` where no network answers exits 1 with a hint, after no traceback."""
    done = run_finefold(
        "train",
        job.data,
        "--set",
        "model.backbone=resnet18",
        "--set",
        "model.weights=pretrained",
        "--out",
        "run",
        cwd=tmp_path,
        code=1,
        HF_ENDPOINT="http://127.0.0.1:9",
        HF_HOME=str(tmp_path / "hub"),
    )
    assert "error: the pretrained weights of resnet18 could not be downloaded" in done.stderr
    assert "Traceback" not in done.stderr
