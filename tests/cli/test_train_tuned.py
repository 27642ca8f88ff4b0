"""finefold train beyond the probe: the plan, the epochs, the run's folder, and what can be done with the run."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from finefold.cli.main import main
from finefold.steps.init import init
from finefold.steps.recipe import explain
from offline.processes import Done, run_finefold

RECIPE = """
[split]
folds = 2
[model]
engine = "torch"
precision = "fp32"
[[phase]]
trainable = "head"
until = "probe"
[[phase]]
trainable = "last:1"
until = "2 epochs"
layer_decay = 0.5
[predict]
views = ["plain", "hflip"]
[train]
batch_size = 8
"""


@dataclass(frozen=True)
class Tuned:
    """A tuned run on the small pictures, as a user's shell sees it.

    Args:
        folder: where the commands ran; data.toml and recipe.toml lie there.
        train: what the command said.
    """

    folder: Path
    train: Done

    @property
    def run(self) -> Path:
        return self.folder / "run"


@pytest.fixture(scope="module")
def tuned(shapes, tmp_path_factory) -> Tuned:
    """Two folds, two epochs of the last stage, scores as JSON."""
    folder = tmp_path_factory.mktemp("tuned")
    init(shapes, out=folder / "data.toml")
    (folder / "recipe.toml").write_text(RECIPE)
    arguments = ("train", "data.toml", "--recipe", "recipe.toml", "--out", "run", "--json")
    return Tuned(folder, run_finefold(*arguments, cwd=folder))


def test_json_has_run_seconds_and_scores(tuned):
    """stdout of --json is the run's place, its seconds and all scores, and nothing else."""
    told = json.loads(tuned.train.stdout)
    assert told["run"] == "run"
    assert told["seconds"] > 0
    assert told["scores"]["accuracy"]["value"] > 0.8


def test_the_plan_comes_before_training(tuned):
    """What trains, at which rates and from where on is said before the first epoch."""
    said = tuned.train.stderr
    plan, epoch = said.index("phase 2: last:1 for 2 epochs; computed once: up to "), said.index("fold 0, epoch 1:")
    assert plan < said.index("training 2 folds") < epoch
    assert "phase 1: the head, fitted on the frozen network's features" in said
    assert "lr 0.0005" in said[plan:epoch]
    assert "2 views" in said[plan:epoch]


def test_epochs_are_plain_lines(tuned):
    """Without a terminal each fold and epoch is one line with loss and scores, free of control codes."""
    lines = [line for line in tuned.train.stderr.splitlines() if ", epoch " in line]
    assert sorted(line.partition(":")[0] for line in lines) == [f"fold {f}, epoch {e}" for f in (0, 1) for e in (1, 2)]
    assert all("loss" in line and "accuracy" in line and "macro F1" in line for line in lines)
    assert "\x1b" not in tuned.train.stderr
    assert "\r" not in tuned.train.stderr


def test_the_run_folder_is_whole(tuned):
    """A finished run holds what the house's page lists, a log with every step and epoch, and no checkpoint or work."""
    names = {file.name for file in tuned.run.iterdir()}
    assert names >= {
        "recipe.toml",
        "data.toml",
        "samples.parquet",
        "split.csv",
        "backbone.safetensors",
        "manifest.json",
    }
    assert names >= {"oof.parquet", "scores.json", "findings.json", "fold-0", "fold-1"}
    assert not names & {"work", "unfinished.json"}
    for fold in (0, 1):
        inside = {file.name for file in (tuned.run / f"fold-{fold}").iterdir()}
        assert inside >= {"weights.safetensors", "valid.parquet", "log.jsonl"}
        assert "checkpoint.safetensors" not in inside
        log = [json.loads(line) for line in (tuned.run / f"fold-{fold}" / "log.jsonl").read_text().splitlines()]
        assert [line["step"] for line in log if "norm" in line] == [1, 2, 3, 4, 5, 6]
        assert [line["epoch"] for line in log if "macro_f1" in line] == [0, 1]


def test_explain_foretells_the_steps(tuned):
    """`recipe explain --data` counts the steps that training then takes."""
    size = explain(str(tuned.folder / "recipe.toml"), data=tuned.folder / "data.toml").data
    assert size is not None
    assert (size.steps_per_epoch, size.phase_steps) == (3, (0, 6))


def test_the_manifest_keeps_the_plan(tuned):
    """The manifest holds the plan that was followed and the probe's own scores."""
    manifest = json.loads((tuned.run / "manifest.json").read_text())
    assert [phase["until"] for phase in manifest["plan"]["phases"]] == ["probe", "2 epochs"]
    assert set(manifest["probe"]) == {"accuracy", "macro_f1", "log_loss"}


@pytest.mark.slow  # a network is searched for cuts twice
def test_inspect_shows_the_stored_plan(tuned, capsys):
    """`inspect RUN` shows the plan that the run was trained by, with the parameters of its own head."""
    assert main(["inspect", str(tuned.run), "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)["plan"]
    head, last = plan["phases"][1]["stages"][:2]
    assert (head["stage"], head["tensors"], head["parameters"]) == ("head", 2, 2 * 1281)
    assert last["tensors"] == last["all_tensors"] > 0
    assert plan["phases"][1]["megabytes"] > 0
    assert main(["inspect", str(tuned.run)]) == 0
    assert "phase 2: last:1 for 2 epochs" in capsys.readouterr().out


def test_a_tuned_run_answers_for_new_images(tuned, shapes, tmp_path, capsys):
    """`predict` gives an answer for each of some new images, and it knows most of these."""
    (tmp_path / "new").mkdir()
    for name in ("disc", "square"):
        for number in range(6):
            shutil.copyfile(shapes / name / f"{number:02}.png", tmp_path / "new" / f"{name}-{number}.png")
    out = tmp_path / "answers.csv"
    assert main(["predict", str(tuned.run), str(tmp_path / "new"), "--out", str(out)]) == 0
    capsys.readouterr()
    rows = [line.split(",") for line in out.read_text().splitlines()[1:]]
    assert len(rows) == 12
    assert sum(any(cell == row[0].partition("-")[0] for cell in row[1:]) for row in rows) >= 10


@pytest.mark.parametrize(
    ("phase", "told"),
    [
        ('{trainable=["bloks.6.*"], until="1 epoch"}', "did you mean blocks.6"),
        pytest.param(
            '{trainable="last:99", until="1 epoch"}', "write last:1 to last:", marks=pytest.mark.slow
        ),  # as the first, which needs the network too
        ('{trainable="last:1", until="soon"}', "is no duration"),
        ('{trainable="last:1", until="10 percent"}', "train.length, which is not set"),
    ],
)
def test_a_plan_that_cannot_be_exits_2(phase, told, tuned, tmp_path, capsys):
    """Patterns that match nothing, stages there are not, and lengths that are none exit 2 and leave no run."""
    arguments = ["--recipe", str(tuned.folder / "recipe.toml"), "--set", f"phase=[{phase}]"]
    assert main(["train", str(tuned.folder / "data.toml"), "--out", str(tmp_path / "run"), *arguments]) == 2
    said = capsys.readouterr()
    assert told in said.err
    assert not said.out
    assert not (tmp_path / "run" / "manifest.json").exists()


def test_a_finished_tuned_run_is_not_overwritten(tuned, capsys):
    """The same command once more is refused, and the run stays as it is."""
    before = (tuned.run / "manifest.json").read_bytes()
    arguments = ["--recipe", str(tuned.folder / "recipe.toml"), "--out", str(tuned.run)]
    assert main(["train", str(tuned.folder / "data.toml"), *arguments]) == 1
    assert "holds a finished run" in capsys.readouterr().err
    assert (tuned.run / "manifest.json").read_bytes() == before


@pytest.mark.slow
def test_auto_measures_and_says_why(shapes, tmp_path):
    """`--recipe auto` tries a stage on one fold, gives its reasons in three lines, and keeps recipe and numbers."""
    init(shapes, out=tmp_path / "data.toml")
    told = run_finefold(
        "train", "data.toml", "--recipe", "auto", "--set", "split.folds=2", "--out", "run", cwd=tmp_path
    )
    assert "choosing what trains: last:1 for 4 epochs on fold 0" in told.stderr
    assert "training one fold" in told.stderr
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    lines = manifest["chosen"]["lines"]
    assert len(lines) == 3
    assert all(line in told.stderr for line in lines)
    assert manifest["chosen"]["gain"]["n"] == 24
    recipe = (tmp_path / "run" / "recipe.toml").read_text()
    assert "choose = false" in recipe
    assert ("last:3" in recipe) == ("it pays" in lines[2])
    assert not (tmp_path / "run" / "work").exists()
