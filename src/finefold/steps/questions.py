"""What `finefold predict` is asked: which images, in which order, what is looked at in each, the template to fill in.

Shapes: N images.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import overload

from finefold.data.images import list_images
from finefold.data.preprocessing import Box
from finefold.data.submission import Template, check_ids, read_template
from finefold.errors import DataError
from finefold.steps.answers import as_template_ids
from finefold.steps.boxes import Finder, Findings, find_boxes_for
from finefold.steps.columns import sample_table
from finefold.steps.progress import Progress
from finefold.steps.run import Run

NAME_A_FOLDER = "name a folder of images: finefold predict RUN FOLDER, finefold pseudo RUN FOLDER --out NEW_RUN"


class Under(Sequence[Path]):
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
class Questions:
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

    def with_boxes(self, run: Run, given: str | Path | Finder | None, progress: Progress) -> "Questions":
        """With what the run looks at in each image."""
        paths = Under(self.root, self.names)
        boxes, unboxed = find_boxes_for(run, self.names, paths, self.root, given, progress)
        return replace(self, boxes=boxes, unboxed=unboxed)

    def tell_trained(self, run: Run, progress: Progress) -> None:
        """Says how many of the images the run was trained on: of those its folds' mean knows the labels."""
        home, root = run.spec.root.resolve(), self.root.resolve()
        trained = {f"{home}/{path}" for path in sample_table(run)["path"]}
        if count := sum(f"{root}/{name}" in trained for name in self.names):
            progress.say(
                f"{count:,} of {len(self.names):,} images are among those that the run was trained on, so that its "
                f"answers to them are learned by heart: finefold evaluate {run.folder.path} scores them out of fold"
            )

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


def read_questions(run: Run, images: str | Path | None) -> Questions:
    """What is to be answered, in the order of the answers.

    Raises:
        DataError, SubmissionError: see `predict` and `write_answers`.
    """
    root, names = image_names(run, images)
    form = _form(run) if images is None else None
    if form is None:
        return Questions(root, names, None)
    places, ids = _wanted(run, names, form)
    check_ids(form, ids)
    place_of = dict(zip(ids, places, strict=True))
    return Questions(root, [names[place_of[name]] for name in form.ids], form)


def read_images(run: Run, images: str | Path | None) -> Questions:
    """The images of a folder without a template; of [predict] those that its template asks for, where it says so.

    Raises:
        DataError: see `image_names`.
    """
    root, names = image_names(run, images)
    if images is None and run.spec.predict is not None and run.spec.predict.extra == "ignore":
        form = _form(run)
        names = names if form is None else [names[place] for place in _wanted(run, names, form)[0]]
    return Questions(root, names, None)


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
            "no images to predict: the run's data.toml has no [predict]",
            NAME_A_FOLDER,
        )
    root = Path(images) if images is not None else run.spec.folder / run.spec.predict.root  # type: ignore[union-attr]
    if not root.is_dir():
        problem = f"{root} is a file" if root.exists() else f"the folder {root} does not exist"
        raise DataError(problem, "give a folder that holds the images, or none: then those of [predict] are answered")
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
