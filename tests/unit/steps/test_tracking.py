"""Curves: events reach a callable and every tracker; packages that are not there are told before any work."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from finefold.errors import UsageError
from finefold.recipe.schema import Recipe
from finefold.runs.folder import RunFolder
from finefold.steps.tracking import check_track, flat, tracked

STEP = {"kind": "step", "attribute": None, "fold": 1, "phase": 1, "step": 3, "epoch": 0}
STEP |= {"loss": 0.5, "factor": 1.0, "norm": None}
EPOCH = {"kind": "epoch", "attribute": "mask", "fold": 0, "phase": 0, "step": 9, "epoch": 2}
EPOCH |= {"loss": 0.4, "accuracy": 0.8, "macro_f1": 0.7, "log_loss": 0.3}
END = {"kind": "end", "scores": {"accuracy": {"value": 0.9, "low": 0.8, "high": 1.0}, "macro_f1": None, "n": 48}}


def module(monkeypatch, name: str, **parts) -> None:
    """A package in the place of one that is not installed."""
    made = ModuleType(name)
    for key, value in parts.items():
        setattr(made, key, value)
    monkeypatch.setitem(sys.modules, name, made)


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    return RunFolder(tmp_path / "run")


def tell_all(folder: RunFolder, name: str) -> None:
    check_track([name])
    with tracked(folder, [name], Recipe(), None) as tell:
        for event in ({"kind": "begin", "run": "run", "recipe": {}}, STEP, EPOCH, END):
            tell(event)


def test_a_callable_gets_every_event_as_it_is(folder):
    """What is told is passed on, in order, and nothing is written."""
    seen = []
    with tracked(folder, (), Recipe(), seen.append) as tell:
        for event in (STEP, EPOCH, END):
            tell(event)
    assert seen == [STEP, EPOCH, END]
    assert not folder.path.exists()


def test_tensorboard_has_a_run_for_each_fold_and_phase(folder, monkeypatch):
    """Scalars lie in the run's track/, steps as they are; what is null is left out; all writers are closed."""
    said, closed = [], []

    class Writer:
        def __init__(self, place: str, purge_step: int) -> None:
            self.place = Path(place).relative_to(folder.track / "tensorboard").as_posix()
            said.append((self.place, "from", purge_step))

        def add_scalar(self, name: str, value: float, step: int) -> None:
            said.append((self.place, name, value, step))

        def close(self) -> None:
            closed.append(self.place)

    module(monkeypatch, "tensorboard")
    module(monkeypatch, "torch.utils.tensorboard", SummaryWriter=Writer)
    tell_all(folder, "tensorboard")
    assert said == [
        ("fold-1/phase-2", "from", 3),
        ("fold-1/phase-2", "loss", 0.5, 3),
        ("fold-1/phase-2", "factor", 1.0, 3),
        ("mask/fold-0/phase-1", "from", 9),
        ("mask/fold-0/phase-1", "valid_accuracy", 0.8, 9),
        ("mask/fold-0/phase-1", "valid_macro_f1", 0.7, 9),
        ("mask/fold-0/phase-1", "valid_log_loss", 0.3, 9),
        ("out-of-fold", "from", 0),
        ("out-of-fold", "accuracy", 0.9, 0),
    ]
    assert closed == ["fold-1/phase-2", "mask/fold-0/phase-1", "out-of-fold"]


class Client:
    """An MLflow that remembers."""

    def __init__(self, tracking_uri: str) -> None:
        self.said = {"uri": tracking_uri, "batches": []}
        type(self).last = self

    def get_experiment_by_name(self, name: str) -> None:
        self.said["experiment"] = name

    def create_experiment(self, _name: str, artifact_location: str | None) -> str:
        self.said["artifacts"] = artifact_location
        return "7"

    def create_run(self, where: str, run_name: str) -> SimpleNamespace:
        self.said["run"] = (where, run_name)
        return SimpleNamespace(info=SimpleNamespace(run_id="abc"))

    def log_batch(self, _run: str, metrics=(), params=()) -> None:
        self.said["batches"].append([*params, *((key, value, step) for key, value, _, step in metrics)])

    def set_terminated(self, run: str, status: str) -> None:
        self.said["ended"] = run, status


def fake_mlflow(monkeypatch) -> None:
    module(monkeypatch, "mlflow", MlflowClient=Client)
    module(monkeypatch, "mlflow.entities", Metric=lambda *parts: parts, Param=lambda *parts: parts)


def test_mlflow_keeps_a_run_in_the_runs_folder(folder, monkeypatch):
    """A database of its own, the recipe as parameters, metrics named by fold and phase; no telemetry."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY", raising=False)
    fake_mlflow(monkeypatch)
    tell_all(folder, "mlflow")
    said = Client.last.said
    assert said["uri"] == f"sqlite:///{folder.track.resolve() / 'mlflow' / 'mlflow.db'}"
    assert said["artifacts"].startswith("file://")
    assert said["run"] == ("7", "run")
    params, step, *_ = said["batches"]
    assert ("seed", "0") in params
    assert step == [("fold-1/phase-2/loss", 0.5, 3), ("fold-1/phase-2/factor", 1.0, 3)]
    assert said["ended"] == ("abc", "FINISHED")


def test_mlflow_goes_where_the_user_says(folder, monkeypatch):
    """MLFLOW_TRACKING_URI is the user's own choice of a server."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    fake_mlflow(monkeypatch)
    tell_all(folder, "mlflow")
    assert Client.last.said["uri"] == "http://127.0.0.1:5000"
    assert Client.last.said["artifacts"] is None


@pytest.mark.parametrize(("asked", "mode"), [(None, "offline"), ("online", "online")])
def test_wandb_is_offline_unless_told(asked, mode, folder, monkeypatch):
    """Nothing is sent unless WANDB_MODE says so; each fold's and phase's curves have steps of their own."""
    for name in ("WANDB_MODE", "WANDB_ERROR_REPORTING", "WANDB_SILENT"):
        monkeypatch.setenv(name, "")  # so that what is set is undone
        monkeypatch.delenv(name)
    if asked is not None:
        monkeypatch.setenv("WANDB_MODE", asked)
    said = {"axes": [], "logs": []}

    class Run:
        def define_metric(self, name: str, **more) -> None:
            said["axes"].append((name, more.get("step_metric")))

        def log(self, values: dict) -> None:
            said["logs"].append(values)

        def finish(self) -> None:
            said["finished"] = True

    def init(**told) -> Run:
        said["init"] = told
        return Run()

    module(monkeypatch, "wandb", init=init)
    tell_all(folder, "wandb")
    assert said["init"]["mode"] == mode
    assert said["init"]["dir"] == str(folder.track / "wandb")
    assert said["init"]["config"]["seed"] == 0
    assert ("fold-1/phase-2/*", "fold-1/phase-2/step") in said["axes"]
    assert said["logs"][0] == {"fold-1/phase-2/step": 3, "fold-1/phase-2/loss": 0.5, "fold-1/phase-2/factor": 1.0}
    assert said["finished"]


def test_a_run_that_fails_is_no_finished_one_in_mlflow(folder, monkeypatch):
    """What ends before its scores is marked as failed; a resumed training is a run of its own there."""
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    fake_mlflow(monkeypatch)
    with pytest.raises(RuntimeError), tracked(folder, ["mlflow"], Recipe(), None) as tell:
        tell(STEP)
        raise RuntimeError
    assert Client.last.said["ended"] == ("abc", "FAILED")


@pytest.mark.parametrize(
    ("name", "hint"), [("tensorboard", 'pip install "finefold[track]"'), ("wandb", "pip install wandb")]
)
def test_a_package_that_is_missing_is_told(name, hint, monkeypatch):
    """The error says what to install."""
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UsageError, match=f"needs the package {name}") as told:
        check_track([name])
    assert told.value.hint == hint


@pytest.mark.parametrize(("name", "hint"), [("tensorbord", "did you mean `tensorboard`?"), ("x", "choose from")])
def test_an_unknown_tracker_is_told(name, hint):
    """A misspelt name gets the nearest, another one all of them."""
    with pytest.raises(UsageError, match="nothing called") as told:
        check_track([name])
    assert hint in str(told.value.hint)


def test_a_run_that_fails_at_once_leaves_nothing(folder, monkeypatch):
    """Trackers open with the first numbers, not before."""
    module(monkeypatch, "wandb")
    with pytest.raises(RuntimeError), tracked(folder, ["wandb"], Recipe(), None) as tell:
        tell({"kind": "begin", "run": "run", "recipe": {}})
        raise RuntimeError
    assert not folder.path.exists()


def test_nested_values_are_joined_by_dots():
    """As a recipe's keys are written."""
    assert flat({"a": 1, "b": {"c": 2, "d": {}}}) == {"a": 1, "b.c": 2, "b.d": {}}
