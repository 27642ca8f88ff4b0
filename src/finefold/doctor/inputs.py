"""Do images come as a pretrained network expects them: scaled once, in the order RGB, upright?

Shapes: H x W pixels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from finefold.data.findings import Finding, Severity
from finefold.doctor.answers import tensor_of
from finefold.doctor.datasets import num_rows, random_numbers_kept, row_of, split_row
from finefold.doctor.diagnosis import Checked
from finefold.doctor.expectations import Memory, entry_of, has_norms, memory_of, stacked, told_form
from finefold.doctor.forms import BYTES, Form, distance, ends_of, form_by_files, form_by_range
from finefold.doctor.lists import find_lists
from finefold.doctor.natural import (
    Reading,
    looks_swapped,
    looks_turned,
    reading_transposed,
    reading_with_swapped_channels,
)
from finefold.doctor.pixels import find_scale, to_array
from finefold.doctor.posture import Posture, compare_with_files, is_turned, read_file
from finefold.doctor.subject import Subject

NAME = "inputs"
KIND = "input-statistics"
NUM_LOOKED_AT = 32
NUM_COMPARED = 16  # with their files
FAR, NEAR = 3.0, 0.6  # nats per channel from a batch norm's memory
TIMES = 4.0  # by which another form fits it better
CHOICE = 0.06  # of `distance`, up to which constants are as good as the makers'
LARGE = 20.0  # a value that no scaled image has
GROSS = 1.0  # difference of logarithms of stds that is beyond a choice of constants

HINTS: Mapping[str, str] = MappingProxyType(
    {
        "swapped": "images look more like photographs with red and blue exchanged: they may be in the order BGR",
        "turned": "images are recognised more strongly with height and width exchanged: they may lie on their side",
    }
)


@dataclass(frozen=True)
class Look:
    """Some rows of a data set.

    Args:
        images: as given.
        arrays: [H, W, 3] of the same numbers.
        form: None where it is not known.
        is_measured: whether the form was measured against the files; else it is by the range.
        posture: None where there are no files.
        bytes_: the images as uint8 [H, W, 3], whatever their form; none where values are not finite.
    """

    images: Sequence[Any]
    arrays: Sequence[NDArray[Any]]
    form: Form | None
    is_measured: bool
    posture: Posture | None
    bytes_: Sequence[NDArray[np.uint8]] = field(repr=False)

    @property
    def says(self) -> str:
        """The form, and how it is known."""
        if self.form is None:
            low, high = ends_of(self.arrays)
            return f"numbers of an unknown scale, {low.min():.3g} to {high.max():.3g}"
        return self.form.says + (" (measured against their files)" if self.is_measured else "")


def check_inputs(subject: Subject) -> Checked:
    """Scale, order of channels and posture of the images that a data set gives."""
    if subject.dataset is None:
        said = f"finefold reads the images itself, and prepares them as {subject.recipe.model.backbone} expects"
        return Checked(NAME, said)
    with random_numbers_kept():
        look = _look(subject)
        wrong = _not_images(look, subject)
        if wrong is not None:
            return Checked(NAME, f"{len(look.arrays)} images", (wrong,))
        findings = [*_of_scale(look, subject.model), *_of_posture(look)]
        says = f"{len(look.arrays)} images are {look.says}"
        if look.posture is None:
            more, found = _by_features(look, subject)
            says, findings = says + more, findings + found
        else:
            says += _posture_says(look.posture)
        if subject.valid is not None and subject.valid.dataset is not None:
            findings += _of_pair(look, _look(subject.valid))
    return Checked(NAME, says, tuple(findings))


def _look(subject: Subject) -> Look:
    dataset, count = subject.dataset, num_rows(subject.dataset)
    places = np.unique(np.linspace(0, count - 1, min(count, NUM_LOOKED_AT)).astype(int)).tolist()
    images = [split_row(row_of(dataset, place), place)[0] for place in places]
    arrays = [to_array(image) for image in images]
    form = form_by_range(arrays)
    if not all(np.isfinite(array).all() for array in arrays if array.dtype.kind == "f"):
        return Look(images, arrays, None, False, None, ())
    scale = find_scale(images)
    bytes_ = [
        scale.to_bytes(image)
        if form is None or form is BYTES
        else np.asarray(np.rint(form.undo(array.astype(np.float32)).clip(0, 1) * 255), np.uint8)
        for image, array in zip(images, arrays, strict=True)
    ]
    posture = _beside_files(subject, count, places[:: max(1, len(places) // NUM_COMPARED)], places, arrays, bytes_)
    measured = None
    if posture is not None and not all(array.dtype == np.uint8 for array in arrays):
        shown, files = zip(*posture.pairs, strict=True)
        measured = form_by_files(shown, files, swapped=bool(posture.is_swapped))
    return Look(images, arrays, measured or form, measured is not None, posture, bytes_)


def _beside_files(
    subject: Subject,
    count: int,
    compared: Sequence[int],
    places: Sequence[int],
    arrays: Sequence[NDArray[Any]],
    bytes_: Sequence[NDArray[np.uint8]],
) -> Posture | None:
    """The posture of some rows whose files are there; None where no list of the object names them."""
    texts = [subject.class_names[code] for code in subject.labels_N]
    paths = subject.lists.paths or find_lists(subject.dataset, count, texts).paths
    if not paths:
        return None
    found = [(place, file) for place in compared if (file := read_file(paths[place])) is not None]
    if len(found) < 4:
        return None
    at = [places.index(place) for place, _ in found]
    return compare_with_files([arrays[one] for one in at], [file for _, file in found], [bytes_[one] for one in at])


def _finding(severity: Severity, evidence: Mapping[str, Any], cause: str, remedy: str) -> Finding:
    return Finding(KIND, severity, (), evidence, cause, remedy)


def _not_images(look: Look, subject: Subject) -> Finding | None:
    """Values that are no numbers, or images of one value each."""
    is_broken = [array.dtype.kind == "f" and not np.isfinite(array).all() for array in look.arrays]
    if any(is_broken):
        told = f"{sum(is_broken)} of {len(is_broken)} images hold values that are no finite numbers"
        return _finding("error", {"images": sum(is_broken)}, told, "look for a division by 0 where images are scaled")
    if all(float(array.max()) == float(array.min()) for array in look.arrays):
        told = f"all {len(look.arrays)} images that were looked at are of one value each"
        return _finding("error", {"classes": subject.num_classes}, told, "look at what `dataset[0]` gives")
    return None


def _of_scale(look: Look, model: nn.Module | None) -> list[Finding]:
    """Numbers in another form than the model, or any network, was trained on."""
    form = look.form
    if model is not None:
        found = _of_model(look, model)
        if found is not None:
            return found
    if form is None or not form.mistake:
        return []
    is_sure = look.is_measured and "0..255" not in form.says
    told = f"images are {look.says}: {form.mistake}"
    remedy = "divide by 255, then subtract the mean and divide by the std once"
    return [_finding("error" if is_sure else "warning", {"form": form.says}, told, remedy)]


def _of_model(look: Look, model: nn.Module) -> list[Finding] | None:
    """By what the model was trained on, or is said to be; None where nothing of it tells."""
    images = stacked(look.images, tensor_of)
    form = look.form
    if images is None or form is None or not images.is_floating_point() or images.ndim != 4:
        return None
    was_training = model.training
    model.eval()
    try:
        memory = memory_of(model, images, form)
        if memory is not None:
            return _by_memory(look, form, memory)
        entry = entry_of(model, images)
        expected = told_form(model)
        if expected is not None and entry is not None and entry.is_untouched:
            return _by_makers(look, form, expected)
        if form.mistake and entry is not None and entry.largest > LARGE and not has_norms(model):
            return [_unscaled(look, model, images, entry.largest)]
    finally:
        model.train(was_training)
    return None


def _by_memory(look: Look, form: Form, memory: Memory) -> list[Finding]:
    """Images that are far from what the model's first batch norm remembers, where another form is much nearer."""
    if memory.given <= NEAR or memory.best_distance * TIMES > memory.given or memory.best_distance > FAR:
        return []
    evidence = {
        "form": form.says,
        "expected": memory.best.says,
        "distance": memory.given,
        "distance_expected": memory.best_distance,
    }
    told = (
        f"images are {look.says}; the model's first batch norm (`{memory.layer}`) was trained on what "
        f"{memory.best.says} give"
    )
    severity: Severity = "error" if memory.given > FAR else "warning"
    return [_finding(severity, evidence, told, _remedy(form, memory.best))]


def _by_makers(look: Look, form: Form, expected: Form) -> list[Finding]:
    """Images in another form than the constants that the model carries."""
    if distance(form, expected.mean, expected.std) <= CHOICE:
        return []
    is_gross = bool(form.mistake) or abs(np.log(form.std[0] / expected.std[0])) > 2 * GROSS
    told = f"images are {look.says}; the model's makers trained it on images {expected.says}"
    evidence = {"form": form.says, "expected": expected.says}
    return [_finding("error" if is_gross else "warning", evidence, told, _remedy(form, expected))]


def _unscaled(look: Look, model: nn.Module, images: torch.Tensor, largest: float) -> Finding:
    """A network without any norm that gets values far above 1: an error where all its answers are the same."""
    parameter = next(model.parameters(), None)
    with torch.inference_mode():
        answers = model(images if parameter is None else images.to(parameter.device))
    is_one = isinstance(answers, torch.Tensor) and bool((answers.argmax(1) == answers[0].argmax()).all())
    assert look.form is not None
    told = f"images are {look.says}: {look.form.mistake}; values up to {largest:.0f} reach a network without any norm"
    told += ", and it answers the same to all of them" if is_one else ""
    return _finding("error" if is_one else "warning", {"form": look.form.says}, told, "divide by 255")


def _remedy(given: Form, expected: Form) -> str:
    if given.mistake and expected.says == "floats in 0..1":
        return "divide by 255 once"
    if expected.says.startswith("floats"):
        return f"give {expected.says}, without subtracting a mean"
    mean, std = (", ".join(f"{value:.3g}" for value in values) for values in (expected.mean, expected.std))
    return f"scale to 0..1, subtract {mean} and divide by {std}, once"


def _of_posture(look: Look) -> list[Finding]:
    """What the files tell beyond doubt."""
    posture, found = look.posture, []
    if posture is None:
        return []
    if is_turned(posture):
        evidence = {"turn": posture.turn, "agreement": posture.agreement, "upright": posture.upright}
        is_transposed = posture.turn.startswith("transposed")
        told = f"images are {posture.turn} as compared with their files"
        remedy = (
            "an image is [height, width, channels], and [channels, height, width] for torch: `permute(2, 0, 1)`"
            if is_transposed
            else "turn them upright; perhaps the orientation that EXIF tells is ignored"
        )
        found.append(_finding("error" if is_transposed else "warning", evidence, told, remedy))
    if posture.is_squashed:
        height, width = look.arrays[0].shape[:2]
        told = f"images are {height} high and {width} wide, and their files the other way round: they are squashed"
        found.append(_finding("warning", {"height": height, "width": width}, told, "cv2.resize takes (width, height)"))
    if posture.is_swapped:
        told = "red and blue are exchanged as compared with the files: images are in the order BGR"
        found.append(
            _finding("warning", {"channels": "BGR"}, told, "cv2 reads BGR: cv2.cvtColor(x, cv2.COLOR_BGR2RGB)")
        )
    return found


def _posture_says(posture: Posture) -> str:
    colours = {None: "the order of their channels cannot be told (grey)", True: "BGR", False: "RGB"}
    how = posture.turn if posture.agreement >= 0.8 else f"{posture.turn}, as far as can be told"
    return f", {how}, {colours[posture.is_swapped]}, by {posture.num_compared} files"


def _by_features(look: Look, subject: Subject) -> tuple[str, list[Finding]]:
    """Order of channels and posture by how the backbone sees the images: a hint, never more."""
    backbone = subject.cache().backbone
    found: list[Finding] = []
    swapped = reading_with_swapped_channels(backbone, look.bytes_)
    turned = reading_transposed(backbone, look.bytes_)
    says = "; no files to compare with: by the backbone's features "
    if swapped is None:
        says += "the order of channels cannot be told (grey), "
    else:
        is_swapped = looks_swapped(swapped)
        says += "they look BGR, " if is_swapped else "nothing speaks for BGR, "
        if is_swapped:
            found.append(_hint("swapped", swapped, "cv2 reads BGR: cv2.cvtColor(x, cv2.COLOR_BGR2RGB)"))
    if turned is None:
        return says + "nor how they lie", found
    if looks_turned(turned):
        found.append(_hint("turned", turned, "show some: an image is [height, width, channels]"))
        return says + "and lie on their side", found
    return says + "nor for height and width exchanged", found


def _hint(what: str, reading: Reading, remedy: str) -> Finding:
    evidence = {"early": reading.early, "late": reading.late, "images": reading.num_images}
    return _finding("warning", evidence, HINTS[what], remedy)


def _of_pair(train: Look, valid: Look) -> list[Finding]:
    """Training and validation in different forms, or with height and width exchanged."""
    found = []
    if train.form is not None and valid.form is not None and train.form.says != valid.form.says:
        by_std = abs(float(np.log(train.form.std[0] / valid.form.std[0])))
        both = train.is_measured and valid.is_measured
        away = distance(train.form, valid.form.mean, valid.form.std)
        if both or by_std > GROSS:
            told = f"training images are {train.says}, validation images {valid.says}"
            evidence = {"train": train.form.says, "valid": valid.form.says, "distance": away}
            found.append(_finding("error", evidence, told, "prepare both in the same way"))
    sizes = [{array.shape[:2] for array in look.arrays} for look in (train, valid)]
    if all(len(one) == 1 for one in sizes):
        (height, width), (other_h, other_w) = (next(iter(one)) for one in sizes)
        if (height, width) == (other_w, other_h) != (width, height):
            told = f"training images are {height} x {width}, validation images {other_h} x {other_w}"
            evidence = {"train": [height, width], "valid": [other_h, other_w]}
            found.append(_finding("error", evidence, told, "height and width are exchanged in one of the two"))
    return found
