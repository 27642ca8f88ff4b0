"""A run folder, and the only code that knows the names of the files in it.

`manifest.json` is written last: without it the run is unfinished, and the same command goes on with it.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finefold.errors import FinefoldError, RunError


@dataclass(frozen=True)
class RunFolder:
    """Where a run's files lie.

    Args:
        path: the folder.
    """

    path: Path

    @property
    def recipe(self) -> Path:
        return self.path / "recipe.toml"

    @property
    def data(self) -> Path:
        return self.path / "data.toml"

    @property
    def samples(self) -> Path:
        return self.path / "samples.parquet"

    @property
    def boxes(self) -> Path:
        """The table of boxes, where the recipe names one: for images that are predicted later."""
        return self.path / "boxes.parquet"

    @property
    def split(self) -> Path:
        return self.path / "split.csv"

    @property
    def backbone(self) -> Path:
        return self.path / "backbone.safetensors"

    @property
    def ledger(self) -> Path:
        return self.path / "oof.parquet"

    @property
    def scores(self) -> Path:
        return self.path / "scores.json"

    @property
    def after(self) -> Path:
        """What the recipe's `[after]` came to, fitted on the ledger."""
        return self.path / "after.json"

    @property
    def ensemble(self) -> Path:
        """How the members of an ensemble are combined; only in such a run."""
        return self.path / "ensemble.json"

    @property
    def findings(self) -> Path:
        return self.path / "findings.json"

    @property
    def manifest(self) -> Path:
        return self.path / "manifest.json"

    @property
    def plan(self) -> Path:
        return self.path / "unfinished.json"

    def part(self, attribute: str) -> "RunFolder":
        """Where the folds of one attribute's own models lie, where each attribute has its own."""
        return RunFolder(self.path / "attributes" / attribute)

    def fold(self, number: int) -> Path:
        """The folder of one fold."""
        return self.path / f"fold-{number}"

    def fold_weights(self, number: int) -> Path:
        return self.fold(number) / "weights.safetensors"

    def fold_valid(self, number: int) -> Path:
        return self.fold(number) / "valid.parquet"

    def fold_checkpoint(self, number: int) -> Path:
        """Where a fold stands in its training; gone once the run is finished."""
        return self.fold(number) / "checkpoint.safetensors"

    def fold_log(self, number: int) -> Path:
        """A JSON line per step and epoch."""
        return self.fold(number) / "log.jsonl"

    def fold_trouble(self, number: int) -> Path:
        """What a fold stumbled over."""
        return self.fold(number) / "trouble.json"

    def fold_findings(self, number: int) -> Path:
        """What was found wrong while a fold trained, a JSON line each; only then."""
        return self.fold(number) / "findings.jsonl"

    @property
    def fold_logs(self) -> tuple[Path, ...]:
        """The logs of all folds that took steps, attributes' own models too."""
        return tuple(sorted((*self.path.glob("fold-*/log.jsonl"), *self.path.glob("attributes/*/fold-*/log.jsonl"))))

    @property
    def folds_findings(self) -> tuple[Path, ...]:
        """`fold_findings` of every fold that has any, attributes' own models too."""
        found = (*self.path.glob("fold-*/findings.jsonl"), *self.path.glob("attributes/*/fold-*/findings.jsonl"))
        return tuple(sorted(found))

    @property
    def work(self) -> Path:
        """What the folds' workers need; gone once the run is finished."""
        return self.path / "work"

    @property
    def trial(self) -> "RunFolder":
        """Where a recipe that leaves open what trains tries it out."""
        return RunFolder(self.work / "trial")

    @property
    def training(self) -> Path:
        """The freeze plan, and what else every fold goes by."""
        return self.work / "training.json"

    @property
    def teacher(self) -> Path:
        """What each fold's teacher says of the samples that the fold trains on, where there is a teacher."""
        return self.work / "teacher.npy"

    @property
    def extra(self) -> Path:
        """The images that folds train on besides the samples, with their pseudo labels, where there are any."""
        return self.work / "extra.npz"

    def round(self, number: int) -> "RunFolder":
        """Where a round of pseudo labels, counted from 1, is a run of its own until the best one is the run."""
        return RunFolder(self.work / f"round-{number}")

    def start_weights(self, number: int) -> Path:
        """The heads that a fold's training starts from."""
        return self.work / f"head-{number}.safetensors"

    @property
    def track(self) -> Path:
        """Curves as TensorBoard, MLflow or Weights & Biases keep them, where that was asked for."""
        return self.path / "track"

    def picture(self, name: str) -> Path:
        """An SVG made by the run."""
        return self.path / f"{name}.svg"

    @property
    def pictures(self) -> tuple[str, ...]:
        """Names of the pictures there are, as seen from the folder."""
        found = (*self.path.glob("*.svg"), *self.path.glob("attributes/*/*.svg"))
        return tuple(sorted(file.relative_to(self.path).as_posix() for file in found))

    @property
    def is_finished(self) -> bool:
        """Whether everything was written."""
        return self.manifest.is_file()

    def begin(self, fingerprint: Mapping[str, str]) -> None:
        """Claims the folder for a run, or goes on with the same run where it was interrupted.

        Args:
            fingerprint: what the run is made of (recipe, samples, split ...), name to hash.

        Raises:
            RunError: the folder holds a finished run, an unfinished run of something else, or other files.
        """
        if self.is_finished:
            raise RunError(f"{self.path} holds a finished run", "choose another --out; runs are never overwritten")
        if self.plan.is_file():
            before = read_json(self.plan)
            if _is_running(before.get("process")):
                raise RunError(
                    f"process {before['process']} is writing {self.path}", "wait for it, or choose another --out"
                )
            changed = [name for name, value in fingerprint.items() if before.get(name) != value]
            if changed:
                raise RunError(
                    f"{self.path} holds an unfinished run with another {' and another '.join(changed)}",
                    "choose another --out, or delete that folder if you no longer want it",
                )
        elif self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise RunError(f"{self.path} exists and is not a run", "choose another --out")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as reason:
            raise RunError(f"cannot make {self.path}: {reason.strerror}", "choose another --out") from reason
        write_json(self.plan, {**fingerprint, "process": os.getpid()})

    @contextmanager
    def begun(self, fingerprint: Mapping[str, str]) -> Iterator[None]:
        """`begin`; an error that ends the run before anything was written leaves the folder to the next try."""
        self.begin(fingerprint)
        try:
            yield
        except FinefoldError:
            if list(self.path.iterdir()) == [self.plan]:
                shutil.rmtree(self.path)
            raise

    def finish(self, manifest: Mapping[str, Any]) -> None:
        """Says the run is whole. Nothing is written to it after this."""
        write_json(self.manifest, manifest)
        self.plan.unlink(missing_ok=True)
        for work in (self.work, *self.path.glob("attributes/*/work")):
            shutil.rmtree(work, ignore_errors=True)
        for checkpoint in self.path.glob("**/fold-*/checkpoint.safetensors"):
            checkpoint.unlink(missing_ok=True)

    def read_manifest(self) -> dict[str, Any]:
        """What the run is made of.

        Raises:
            RunError: there is no run, or it is unfinished.
        """
        if not self.path.is_dir():
            raise RunError(f"there is no run at {self.path}", "give the folder that `finefold train --out` wrote")
        if not self.is_finished:
            hint = "give the folder that `finefold train --out` wrote"
            if self.plan.is_file():
                hint = "run the same command again: it goes on where it stopped"
            inside = sorted(str(path.parent) for path in self.path.glob(f"*/{self.manifest.name}"))
            if inside:
                hint = f"runs in it: {', '.join(inside[:3])}{' ...' if len(inside) > 3 else ''}; give one of them"
            raise RunError(f"{self.path} is not a finished run", hint)
        return read_json(self.manifest)


def _is_running(process: Any) -> bool:
    """Whether another process of that number runs on this machine."""
    if not isinstance(process, int) or process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object that finefold wrote."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as reason:
        raise RunError(f"cannot read {path}: {reason}", "the file is broken: make it again") from reason
    assert isinstance(values, dict)
    return values


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Writes a whole JSON file or nothing."""
    write_text(path, json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def append_json(path: Path, values: Mapping[str, Any]) -> None:
    """Adds a JSON line to a file.

    Raises:
        RunError: the place refuses, or the disk is full.
    """
    try:
        with path.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(values) + "\n")
    except OSError as reason:
        raise _cannot_write(path, reason) from reason


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON lines of a file, less what a killed process left half; none where there is no file."""
    if not path.is_file():
        return []
    found = []
    for text in path.read_text(encoding="utf-8").splitlines():
        with suppress(ValueError):
            found.append(json.loads(text))
    return found


def write_text(path: Path, text: str) -> None:
    """Writes a whole text file or nothing.

    Raises:
        RunError: the place refuses, or the disk is full.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(path)
    except OSError as reason:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise _cannot_write(path, reason) from reason


def _cannot_write(path: Path, reason: OSError) -> RunError:
    return RunError(f"cannot write {path}: {reason.strerror}", "free some space, or choose another place")
