"""Which part of each image is looked at, where a recipe or the user's own callable says it by boxes."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from finefold.data.boxes import BoxTable, Edges, box_within, read_boxes
from finefold.data.findings import Finding
from finefold.data.images import decode_image, image_size
from finefold.data.machine import num_threads
from finefold.data.preprocessing import Box, Preprocessing
from finefold.data.samples import SampleTable
from finefold.data.split_checks import counted
from finefold.errors import DataError, ImageError, UsageError
from finefold.recipe.schema import Recipe
from finefold.steps.progress import Progress
from finefold.steps.run import Run

Finder = Callable[[NDArray[np.uint8]], Any]  # image [H, W, 3] -> left, top, right, bottom, or None

Findings = tuple[Finding, ...]

MISSING = "box-missing"
IMAGES_AT_ONCE = 4096  # that threads are given; a million would wait in 1 GB
NUM_MEASURED = 64  # images, about, whose size is compared with the centre that is kept
UNREADABLE: Box = (0, 0, 1, 1)  # that there is no image is told where it is decoded, not that there is no box


@dataclass(frozen=True)
class Boxes:
    """Where boxes come from.

    Args:
        source: a table, or a callable that is given each image.
        margin: share of a box's longer side that is added on every side.
        max_pixels: larger images are refused before they are decoded.
    """

    source: BoxTable | Finder
    margin: float
    max_pixels: int

    def find(self, ids: Sequence[str], paths: Sequence[Path], root: Path, progress: Progress) -> list[Box | None]:
        """[N] what is kept of each image; None where there is no box that fits.

        Args:
            ids: [N] by which a table may name them.
            paths: [N] files, which a table may name from `root` on or in full.
            root: of the paths.
            progress: told of the stage.
        """
        find_one = self._by_table(root) if isinstance(self.source, BoxTable) else self._by_callable
        # a callable need not be fit for threads
        with (
            progress.stage("boxes", len(ids), "images") as advance,
            ThreadPoolExecutor(num_threads() if isinstance(self.source, BoxTable) else 1) as pool,
        ):
            found: list[Box | None] = []
            for start in range(0, len(ids), IMAGES_AT_ONCE):
                rows = slice(start, start + IMAGES_AT_ONCE)
                for box in pool.map(find_one, ids[rows], paths[rows]):
                    found.append(box)
                    advance(1)
        return found

    def _by_table(self, root: Path) -> Callable[[str, Path], Box | None]:
        assert isinstance(self.source, BoxTable)
        by_id, by_path = self.source.by_id, self.source.by_path

        def find_one(name: str, path: Path) -> Box | None:
            inside = path.relative_to(root).as_posix() if path.is_relative_to(root) else name
            keys = ((by_id, name), (by_path, inside), (by_path, path.resolve().as_posix()))
            try:
                height, width = image_size(path.read_bytes(), max_pixels=self.max_pixels)
            except (ImageError, OSError):
                return UNREADABLE
            edges = next((table[key] for table, key in keys if key in table), None)
            return None if edges is None else box_within(edges, height, width, margin=self.margin)

        return find_one

    def _by_callable(self, name: str, path: Path) -> Box | None:
        assert not isinstance(self.source, BoxTable)
        try:
            image_HWC = decode_image(path.read_bytes(), max_pixels=self.max_pixels)
        except (ImageError, OSError):
            return UNREADABLE
        height, width = image_HWC.shape[:2]
        edges = _as_edges(self.source(image_HWC), name)
        return None if edges is None else box_within(edges, height, width, margin=self.margin)


def _as_edges(given: Any, name: str) -> Edges | None:
    """What a callable gave, as four numbers."""
    if given is None:
        return None
    try:
        left, top, right, bottom = (float(edge) for edge in given)
    except (TypeError, ValueError) as reason:
        raise DataError(
            f"boxes gave {given!r} for `{name}`, expected left, top, right, bottom in pixels, or None",
            "return four numbers, or None where the image has no box",
        ) from reason
    return left, top, right, bottom


def boxes_of(recipe: Recipe, own: Finder | None) -> Boxes | None:
    """Where a recipe's boxes come from; None where it has none.

    Raises:
        UsageError: the recipe and the user both say it.
        DataError: the recipe's file is no table of boxes.
    """
    image = recipe.image
    if own is not None and image.boxes is not None:
        raise UsageError(f"boxes come from {image.boxes} and from your own callable", "leave one of them out")
    if own is None and image.boxes is None:
        return None
    source = own or read_boxes(Path(image.boxes or "").expanduser())
    return Boxes(source, image.box_margin, round(image.max_megapixels * 1e6))


def with_boxes(samples: SampleTable, boxes: Boxes | None, progress: Progress) -> tuple[SampleTable, Findings]:
    """The samples with what is kept of each, and a finding where some have no box.

    Raises:
        DataError: not one of them has.
    """
    if boxes is None:
        return samples, ()
    found = boxes.find(samples.ids, samples.paths, samples.root, progress)
    missing = misses(samples.ids, found)
    if len(missing) == len(samples):
        raise none_fits(samples.ids, boxes)
    if missing:
        progress.say(told(missing, len(samples)))
    return samples.with_boxes(found), finding(missing)


def tell_idle_centre(samples: SampleTable, preprocessing: Preprocessing, progress: Progress) -> None:
    """A line where the centre that is to be kept is larger than the images, so that nothing is cut."""
    if preprocessing.centre is None or samples.boxes is not None:
        return
    height, width = preprocessing.centre
    step = max(1, len(samples) // NUM_MEASURED)
    sizes = [size for path in samples.paths[::step] if (size := _size_or_none(path)) is not None]
    if sizes and all(size[0] <= height and size[1] <= width for size in sizes):
        tallest, widest = (max(lengths) for lengths in zip(*sizes, strict=True))
        progress.say(
            f"image.centre = [{height}, {width}] cuts nothing: the images are at most {tallest} px high and {widest} "
            f"px wide ({len(sizes):,} looked at)"
        )


def _size_or_none(path: Path) -> tuple[int, int] | None:
    try:
        return image_size(path.read_bytes())
    except (OSError, ImageError):
        return None


def find_boxes_for(
    run: Run,
    ids: Sequence[str],
    paths: Sequence[Path],
    root: Path,
    given: str | Path | Finder | None,
    progress: Progress,
) -> tuple[list[Box | None] | None, Findings]:
    """What a run looks at in new images, and a finding for those without a box; None where it looks at no boxes.

    Without `given`, the run's own table serves, but for rows that name what it was trained on: those say nothing of
    images of the same name elsewhere.
    """
    if not run.has_boxes:
        if given is not None:
            raise UsageError("boxes are given, and the run was trained without", "leave them out")
        return None, ()
    image = run.recipe.image
    source: BoxTable | Finder | None = read_boxes(Path(given)) if isinstance(given, str | Path) else given
    if source is None and run.folder.boxes.is_file():
        source = read_boxes(run.folder.boxes)
        if root.resolve() != run.spec.root:
            trained = pl.read_parquet(run.folder.samples, columns=["id", "path"])
            source = source.without({*trained["id"], *trained["path"]})
    found: list[Box | None] = [None] * len(ids)
    if source is not None:
        boxes = Boxes(source, image.box_margin, round(image.max_megapixels * 1e6))
        found = boxes.find(ids, paths, root, progress)
        if given is not None and not any(found):
            raise none_fits(ids, boxes)
    missing = misses(ids, found)
    if missing:
        progress.say(told(missing, len(ids)))
    return found, finding(missing)


def misses(ids: Sequence[str], found: Sequence[Box | None]) -> list[str]:
    """Images without a box."""
    return [name for name, box in zip(ids, found, strict=True) if box is None]


def told(missing: Sequence[str], num_images: int) -> str:
    """A line about images without a box."""
    have = "has" if len(missing) == 1 else "have"
    return f"{len(missing):,} of {counted(num_images, 'image')} {have} no box, e.g. {missing[0]}: the centre is used"


def finding(missing: Sequence[str]) -> Findings:
    """What is written down about them; nothing where none is missing."""
    if not missing:
        return ()
    return (
        Finding(
            MISSING,
            "warning",
            tuple(missing),
            {"images": len(missing)},
            cause="there is no box of theirs, or it is empty or outside the image: their centre is used",
            remedy="give boxes for them, or look at them with `finefold show`",
        ),
    )


def none_fits(ids: Sequence[str], boxes: Boxes) -> DataError:
    """The error of boxes that are of other images."""
    if not isinstance(boxes.source, BoxTable):
        return DataError(f"your boxes gave none for any of {len(ids)} images", "return left, top, right, bottom")
    names = [*boxes.source.by_id, *boxes.source.by_path]
    said = f"it names e.g. `{names[0]}`, the images e.g. `{ids[0]}`" if names else "it is empty"
    return DataError(
        f"none of {counted(len(ids), 'image')} has a box that fits: {said}",
        "write ids, or paths from the images' folder on, and left < right, top < bottom in pixels",
    )
