"""Training beyond the probe: the same twice and after a kill; nothing frozen moves; what is scored is predicted."""

import json
import random
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file

import finefold as ff
from finefold.errors import RecipeError, TrainingError
from finefold.nn.backbones import Backbone
from finefold.nn.classifier import Classifier
from finefold.runs.folder import RunFolder, read_lines

QUICK = """
[split]
folds = 2
[[phase]]
trainable = "head"
until = "probe"
[[phase]]
trainable = "last:1"
until = "3 epochs"
lr = 1e-3
layer_decay = 0.5
[augment]
views = ["plain", "hflip"]
[predict]
views = ["plain", "hflip"]
[train]
batch_size = 8
save_seconds = 0.0
"""


def recipe_file(folder: Path, text: str = QUICK, **replaced: str) -> Path:
    for before, after in replaced.items():
        assert before in text
        text = text.replace(before, after)
    file = folder / "recipe.toml"
    file.write_text(text, encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def data(tmp_path_factory, shapes):
    """The small pictures, described."""
    home = tmp_path_factory.mktemp("data")
    ff.init(shapes, out=home / "data.toml")
    return ff.read_data(home / "data.toml")


@pytest.fixture(scope="module")
def run(tmp_path_factory, data):
    """A run that nobody interrupted."""
    home = tmp_path_factory.mktemp("run")
    return ff.train(data, recipe=str(recipe_file(home)), out=home / "run")


def states(path: Path) -> list[dict[str, torch.Tensor]]:
    return [load_file(path / f"fold-{fold}" / "weights.safetensors") for fold in range(2)]


def assert_equal_runs(one: Path, other: Path) -> None:
    for mine, theirs in zip(states(one), states(other), strict=True):
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[key], theirs[key]) for key in mine)
    assert pl.read_parquet(one / "oof.parquet").equals(pl.read_parquet(other / "oof.parquet"))


class Said:
    """Keeps what a step says."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    @contextmanager
    def stage(self, *_):
        yield lambda _done: None

    def say(self, line: str) -> None:
        self.lines.append(line)


def test_two_runs_are_equal(run, data, tmp_path, monkeypatch):
    """The same data, recipe and machine give the same weights and predictions, bit for bit, measured before or not."""
    monkeypatch.setattr("finefold.steps.expecting.SHORT_ROWS", 0)
    monkeypatch.setattr("finefold.steps.expecting.SECONDS", 0.1)
    said, events = Said(), []
    recipe = str(recipe_file(tmp_path))
    again = ff.train(data, recipe=recipe, out=tmp_path / "run", progress=said, on_event=events.append)
    assert_equal_runs(run.folder.path, again.folder.path)
    assert_a_forecast_was_said(said.lines, again)
    assert_events_are_the_log(events, again)
    assert "expected" not in run.manifest


def assert_a_forecast_was_said(lines: list[str], run: ff.Run) -> None:
    """Before the first step, and it is kept beside what training took."""
    (line,) = [line for line in lines if line.startswith("expected: ")]
    assert "training " in line
    assert lines.index(line) < next(number for number, one in enumerate(lines) if one.startswith("training 2 folds"))
    assert run.manifest["expected"]["training"] > 0
    assert run.manifest["took"]["training"] > 0


def assert_events_are_the_log(events: list[dict], run: ff.Run) -> None:
    """`on_event` was told the run, each fold's steps and epochs in the log's order, and the scores."""
    assert (events[0]["kind"], events[-1]["kind"]) == ("begin", "end")
    assert events[0]["run"] == str(run.folder.path)
    assert events[-1]["scores"]["accuracy"] == run.scores()["accuracy"]
    for fold in range(2):
        told = [(event["step"], "loss" in event and "norm" in event) for event in events if event.get("fold") == fold]
        lines = [json.loads(text) for text in run.folder.fold_log(fold).read_text().splitlines()]
        assert told == [(line["step"], "norm" in line) for line in lines]


def test_only_what_the_plan_names_changes(run):
    """Weights of a fold are those of the planned layers, different from the backbone's; nothing else is kept."""
    plan = run.manifest["plan"]
    named = {name for phase in plan["phases"] for group in phase["groups"] for name in group["names"]}
    before = Backbone.read(run.folder.backbone).build_network().state_dict()
    for state in states(run.folder.path):
        parameters = {key for key in state if not key.endswith(("running_mean", "running_var", "num_batches_tracked"))}
        assert parameters == named
        changed = {
            key for key in parameters if key.startswith("network.") and not torch.equal(state[key], before[key[8:]])
        }
        assert changed == {key for key in parameters if key.startswith("network.")}
        for key in state.keys() - parameters:  # batch norms are frozen
            assert torch.equal(state[key], before[key.removeprefix("network.")])


def test_training_learns(run):
    """Discs and squares are told apart better than by the share of the larger class."""
    assert run.scores()["accuracy"]["value"] > 0.8


def test_the_ledger_is_what_the_folds_predict(run, data):
    """Training images through `predict`'s way, by their own fold's model alone, give the ledger's probabilities."""
    from finefold.nn.engines import Choice
    from finefold.nn.infer import FoldEnsemble
    from finefold.nn.streaming import stream_probs

    ledger = run.ledger()
    row = {name: number for number, name in enumerate(ledger.predictions.ids)}
    path_of = dict(zip(data.samples.ids, data.samples.paths, strict=True))
    engine = run.manifest["engine"]
    for fold in range(2):
        ids = [name for name, of in zip(ledger.predictions.ids, ledger.folds_N, strict=True) if of == fold]
        model = FoldEnsemble.read(
            run.backbone, [run.folder.fold_weights(fold)], run.space, views=run.recipe.predict.views
        )
        parts = stream_probs(
            model,
            ids,
            [path_of[name] for name in ids],
            choice=Choice(engine["name"], engine["precision"], ""),
            max_pixels=10**8,
            fallback_K=np.full(2, 0.5),
        )
        found = list(parts)
        assert not [finding for part in found for finding in part.findings]
        probs_NK = np.concatenate([part.probs_BK for part in found])
        assert np.allclose(probs_NK, ledger.predictions.probs_NK[[row[name] for name in ids]], atol=1e-6)


def test_a_folds_classifier_gives_the_same_from_the_image_on(run):
    """The whole classifier on normalised images agrees with prefix and tail, up to the engine's precision."""
    classifier = Classifier.read(run.backbone, run.folder.fold_weights(0), run.space)
    frozen = Backbone.read(run.folder.backbone).build()
    images = torch.randint(0, 255, (2, 224, 224, 3), dtype=torch.uint8)
    with torch.no_grad():
        probs_BK = classifier(frozen.normalised(images)).softmax(1)
    assert torch.allclose(probs_BK.sum(1), torch.ones(2), atol=1e-5)
    changed = Classifier.read(run.backbone, run.folder.fold_weights(1), run.space)
    with torch.no_grad():
        assert not torch.equal(changed(frozen.normalised(images)).softmax(1), probs_BK)


def test_a_finished_run_keeps_no_checkpoints(run):
    """What only an unfinished run needs is gone: checkpoints and the workers' folder."""
    assert not list(run.folder.path.glob("fold-*/checkpoint.safetensors"))
    assert not run.folder.work.exists()


def test_the_log_has_every_step_once(run):
    """log.jsonl: each optimiser step in order, and a score after every epoch."""
    for fold in range(2):
        lines = [json.loads(text) for text in run.folder.fold_log(fold).read_text().splitlines()]
        steps = [line["step"] for line in lines if "loss" in line]
        assert steps == list(range(1, len(steps) + 1))
        assert sum("macro_f1" in line for line in lines) == 3


def test_measuring_calls_no_loss_of_ones_own(data, tmp_path, monkeypatch):
    """A loss of one's own, which may count, is called for the steps of training alone; the rest is measured."""
    monkeypatch.setattr("finefold.steps.expecting.SHORT_ROWS", 0)
    monkeypatch.setattr("finefold.steps.expecting.SECONDS", 0.02)
    calls = []

    def loss(logits_BC, targets_BC):
        calls.append(len(logits_BC))
        return -(targets_BC * logits_BC.log_softmax(1)).sum(1).mean()

    recipe = recipe_file(tmp_path, **{'"last:1"': '"head"', "3 epochs": "2 steps"})
    run = ff.train(data, recipe=str(recipe), out=tmp_path / "run", own=ff.Own(loss=loss))
    assert "expected" in run.manifest
    assert calls == [8, 8, 8, 8]  # two steps of two folds


PROGRAM = """
import sys
import finefold as ff
ff.train(ff.read_data(sys.argv[1]), recipe=sys.argv[2], out=sys.argv[3])
"""


def killed_often(command: list[str], run: Path, how: signal.Signals, rng: random.Random) -> int:
    """Runs a command again and again, killing it after a while, until it finishes; how often it was killed."""
    kills = 0
    while True:
        said = run.with_name("stderr.txt")
        with said.open("w") as stderr:
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr)
        log = run / "fold-0" / "log.jsonl"
        before = log.stat().st_size if log.is_file() else 0
        wanted = before + rng.randrange(50, 600)
        while process.poll() is None and kills < 2:
            if log.is_file() and log.stat().st_size > wanted:
                process.send_signal(how)
                process.wait()
                kills += 1
                break
            time.sleep(0.01)
        if process.wait() == 0:
            return kills
        assert not (run / "manifest.json").exists()
        assert process.returncode in (-how, 130, 1), said.read_text()


@pytest.mark.parametrize("how", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_killed_run_goes_on_and_ends_the_same(how, run, data, tmp_path):
    """kill -9 or Ctrl-C at random moments of training; the same command again ends bitwise as if never stopped."""
    rng = random.Random(int(how))
    command = [sys.executable, "-c", PROGRAM, str(data.file), str(recipe_file(tmp_path)), str(tmp_path / "run")]
    kills = killed_often(command, tmp_path / "run", how, rng)
    assert kills > 0
    assert_equal_runs(run.folder.path, tmp_path / "run")


def test_workers_end_with_their_parent(data, tmp_path):
    """After a kill -9 of the program, its workers save and are gone within seconds."""
    command = [sys.executable, "-c", PROGRAM, str(data.file), str(recipe_file(tmp_path)), str(tmp_path / "run")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    log = tmp_path / "run" / "fold-0" / "log.jsonl"
    while not log.is_file() and process.poll() is None:
        time.sleep(0.02)
    children = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    workers = [pid for pid in children if b"finefold.steps.folds" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert workers
    process.kill()
    process.wait()
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes() for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_numbers_that_are_not_finite_stop_the_fold(data, tmp_path):
    """A rate that makes the loss explode ends in an error that names the step, with the samples' ids in a file."""
    recipe = recipe_file(tmp_path, **{"lr = 1e-3": "lr = 1e30"})
    with pytest.raises(TrainingError, match="is not a finite number") as told:
        ff.train(data, recipe=str(recipe), out=tmp_path / "run")
    trouble = json.loads(next((tmp_path / "run").glob("fold-*/trouble.json")).read_text())
    assert trouble["ids"]
    assert set(trouble["ids"]) <= set(data.samples.ids)
    assert "smaller lr" in str(told.value.hint)
    kept = [
        json.loads(line) for line in next((tmp_path / "run").glob("fold-*/findings.jsonl")).read_text().splitlines()
    ]
    assert [one["ids"] for one in kept if one["kind"] == "not-finite"] == [trouble["ids"]]
    assert not RunFolder(tmp_path / "run").is_finished


def test_what_the_watcher_finds_is_said_once_and_kept(data, tmp_path):
    """At a rate far too high each fold says so in one line, and its findings lie beside its log."""
    said = Said()
    recipe = recipe_file(tmp_path, **{"lr = 1e-3": "lr = 30"})
    run = ff.train(data, recipe=str(recipe), out=tmp_path / "run", progress=said)
    kept = [read_lines(run.folder.fold_findings(fold)) for fold in range(2)]
    warnings = [line for line in said.lines if line.startswith("warning: fold")]
    assert len(warnings) == sum(map(len, kept)) > 0
    for lines in kept:
        kinds = [line["kind"] for line in lines]
        assert len(set(kinds)) == len(kinds) and set(kinds) <= {"rate-too-high", "one-class-collapse", "dead-units"}
        assert all(line["evidence"].keys() >= {"phase", "epoch", "step"} for line in lines)


def test_a_pattern_that_matches_nothing_ends_before_training(data, tmp_path):
    """A misspelt module is told at once, with what it may have meant."""
    recipe = recipe_file(tmp_path, **{'"last:1"': '["blocks.6", "conv_haed"]'})
    with pytest.raises(RecipeError, match="did you mean conv_head"):
        ff.train(data, recipe=str(recipe), out=tmp_path / "run")


def test_copies_make_epochs_longer_and_are_not_scored(tmp_path, data, run):
    """Twice the steps where one of two classes has two copies; the ledger has each image once, as before."""
    text = QUICK.replace("[predict]", "copies = { disc = 2 }\n[predict]")
    copied = ff.train(data, recipe=str(recipe_file(tmp_path, text)), out=tmp_path / "run")
    steps = [
        [json.loads(line) for line in one.folder.fold_log(0).read_text().splitlines() if "loss" in line]
        for one in (run, copied)
    ]
    assert [lines[-1]["step"] for lines in steps] == [9, 18]  # 24 rows in batches of 8; 12 discs more, twice
    ids = [pl.read_parquet(one.folder.path / "oof.parquet")["id"] for one in (run, copied)]
    assert ids[0].equals(ids[1]) and ids[0].is_unique().all()
