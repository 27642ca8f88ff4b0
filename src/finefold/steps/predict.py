"""`finefold predict`: images -> probabilities of every fold's model, averaged -> a checked answer file.

Shapes: N images, K joint classes.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from finefold.data.journal import Journal
from finefold.data.predictions import Predictions
from finefold.data.split_checks import counted
from finefold.data.submission import answered, csv_parts
from finefold.errors import SubmissionError
from finefold.metrics.classification import FloatArray
from finefold.nn.streaming import Part
from finefold.recipe.training import AfterRecipe
from finefold.runs.folder import write_json
from finefold.steps.after import (
    ROWS_LOOKED_AT,
    Plan,
    asks_for_shares,
    changed_after,
    check_adapt_prior,
    plan_correction,
)
from finefold.steps.answers import Answers, Tally, answer_table, check_replaceable, side_file
from finefold.steps.boxes import Finder
from finefold.steps.counts import Counts, check_counts, together
from finefold.steps.effort import ALL, Effort, check_effort
from finefold.steps.members import combined
from finefold.steps.pooling import Pooling, check_pooling
from finefold.steps.probabilities import stream_of
from finefold.steps.progress import SILENT, Lines, Progress
from finefold.steps.questions import Questions, Under, read_images, read_questions
from finefold.steps.run import Run

ROWS_AT_ONCE = 4096  # of the answer file


def predict(
    run: Run,
    images: str | Path | None = None,
    *,
    boxes: str | Path | Finder | None = None,
    overrides: Sequence[str] = (),
    adapt_prior: str | Path | None = None,
    effort: Effort = ALL,
    progress: Progress = SILENT,
) -> Answers:
    """Class probabilities for every image in a folder, averaged over the models of all folds.

    Args:
        run: a finished run.
        images: a folder; without one, the root of [predict] in the run's data.toml.
        boxes: where the run looks at boxes: a file of them, or a callable that finds one; by default the file that it
            was trained with, as far as it names other images than those that it was trained on.
        overrides: `after.key=value`, on top of the run's `[after]`.
        adapt_prior: `off`, `auto`, or a TOML file of known class shares; as `[after]` says where left out.
        effort: fewer folds or other views than the run has; with other views than its ledger's nothing is corrected.
        progress: told of the stages.

    Raises:
        DataError: no folder is known, it does not exist, or holds no image; the file does not say class shares; or no
            image has one of the boxes given.
        UsageError: the run cannot answer with that effort; an override is of what training settled; or boxes are
            given, and the run was trained without.
    """
    after = changed_after(run, overrides)  # before the work
    check_adapt_prior(run, adapt_prior)
    check_effort(run, effort, is_corrected=not after.is_nothing or asks_for_shares(after, adapt_prior))
    asked = read_images(run, images).with_boxes(run, boxes, progress)
    parts = list(_stream(run, asked, 0, progress, effort))
    probs_NK = np.concatenate([part.probs_BK for part in parts])
    findings = tuple(finding for part in parts for finding in part.findings)
    predictions = Predictions(tuple(asked.names), probs_NK, run.space.class_names)
    answers = Answers(run, predictions, findings, asked.root, boxes=asked.boxes, effort=effort)
    plan = plan_correction(run, lambda: probs_NK, after, adapt_prior)
    return answers if plan.is_nothing else answers.corrected(plan.apply(probs_NK), plan.about())


def write_answers(
    run: Run,
    images: str | Path | None = None,
    *,
    out: str | Path,
    boxes: str | Path | Finder | None = None,
    strict: bool = False,
    overrides: Sequence[str] = (),
    adapt_prior: str | Path | None = None,
    pooling: Pooling | None = None,
    counts: Counts | None = None,
    effort: Effort = ALL,
    progress: Progress = SILENT,
) -> tuple[Tally, Path]:
    """Predicts and writes: the template of [predict] filled in, or where a folder is named, a table of its images.

    However many images there are, memory holds some thousand at a time and the list of their names. Probabilities go
    to a hidden folder beside `out` as they are made, so that the same command goes on where a killed one stopped.
    What corrects the answers of all images together, as pooling does, holds all their probabilities.

    Args:
        run: a finished run.
        images: a folder; without one, the root of [predict] in the run's data.toml.
        out: the answer file.
        boxes: as `predict`.
        strict: an unreadable image is an error, once the file was written.
        overrides: `after.key=value`, on top of the run's `[after]`.
        adapt_prior: `off`, `auto`, or a TOML file of known class shares; as `[after]` says where left out.
        pooling: what images of one group share, after all else; nothing unless asked for.
        counts: how many images there are of each class, by design; last of all, and not together with pooling.
        effort: as `predict`.
        progress: told of the stages.

    Raises:
        UsageError: pooling names no attribute of the label; and as `predict`.
        SubmissionError: `out` is a file of the user's, template and images do not belong together, another process
            writes the same answers, or, where `strict`, a test image is unreadable (the file is written all the same).
        DataError: as `predict`.
    """
    out = Path(out)
    asked, after = _checked(run, images, out, overrides, adapt_prior, pooling, counts, effort)
    asked.tell_trained(run, progress)
    if out.exists():
        progress.say(f"{out} holds earlier answers, which these replace")
    asked = asked.with_boxes(run, boxes, progress)
    journal = Journal.open(
        out.with_name(f".{out.name}.unfinished"),
        {"run": _run_digest(run), "images": asked.digest, "effort": effort.to_flags()},
        run.space.num_classes,
    )
    try:
        _fill(journal, run, asked, progress, effort)
        plan = plan_correction(run, partial(_some_rows, journal, run.recipe.seed), after, adapt_prior)
        parts, corrections = _corrected(run, asked, journal, plan, pooling, counts, progress)
        start = Tally.start(run, journal.findings(), corrections, asked.unboxed, effort)
        tally = _write(parts, start, asked, out)
        journal.remove()
    finally:
        journal.close()
    if strict and tally.findings:
        named = ", ".join(f"`{finding.ids[0]}`" for finding in tally.findings[:5])
        raise SubmissionError(
            f"{counted(len(tally.findings), 'test image')} cannot be read: {named}",
            f"replace the files; {out} was written with the training class shares for them",
        )
    return tally, out


def _checked(
    run: Run,
    images: str | Path | None,
    out: Path,
    overrides: Sequence[str],
    adapt_prior: str | Path | None,
    pooling: Pooling | None,
    counts: Counts | None,
    effort: Effort,
) -> tuple[Questions, AfterRecipe]:
    """What is asked, and how answers are corrected; whatever cannot be done is told before any image is read.

    Raises:
        UsageError, SubmissionError, DataError: see `write_answers`.
    """
    check_replaceable(out)
    if out.is_dir():
        raise SubmissionError(f"cannot write {out}: it is a folder", "give a file as --out")
    if pooling is not None:
        check_pooling(run, pooling)
    after = changed_after(run, overrides)
    check_adapt_prior(run, adapt_prior)
    is_adapted = asks_for_shares(after, adapt_prior)
    is_corrected = not after.is_nothing or is_adapted or pooling is not None or counts is not None
    check_effort(run, effort, is_corrected=is_corrected)
    asked = read_questions(run, images)
    if counts is not None:
        check_counts(run, counts, len(asked.names), is_adapted=is_adapted)
    return asked, after


def _corrected(
    run: Run,
    asked: Questions,
    journal: Journal,
    plan: Plan,
    pooling: Pooling | None,
    counts: Counts | None,
    progress: Progress,
) -> tuple[Iterator[FloatArray], tuple[Mapping[str, Any], ...]]:
    """The journal's probabilities as they are answered, a part at a time, and what was done to them."""
    corrections: tuple[Mapping[str, Any], ...] = () if plan.is_nothing else (plan.about(),)
    parts: Iterator[FloatArray] = map(plan.apply, journal.parts(ROWS_AT_ONCE))
    if pooling is None and counts is None:
        return parts, corrections
    plain = Predictions(tuple(asked.names), np.concatenate(list(parts)), run.space.class_names)
    answers = Answers(run, plain, tuple(journal.findings()), asked.root, corrections, asked.boxes)
    ledger, weights_N = plan.ledger()
    answers = together(answers, pooling, counts, asked.form, ledger, weights_N, progress)
    return iter([answers.predictions.probs_NK]), answers.corrections


def _fill(journal: Journal, run: Run, asked: Questions, progress: Progress, effort: Effort) -> None:
    """Predicts what the journal lacks."""
    if journal.num_rows:
        done = asked.names[: journal.num_rows]
        if any(_changed_since(asked.root / name, journal.started) for name in done):
            journal.restart()
        else:
            progress.say(f"going on behind {journal.num_rows:,} answers that an earlier run left unfinished")
    for part in _stream(run, asked, journal.num_rows, progress, effort):
        names = asked.names[part.start : part.start + len(part.probs_BK)]
        place = {name: part.start + row for row, name in enumerate(names)}
        journal.append(part.probs_BK, [(place[finding.ids[0]], finding) for finding in part.findings])


def _some_rows(journal: Journal, seed: int) -> FloatArray:
    """All rows, or so many drawn at random: what class shares are estimated from."""
    is_seen_N = np.zeros(journal.num_rows, bool)
    num_seen = min(journal.num_rows, ROWS_LOOKED_AT)
    is_seen_N[np.random.default_rng(seed).choice(journal.num_rows, num_seen, replace=False)] = True
    seen, first = [], 0
    for probs_BK in journal.parts(ROWS_AT_ONCE):
        seen.append(probs_BK[is_seen_N[first : first + len(probs_BK)]])
        first += len(probs_BK)
    return np.concatenate(seen)


def _write(parts: Iterator[FloatArray], tally: Tally, asked: Questions, out: Path) -> Tally:
    """The answer file, a part at a time, and the JSON beside it."""
    names, first = tally.class_names, 0
    with csv_parts(out) as write:
        for probs_BK in parts:
            tally = tally.plus(probs_BK)
            if asked.form is None:
                write(answer_table(asked.names[first : first + len(probs_BK)], probs_BK, names))
            else:
                rows = asked.form.frame.slice(first, len(probs_BK))
                write(answered(asked.form, rows, probs_BK.argmax(axis=1), names))
            first += len(probs_BK)
        write_json(side_file(out), tally.about())  # first: answers without it would not be known as ours
    return tally


def _stream(run: Run, asked: Questions, start: int, progress: Progress, effort: Effort) -> Iterator[Part]:
    """Probabilities of the images from one on, from the folds' models."""
    names = asked.names
    if start == len(names):
        return
    if run.is_ensemble:
        with progress.stage("predicting", len(names) - start, "images") as advance:
            members = run.members()
            streams = [_stream(member, asked, start, Lines(progress), effort) for member in members]
            yield from combined(run, members, streams, start, advance)
        return
    with progress.stage("predicting", len(names) - start, "images") as advance:
        yield from stream_of(
            run,
            names,
            Under(asked.root, names),
            folds=range(effort.folds_of(run)),
            views=effort.views_of(run),
            boxes=asked.boxes,
            start=start,
            advance=advance,
            report=progress.say,
        )


def _run_digest(run: Run) -> str:
    """Which run: its manifest says when it was made, and of what."""
    return hashlib.sha256(run.folder.manifest.read_bytes()).hexdigest()


def _changed_since(file: Path, seconds: float) -> bool:
    """Whether a file was written since; one that is gone counts as changed."""
    try:
        return file.stat().st_mtime > seconds
    except OSError:
        return True
