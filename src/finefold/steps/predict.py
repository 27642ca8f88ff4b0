"""`finefold predict`: images -> probabilities of every fold's model, averaged -> a checked answer file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from finefold.data.findings import Finding
from finefold.data.images import list_images
from finefold.data.predictions import Predictions
from finefold.data.split_checks import counted
from finefold.data.submission import SHARE_DISTANCE, Template, fill_template, read_template, share_distance, write_csv
from finefold.errors import DataError, RunError, SubmissionError
from finefold.nn.engines import Choice
from finefold.nn.infer import FoldEnsemble
from finefold.runs.folder import read_json, write_json
from finefold.runs.provenance import provenance
from finefold.steps.boxes import Finder, find_boxes_for
from finefold.steps.progress import SILENT, Progress
from finefold.steps.run import Run


@dataclass(frozen=True)
class Answers:
    """What a run says of some images, and how to hand it in.

    Args:
        run: whose folds were averaged.
        predictions: one row per image; an unreadable image has the training class shares.
        findings: the unreadable images.
        unboxed: images without a box, whose centre was used, where the run looks at boxes.
    """

    run: Run
    predictions: Predictions
    findings: tuple[Finding, ...]
    unboxed: tuple[Finding, ...] = ()

    @property
    def shares_K(self) -> NDArray[np.float64]:
        """[K] share of each class among the answers."""
        counts_K = np.bincount(self.predictions.codes_N, minlength=len(self.predictions.class_names))
        return np.asarray(counts_K / max(1, len(self.predictions)))

    @property
    def is_far_from_training(self) -> bool:
        """Whether the answers' shares differ much from the training shares."""
        return share_distance(self.shares_K, self.run.train_shares_K) > SHARE_DISTANCE

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
        names = np.asarray(predictions.class_names, dtype=object)
        about = pl.DataFrame(
            {
                "id": list(predictions.ids),
                "class": names[predictions.codes_N].tolist(),
                "prob": predictions.probs_NK.max(axis=1),
            },
            schema={"id": pl.String, "class": pl.String, "prob": pl.Float64},
        )
        probs = predictions.to_frame().drop("id").rename(lambda name: f"prob {name}")
        return self._write(about.hstack(probs), Path(out))

    def _answered(self, form: Template) -> pl.DataFrame:
        said = self.run.spec.predict
        ids = _as_template_ids(self.predictions.ids, form.ids, said.suffix if said else "")
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
        """Where the answers came from, and what is odd about them."""
        shares = zip(
            self.predictions.class_names, self.shares_K.tolist(), self.run.train_shares_K.tolist(), strict=True
        )
        return {
            "run": str(self.run.folder.path.resolve()),
            "hashes": self.run.manifest["hashes"],
            "backbone": self.run.manifest["backbone"],
            "preprocessing": self.run.manifest["preprocessing"]["hash"],
            "images": len(self.predictions),
            "unreadable": [finding.to_dict() for finding in self.findings],
            **({"without box": [name for one in self.unboxed for name in one.ids]} if self.unboxed else {}),
            "shares": {name: {"predicted": round(p, 6), "training": round(t, 6)} for name, p, t in shares},
            **provenance(),
        }


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


def _as_template_ids(ids: Sequence[str], wanted: Sequence[str], suffix: str) -> list[str]:
    """Image paths as the template names them: as they are, less their folder, or less their suffix too."""
    known = set(wanted)
    if suffix:
        ids = [name.removesuffix(suffix) for name in ids]
    forms = [list(ids), [Path(name).name for name in ids], [Path(name).stem for name in ids]]
    forms = [form for form in forms if len(set(form)) == len(form)]
    return max(forms, key=lambda form: sum(name in known for name in form))  # the first of equally good ones


def _wanted(run: Run, ids: Sequence[str]) -> Sequence[str]:
    """The images that the template of [predict] asks for, where images beyond it are to be ignored."""
    said = run.spec.predict
    if said is None or said.extra == "refuse" or said.template_csv is None or said.id_column is None:
        return ids
    form = read_template(
        run.spec.folder / said.template_csv,
        id_column=said.id_column,
        answer_column=said.answer_column or said.id_column,
        answer=said.answer,
    )
    wanted = set(form.ids)
    pairs = zip(ids, _as_template_ids(ids, form.ids, said.suffix), strict=True)
    return [name for name, known in pairs if known in wanted]


def predict(
    run: Run,
    images: str | Path | None = None,
    *,
    boxes: str | Path | Finder | None = None,
    progress: Progress = SILENT,
) -> Answers:
    """Class probabilities for every image in a folder, averaged over the models of all folds.

    Args:
        run: a finished run.
        images: a folder; without one, the root of [predict] in the run's data.toml.
        boxes: where the run looks at boxes: a file of them, or a callable that finds one; by default the file that it
            was trained with, as far as it names other images than those that it was trained on.
        progress: told of the stages.

    Raises:
        DataError: no folder is known, it does not exist, or holds no image; or no image has one of the boxes given.
        UsageError: boxes are given, and the run was trained without.
    """
    if images is None and run.spec.predict is None:
        raise DataError(
            "no images to predict: the run's data.toml has no [predict]", "name a folder: finefold predict RUN FOLDER"
        )
    root = Path(images) if images is not None else run.spec.folder / run.spec.predict.root  # type: ignore[union-attr]
    if not root.is_dir():
        problem = f"{root} is a file" if root.exists() else f"the folder {root} does not exist"
        raise DataError(problem, "name a folder of images: finefold predict RUN FOLDER")
    ids: Sequence[str] = list_images(root).paths
    if not ids:
        raise DataError(f"no images in {root}", "name a folder of images: finefold predict RUN FOLDER")
    if images is None:
        ids = _wanted(run, ids)
    paths = [root / name for name in ids]
    found, unboxed = find_boxes_for(run, ids, paths, root, boxes, progress)
    folds = [run.fold_weights(fold) for fold in range(run.num_folds)]
    model = FoldEnsemble.read(run.backbone, folds, run.space, views=run.recipe.predict.views)
    engine = run.manifest["engine"]
    with progress.stage("predicting", len(ids), "images") as advance:
        probs_NK, findings = model.probs(
            ids,
            paths,
            boxes=found,
            choice=Choice(engine["name"], engine["precision"], "as trained"),
            max_pixels=round(run.recipe.image.max_megapixels * 1e6),
            fallback_K=run.train_shares_K,
            advance=advance,
        )
    return Answers(run, Predictions(tuple(ids), probs_NK, run.space.class_names), findings, unboxed)


def write_answers(
    run: Run,
    images: str | Path | None = None,
    *,
    out: str | Path,
    boxes: str | Path | Finder | None = None,
    strict: bool = False,
    progress: Progress = SILENT,
) -> tuple[Answers, Path]:
    """Predicts and writes: the template of [predict] filled in, or where a folder is named, a table of its images.

    Raises:
        SubmissionError: `out` is a file of the user's, template and predictions do not belong together, or,
            where `strict`, a test image is unreadable (the file is written all the same).
    """
    check_replaceable(Path(out))  # before the work
    answers = predict(run, images, boxes=boxes, progress=progress)
    said = run.spec.predict
    if images is None and said is not None and said.template_csv is not None:
        written = answers.to_submission(run.spec.folder / said.template_csv, out)
    else:
        written = answers.to_csv(out)
    if strict and answers.findings:
        named = ", ".join(f"`{finding.ids[0]}`" for finding in answers.findings[:5])
        raise SubmissionError(
            f"{counted(len(answers.findings), 'test image')} cannot be read: {named}",
            f"replace the files; {written} was written with the training class shares for them",
        )
    return answers, written
