"""`finefold show`: a contact sheet of what training, validation and test make of the images."""

import textwrap
from collections import Counter
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from finefold.data.images import decode_image
from finefold.data.preprocessing import Box, Preprocessing
from finefold.data.samples import SampleTable
from finefold.errors import DataError, ImageError, UsageError
from finefold.nn.copies import copies_by_class, copies_of
from finefold.nn.features import row_hash
from finefold.nn.transforms import PRESETS, Augment, Evaluate, apply_view, make_augment, strengths_for
from finefold.recipe.schema import Recipe
from finefold.runs.provenance import text_hash
from finefold.steps.boxes import Boxes, Finder, boxes_of, tell_idle_centre
from finefold.steps.progress import SILENT, Progress
from finefold.steps.reading import Data
from finefold.steps.train import backbone_of

NUM_AUGMENTED = 4
CELL_PX, GAP_PX, LABEL_PX, TOP_PX = 128, 6, 210, 44
INK, FAINT, PAPER, WELL = "#1f2328", "#656d76", "#ffffff", "#eef1f4"
OUTLINE = (229, 72, 77)

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Shown:
    """A contact sheet.

    Args:
        file: the PNG.
        ids: of the samples on it, from the top down.
        roles: role -> what its images go through, in words.
    """

    file: Path
    ids: tuple[str, ...]
    roles: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `finefold show --json` prints them."""
        return {"file": str(self.file), "samples": list(self.ids), "roles": self.roles}


@dataclass(frozen=True)
class _Row:
    """One sample's line."""

    title: str
    note: str
    cells: tuple[Pixels, ...]


def show(
    data: Data,
    *,
    recipe: Recipe,
    out: str | Path = "sheet.png",
    rows: int = 12,
    boxes: Finder | None = None,
    progress: Progress = SILENT,
) -> Shown:
    """Draws samples of many classes as each role sees them; the recipe's seed decides which, and all chance.

    Args:
        data: what `read_data` gave.
        recipe: whose preprocessing, views and augmentation.
        out: a .png; written over.
        rows: how many samples, at most.
        boxes: finds what is to be looked at in an image, as in `Own`, where the recipe names no file of boxes.
        progress: told of the stages.

    Raises:
        RecipeError, WeightsError: the recipe's augmentation or backbone cannot be made.
        DataError: no image can be read.
        UsageError: `out` is no .png or cannot be written.
    """
    file = Path(out)
    if file.suffix.lower() != ".png":
        raise UsageError(f"--out {file} is no .png", "the sheet is a picture: write --out sheet.png")
    framing = boxes_of(recipe, boxes)
    with progress.stage("model", 0, ""):
        preprocessing = backbone_of(recipe).preprocessing
    if framing is None:
        tell_idle_centre(data.samples, preprocessing, progress)
    augment = make_augment(recipe.augment, preprocessing, data.space.class_names)
    with progress.stage("drawing", rows, "samples") as advance:
        drawn: dict[str, _Row] = {}
        for number in _spread(data.samples, rows, recipe.seed):
            try:
                row = _row(data.samples, number, augment, Evaluate(preprocessing), recipe, framing)
            except (ImageError, OSError):
                continue
            drawn[data.samples.ids[number]] = row
            advance(1)
            if len(drawn) == rows:
                break
    if not drawn:
        raise DataError(f"no image of {data.samples.root} can be read", "check `root` in data.toml")
    order = sorted(drawn, key=dict(zip(data.samples.ids, data.samples.train_labels_N.tolist(), strict=True)).get)  # type: ignore[arg-type]
    titles = ["original", "all roles" if recipe.is_probe_only else "validation, test"]
    if not recipe.is_probe_only:
        titles += [f"view {view}" for view in recipe.augment.views]
        titles += [f"copy {copy.number}" for copy in copies_of(recipe)[:NUM_AUGMENTED]]
        titles += [f"training {number + 1}" for number in range(NUM_AUGMENTED)]
    _write(_sheet(titles, [drawn[one] for one in order]), file)
    return Shown(
        file, tuple(order), roles(recipe, preprocessing, data.space.class_names, has_boxes=framing is not None)
    )


def roles(
    recipe: Recipe, preprocessing: Preprocessing, class_names: tuple[str, ...], *, has_boxes: bool = False
) -> dict[str, str]:
    """What each role does, in words."""
    size = f"{preprocessing.width_px}x{preprocessing.height_px} px"
    how = "stretched" if preprocessing.fit == "squash" else f"centre {100 * preprocessing.crop_fraction:g} %"
    toned = (", grey" if preprocessing.grey else "") + (f", CLAHE {preprocessing.clahe:g}" * bool(preprocessing.clahe))
    frame = ""
    if preprocessing.centre is not None:
        frame = f"of the middle {preprocessing.centre[1]}x{preprocessing.centre[0]} px: "
    if has_boxes:
        instead = frame.removeprefix("of ").removesuffix(": ") or "all of the image"
        frame = f"of its box and {100 * recipe.image.box_margin:g} % around it (without one, {instead}): "
    plain = f"{frame}{how} as {size}{toned}"
    augment, counts = recipe.augment, Counter(strengths_for(recipe.augment, class_names))
    tested = dict.fromkeys(("validation", "test"), _tested(plain, recipe))
    if recipe.is_probe_only:
        return {"training": f"{plain}; the head is fitted to images as they are", **tested}
    said = [f"one of the views {', '.join(augment.views)}"]
    for strength, count in counts.items():
        change = PRESETS[strength]
        whose = "" if len(counts) == 1 else f" for {count} of {len(class_names)} classes"
        said.append(f"{strength}{whose}: {plain if change is None else f'{frame}{change.words}, as {size}{toned}'}")
    if augment.copies:
        copies_K = copies_by_class(recipe, class_names)
        whose = f"for {(copies_K > 0).sum()} of {len(class_names)} classes"
        change = PRESETS[augment.copies_preset]
        assert change is not None
        said.append(f"up to {copies_K.max()} copies of an image, made once, {whose}: {frame}{change.words}")
    if augment.mix != "none":
        said.append(f"{augment.mix} of {100 * augment.mix_share:g} % of the batches (not drawn here)")
    return {"training": "; ".join(said), **tested}


def _tested(plain: str, recipe: Recipe) -> str:
    """What images go through that are answered for."""
    views = f"{plain}; nothing is changed by chance"
    if recipe.predict.views != ("plain",):
        views += f"; probabilities of the views {', '.join(recipe.predict.views)} are averaged"
    return views


def _spread(samples: SampleTable, rows: int, seed: int) -> list[int]:
    """Numbers of samples that train, in the order in which to try them: a class each, the scarcest class first.

    Where there are more classes than rows, those at equal steps from the scarcest to the most frequent come first.
    """
    labels_N = samples.train_labels_N
    rng = np.random.default_rng(seed)
    classes, counts = np.unique(labels_N[labels_N >= 0], return_counts=True)
    classes = classes[np.lexsort((rng.random(len(classes)), counts))]  # among equally scarce ones by chance
    first = np.unique(np.linspace(0, len(classes) - 1, min(rows, len(classes))).round().astype(int))
    turns = classes[[*first, *np.setdiff1d(np.arange(len(classes)), first)]]
    waiting = {int(code): rng.permutation(np.flatnonzero(labels_N == code)).tolist() for code in turns}
    order: list[int] = []
    while any(waiting.values()):
        order += [numbers.pop() for numbers in waiting.values() if numbers]
    return order


def _row(
    samples: SampleTable, number: int, augment: Augment, evaluate: Evaluate, recipe: Recipe, framing: Boxes | None
) -> _Row:
    """One sample under all roles; its chance hangs on its id, not on which others are shown."""
    path, label = samples.paths[number], int(samples.train_labels_N[number])
    preprocessing, max_pixels = evaluate.preprocessing, round(recipe.image.max_megapixels * 1e6)
    box = None if framing is None else framing.find([samples.ids[number]], [path], samples.root, SILENT)[0]
    data = path.read_bytes()
    image_HWC = decode_image(data, at_least_px=preprocessing.decode_px(box), max_pixels=max_pixels)
    frame = preprocessing.frame(image_HWC.shape[0], image_HWC.shape[1], box)
    framed_HWC = preprocessing.framed(image_HWC, box)
    plain_HWC = evaluate(framed_HWC)
    rng = np.random.default_rng([recipe.seed, int(text_hash(samples.ids[number])[:8], 16)])
    cells = [_outlined(image_HWC, frame), plain_HWC]
    note = samples.ids[number].replace("/", "/\n")
    if not recipe.is_probe_only:
        cells += [apply_view(plain_HWC, view) for view in recipe.augment.views]
        cells += _copies(samples, label, framed_HWC, row_hash(data, box), recipe, preprocessing)
        cells += [augment(framed_HWC, label, rng) for _ in range(NUM_AUGMENTED)]
        note += f"\npreset {strengths_for(recipe.augment, samples.space.class_names)[label]}"
    if framing is not None and box is None:
        note += "\nno box that fits"
    return _Row(samples.space.class_names[label], note, tuple(cells))


def _copies(
    samples: SampleTable, label: int, framed_HWC: Pixels, content: bytes, recipe: Recipe, preprocessing: Preprocessing
) -> list[Pixels]:
    """A sample's first copies, as the prefix cache has them; nothing to see where its class has fewer."""
    count = int(copies_by_class(recipe, samples.space.class_names)[label])
    nothing = np.full((preprocessing.height_px, preprocessing.width_px, 3), 255, np.uint8)
    return [
        copy.make(framed_HWC, preprocessing, content) if copy.number <= count else nothing
        for copy in copies_of(recipe)[:NUM_AUGMENTED]
    ]


def _outlined(image_HWC: Pixels, frame: Box) -> Pixels:
    """The whole image with a line around the part that everything after sees; as it is where that is all of it."""
    height, width = image_HWC.shape[:2]
    left, top, right, bottom = frame
    if frame == (0, 0, width, height):
        return image_HWC
    thick = max(1, round(max(height, width) / CELL_PX * 1.5))  # a line of about so many pixels in its cell
    drawn = image_HWC.copy()
    cv2.rectangle(drawn, (left, top), (right - 1, bottom - 1), OUTLINE, thick)
    return drawn


def _sheet(titles: list[str], rows: list[_Row]) -> Image.Image:
    """The picture: titles on top, a line for each sample."""
    step = CELL_PX + GAP_PX
    size = (LABEL_PX + step * len(titles) + GAP_PX, TOP_PX + step * len(rows) + GAP_PX)
    sheet = Image.new("RGB", size, PAPER)
    pen, bold, plain = ImageDraw.Draw(sheet), _font("DejaVuSans-Bold.ttf", 13), _font("DejaVuSans.ttf", 11)
    for column, title in enumerate(titles):
        pen.text((LABEL_PX + step * column, TOP_PX - 10), title, INK, bold, anchor="ls")
    for line, row in enumerate(rows):
        top = TOP_PX + step * line
        names = textwrap.wrap(_printable(row.title), 24)[:3]
        notes = [part for text in row.note.split("\n") for part in textwrap.wrap(_printable(text), 30)[:2]]
        pen.multiline_text((GAP_PX * 2, top + 8), "\n".join(names), INK, bold, spacing=4)
        pen.multiline_text((GAP_PX * 2, top + 16 + 19 * len(names)), "\n".join(notes), FAINT, plain, spacing=4)
        for column, image_HWC in enumerate(row.cells):
            left = LABEL_PX + step * column
            pen.rectangle((left, top, left + CELL_PX - 1, top + CELL_PX - 1), WELL)
            small = _fitted(image_HWC)
            sheet.paste(small, (left + (CELL_PX - small.width) // 2, top + (CELL_PX - small.height) // 2))
    return sheet


def _fitted(image_HWC: Pixels) -> Image.Image:
    """The whole image, as large as a cell allows."""
    height, width = image_HWC.shape[:2]
    scale = CELL_PX / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return Image.fromarray(np.asarray(cv2.resize(image_HWC, size, interpolation=method), np.uint8))


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)


def _font(name: str, size_px: int) -> ImageFont.FreeTypeFont:
    """A font that matplotlib brings along, so that sheets look alike everywhere."""
    from matplotlib import get_data_path

    return ImageFont.truetype(Path(get_data_path()) / "fonts" / "ttf" / name, size_px)


def _write(sheet: Image.Image, file: Path) -> None:
    held = BytesIO()
    sheet.save(held, "PNG")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(held.getvalue())
    except OSError as reason:
        raise UsageError(f"cannot write {file}: {reason.strerror}", "choose another --out") from reason
