"""Labels of a validation set of which its own probe knows little, asked of a probe of the training set.

Shapes: n training rows, m validation rows, C classes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finefold.data.findings import Finding
from finefold.doctor.evidence import ClosedProbe
from finefold.doctor.judging import Verdict
from finefold.doctor.subject import Subject

NUM_SHUFFLES = 200
LITTLE = 0.3  # of what training's own probe knows of its labels, in nats a row
ANOTHER_WORLD = 1.5  # times as far from training's images as these are from each other
MOST_ROWS = 2000  # whose distances are looked at
FAR = 4.0  # deviations above shuffled labels, from which on the training probe knows the labels


@dataclass(frozen=True)
class Across:
    """What a probe of all training rows makes of validation's labels.

    Args:
        agreement: share of validation's labels it gives, whatever the classes' names are exchanged for.
        chance: the mean of the same for its labels in random orders.
        is_known: whether the labels are beyond these.
    """

    agreement: float
    chance: float
    is_known: bool


def look_across(train: Subject, own: Verdict, valid: Subject, other: Verdict) -> Across | None:
    """Asks the training probe, where training's labels belong to its images and validation's are nearly random.

    Args:
        train, own: the training set, and what was found of its labels.
        valid, other: the validation set, and the same.

    Returns:
        None where there is nothing to ask: the classes are others, the question is answered, or the images are of
        another world, of which training's probe need not know anything.
    """
    knows_less = other.court.current.information < LITTLE * own.court.current.information
    is_asked = own.has_signal and not own.is_wrong and knows_less and not other.is_wrong
    if not is_asked or train.class_names != valid.class_names:
        return None
    features = (train.features.rows_ND[own.rows_N], valid.features.rows_ND[other.rows_N])
    if _apart(*features) > ANOTHER_WORLD:
        return None
    counts = [len(one) for one in features]
    labels_m, num_classes = other.court.labels_N, train.num_classes
    known = np.concatenate([own.court.labels_N, np.full(counts[1], -1)])
    belief = ClosedProbe(np.concatenate(features), np.repeat([0, 1], counts)).believe(known, num_classes)
    said_m = belief.gain_NC[counts[0] :].argmax(axis=1)
    rng = np.random.default_rng(train.recipe.seed)
    shuffled = [_agreement(said_m, rng.permutation(labels_m), num_classes) for _ in range(NUM_SHUFFLES)]
    agreement, mean = _agreement(said_m, labels_m, num_classes), float(np.mean(shuffled))
    return Across(agreement, mean, agreement > mean + FAR * float(np.std(shuffled)) + 1e-9)


def misaligned_across(found: Across, train: Subject, own: Verdict, valid: Subject) -> Finding:
    """Validation's labels are the ones at fault: training shows that such images do tell these classes."""
    reached = own.court.current.accuracy
    return Finding(
        "misaligned-labels",
        "error",
        (),
        {
            "current": round(found.agreement, 4),
            "best": round(reached, 4),
            "pairing": None,
            "kind": "unknown",
            "chance": round(found.chance, 4),
        },
        f"a probe of {train.name} gives {found.agreement:.2f} of the labels, no more than of the same labels in random "
        f"order ({found.chance:.2f}), and it knows {reached:.2f} of its own set: the images show these classes, so the "
        f"labels of {valid.name} lie beside the wrong images",
        "make both lists of the validation set by one index, and pair them by the file's name, never by their places",
    )


def _apart(own_nD: NDArray[np.floating], other_mD: NDArray[np.floating]) -> float:
    """How far validation's images lie from the nearest of training, over what training's lie from each other."""
    rng = np.random.default_rng(0)
    own, other = (one[np.sort(rng.permutation(len(one))[:MOST_ROWS])].astype(np.float32) for one in (own_nD, other_mD))
    inside = _squares(own, own)
    np.fill_diagonal(inside, np.inf)
    return float(np.sqrt(np.median(_squares(other, own).min(axis=1)) / max(np.median(inside.min(axis=1)), 1e-12)))


def _squares(left_nD: NDArray[np.float32], right_mD: NDArray[np.float32]) -> NDArray[np.float32]:
    """[n, m] squared distances, none below 0."""
    sums = np.square(left_nD).sum(axis=1)[:, None] + np.square(right_mD).sum(axis=1)
    return np.asarray(np.maximum(sums - 2 * left_nD @ right_mD.T, 0), np.float32)


def _agreement(said_m: NDArray[np.int64], labels_m: NDArray[np.int64], num_classes: int) -> float:
    """Share of equal codes, under the exchange of classes that makes it largest."""
    from scipy.optimize import linear_sum_assignment  # a third of a second, and rarely wanted

    counts_CC = np.bincount(said_m * num_classes + labels_m, minlength=num_classes**2)
    counts_CC = counts_CC.reshape(num_classes, num_classes)
    return float(counts_CC[linear_sum_assignment(-counts_CC)].sum() / len(labels_m))
