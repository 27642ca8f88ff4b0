"""Is class 3 the same class everywhere? Declared orders, folder names sorted as text, and what the images say.

Shapes: M validation rows, K classes.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from finefold.data.findings import Finding
from finefold.data.images import natural_key
from finefold.doctor.breaches import broken
from finefold.doctor.evidence import ClosedProbe
from finefold.doctor.roles import parts_of
from finefold.doctor.subject import Subject

LEAST_ROWS = 40  # of validation, to tell an exchange of classes by the images
LEAST_GAIN = 0.15  # of accuracy
SURE = 5.0  # deviations


def class_order_findings(subject: Subject) -> list[Finding]:
    """What is wrong, or worth knowing, about the order of classes."""
    found = list(_as_text(subject))
    if subject.valid is not None:
        declared = list(_declared(subject, subject.valid))
        found += declared or list(_exchanged(subject, subject.valid))
    return found


def _as_text(subject: Subject) -> Iterator[Finding]:
    """Numbers in the order of texts: 1, 10, 2."""
    orders: dict[str, Sequence[str]] = {name: classes for name, (classes, _) in subject.attributes.items()}
    if not orders and subject.samples is not None:
        orders["class"] = subject.class_names
    if subject.dataset is not None:
        codes = _declared_codes(subject.dataset) or _codes_of_folders(subject)
        orders["class"] = sorted(codes, key=lambda name: codes[name])
    for name, classes in orders.items():
        if classes and all(one.isdigit() for one in classes) and list(classes) != sorted(classes, key=natural_key):
            place = next(
                place for place, one in enumerate(classes) if place != sorted(map(int, classes)).index(int(one))
            )
            yield broken(
                f"the classes of `{name}` are numbers in another order than that of numbers: output {place} is class "
                f"`{classes[place]}` ({', '.join(classes[:5])}{' ...' if len(classes) > 5 else ''})",
                "take an answer's name from this list, never its number for the class; or declare the order",
                (),
                {"what": "class order", "classes": list(classes)},
                "info",
            )


def _declared(train: Subject, valid: Subject) -> Iterator[Finding]:
    """Two data sets that say of one class that it has two numbers."""
    own, other = _declared_codes(train.dataset), _declared_codes(valid.dataset)
    moved = {name: (own[name], other[name]) for name in own if name in other and own[name] != other[name]}
    if moved:
        name, (first, second) = next(iter(moved.items()))
        yield broken(
            f"training and validation number the classes differently: `{name}` is {first} in training and {second} in "
            f"validation, and {len(moved)} of {len(own)} classes have moved",
            "number the classes once, from one list, and hand it to both data sets",
            (),
            {"what": "class order", "moved": {name: list(codes) for name, codes in moved.items()}},
        )
    strange = [name for name in valid.class_names if name not in train.class_names]
    if strange and not moved:
        count = sum(1 for label in valid.labels_N.tolist() if valid.class_names[label] in strange)
        yield broken(
            f"{count} validation rows have labels that no training row has: {', '.join(strange[:5])}",
            "the two are labelled by different lists, or split without regard to classes: look where the labels come "
            "from",
            (),
            {"what": "class order", "only_in_validation": strange, "rows": count},
            "warning",
        )


def _exchanged(train: Subject, valid: Subject) -> Iterator[Finding]:
    """Validation labels that a probe fitted to the training rows gets right under another numbering of the classes."""
    from scipy.optimize import linear_sum_assignment  # a third of a second, and only pairs need it

    rows = np.flatnonzero(valid.features.is_readable_N & (valid.labels_N >= 0))
    kept = np.flatnonzero(train.features.is_readable_N & (train.labels_N >= 0))
    num_classes = train.num_classes
    if len(rows) < LEAST_ROWS or len(kept) < LEAST_ROWS or num_classes < 2:
        return
    features_ND = np.concatenate([train.features.rows_ND[kept], valid.features.rows_ND[rows]])
    probe = ClosedProbe(features_ND, np.repeat([0, 1], [len(kept), len(rows)]))
    asked = np.full(len(rows), -1)
    belief = probe.believe(np.concatenate([train.labels_N[kept], asked]), num_classes)
    share_K = np.bincount(train.labels_N[kept], minlength=num_classes) / len(kept)
    said_M = (belief.gain_NC[len(kept) :] + np.log(np.maximum(share_K, 1e-9))).argmax(axis=1)
    code_of = {name: code for code, name in enumerate(train.class_names)}
    true_M = np.array([code_of[valid.class_names[label]] for label in valid.labels_N[rows]])
    renamed_M = np.empty(len(rows), np.int64)
    order = np.random.default_rng(train.recipe.seed).permutation(len(rows))
    for half, other in (
        (order[::2], order[1::2]),
        (order[1::2], order[::2]),
    ):  # fitted on one half, judged on the other
        counts_KK = np.bincount(said_M[half] * num_classes + true_M[half], minlength=num_classes**2)
        _, names_K = linear_sum_assignment(-counts_KK.reshape(num_classes, num_classes))
        renamed_M[other] = names_K[said_M[other]]
    gain_M = (renamed_M == true_M).astype(float) - (said_M == true_M)
    error = float(gain_M.std()) / np.sqrt(len(rows)) + 1e-9
    if gain_M.mean() < LEAST_GAIN or gain_M.mean() / error < SURE:
        return
    now, best = float((said_M == true_M).mean()), float((renamed_M == true_M).mean())
    counts_KK = np.bincount(said_M * num_classes + true_M, minlength=num_classes**2)
    _, names_K = linear_sum_assignment(-counts_KK.reshape(num_classes, num_classes))
    names = {
        train.class_names[code]: train.class_names[other]
        for code, other in enumerate(names_K.tolist())
        if code != other
    }
    first, second = next(iter(names.items()))
    yield broken(
        f"the classes of validation are numbered otherwise than those of training: a probe fitted to training has "
        f"{now:.2f} of validation right, and {best:.2f} once classes are renamed (training's `{first}` is validation's "
        f"`{second}`)",
        "number the classes once, from one list, and hand it to both data sets",
        (),
        {"what": "class order", "current": round(now, 4), "best": round(best, 4), "renamed": names},
    )


def _declared_codes(dataset: Any) -> Mapping[str, int]:
    """Class name -> number, where a data set or one inside it says so."""
    for part in parts_of(dataset):
        codes, classes = getattr(part, "class_to_idx", None), getattr(part, "classes", None)
        if isinstance(codes, Mapping) and codes:
            return {str(name): int(code) for name, code in codes.items()}
        if isinstance(classes, (list, tuple)) and classes and all(isinstance(one, str) for one in classes):
            return {name: code for code, name in enumerate(classes)}
    return {}


def _codes_of_folders(subject: Subject) -> Mapping[str, int]:
    """Folder -> number, where each folder of numbers in their name holds rows of one label that is a number."""
    if subject.paths is None or not all(name.isdigit() for name in subject.class_names):
        return {}
    found: dict[str, int] = {}
    for path, label in zip(subject.paths, subject.labels_N.tolist(), strict=True):
        folder, code = Path(path).parent.name, int(subject.class_names[label])
        if not folder.isdigit() or found.setdefault(folder, code) != code:
            return {}
    return found if len(set(found.values())) == len(found) == len(subject.class_names) else {}
