"""`finefold doctor`: what is wrong with a data.toml, a run, or a data set that a function of the user's makes."""

import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from finefold.doctor.checks import chosen_checks, make_checks
from finefold.doctor.diagnosis import Diagnosis
from finefold.errors import UsageError
from finefold.steps.diagnose import subject_of
from finefold.steps.progress import SILENT, Progress

FORMS = "give a data.toml, a run's folder, or package.module:make_dataset"


def doctor(target: str, *, only: Sequence[str] = (), progress: Progress = SILENT) -> Diagnosis:
    """All checks that can be made of `target`, or those named.

    Args:
        target: a data.toml, a run's folder, or `package.module:name`, a data set, a (train, valid) pair, or a function
            without arguments that makes one. The module is imported, from the working directory too.
        only: names of checks.
        progress: told of the stages.

    Raises:
        UsageError: no such target, or no such check.
        DataError, RunError: it cannot be read.
    """
    chosen_checks(only)
    given = _imported(target) if not Path(target).exists() and ":" in target else target
    if isinstance(given, str) and not Path(given).exists():
        raise UsageError(f"there is no {target}", FORMS)
    subject = subject_of(given, progress=progress)
    for note in subject.notes:
        progress.say(note)
    return make_checks(subject, only, told=lambda name: progress.say(f"checking: {name}"))


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
    if callable(found) and not hasattr(found, "__getitem__"):
        try:
            return found()
        except Exception as reason:
            raise UsageError(
                f"`{target}()` failed: {type(reason).__name__}: {str(reason)[:200]}",
                "it is called without arguments, and gives a data set or a (train, valid) pair",
            ) from reason
    return found
