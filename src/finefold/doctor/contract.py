"""Do answers for new images come about as what was scored? Of a run the round trip; of data sets their roles.

Shapes: N rows of the ledger, K joint classes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finefold.data.findings import Finding
from finefold.doctor.breaches import broken
from finefold.doctor.class_order import class_order_findings
from finefold.doctor.diagnosis import Checked
from finefold.doctor.roles import num_reread, role_findings
from finefold.doctor.subject import RoundTrip, Subject
from finefold.errors import FinefoldError

NAME = "contract"
NUM_SENT = 200  # images of the ledger that are sent through the submission path
NUM_ANEW = 16  # of these, decoded again instead of asked from the cache
TOLERANCE = 1e-3  # of a probability


def check_contract(subject: Subject) -> Checked:
    """Whether evaluation and submission see what they claim to see."""
    found = class_order_findings(subject)
    if subject.trips:
        return _of_run(subject.trips, found)
    if subject.dataset is None:
        return _of_data(subject, found)
    found += role_findings(subject)
    says = f"{num_reread(subject)} rows read twice; "
    if subject.valid is None:
        says += "class order, and lists kept on the class; give a pair (train, valid) to have their roles compared"
    else:
        says += "transforms, class order, lists kept on the class, and scale of training and validation compared"
    return Checked(NAME, says, tuple(found))


def _of_data(subject: Subject, found: list[Finding]) -> Checked:
    count = f"{subject.num_classes} classes in their declared order"
    return Checked(NAME, f"{count}; give a run to have its answers compared with its ledger", tuple(found))


@dataclass(frozen=True)
class Sent:
    """What came back of one run.

    Args:
        num_images: that were sent.
        num_anew: of these decoded again.
        most: largest difference of a probability.
        ids: of images that differ by more than the tolerance.
        fold: where the largest difference was.
    """

    num_images: int
    num_anew: int
    most: float
    ids: tuple[str, ...]
    fold: int


def _of_run(trips: Sequence[RoundTrip], found: list[Finding]) -> Checked:
    said, sent, is_done = [], [], True
    for trip in trips:
        where = f"{trip.name}: " if len(trips) > 1 else ""
        mistakes = list(_written_down(trip))
        found += [replace(one, cause=f"{where}{one.cause}") for one in mistakes]
        try:
            back = send(trip)
        except FinefoldError as reason:
            said.append(f"{where}the round trip was not done: {reason.message}")
            is_done = False
            continue
        sent.append(back)
        said.append(
            f"{where}{back.num_images} validation images through the submission path, {back.num_anew} of them decoded "
            f"anew: probabilities differ by at most {back.most:.1g}"
        )
        if back.ids:
            found.append(_changed(back, where))
    numbers = {"sent": sum(one.num_images for one in sent), "most": max((one.most for one in sent), default=None)}
    return Checked(NAME, "; ".join(said), tuple(found), is_done, numbers)


def send(trip: RoundTrip) -> Sent:
    """Some images of every fold through the way of new images, by the model that did not see them.

    Raises:
        FinefoldError: an image is gone, or the run cannot be read.
    """
    ledger = trip.ledger
    folds = np.unique(ledger.folds_N)
    each = max(1, NUM_SENT // len(folds))
    worst, where, ids, num_images, num_anew = 0.0, 0, list[str](), 0, 0
    for fold in folds.tolist():
        own = np.flatnonzero(ledger.folds_N == fold)
        rows = own[np.unique(np.linspace(0, len(own) - 1, min(each, len(own))).astype(int))]
        few = rows[: max(1, NUM_ANEW // len(folds))]
        for part, anew in ((rows, False), (few, True)):
            difference_n = np.abs(trip.fold_probs(fold, part, anew=anew) - ledger.predictions.probs_NK[part]).max(
                axis=1
            )
            ids += [ledger.predictions.ids[row] for row in part[difference_n > TOLERANCE]]
            if difference_n.max() > worst:
                worst, where = float(difference_n.max()), fold
        num_images, num_anew = num_images + len(rows), num_anew + len(few)
    return Sent(num_images, num_anew, worst, tuple(dict.fromkeys(ids)), where)


def _changed(back: Sent, where: str) -> Finding:
    return broken(
        f"{where}{len(back.ids)} of {back.num_images} validation images get other probabilities on the way of new "
        "images "
        f"than in the ledger, by up to {back.most:.2f} (fold {back.fold}): the ledger's score is not that of the "
        "answers",
        "images or weights have changed since training, or another version decodes them otherwise: train again, and "
        "submit with what was scored",
        back.ids,
        {"what": "round trip", "most": round(back.most, 4), "images": back.num_images, "fold": back.fold},
    )


def _written_down(trip: RoundTrip) -> Iterator[Finding]:
    """What the run's own files contradict each other in."""
    for what, files in trip.stamps.items():
        if len(set(files.values())) > 1:
            said = ", ".join(f"{file} says {hash_}" for file, hash_ in _one_of_each(files.items()))
            yield broken(
                f"the run's files are of more than one {what}: {said}",
                "files of different runs were mixed: train again, or put back the files of this run",
                (),
                {"what": what, "files": dict(files)},
            )
    names = {"manifest.json": tuple(trip.manifest["class_names"]), "oof.parquet": trip.ledger.predictions.class_names}
    for file, classes in {**names, **trip.fold_class_names}.items():
        if classes != trip.class_names:
            yield broken(
                f"{file} has the classes {_order(classes)}, and data.toml {_order(trip.class_names)}: an answer's "
                "number "
                "would be another class",
                "put the classes of data.toml back into the order that was trained with",
                (),
                {"what": "class order", "file": file, "classes": list(classes), "declared": list(trip.class_names)},
            )
    yield from _rows(trip)


def _one_of_each(items: Any) -> list[tuple[str, str]]:
    """The first file of each hash."""
    first: dict[str, str] = {}
    for file, hash_ in items:
        first.setdefault(hash_, file)
    return [(file, hash_) for hash_, file in first.items()]


def _order(classes: Sequence[str]) -> str:
    return ", ".join(classes[:4]) + (" ..." if len(classes) > 4 else "")


def _rows(trip: RoundTrip) -> Iterator[Finding]:
    """Every sample is in the ledger once, in its own fold and with its own label."""
    ids = trip.ledger.predictions.ids
    lacking, strange = set(trip.sample_ids) - set(ids), set(ids) - set(trip.sample_ids)
    if lacking or strange or len(ids) != len(trip.sample_ids):
        yield broken(
            f"the ledger has {len(ids)} rows for {len(trip.sample_ids)} samples: {len(lacking)} are missing and "
            f"{len(strange)} belong to no sample, so its score is of something else",
            "train again: evaluation has to see every row once",
            tuple(sorted(lacking | strange)),
            {"what": "rows", "missing": len(lacking), "strange": len(strange)},
        )
        return
    label_of = dict(zip(trip.sample_ids, trip.sample_labels_N.tolist(), strict=True))
    labels_N = np.array([label_of[sample] for sample in ids], np.int64)
    for what, own_N, wanted_N in (
        ("label", trip.ledger.labels_N, labels_N),
        ("fold", trip.ledger.folds_N, trip.split.folds_for(ids)),
    ):
        wrong: NDArray[np.int64] = np.flatnonzero(own_N != wanted_N)
        if len(wrong):
            yield broken(
                f"{len(wrong)} rows of the ledger have another {what} than the run's samples have",
                "the files are of different runs: train again",
                tuple(ids[row] for row in wrong),
                {"what": what, "rows": len(wrong)},
            )
