"""Training one fold, in a worker process: `python -m finefold.steps.folds`, see scale/processes.py.

Everything it goes by lies in the run's folder, and so does everything it says: checkpoint, log, weights, predictions.
A fold whose predictions are there is done; one that has a checkpoint goes on from it.
"""

import fcntl
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from finefold.data.findings import Finding
from finefold.data.predictions import Predictions, write_parquet
from finefold.errors import TrainingError
from finefold.nn.classifier import Classifier, Tail
from finefold.nn.devices import set_threads
from finefold.nn.loaders import EvaluateRole
from finefold.nn.loop import NotFinite, PhaseLoop, Step, predict_rows
from finefold.nn.watching import not_finite
from finefold.nn.weights import read_header, read_state, write_weights
from finefold.runs.folder import RunFolder, append_json, read_lines, write_json, write_text
from finefold.scale.processes import Message, serve
from finefold.steps.expecting import MEASURED, measure
from finefold.steps.own import NOTHING, Own
from finefold.steps.training import Training, held_out_by, phase_loop, quick_scores, start_classifier, watcher_of

Tell = Callable[[Mapping[str, Any]], None]
_TUNED, _BEST = "tuned/", "best/"


@dataclass
class _Fold:
    """One fold while it trains."""

    training: Training
    number: int
    tell: Tell
    stop: threading.Event
    classifier: Classifier
    best: dict[str, torch.Tensor] = field(default_factory=dict)
    best_score: float = -np.inf
    best_epoch: int = -1
    saved_at: float = field(default_factory=time.monotonic)

    @cached_property
    def valid(self) -> NDArray[np.int64]:
        """Numbers of the samples that this fold holds out."""
        return held_out_by(self.training, self.number)

    def run(self) -> bool:
        """All phases, from where the checkpoint says; whether they were finished."""
        phase, step, scores, state = self._restore()
        for number, plan in enumerate(self.training.plan.phases):
            if plan.is_probe or number < phase:
                continue
            loop = phase_loop(self.training, self.classifier, self.number, number)
            if number == phase and step:
                loop.load(state, step, scores)
            if not self._run_phase(number, loop):
                return False
            self._save(number + 1, None)
        self._write()
        return True

    def _run_phase(self, number: int, loop: PhaseLoop) -> bool:
        """Runs a phase to its end; False where the parent let go before that."""
        recipe = self.training.recipe.train
        self.best, self.best_score, self.best_epoch = ({}, -np.inf, -1) if not loop.step else self._best()
        loop.watcher = watcher_of(self.training, loop.plan, said=self._said(), losses=self._losses(number))
        try:
            for step in loop.run():
                self._note({"phase": number, **_about(step)})
                self.tell({"kind": "step", "fold": self.number, "phase": number, **_about(step)})
                if step.is_epoch_end or step.number == loop.num_steps:
                    self._judge(number, loop, step)
                self._tell_findings(number, loop, step)
                is_over = recipe.patience > 0 and step.epoch - self.best_epoch > recipe.patience
                if self.stop.is_set() or time.monotonic() - self.saved_at >= recipe.save_seconds:
                    self._save(number, loop)
                if self.stop.is_set():
                    return False
                if is_over and step.is_epoch_end:
                    self.tell(
                        {"kind": "say", "line": f"fold {self.number}: no better score for {recipe.patience} epochs"}
                    )
                    self.tell({"kind": "skip", "fold": self.number, "steps": loop.num_steps - step.number})
                    break
        except NotFinite as trouble:
            raise self._trouble(number, loop, trouble) from trouble
        loop.finish()
        if recipe.keep == "best" and self.best:
            self.classifier.load_tuned(self.best, self.training.folder.fold_checkpoint(self.number))
        return True

    def _judge(self, number: int, loop: PhaseLoop, step: Step) -> None:
        """The fold's score on the samples it holds out, on their plain view."""
        training, recipe = self.training, self.training.recipe.train
        role = EvaluateRole(loop.role.rows, self.valid, recipe.batch_size)
        with loop.averaged():
            probs_NK = predict_rows(loop.tail, role.batches(), training.device)
            scores = quick_scores(probs_NK, training.samples.labels_N[self.valid])
            score = scores[recipe.metric] * (-1 if recipe.metric == "log_loss" else 1)
            loop.scores.append(score)
            if score > self.best_score:
                self.best_score, self.best_epoch = score, step.epoch
                if recipe.keep == "best":
                    self.best = self.classifier.tuned_state(self._names())
        self._note({"phase": number, "step": step.number, "epoch": step.epoch, **scores})
        self.tell(
            {
                "kind": "epoch",
                "fold": self.number,
                "phase": number,
                "step": step.number,
                "epoch": step.epoch,
                "loss": step.loss,
                **scores,
            }
        )
        assert loop.watcher is not None
        loop.watcher.validated(probs_NK.argmax(axis=1), training.samples.labels_N[self.valid])

    def _tell_findings(self, number: int, loop: PhaseLoop, step: Step) -> None:
        """Says and keeps what the watcher found since."""
        assert loop.watcher is not None
        for finding in loop.watcher.news():
            self._keep_finding(number, step.epoch, finding)
            line = f"warning: fold {self.number}, epoch {step.epoch + 1}: {finding.cause}; {finding.remedy}"
            self.tell({"kind": "say", "line": line})

    def _keep_finding(self, phase: int, epoch: int, finding: Finding) -> None:
        evidence = {"phase": phase, "epoch": epoch, **finding.evidence}
        append_json(self.training.folder.fold_findings(self.number), {**finding.to_dict(), "evidence": evidence})

    def _said(self) -> frozenset[str]:
        """Kinds of findings that this fold said already."""
        return frozenset(line["kind"] for line in read_lines(self.training.folder.fold_findings(self.number)))

    def _losses(self, phase: int) -> list[float]:
        """Of the steps of a phase that were taken before."""
        lines = read_lines(self.training.folder.fold_log(self.number))
        return [line["loss"] for line in lines if line["phase"] == phase and "loss" in line]

    def _names(self) -> frozenset[str]:
        return frozenset[str]().union(*(phase.trainable for phase in self.training.plan.phases))

    def _save(self, phase: int, loop: PhaseLoop | None) -> None:
        """Writes where the fold stands: inside a phase, or before its first step."""
        state = {f"{_TUNED}{name}": value for name, value in self.classifier.tuned_state(self._names()).items()}
        if loop is not None:
            state |= loop.state()
            state |= {f"{_BEST}{name}": value for name, value in self.best.items()}
        header = {
            "kind": "checkpoint",
            "phase": phase,
            "step": 0 if loop is None else loop.step,
            "scores": [] if loop is None else loop.scores,
            "best": [self.best_score, self.best_epoch] if loop is not None and self.best_epoch >= 0 else None,
        }
        write_weights(self.training.folder.fold_checkpoint(self.number), state, header)
        self.saved_at = time.monotonic()

    def _restore(self) -> tuple[int, int, list[float], Mapping[str, torch.Tensor]]:
        """Phase, step and scores of the checkpoint, whose values go into the model; the start where there is none."""
        file = self.training.folder.fold_checkpoint(self.number)
        if not file.is_file():
            self._cut_log(0, 0)
            return 0, 0, [], {}
        header, state = read_header(file), read_state(file)
        tuned = {key.removeprefix(_TUNED): value for key, value in state.items() if key.startswith(_TUNED)}
        self.classifier.load_tuned(tuned, file)
        self._cut_log(header["phase"], header["step"])
        return header["phase"], header["step"], header["scores"], state

    def _best(self) -> tuple[dict[str, torch.Tensor], float, int]:
        file = self.training.folder.fold_checkpoint(self.number)
        told = read_header(file)["best"]
        state = {key.removeprefix(_BEST): value for key, value in read_state(file).items() if key.startswith(_BEST)}
        return (state, *told) if told else ({}, -np.inf, -1)

    def _note(self, line: Mapping[str, Any]) -> None:
        append_json(self.training.folder.fold_log(self.number), line)

    def _cut_log(self, phase: int, step: int) -> None:
        """Drops what was logged after the checkpoint: it will be done, and logged, again."""
        file = self.training.folder.fold_log(self.number)
        if not file.is_file():
            return
        kept = [
            text for text in file.read_text(encoding="utf-8").splitlines(keepends=True) if _is_before(text, phase, step)
        ]
        write_text(file, "".join(kept))

    def _trouble(self, number: int, loop: PhaseLoop, trouble: NotFinite) -> TrainingError:
        file = self.training.folder.fold_trouble(self.number)
        ids = self.training.images.at(trouble.samples).ids
        write_json(file, {"phase": number, "step": loop.step, "not_finite": trouble.what, "ids": ids})
        self._keep_finding(number, loop.step // loop.steps_per_epoch, not_finite(loop.step + 1, trouble.what, ids))
        return TrainingError(
            f"fold {self.number}, phase {number + 1}, step {loop.step + 1}: {trouble.what} is not a finite number",
            f"the step's {len(ids)} samples are in {file}; try a smaller lr, a longer schedule.warmup, "
            'train.clip_norm = 1, or train.precision = "fp32"',
        )

    def _write(self) -> None:
        """The fold's weights and its predictions of the samples it held out."""
        training, space = self.training, self.training.samples.space
        cut = training.plan.cut
        tail = Tail(self.classifier, training.backbone_at(cut)).to(training.device)
        role = EvaluateRole(training.rows(cut), self.valid, training.recipe.train.batch_size)
        views = training.recipe.predict.views
        probs_NK = np.mean([predict_rows(tail, role.batches(view), training.device) for view in views], axis=0)
        ids = [training.samples.ids[sample] for sample in self.valid]
        header = {
            "class_names": list(space.class_names),
            "backbone": training.backbone.weights_hash,
            "preprocessing": training.backbone.preprocessing.to_dict(),
            "cut": cut,
            "shape": list(training.shapes[cut]),
            "opened": sorted(training.backbone.opened or ()),
            "fold": self.number,
        }
        self.classifier.write(training.folder.fold_weights(self.number), self._names(), header)
        frame = Predictions(tuple(ids), probs_NK, space.class_names).to_frame()
        write_parquet(frame, training.folder.fold_valid(self.number))


def _about(step: Step) -> dict[str, Any]:
    return {
        "step": step.number,
        "epoch": step.epoch,
        "loss": round(step.loss, 6),
        "factor": round(step.factor, 6),
        "norm": round(step.norm, 6) if np.isfinite(step.norm) else None,
    }


def _is_before(text: str, phase: int, step: int) -> bool:
    try:
        line = json.loads(text)
    except ValueError:  # half a line, from a process that was killed
        return False
    return bool((line["phase"], line["step"]) <= (phase, step))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Waits until no other process works in a fold's folder: one whose parent was killed saves before it ends."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = (folder / ".lock").open("w")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        (folder / ".lock").unlink(missing_ok=True)
        handle.close()


def train_fold(
    run: RunFolder, number: int, attribute: str | None, tell: Tell, stop: threading.Event, own: Own = NOTHING
) -> bool:
    """Trains one fold to its end, or until told to stop; whether it is done.

    Args:
        run: whose work was planned.
        number: of the fold.
        attribute: whose own model it is, where each attribute has its own.
        tell: told of steps, epochs and what is worth a line.
        stop: asked after every step.
        own: what the user brought from Python.
    """
    set_threads()
    folder = run if attribute is None else run.part(attribute)
    with _alone(folder.fold(number)):
        if folder.fold_valid(number).is_file():
            return True
        training = Training.read(run, attribute, own)
        return _Fold(training, number, tell, stop, start_classifier(training, number)).run()


def do_job(job: Message, tell: Tell, stop: threading.Event, own: Own = NOTHING) -> None:
    """Trains the fold that a job names by run, fold and attribute, or measures how fast it would train."""
    attribute = job["attribute"]
    if job.get("measure"):
        training = Training.read(RunFolder(Path(job["run"])), attribute, own)
        tell({"kind": MEASURED, "paces": [asdict(pace) for pace in measure(training, int(job["fold"]))]})
        return

    def told(message: Mapping[str, Any]) -> None:
        tell({**message, "attribute": attribute})

    train_fold(RunFolder(Path(job["run"])), int(job["fold"]), attribute, told, stop, own)


if __name__ == "__main__":
    serve(do_job)
