"""Training and validation as two roles that share nothing that changes: transforms, lists, loaders, a model's mode.

Shapes: n rows looked at.
"""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from finefold.data.findings import Finding
from finefold.doctor.answers import device_of, logits_of
from finefold.doctor.breaches import broken
from finefold.doctor.datasets import random_numbers_kept, row_of, split_row
from finefold.doctor.lists import wrapped
from finefold.doctor.pixels import to_array
from finefold.doctor.sameness import same_rows
from finefold.doctor.subject import Subject

ROWS = 16  # that are read twice
TRANSFORM_NAMES = ("transform", "augment", "tfm", "preproc")  # begin or end what attributes are called
DEPTH = 6
FAR, NEAR = 3.0, 1.5  # times, by which the spread of numbers differs
UNSEEN = (torch.nn.modules.dropout._DropoutNd, torch.nn.modules.batchnorm._BatchNorm)


@dataclass(frozen=True)
class Reread:
    """Some rows of a data set, read twice.

    Args:
        rows: which.
        differing: of these, rows whose picture differed.
        shapes: of the pictures as the data set gives them.
        mean, std: of their numbers.
    """

    rows: tuple[int, ...]
    differing: tuple[int, ...]
    shapes: frozenset[tuple[int, ...]]
    mean: float
    std: float


def reread(subject: Subject) -> Reread:
    """Reads a few rows spread over the data set twice; once for every subject."""
    if "reread" not in subject.memory:
        count = len(subject.ids)
        rows = np.unique(np.linspace(0, count - 1, min(ROWS, count)).astype(int)).tolist()
        with random_numbers_kept():
            first, second = ([_picture(subject.dataset, row) for row in rows] for _ in range(2))
        differing = [row for row, one, two in zip(rows, first, second, strict=True) if not _is_same(one, two)]
        values = np.concatenate([to_array(one).ravel()[::7].astype(np.float64) for one in first])
        shapes = frozenset(tuple(np.shape(one)) for one in first)
        subject.memory["reread"] = Reread(
            tuple(rows), tuple(differing), shapes, float(values.mean()), float(values.std())
        )
    found = subject.memory["reread"]
    assert isinstance(found, Reread)
    return found


def num_reread(subject: Subject) -> int:
    """How many rows were read twice."""
    return len(reread(subject).rows) + (0 if subject.valid is None else len(reread(subject.valid).rows))


def _picture(dataset: Any, row: int) -> Any:
    image = split_row(row_of(dataset, row), row)[0]
    return image.detach().clone().cpu().numpy() if hasattr(image, "detach") else np.array(image)


def _is_same(one: NDArray[Any], two: NDArray[Any]) -> bool:
    return one.shape == two.shape and np.array_equal(one, two, equal_nan=one.dtype.kind == "f")


def role_findings(subject: Subject) -> list[Finding]:
    """What the roles of a data set, or of a pair, have in common that they must not; and a model's mode."""
    found = list(_of_class_lists(subject))
    if subject.valid is not None:
        found += [*_of_transforms(subject, subject.valid), *_of_scale(subject, subject.valid)]
        found += _of_loader(subject.valid)
    if subject.model is not None:
        found += _of_mode(subject)
    return found


def parts_of(dataset: Any) -> list[Any]:
    """A data set and the data sets inside it."""
    found: list[Any] = []
    waiting = [(dataset, 0)]
    while waiting:
        one, depth = waiting.pop(0)
        if any(one is other for other in found):
            continue
        found.append(one)
        attributes = getattr(one, "__dict__", {})
        inner = [value for _, value in wrapped(one)]
        if isinstance(attributes.get("datasets"), (list, tuple)):
            inner += attributes["datasets"]
        waiting += [(part, depth + 1) for part in inner if depth < DEPTH and _is_object_with_rows(part)]
    return found


def _is_object_with_rows(value: Any) -> bool:
    return hasattr(value, "__getitem__") and hasattr(value, "__dict__")


def _transforms(dataset: Any) -> dict[int, tuple[str, Any]]:
    """id of each transform object in a data set -> where it is, and the object."""
    found = {}
    for part in parts_of(dataset):
        for name, value in getattr(part, "__dict__", {}).items():
            plain = name.strip("_").lower()
            is_named = plain in ("tf", "aug", "augs") or any(one in plain for one in TRANSFORM_NAMES)
            if is_named and callable(value):
                found[id(value)] = (f"{type(part).__name__}.{name}", value)
    return found


def _of_transforms(train: Subject, valid: Subject) -> Iterator[Finding]:
    """A validation set that is augmented, and transforms that two roles share."""
    own, other = _transforms(train.dataset), _transforms(valid.dataset)
    shared = [other[key][0] for key in other if key in own]
    parts = [id(part) for part in parts_of(train.dataset)]
    base = next((type(part).__name__ for part in parts_of(valid.dataset) if id(part) in parts), None)
    again = reread(valid)
    if again.differing:
        why = "its own transform is random"
        if base is not None:
            why = f"training and validation share one `{base}` object, and so its random transform"
        elif shared:
            why = f"training and validation share one random transform object, `{shared[0]}`"
        yield broken(
            f"the validation set is augmented: {len(again.differing)} of {len(again.rows)} rows read twice gave two "
            f"different pictures; {why}",
            "give each role a data set object of its own, and validation a transform without anything random",
            tuple(valid.ids[row] for row in again.differing),
            {
                "what": "augmented validation",
                "rows": len(again.rows),
                "differing": len(again.differing),
                "shared": shared,
            },
        )
    elif base is not None and shared and not reread(train).differing:
        yield broken(
            f"training and validation share one `{base}` object and its transform `{shared[0]}`: the transform that "
            "was "
            "set last counts for both, so training is not augmented either",
            "give each role a data set object of its own; where no augmentation is wanted, nothing is wrong",
            (),
            {"what": "shared transform", "shared": shared},
            "info",
        )


def _of_class_lists(subject: Subject) -> Iterator[Finding]:
    """Rows kept in a list of the class, which every object of that class shares."""
    valid = subject.valid
    size = len(subject.ids)
    for name, values in _class_lists(subject.dataset).items():
        if valid is None:
            if len(values) == size:
                yield broken(
                    f"`{name}` is a list of the class, not of the object, and holds the rows: a second data set object "
                    "of this class would contain the first one's rows",
                    f"make it in `__init__`: self.{name.rpartition('.')[2]} = []",
                    (),
                    {"what": "class list", "list": name, "rows": len(values)},
                    "info",
                )
            continue
        if not any(values is other for other in _class_lists(valid.dataset).values()):
            continue
        both = same_rows(subject, valid)
        is_one_list = len(values) == size == len(valid.ids)
        if is_one_list or len({row for _, row in both}) >= len(valid.ids) / 2:
            yield broken(
                f"`{name}` is a list of the class, not of the object, so both data sets hold the same {len(values)} "
                "rows: "
                "the second one contains the first one's, and the model is scored on what it was trained on",
                f"make it in `__init__`: self.{name.rpartition('.')[2]} = []",
                tuple(dict.fromkeys(valid.ids[row] for _, row in both)),
                {"what": "class list", "list": name, "rows": len(values), "in_both": len(both)},
            )


def _class_lists(dataset: Any) -> dict[str, Any]:
    """Name -> non-empty list or dict that belongs to a class of the data set's."""
    return {
        f"{kind.__name__}.{name}": value
        for part in parts_of(dataset)
        for kind in type(part).__mro__
        for name, value in vars(kind).items()
        if isinstance(value, (list, dict))
        and value
        and not name.startswith("__")
        and vars(part).get(name, value) is value  # `self.rows += rows` leaves the class's own list on the object
    }


def _of_scale(train: Subject, valid: Subject) -> Iterator[Finding]:
    """Numbers of another scale, and height and width swapped."""
    own, other = reread(train), reread(valid)
    times = max(other.std, 1e-9) / max(own.std, 1e-9)
    is_far = not 1 / FAR < times < FAR
    if is_far or (
        not 1 / NEAR < times < NEAR and not (own.differing or other.differing)
    ):  # chance may stretch a little
        yield broken(
            f"validation images are scaled otherwise than training images: their numbers have mean {other.mean:.3g} "
            "and "
            f"deviation {other.std:.3g}, those of training {own.mean:.3g} and {own.std:.3g}",
            "use one function for scaling, with the same mean and std, in both roles",
            (),
            {"what": "scale", "train": [own.mean, own.std], "valid": [other.mean, other.std]},
            "error" if is_far else "warning",
        )
    if len(own.shapes) == len(other.shapes) == 1 and own.shapes != other.shapes:
        (train_shape,), (valid_shape,) = own.shapes, other.shapes
        swapped = sorted(train_shape) == sorted(valid_shape)
        yield broken(
            f"training images have shape {list(train_shape)}, validation images {list(valid_shape)}"
            + (": height and width are swapped" if swapped else ""),
            "one size for both roles, as (height, width); a crop for training needs the same size as the one for "
            "validation",
            (),
            {"what": "shape", "train": list(train_shape), "valid": list(valid_shape)},
            "error" if swapped else "warning",
        )


def _of_loader(valid: Subject) -> Iterator[Finding]:
    """Rows that the loader of a validation set loses or repeats."""
    loading = valid.loading
    if loading is None:
        return
    said: Mapping[str, Any] = {"what": "rows", "dropped": loading.num_dropped, "repeated": loading.num_repeated}
    if loading.num_dropped:
        yield broken(
            f"the loader of the validation set has drop_last=True: {loading.num_dropped} of {len(valid.ids)} rows are "
            f"never scored, and a score divided by all rows cannot pass {1 - loading.num_dropped / len(valid.ids):.0%}",
            "drop_last=False for evaluation",
            (),
            said,
        )
    if loading.num_repeated:
        yield broken(
            f"the loader of the validation set shows {loading.num_repeated} rows more than once: its sampler draws "
            "with "
            "replacement",
            "shuffle=False and no sampler for evaluation: every row once",
            (),
            said,
        )


def _of_mode(subject: Subject) -> Iterator[Finding]:
    """A model that still drops units or learns statistics."""
    model = subject.model
    assert model is not None
    moving = [name for name, module in model.named_modules() if isinstance(module, UNSEEN) and module.training]
    if not moving:
        return
    rows = list(reread(subject).rows)
    differing = None
    try:
        kept = deepcopy(model)
        images_B = [torch.as_tensor(_picture(subject.dataset, row)) for row in rows]
        with torch.inference_mode(), random_numbers_kept():
            found = [logits_of(kept.train(mode), images_B, device_of(kept)).argmax(dim=1) for mode in (False, True)]
        differing = int((found[0] != found[1]).sum())
    except Exception:  # a model that cannot be copied or run is told of by the checks that need it
        differing = None
    seen = "" if differing is None else f"; {differing} of {len(rows)} images get another class than in evaluation mode"
    yield broken(
        f"the model was given in training mode: {len(moving)} of its layers drop units or follow the batch's statistics"
        f"{seen}",
        "model.eval() before validation and before answering",
        (),
        {"what": "training mode", "layers": moving[:8], "differing": differing, "images": len(rows)},
        "warning",
    )
