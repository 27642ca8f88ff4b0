"""Answers of a run, and what is written beside them.

Shapes: N images, K joint classes.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from finefold.data.findings import Finding
from finefold.data.predictions import Predictions
from finefold.data.preprocessing import Box
from finefold.data.submission import Template, fill_template, is_far, read_template, write_csv
from finefold.errors import RunError, SubmissionError
from finefold.recipe.loader import dump_recipe
from finefold.runs.folder import read_json, write_json
from finefold.runs.provenance import provenance
from finefold.steps.boxes import Findings, finding, misses
from finefold.steps.effort import ALL, Effort
from finefold.steps.run import Run

EXPECTED = ("macro_f1", "accuracy", "balanced_accuracy", "log_loss")


@dataclass(frozen=True)
class Tally:
    """What there is to say of answers without having them at hand.

    Args:
        run: whose answers they are.
        counts_K: answers of each class.
        expected_K: sums of the probabilities of each class: how many there are of it, as far as the model knows.
        findings: the unreadable images.
        corrections: what was done to the probabilities, in order, as JSON values; `expected` in one of them holds the
            scores that the ledger gives under it.
        unboxed: images without a box, whose centre was used, where the run looks at boxes.
        effort: how many folds and which views answered.
    """

    run: Run
    counts_K: NDArray[np.int64]
    expected_K: NDArray[np.float64]
    findings: tuple[Finding, ...]
    corrections: tuple[Mapping[str, Any], ...] = ()
    unboxed: Findings = ()
    effort: Effort = ALL

    @classmethod
    def start(
        cls,
        run: Run,
        findings: Sequence[Finding] = (),
        corrections: Sequence[Mapping[str, Any]] = (),
        unboxed: Findings = (),
        effort: Effort = ALL,
    ) -> "Tally":
        """Of no answers yet."""
        counts_K, expected_K = np.zeros(run.space.num_classes, np.int64), np.zeros(run.space.num_classes)
        return cls(run, counts_K, expected_K, tuple(findings), tuple(corrections), unboxed, effort)

    def plus(self, probs_BK: NDArray[np.float64]) -> "Tally":
        """With some more answers."""
        counts_K = np.bincount(probs_BK.argmax(axis=1), minlength=len(self.counts_K))
        return replace(
            self, counts_K=self.counts_K + counts_K, expected_K=self.expected_K + probs_BK.sum(axis=0)
        )  # fmt: skip

    def __len__(self) -> int:
        return int(self.counts_K.sum())

    @property
    def class_names(self) -> tuple[str, ...]:
        """[K] names."""
        return self.run.space.class_names

    @property
    def shares_K(self) -> NDArray[np.float64]:
        """[K] share of each class among the answers."""
        return np.asarray(self.counts_K / max(1, len(self)))

    @property
    def is_far_from_training(self) -> bool:
        """Whether the answers' shares differ much from the training shares, and more than so few do by chance."""
        return is_far(self.shares_K, self.run.train_shares_K, len(self))

    def about(self) -> dict[str, Any]:
        """Where the answers came from, what they are worth, and what is odd about them."""
        run, total = self.run, max(1, len(self))
        shares = zip(
            self.class_names,
            self.counts_K.tolist(),
            self.shares_K.tolist(),
            (self.expected_K / total).tolist(),
            run.train_shares_K.tolist(),
            strict=True,
        )
        return {
            "run": str(run.folder.path.resolve()),
            "recipe": tomllib.loads(dump_recipe(run.recipe)),
            "hashes": run.manifest["hashes"],
            "backbone": run.manifest["backbone"],
            "preprocessing": run.manifest["preprocessing"]["hash"],
            "folds": self.effort.folds_of(run),
            **({} if self.effort.views is None else {"views": list(self.effort.views)}),
            "images": len(self),
            "unreadable": [finding.to_dict() for finding in self.findings],
            **({"without box": [name for one in self.unboxed for name in one.ids]} if self.unboxed else {}),
            "corrections": [dict(one) for one in self.corrections],
            "expected": expected_scores(run, self.corrections, self.effort),
            "shares": {
                name: {"answers": n, "predicted": round(p, 6), "expected": round(e, 6), "training": round(t, 6)}
                for name, n, p, e, t in shares
            },
            **provenance(),
        }


def expected_scores(run: Run, corrections: Sequence[Mapping[str, Any]] = (), effort: Effort = ALL) -> dict[str, Any]:
    """What the ledger says these answers are worth, with 95 % intervals, where test images are like training ones."""
    if not run.has_ledger:
        return {"basis": "nothing: the model was averaged over folds, and saw every sample in one of them"}
    if not effort.is_of_the_ledger(run):
        said = ",".join(effort.views_of(run))
        return {
            "basis": f"nothing: the ledger is of other views; see finefold evaluate {run.folder.path} --views {said}"
        }
    found = run.folder.scores
    scores = {name: read_json(found).get(name) for name in EXPECTED} if found.is_file() else {}
    for correction in corrections:
        scores |= correction.get("expected", {})
    folds = {run.num_folds: "the mean of all folds", 1: "one fold's too"}
    answered = folds.get(effort.folds_of(run), f"the mean of {effort.folds_of(run)} folds")
    basis = f"the out-of-fold ledger: one fold's model per sample, where the answers are {answered}"
    return {**scores, "basis": basis}


@dataclass(frozen=True)
class Answers:
    """What a run says of some images, and how to hand it in.

    Args:
        run: whose folds were averaged.
        predictions: one row per image; an unreadable image has the training class shares.
        findings: the unreadable images.
        root: folder of the images.
        corrections: what was done to the probabilities since, in order, as JSON values.
        boxes: [N] what was kept of each image, where the run looks at boxes; None of an image whose centre was used.
        effort: how many folds and which views answered.
    """

    run: Run
    predictions: Predictions
    findings: tuple[Finding, ...]
    root: Path
    corrections: tuple[Mapping[str, Any], ...] = ()
    boxes: Sequence[Box | None] | None = None
    effort: Effort = ALL

    @property
    def unboxed(self) -> Findings:
        """Images without a box, whose centre was used, where the run looks at boxes."""
        return () if self.boxes is None else finding(misses(self.predictions.ids, self.boxes))

    @property
    def tally(self) -> Tally:
        """Counts of the answers."""
        return Tally.start(self.run, self.findings, self.corrections, self.unboxed, self.effort).plus(
            self.predictions.probs_NK
        )

    @property
    def shares_K(self) -> NDArray[np.float64]:
        """[K] share of each class among the answers."""
        return self.tally.shares_K

    @property
    def is_far_from_training(self) -> bool:
        """Whether the answers' shares differ much from the training shares."""
        return self.tally.is_far_from_training

    def corrected(self, probs_NK: NDArray[np.float64], about: Mapping[str, Any]) -> "Answers":
        """The same images with other probabilities.

        Args:
            probs_NK: in the order of the predictions.
            about: what was done, as JSON values, see `Tally`.
        """
        predictions = Predictions(self.predictions.ids, probs_NK, self.predictions.class_names)
        return replace(self, predictions=predictions, corrections=(*self.corrections, about))

    def to_submission(
        self,
        template: str | Path,
        out: str | Path,
        *,
        id_column: str | None = None,
        answer_column: str | None = None,
        answer: Literal["number", "name"] | None = None,
    ) -> Path:
        """Fills in `template` and writes `out`, with a JSON of where it came from beside it.

        Columns left out come from the run's [predict].

        Raises:
            SubmissionError: template and predictions do not belong together.
        """
        said = self.run.spec.predict
        id_column = id_column or (said.id_column if said else None)
        answer_column = answer_column or (said.answer_column if said else None)
        if not id_column or not answer_column:
            raise SubmissionError(
                "the template's columns are not known",
                "say id_column and answer_column, or write [predict] in data.toml",
            )
        form = read_template(
            Path(template),
            id_column=id_column,
            answer_column=answer_column,
            answer=answer or (said.answer if said else "number"),
        )
        return self._write(self._answered(form), Path(out))

    def to_csv(self, out: str | Path) -> Path:
        """Writes id, the most probable class, its probability, and every class's probability."""
        predictions = self.predictions
        return self._write(answer_table(predictions.ids, predictions.probs_NK, predictions.class_names), Path(out))

    def _answered(self, form: Template) -> pl.DataFrame:
        said = self.run.spec.predict
        ids = as_template_ids(self.predictions.ids, form.ids, said.suffix if said else "")
        predictions = Predictions(tuple(ids), self.predictions.probs_NK, self.predictions.class_names)
        if said and said.extra == "ignore":
            wanted = set(form.ids)
            predictions = predictions.rows_for([name for name in ids if name in wanted])
        return fill_template(form, predictions, self.run.space.class_names)

    def _write(self, frame: pl.DataFrame, out: Path) -> Path:
        check_replaceable(out)
        write_csv(frame, out)
        write_json(side_file(out), self.about())
        return out

    def about(self) -> dict[str, Any]:
        """Where the answers came from, what they are worth, and what is odd about them."""
        return self.tally.about()


def answer_table(ids: Sequence[str], probs_NK: NDArray[np.float64], class_names: Sequence[str]) -> pl.DataFrame:
    """A row per image: id, the most probable class, its probability, and every class's probability."""
    names = np.asarray(class_names, dtype=object)
    about = pl.DataFrame(
        {"id": list(ids), "class": names[probs_NK.argmax(axis=1)].tolist(), "prob": probs_NK.max(axis=1)},
        schema={"id": pl.String, "class": pl.String, "prob": pl.Float64},
    )
    schema = [(f"prob {name}", pl.Float64) for name in class_names]
    return about.hstack(pl.DataFrame(probs_NK, schema=schema, orient="row"))


def check_replaceable(out: Path) -> None:
    """Only an answer file of an earlier `predict`, known by the JSON beside it, may be written over.

    Raises:
        SubmissionError: `out` is some other file: a photo, data.toml, the template.
    """
    if not out.exists() or out.is_dir():  # a folder is refused by the writer, in its own words
        return
    try:
        is_ours = "training" in next(iter(read_json(side_file(out)).get("shares", {}).values()), {})
    except RunError:
        is_ours = False
    if not is_ours:
        raise SubmissionError(f"{out} exists, and `finefold predict` did not write it", "give another --out")


def side_file(out: Path) -> Path:
    """The JSON beside an answer file."""
    return out.with_name(f"{out.stem}.json" if out.suffix != ".json" else f"{out.name}.about.json")


def as_template_ids(ids: Sequence[str], wanted: Sequence[str], suffix: str) -> Sequence[str]:
    """Image paths as the template names them: as they are, less their folder, or less their suffix too."""
    known = set(wanted)
    if suffix:
        ids = [name.removesuffix(suffix) for name in ids]
    best, most = ids, -1
    for form in (ids, [Path(name).name for name in ids], [Path(name).stem for name in ids]):
        matching = sum(name in known for name in form)
        if matching > most and len(set(form)) == len(form):  # the first of equally good ones
            best, most = form, matching
    return best
