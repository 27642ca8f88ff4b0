"""`finefold predict`: images -> probabilities of every fold's model, averaged -> a checked answer file.

Shapes: N images, K joint classes.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, overload

import numpy as np

from finefold.data.images import list_images
from finefold.data.journal import Journal
from finefold.data.predictions import Predictions
from finefold.data.preprocessing import Box
from finefold.data.split_checks import counted
from finefold.data.submission import Template, answered, check_ids, csv_parts, read_template
from finefold.errors import DataError, SubmissionError
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
from finefold.steps.answers import Answers, Tally, answer_table, as_template_ids, check_replaceable, side_file
from finefold.steps.boxes import Finder, Findings, find_boxes_for
from finefold.steps.counts import Counts, check_counts, together
from finefold.steps.effort import ALL, Effort, check_effort
from finefold.steps.members import combined
from finefold.steps.pooling import Pooling, check_pooling
from finefold.steps.probabilities import stream_of
from finefold.steps.progress import SILENT, Progress
from finefold.steps.run import Run

ROWS_AT_ONCE = 4096  # of the answer file


class _Under(Sequence[Path]):
    """Files of a folder, each path made when it is asked for: a million of them would take 300 MB."""

    def __init__(self, root: Path, names: Sequence[str]) -> None:
        self._root, self._names = root, names

    @overload
    def __getitem__(self, place: int) -> Path: ...
    @overload
    def __getitem__(self, place: slice) -> list[Path]: ...
    def __getitem__(self, place: int | slice) -> Path | list[Path]:
        if isinstance(place, slice):
            return [self._root / name for name in self._names[place]]
        return self._root / self._names[place]

    def __len__(self) -> int:
        return len(self._names)


@dataclass(frozen=True)
class _Questions:
    """The images to answer for.

    Args:
        root: folder of the images.
        names: [N] their paths under it, in the order of the answers.
        form: the template to fill in, whose rows are in the same order; without one the answers are a table.
        boxes: [N] what is kept of each image, where the run looks at boxes; None of an image whose centre is used.
        unboxed: what is told of images without a box.
    """

    root: Path
    names: Sequence[str]
    form: Template | None
    boxes: Sequence[Box | None] | None = None
    unboxed: Findings = ()

    def with_boxes(self, run: Run, given: str | Path | Finder | None, progress: Progress) -> "_Questions":
        """With what the run looks at in each image."""
        paths = _Under(self.root, self.names)
        boxes, unboxed = find_boxes_for(run, self.names, paths, self.root, given, progress)
        return replace(self, boxes=boxes, unboxed=unboxed)

    @property
    def digest(self) -> str:
        """Over the images' names and order, over what is looked at in each, and over the template."""
        digest = hashlib.sha256(str(self.root.resolve()).encode())
        for name in self.names:
            digest.update(f"\0{name}".encode())
        if self.form is not None:
            digest.update(f"\0{self.form.id_column}\0{self.form.answer_column}\0{self.form.answer}".encode())
            digest.update("\0".join(self.form.ids).encode())
        if self.boxes is not None:
            digest.update(b"\0\0boxes")
            for box in self.boxes:
                digest.update(f"\0{box}".encode())
        return digest.hexdigest()


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
    root = _root(run, images)
    names = _listed(root)
    if images is None and run.spec.predict is not None and run.spec.predict.extra == "ignore":
        form = _form(run)
        names = names if form is None else [names[place] for place in _wanted(run, names, form)[0]]
    asked = _Questions(root, names, None).with_boxes(run, boxes, progress)
    parts = list(_stream(run, asked, 0, progress, effort))
    probs_NK = np.concatenate([part.probs_BK for part in parts])
    findings = tuple(finding for part in parts for finding in part.findings)
    predictions = Predictions(tuple(names), probs_NK, run.space.class_names)
    answers = Answers(run, predictions, findings, root, boxes=asked.boxes, effort=effort)
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
) -> tuple[_Questions, AfterRecipe]:
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
    asked = _questions(run, images)
    if counts is not None:
        check_counts(run, counts, len(asked.names), is_adapted=is_adapted)
    return asked, after


def _corrected(
    run: Run,
    asked: _Questions,
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


def _fill(journal: Journal, run: Run, asked: _Questions, progress: Progress, effort: Effort) -> None:
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


def _write(parts: Iterator[FloatArray], tally: Tally, asked: _Questions, out: Path) -> Tally:
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


def _stream(run: Run, asked: _Questions, start: int, progress: Progress, effort: Effort) -> Iterator[Part]:
    """Probabilities of the images from one on, from the folds' models."""
    names = asked.names
    if start == len(names):
        return
    if run.is_ensemble:
        with progress.stage("predicting", len(names) - start, "images") as advance:
            members = run.members()
            streams = [_stream(member, asked, start, SILENT, effort) for member in members]
            yield from combined(run, members, streams, start, advance)
        return
    with progress.stage("predicting", len(names) - start, "images") as advance:
        yield from stream_of(
            run,
            names,
            _Under(asked.root, names),
            folds=range(effort.folds_of(run)),
            views=effort.views_of(run),
            boxes=asked.boxes,
            start=start,
            advance=advance,
        )


def _questions(run: Run, images: str | Path | None) -> _Questions:
    """What is to be answered, in the order of the answers.

    Raises:
        DataError, SubmissionError: see `predict` and `write_answers`.
    """
    root = _root(run, images)
    names = _listed(root)
    form = _form(run) if images is None else None
    if form is None:
        return _Questions(root, names, None)
    places, ids = _wanted(run, names, form)
    check_ids(form, ids)
    place_of = dict(zip(ids, places, strict=True))
    return _Questions(root, [names[place_of[name]] for name in form.ids], form)


def image_names(run: Run, images: str | Path | None) -> tuple[Path, Sequence[str]]:
    """A folder of images, that of [predict] where none is named, and the paths of its images under it.

    Raises:
        DataError: no folder is known, it does not exist, or holds no image.
    """
    root = _root(run, images)
    return root, _listed(root)


def _root(run: Run, images: str | Path | None) -> Path:
    if images is None and run.spec.predict is None:
        raise DataError(
            "no images to predict: the run's data.toml has no [predict]", "name a folder: finefold predict RUN FOLDER"
        )
    root = Path(images) if images is not None else run.spec.folder / run.spec.predict.root  # type: ignore[union-attr]
    if not root.is_dir():
        problem = f"{root} is a file" if root.exists() else f"the folder {root} does not exist"
        raise DataError(problem, "name a folder of images: finefold predict RUN FOLDER")
    return root


def _listed(root: Path) -> Sequence[str]:
    names = list_images(root).paths
    if not names:
        raise DataError(f"no images in {root}", "name a folder of images: finefold predict RUN FOLDER")
    return names


def _form(run: Run) -> Template | None:
    """The template of [predict], where it names one."""
    said = run.spec.predict
    if said is None or said.template_csv is None or said.id_column is None or said.answer_column is None:
        return None
    return read_template(
        run.spec.folder / said.template_csv,
        id_column=said.id_column,
        answer_column=said.answer_column,
        answer=said.answer,
    )


def _wanted(run: Run, names: Sequence[str], form: Template) -> tuple[list[int], list[str]]:
    """Places of the images to answer for, and their ids in the template; all, unless others are to be ignored."""
    said = run.spec.predict
    ids = as_template_ids(names, form.ids, said.suffix if said else "")
    wanted = set(form.ids)
    places = [place for place, name in enumerate(ids) if not said or said.extra == "refuse" or name in wanted]
    return places, [ids[place] for place in places]


def _run_digest(run: Run) -> str:
    """Which run: its manifest says when it was made, and of what."""
    return hashlib.sha256(run.folder.manifest.read_bytes()).hexdigest()


def _changed_since(file: Path, seconds: float) -> bool:
    """Whether a file was written since; one that is gone counts as changed."""
    try:
        return file.stat().st_mtime > seconds
    except OSError:
        return True
