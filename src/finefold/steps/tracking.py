"""Numbers of a training as they come, for whoever listens: a callable, TensorBoard, MLflow, Weights & Biases.

An event is a dict of plain values. `kind` is `begin` (run, recipe), `step` (fold, attribute, phase, step, epoch, loss,
factor, norm), `epoch` (fold, attribute, phase, step, epoch, loss, accuracy, macro_f1, log_loss) or `end` (scores).
Phases and epochs count from 0, steps from 1 within their phase. Nothing leaves this machine unless the user says so.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from finefold.errors import UsageError
from finefold.recipe.schema import Recipe
from finefold.runs.folder import RunFolder

Event = Mapping[str, Any]
OnEvent = Callable[[Event], None]
PROJECT = "finefold"
OUT_OF_FOLD = "out-of-fold"  # the series of the scores at the end
SCORES = ("accuracy", "balanced_accuracy", "macro_f1", "weighted_f1", "log_loss")


def unheard(_event: Event) -> None:
    """Where nobody listens."""


class Tracker(Protocol):
    """Keeps curves."""

    def log(self, series: str, values: Mapping[str, float], step: int) -> None:
        """Numbers of one series, as `fold-0/phase-2`, at a step."""
        ...

    def close(self) -> None:
        """Everything is said."""
        ...


class TensorBoard:
    """Event files, a TensorBoard run for each fold and phase: `tensorboard --logdir RUN/track/tensorboard`."""

    package = "tensorboard"

    def __init__(self, home: Path, name: str, values: Mapping[str, Any]) -> None:  # noqa: ARG002, the run has them
        from torch.utils.tensorboard import SummaryWriter

        self._make, self._home = SummaryWriter, home
        self._writers: dict[str, Any] = {}

    def log(self, series: str, values: Mapping[str, float], step: int) -> None:
        """As scalars; a resumed series takes the place of what was logged from its first step on."""
        if series not in self._writers:
            self._writers[series] = self._make(str(self._home / series), purge_step=step)
        for name, value in values.items():
            self._writers[series].add_scalar(name, value, step)

    def close(self) -> None:
        """Writes what is left."""
        for writer in self._writers.values():
            writer.close()


class MlFlow:
    """A run of the experiment `finefold`, in a database in the run's folder unless MLFLOW_TRACKING_URI says where."""

    package = "mlflow"

    def __init__(self, home: Path, name: str, values: Mapping[str, Any]) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        import mlflow
        from mlflow.entities import Metric, Param

        asked = os.environ.get("MLFLOW_TRACKING_URI")
        home.mkdir(parents=True, exist_ok=True)
        self._client = mlflow.MlflowClient(tracking_uri=asked or f"sqlite:///{home.resolve() / 'mlflow.db'}")
        found = self._client.get_experiment_by_name(PROJECT)
        artifacts = None if asked else (home.resolve() / "artifacts").as_uri()
        where = found.experiment_id if found else self._client.create_experiment(PROJECT, artifact_location=artifacts)
        self._run = self._client.create_run(where, run_name=name).info.run_id
        self._metric, self._status = Metric, "FAILED"
        self._client.log_batch(self._run, params=[Param(key, str(value)) for key, value in values.items()])

    def log(self, series: str, values: Mapping[str, float], step: int) -> None:
        """As metrics called `fold-0/phase-2/loss`."""
        now = int(time.time() * 1000)
        metrics = [self._metric(f"{series}/{name}", value, now, step) for name, value in values.items()]
        self._client.log_batch(self._run, metrics=metrics)
        if series == OUT_OF_FOLD:
            self._status = "FINISHED"

    def close(self) -> None:
        """Marks the run as finished, or as failed where its end was not seen."""
        self._client.set_terminated(self._run, self._status)


class WandB:
    """A run of the project `finefold`, kept in the run's folder (`wandb sync` uploads it) unless WANDB_MODE is set."""

    package = "wandb"

    def __init__(self, home: Path, name: str, values: Mapping[str, Any]) -> None:
        for key, value in (("WANDB_ERROR_REPORTING", "false"), ("WANDB_SILENT", "true")):
            os.environ.setdefault(key, value)
        import wandb

        home.mkdir(parents=True, exist_ok=True)
        mode = os.environ.get("WANDB_MODE", "offline")
        self._run = wandb.init(project=PROJECT, name=name, dir=str(home), config=dict(values), mode=mode)
        self._series: set[str] = set()

    def log(self, series: str, values: Mapping[str, float], step: int) -> None:
        """Each series over a step of its own, as folds train side by side."""
        axis = f"{series}/step"
        if series not in self._series:
            self._series.add(series)
            self._run.define_metric(axis, hidden=True)
            self._run.define_metric(f"{series}/*", step_metric=axis)
        self._run.log({axis: step, **{f"{series}/{name}": value for name, value in values.items()}})

    def close(self) -> None:
        """Writes what is left."""
        self._run.finish()


TRACKERS: dict[str, Callable[[Path, str, Mapping[str, Any]], Tracker]] = {
    "tensorboard": TensorBoard,
    "mlflow": MlFlow,
    "wandb": WandB,
}


def check_track(names: Sequence[str]) -> None:
    """That trackers of these names can be had.

    Raises:
        UsageError: there is none of that name, or its package is not installed.
    """
    for name in names:
        if name not in TRACKERS:
            near = get_close_matches(name, TRACKERS, n=1)
            hint = f"did you mean `{near[0]}`?" if near else f"choose from {', '.join(TRACKERS)}"
            raise UsageError(f"nothing called `{name}` keeps curves", hint)
        try:
            import_module(TRACKERS[name].package)  # type: ignore[attr-defined]
        except ImportError as reason:
            raise UsageError(
                f"--track {name} needs the package {name}, which is not installed",
                'pip install "finefold[track]"' if name == "tensorboard" else f"pip install {name}",
            ) from reason


@contextmanager
def tracked(folder: RunFolder, names: Sequence[str], recipe: Recipe, on_event: OnEvent | None) -> Iterator[OnEvent]:
    """In the block, what is told goes to every tracker and to `on_event`.

    Args:
        folder: the run; trackers write into its `track/`.
        names: of trackers.
        recipe: told to them as the run's values.
        on_event: a callable of the user's; what it raises ends the training, which can be resumed.
    """
    values = recipe.model_dump(mode="json")
    with ExitStack() as stack:
        trackers: list[Tracker] = []

        def tell(event: Event) -> None:
            if on_event is not None:
                on_event(event)
            if event["kind"] == "begin":  # a run that fails before its first step leaves nothing
                return
            for name in names[len(trackers) :]:
                trackers.append(TRACKERS[name](folder.track / name, folder.path.name, flat(values)))
                stack.callback(trackers[-1].close)
            for tracker in trackers:
                _forward(event, tracker)

        yield tell


def _forward(event: Event, tracker: Tracker) -> None:
    """A step's, epoch's or whole run's numbers to one tracker."""
    if event["kind"] == "end":
        averages = {name: event["scores"][name] for name in SCORES if event["scores"].get(name)}
        tracker.log(OUT_OF_FOLD, {name: float(score["value"]) for name, score in averages.items()}, 0)
        return
    names = {"step": ("loss", "factor", "norm"), "epoch": ("accuracy", "macro_f1", "log_loss")}.get(event["kind"], ())
    prefix = "valid_" if event["kind"] == "epoch" else ""
    found = {f"{prefix}{name}": float(event[name]) for name in names if event.get(name) is not None}
    if found:
        where = [event["attribute"]] if event["attribute"] is not None else []
        series = "/".join([*where, f"fold-{event['fold']}", f"phase-{event['phase'] + 1}"])
        tracker.log(series, found, int(event["step"]))


def flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested tables as one, keys joined by dots."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{before}{key}.") if isinstance(value, Mapping) and value else {f"{before}{key}": value}
    return found
