"""What the logs of a run say of whether anything was learned.

Shapes: N samples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finefold.data.findings import Finding
from finefold.nn.watching import LOOK, RECENT, STUCK, entropy_of
from finefold.runs.folder import RunFolder, read_lines

RISEN = 1.5  # times its best, validation's log loss at the end
FALLEN = 0.25  # of validation's log loss, training's loss beside it


@dataclass(frozen=True)
class _Log:
    """One fold's log.

    Args:
        name: of the fold, with its attribute where it has a model of its own.
        losses: of the steps of its last phase.
        valid: log loss after each epoch of all phases.
    """

    name: str
    losses: tuple[float, ...]
    valid: tuple[float, ...]

    @classmethod
    def read(cls, file: Path) -> "_Log":
        lines = read_lines(file)
        last = max((line["phase"] for line in lines), default=0)
        losses = tuple(line["loss"] for line in lines if "loss" in line and line["phase"] == last)
        return cls(_name_of(file), losses, tuple(line["log_loss"] for line in lines if "log_loss" in line))

    def is_stuck(self, entropy: float) -> bool:
        """Whether training's loss did not fall and validation's was never below the prior's entropy."""
        if len(self.losses) < 2 * RECENT or not self.valid:
            return False
        has_fallen = fmean(self.losses[-RECENT:]) < STUCK * fmean(self.losses[:RECENT])
        return not has_fallen and min(self.valid) >= STUCK * entropy

    @property
    def is_far_above(self) -> bool:
        """Whether training's loss went to nothing while validation's rose."""
        if len(self.losses) < RECENT or len(self.valid) < 2:
            return False
        end = self.valid[-1]
        return end > RISEN * min(self.valid) and fmean(self.losses[-RECENT:]) < FALLEN * end


def findings_of_run(run: RunFolder, labels_N: NDArray[np.int64]) -> tuple[str, tuple[Finding, ...]]:
    """What was looked at, and what was found: by the watcher while folds trained, and in their logs.

    Args:
        run: its folder.
        labels_N: codes of its samples, -1 where not known.
    """
    logs = [_Log.read(file) for file in run.fold_logs]
    if not logs:
        return "the heads were fitted to the end, which takes no steps that could go wrong", ()
    watched = {_name_of(file): read_lines(file) for file in run.folds_findings}
    found = _of_watcher(watched)
    kinds = {finding.kind for finding in found}
    entropy = entropy_of(np.bincount(labels_N[labels_N >= 0]))
    stuck = [log for log in logs if log.is_stuck(entropy) and len(log.name.split("/")) == 1]
    if stuck and "nothing-learned" not in kinds:
        found.append(_stuck(stuck, entropy))
    far = [log for log in logs if log.is_far_above]
    if far and "train-above-valid" not in kinds:
        found.append(_far_above(far))
    steps = sum(len(log.losses) for log in logs)
    says = f"the logs of {len(logs)} folds, {steps:,} steps of their last phase, and what was said while they trained"
    return says, tuple(found)


def _name_of(file: Path) -> str:
    """`fold-0`, or `gender/fold-0` where an attribute has a model of its own."""
    fold = file.parent
    return f"{fold.parent.name}/{fold.name}" if fold.parent.parent.name == "attributes" else fold.name


def _of_watcher(watched: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Finding]:
    """The watcher's findings, one of each kind with the folds that it was said of."""
    by_kind: dict[str, list[tuple[str, Mapping[str, Any]]]] = {}
    for fold, lines in watched.items():
        for line in lines:
            by_kind.setdefault(line["kind"], []).append((fold, line))
    found = []
    for kind, said in by_kind.items():
        first = said[0][1]
        folds = [fold for fold, _ in said]
        ids = tuple(dict.fromkeys(name for _, line in said for name in line["ids"]))
        evidence = {"folds": folds, **first["evidence"]}
        cause = f"while {_folds(folds)} trained: {first['cause']}"
        found.append(Finding(kind, first["severity"], ids, evidence, cause, first["remedy"]))
    return found


def _stuck(logs: Sequence[_Log], entropy: float) -> Finding:
    best = min(min(log.valid) for log in logs)
    return Finding(
        "nothing-learned",
        "warning",
        (),
        {"folds": [log.name for log in logs], "best": best, "entropy": entropy},
        f"{_folds([log.name for log in logs])}: log loss on what is held out was never below {best:.3f}, and the "
        f"classes' shares alone give {entropy:.3f}",
        f"{LOOK}; then look for a rate with `finefold lr-find`",
    )


def _far_above(logs: Sequence[_Log]) -> Finding:
    log = max(logs, key=lambda one: one.valid[-1] / min(one.valid))
    train, best, end = fmean(log.losses[-RECENT:]), min(log.valid), log.valid[-1]
    return Finding(
        "train-above-valid",
        "warning",
        (),
        {"folds": [one.name for one in logs], "train": train, "best": best, "end": end},
        f"{_folds([one.name for one in logs])}: training's loss fell to {train:.3f} while log loss on what is held out "
        f"rose from {best:.3f} to {end:.3f}: the images are remembered",
        'stop earlier (`train.patience`, `train.keep = "best"`), train fewer stages, or augment',
    )


def _folds(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return shown.replace("fold-", "fold ")
