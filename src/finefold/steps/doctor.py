"""`finefold doctor`: what is wrong with a data.toml, a run, or a data set that a function of the user's makes."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from finefold.data.labelling import PATCH_COLUMNS
from finefold.data.rows import read_rows
from finefold.data.submission import write_csv
from finefold.doctor.alignment import repaired_attributes, repaired_labels
from finefold.doctor.checks import chosen_checks, make_checks
from finefold.doctor.diagnosis import Diagnosis
from finefold.doctor.subject import Subject
from finefold.errors import UsageError
from finefold.steps.diagnose import subject_of
from finefold.steps.progress import SILENT, Progress
from finefold.steps.reading import Data, read_data

FORMS = "give a data.toml, a run's folder, or package.module:make_dataset"


@dataclass(frozen=True)
class Examined:
    """What the doctor found, and wrote.

    Args:
        diagnosis: every check and finding.
        subject: what was examined, in words.
        fix: the patches that mend wrong pairings; None where none were asked for, or nothing can be mended so.
        num_patches: rows in it.
    """

    diagnosis: Diagnosis
    subject: str
    fix: Path | None = None
    num_patches: int = 0


def doctor(target: str, *, only: Sequence[str] = (), fix: Path | None = None, progress: Progress = SILENT) -> Examined:
    """All checks that can be made of `target`, or those named.

    Args:
        target: a data.toml, a run's folder, or `package.module:name`, a data set, a (train, valid) pair, or a function
            without arguments that makes one. The module is imported, from the working directory too.
        only: names of checks.
        fix: of a data.toml, where to write the label patches that mend a wrong pairing; nothing is changed in place.
        progress: told of the stages.

    Raises:
        UsageError: no such target, no such check, or `fix` cannot be written.
        DataError, RunError: it cannot be read.
    """
    chosen_checks(only)
    given: Any = target
    if Path(target).is_file():
        given = read_data(target)
    elif not Path(target).exists():
        if ":" not in target:
            raise UsageError(f"there is no {target}", FORMS)
        given = _imported(target)
    if fix is not None:
        _check_fix(fix, given, only)
    subject = subject_of(given, progress=progress)
    for note in subject.notes:
        progress.say(note)
    diagnosis = make_checks(subject, only, told=lambda name: progress.say(f"checking: {name}"))
    patches = _patches(subject, given) if fix is not None else None
    if fix is None or patches is None:
        return Examined(diagnosis, subject.name)
    write_csv(patches, fix)
    return Examined(diagnosis, subject.name, fix, patches.height)


def _check_fix(fix: Path, given: Any, only: Sequence[str]) -> None:
    if not isinstance(given, Data):
        raise UsageError(
            "--fix writes patches for a data.toml, and this is none", "mend the code that makes the data set"
        )
    if only and "alignment" not in only:
        raise UsageError("--fix needs the check `alignment`", "add --only alignment, or leave --only out")
    if fix.exists():
        raise UsageError(f"{fix} exists", "give another file: patches are for you to look at, and never written over")


def _patches(subject: Subject, data: Data) -> pl.DataFrame | None:
    """A row for each sample and attribute that changes, after the patches that data.toml names already."""
    samples = subject.samples
    repaired = _repaired(subject)
    if samples is None or not repaired:
        return None
    rows = []
    for attribute, codes_N in zip(samples.space.attributes, samples.codes_NA.T, strict=True):
        for sample, before, after in zip(samples.ids, codes_N, repaired.get(attribute.name, codes_N), strict=True):
            if after >= 0 and before != after:
                reason = "finefold doctor: the label belongs to another image"
                rows.append((sample, attribute.name, attribute.classes[before], attribute.classes[after], reason))
    made = pl.DataFrame(rows, schema=dict.fromkeys(PATCH_COLUMNS, pl.String), orient="row")
    known = data.spec.file.samples.patches
    if known is None:
        return made
    before = read_rows(data.spec.folder / known, keep_blank=True)
    lacking = [pl.lit("").alias(name) for name in PATCH_COLUMNS if name not in before.columns]
    return pl.concat([before.with_columns(lacking).select(PATCH_COLUMNS).cast(pl.String), made])


def _repaired(subject: Subject) -> dict[str, NDArray[np.int64]]:
    """[N] what each attribute's codes should be, -1 where there is none; no entry for those that are right."""
    labels_N, samples = repaired_labels(subject), subject.samples
    if samples is None or labels_N is None:
        return repaired_attributes(subject)
    codes = samples.space.attribute_codes()
    return {name: np.where(labels_N >= 0, codes_K[labels_N], -1) for name, codes_K in codes.items()}


def _imported(target: str) -> Any:
    """What `package.module:name` is, or makes.

    Raises:
        UsageError: the module or the name is not there, or the function fails.
    """
    module, _, name = target.partition(":")
    if not module or not name:
        raise UsageError(f"`{target}` names no function of a module", FORMS)
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as reason:
        raise UsageError(f"cannot import `{target}`: {type(reason).__name__}: {reason}", FORMS) from reason
    if callable(found) and (isinstance(found, type) or not hasattr(found, "__getitem__")):
        try:
            return found()
        except Exception as reason:
            raise UsageError(
                f"`{target}()` failed: {type(reason).__name__}: {str(reason)[:200]}",
                "it is called without arguments, and gives a data set or a (train, valid) pair",
            ) from reason
    return found
