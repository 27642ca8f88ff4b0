"""Ledgers of several runs side by side: only where rows, folds and labels are the same."""

from collections.abc import Sequence
from dataclasses import replace

from finefold.data.predictions import Ledger
from finefold.data.split_checks import counted
from finefold.errors import RunError
from finefold.steps.run import Run


def run_names(runs: Sequence[Run]) -> list[str]:
    """Names of folders where they differ, else whole paths."""
    folders = [run.folder.path for run in runs]
    short = [folder.resolve().name for folder in folders]
    return short if len(set(short)) == len(short) else [str(folder) for folder in folders]


def aligned_ledgers(runs: Sequence[Run], names: Sequence[str], *, verb: str) -> list[Ledger]:
    """The runs' ledgers with rows in the first one's order.

    Args:
        runs: at least one.
        names: of each, for errors.
        verb: what is to be done with them, for errors: `compared`.

    Raises:
        RunError: they are not of the same split, samples, classes or labels.
    """
    ledgers = [run.ledger() for run in runs]
    first = ledgers[0]
    for name, run, ledger in zip(names[1:], runs[1:], ledgers[1:], strict=True):
        what = _what_differs(runs[0], first, run, ledger)
        if what:
            raise RunError(
                f"`{names[0]}` and `{name}` cannot be {verb}: {what}",
                "train both on the same data.toml with the same split file (`finefold train --split FILE`); where "
                "labels were patched in between, train the earlier recipe again on the patched ones",
            )
    ids = first.predictions.ids
    return [replace(first, predictions=one.predictions.rows_for(ids)) for one in ledgers]


def _what_differs(run: Run, ledger: Ledger, other_run: Run, other: Ledger) -> str | None:
    """Why two ledgers are no pair; None where they are one."""
    if ledger.predictions.class_names != other.predictions.class_names:
        return "their classes differ"
    mine, theirs = _facts(ledger), _facts(other)
    if mine.keys() != theirs.keys():
        alone = mine.keys() ^ theirs.keys()
        return f"{counted(len(alone), 'sample')} in one of them only, e.g. `{sorted(alone)[0]}`"
    relabelled = [name for name in mine if mine[name][0] != theirs[name][0]]
    if relabelled:
        return f"{counted(len(relabelled), 'sample')} with another evaluation label, e.g. `{relabelled[0]}`"
    if run.manifest["hashes"]["split"] != other_run.manifest["hashes"]["split"] or mine != theirs:
        return "they have different splits, so their folds' models saw different samples"
    return None


def _facts(ledger: Ledger) -> dict[str, tuple[list[int], int]]:
    """What a ledger takes for true of every sample, all attributes' codes where some are missing, and its fold."""
    truth_NA = ledger.labels_N[:, None] if ledger.codes_NA is None else ledger.codes_NA
    return dict(zip(ledger.predictions.ids, zip(truth_NA.tolist(), ledger.folds_N.tolist(), strict=True), strict=True))
