"""`finefold runs`: the runs of a folder side by side, with what tells their recipes apart."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from finefold.errors import FinefoldError, RunError
from finefold.recipe.explaining import recipe_leaves, to_toml
from finefold.runs.folder import RunFolder, read_json
from finefold.steps.run import Run, open_run

By = Literal["macro_f1", "accuracy", "balanced_accuracy", "log_loss"]


@dataclass(frozen=True)
class Line:
    """One run.

    Args:
        name: its folder, as seen from the folder that was asked for.
        scores: score -> value, low, high, n, as its scores.json has them.
        minutes: that making it took.
        written: when, in ISO format.
        split: hash of its split.
        differs: recipe key -> its value, of the keys in which runs differ; of an ensemble, how it was made.
    """

    name: str
    scores: Mapping[str, Any]
    minutes: float
    written: str
    split: str
    differs: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "run": self.name,
            "scores": dict(self.scores),
            "minutes": self.minutes,
            "written": self.written,
            "split": self.split,
            "differs": dict(self.differs),
        }


@dataclass(frozen=True)
class Board:
    """The runs of a folder.

    Args:
        by: the score they are ordered by.
        lines: best first.
        unfinished: names of runs that are not done.
        broken: name -> what is wrong.
    """

    by: By
    lines: tuple[Line, ...]
    unfinished: tuple[str, ...]
    broken: Mapping[str, str]

    @property
    def num_splits(self) -> int:
        """How many different splits there are; scores of different ones are not comparable."""
        return len({line.split for line in self.lines})

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, as `--json` prints them."""
        return {
            "by": self.by,
            "runs": [line.to_dict() for line in self.lines],
            "unfinished": list(self.unfinished),
            "broken": dict(self.broken),
        }


def list_runs(folder: str | Path, *, by: By = "macro_f1") -> Board:
    """The runs in a folder and the folders in it; nothing is computed, scores are those the runs hold.

    Args:
        folder: where to look.
        by: the score to order them by.

    Raises:
        RunError: there is no such folder, or no run in it.
    """
    root = Path(folder)
    if not root.is_dir():
        raise RunError(f"there is no folder {root}", "give the folder that your runs lie in: finefold runs DIR")
    finished: dict[str, Run] = {}
    scores: dict[str, Mapping[str, Any]] = {}
    unfinished: list[str] = []
    broken: dict[str, str] = {}
    for found in _run_folders(root):
        name = str(found.path.relative_to(root))
        if not found.is_finished:
            unfinished.append(name)
            continue
        try:
            run = open_run(found.path)
            scores[name] = {key: value for key, value in read_json(found.scores).items() if _is_score(value)}
            finished[name] = run
        except FinefoldError as error:
            broken[name] = error.message
    if not finished and not unfinished and not broken:
        raise RunError(f"no run in {root}", "runs are what `finefold train --out` writes")
    differs = _differences(finished)
    sign = 1 if by == "log_loss" else -1
    lines = [
        Line(
            name,
            scores[name],
            round(run.manifest["seconds"] / 60, 2),
            run.manifest["written"],
            run.manifest["hashes"]["split"],
            differs[name],
        )
        for name, run in finished.items()
    ]
    lines.sort(key=lambda line: (sign * line.scores[by]["value"] if by in line.scores else float("inf"), line.name))
    return Board(by, tuple(lines), tuple(unfinished), broken)


def _run_folders(root: Path) -> Iterator[RunFolder]:
    """Folders that are runs, in order; a run's own folders are not looked into."""
    for path, inside, _ in os.walk(root):
        found = RunFolder(Path(path))
        if found.is_finished or found.plan.is_file():
            inside.clear()
            yield found
        inside.sort()


def _is_score(value: Any) -> bool:
    return isinstance(value, dict) and {"value", "low", "high"} <= value.keys()


def _differences(runs: Mapping[str, Run]) -> dict[str, dict[str, str]]:
    """Of every trained run, the keys in which it says otherwise than most."""
    trained = {name: dict(recipe_leaves(run.recipe)) for name, run in runs.items() if not run.is_ensemble}
    told: dict[str, dict[str, str]] = {name: _made_of(run) for name, run in runs.items() if run.is_ensemble}
    keys = dict.fromkeys(key for leaves in trained.values() for key in leaves)
    usual: dict[str, str] = {}
    for key in keys:
        values = [to_toml(leaves[key]) if key in leaves else "" for leaves in trained.values()]
        usual[key] = max(dict.fromkeys(values), key=values.count)
    for name, leaves in trained.items():
        said = {key: to_toml(leaves[key]) if key in leaves else "nothing" for key in keys}
        told[name] = {key: value for key, value in said.items() if value != (usual[key] or "nothing")}
        told[name] |= _other_runs(runs[name])
    return told


def _other_runs(run: Run) -> dict[str, str]:
    """What a run was averaged of, or learned from."""
    soup, teacher = run.manifest.get("soup"), run.manifest.get("teacher")
    said = {}
    if soup is not None:
        names = " + ".join(one["name"] for one in soup["members"])
        said["soup"] = f"{names}{', over folds' if soup['over_folds'] else ''}{', greedy' if soup['greedy'] else ''}"
    if teacher is not None:
        said["teacher"] = Path(teacher["path"]).name
    return said


def _made_of(run: Run) -> dict[str, str]:
    """How an ensemble was made."""
    by = run.manifest["by"]
    weights = {one["name"]: f" {one['weight']:.2f}" if by == "greedy" else "" for one in run.manifest["members"]}
    return {"ensemble": f"{by} of {' + '.join(name + weight for name, weight in weights.items())}"}
