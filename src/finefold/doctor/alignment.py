"""Do labels belong to their images? The labels as they are paired, against other pairings and against chance.

A linear probe on the embedded backbone's features is fitted to the labels as they are, to labels in random orders, and
to what other pairings would give. Rows are often sorted, so labels that are a few rows off still score high: the right
pairing is not one that scores well, but one that no other beats.

Shapes: N rows.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finefold.data.findings import Finding
from finefold.doctor.diagnosis import Checked
from finefold.doctor.evidence import ClosedProbe
from finefold.doctor.judging import Known, Verdict, in_order, judge, longest_labels
from finefold.doctor.pairings import folders_of, orders_of, parts_of
from finefold.doctor.parts import Stretch
from finefold.doctor.subject import Subject
from finefold.doctor.trials import CLEAR, SURE, Court, Trial

NAME = "alignment"
LEAST_IMAGES = 40
REMEDY = "pair images and labels by the file's name in one table, never by their places in two lists"
SORTED = ("natural order", "text order")  # by which rows that were shuffled are laid out again


def check_alignment(subject: Subject) -> Checked:
    """Whether another pairing of images and labels explains them better than the one they have; of a pair, in both."""
    own = _check(subject)
    if subject.valid is None:
        return own
    other = _check(subject.valid)
    found = [replace(one, cause=f"in {subject.valid.name}: {one.cause}") for one in other.findings]
    says = f"{own.says}. {subject.valid.name}: {other.says}"
    return Checked(NAME, says, (*own.findings, *found), own.is_done or other.is_done, own.numbers)


def _check(subject: Subject) -> Checked:
    kept = _judged(subject)
    labels_N = subject.labels_N[kept]
    if len(kept) < LEAST_IMAGES or len(np.unique(labels_N)) < 2:
        why = f"{len(kept)} images of {len(np.unique(labels_N))} classes are too few to judge pairings"
        return Checked(NAME, f"not done: {why}", is_done=False)
    verdict = _judge(subject, kept)
    subject.memory[NAME] = verdict
    return Checked(NAME, _says(verdict), tuple(_findings(subject, verdict)), numbers=_numbers(verdict))


def repaired_labels(subject: Subject) -> NDArray[np.int64] | None:
    """[N] what the labels should be, after `check_alignment`; -1 where there is none. None where nothing was found."""
    verdict = subject.memory.get(NAME)
    if not isinstance(verdict, Verdict) or verdict.best is None:
        return None
    labels_N = subject.labels_N.copy()
    labels_N[verdict.rows_N] = verdict.best.labels_N
    return labels_N


def _judged(subject: Subject) -> NDArray[np.int64]:
    """The rows that are readable and have a label."""
    return np.flatnonzero(subject.features.is_readable_N & (subject.labels_N >= 0))


def _judge(subject: Subject, kept: NDArray[np.int64]) -> Verdict:
    """The rows in their order; where no pairing is found so, as their files are sorted."""
    probe = ClosedProbe(subject.features.rows_ND[kept], subject.folds_N[kept])
    clusters_N = np.unique(subject.group_codes_N[kept], return_inverse=True)[1]
    court = Court.of(probe, subject.labels_N[kept], subject.num_classes, clusters_N)
    known = _known(subject, kept)
    verdict = first = judge(court, known, kept, seed=subject.recipe.seed)
    for name, order_N in _other_orders(known):
        if verdict.best is not None:
            break
        verdict = judge(*in_order(court, known, order_N), kept[order_N], seed=subject.recipe.seed)
        if verdict.best is not None:
            pairing = replace(verdict.best.pairing, name=f"{verdict.best.pairing.name}, the files in {name}")
            verdict = replace(verdict, best=replace(verdict.best, pairing=pairing))
    return verdict if verdict.best is not None else first


def _known(subject: Subject, kept: NDArray[np.int64]) -> Known:
    paths = None if subject.paths is None else [str(subject.paths[row]) for row in kept]
    parts = {"folder": {} if paths is None else folders_of(paths)}
    if subject.groups is not None:
        parts["group"] = parts_of([subject.groups[row] for row in kept])
    if subject.given_folds_N is not None:
        parts["fold"] = parts_of(subject.given_folds_N[kept])
    longer = None
    if len(kept) == len(subject.ids):
        longer = longest_labels(
            subject.lists, [subject.class_names[code] for code in subject.labels_N], subject.class_names
        )
    return Known(paths, {} if paths is None else orders_of(paths), parts, subject.lists, longer)


def _other_orders(known: Known) -> Iterator[tuple[str, NDArray[np.int64]]]:
    """Orders in which files that lie in none may have lain, when labels were given to them."""
    if any(np.array_equal(np.argsort(ranks_N), np.arange(len(ranks_N))) for ranks_N in known.orders.values()):
        return
    seen: list[NDArray[np.int64]] = []
    for name in SORTED:
        if name in known.orders:
            order_N = np.argsort(known.orders[name])
            if not any(np.array_equal(order_N, one) for one in seen):
                seen.append(order_N)
                yield name, order_N


def _says(verdict: Verdict) -> str:
    """One sentence: what was looked at, and what could have been seen."""
    court, current = verdict.court, verdict.court.current
    low, high = np.quantile(verdict.chance[:, 1], (0.025, 0.975))
    by_one = int((court.labels_N[1:] != court.labels_N[:-1]).sum())
    power = f"labels off by one row would be wrong for {by_one} images"
    if verdict.has_signal:
        power += f"; a stretch of about {seen_from(court)} wrongly paired images would be seen"
    else:
        power += "; the backbone sees nothing of these labels, so a wrong pairing cannot be told from hard images"
    return (
        f"{len(court.labels_N)} images, {verdict.num_pairings} other pairings of all and of parts; the probe reaches "
        f"{current.accuracy:.2f}, in random order {low:.2f}-{high:.2f}; {power}"
    )


def seen_from(court: Court) -> int:
    """How many images in a row must have other images' labels to be beyond doubt, whatever the pairing."""
    rng = np.random.default_rng(0)
    rows = np.arange(len(court.labels_N))
    gain_NC = court.current.gain_NC
    lost_N = gain_NC[rows, court.labels_N] - gain_NC[rows, rng.permutation(court.labels_N)]
    sizes_G = np.bincount(court.clusters_N)
    lost_G = np.bincount(court.clusters_N, weights=lost_N)
    mean = max(float(lost_G.mean()), 1e-3)
    clusters = max(SURE / mean, (CLEAR["stretch"] * float(np.sqrt((lost_G**2).mean())) / mean) ** 2)
    return min(len(rows), int(np.ceil(clusters * sizes_G.mean())))


def _numbers(verdict: Verdict) -> dict[str, Any]:
    current = verdict.court.current
    return {
        "probe": round(current.accuracy, 4),
        "nats": round(current.information, 4),
        "chance": [round(float(value), 4) for value in np.quantile(verdict.chance[:, 1], (0.025, 0.975))],
        "images": len(verdict.court.labels_N),
        "pairings": verdict.num_pairings,
    }


def _findings(subject: Subject, verdict: Verdict) -> list[Finding]:
    found = []
    if verdict.best is not None:
        found.append(_misaligned(subject, verdict, verdict.best))
    if verdict.stretch is not None:
        found.append(_shuffled(subject, verdict, verdict.stretch))
    if not found and not verdict.has_signal:
        found.append(_no_signal(verdict))
    return found


def _misaligned(subject: Subject, verdict: Verdict, best: Trial) -> Finding:
    current, kept = verdict.court.current, verdict.rows_N
    wrong = np.flatnonzero((best.labels_N >= 0) & (best.labels_N != verdict.court.labels_N))
    evidence = {
        "current": round(current.accuracy, 4),
        "best": round(best.belief.accuracy, 4),
        "pairing": best.pairing.name,
        "kind": best.pairing.kind,
        "images": len(kept),
        "relabelled": len(wrong),
        "without_label": int((best.labels_N < 0).sum()),
        "nats": round(best.nats, 1),
        "z": round(best.z, 1),
        "chance": round(float(verdict.chance[:, 1].mean()), 4),
    }
    cause = (
        f"labels are paired with the wrong images: re-pairing by {best.pairing.name} raises the probe "
        f"from {current.accuracy:.2f} to {best.belief.accuracy:.2f} and changes {len(wrong)} of {len(kept)} labels"
    )
    if best.pairing.kind == "subset":
        cause += "; one of the two lists is a part, the other the whole"
    return Finding(
        "misaligned-labels", "error", tuple(subject.ids[kept[row]] for row in wrong), evidence, cause, REMEDY
    )


def _shuffled(subject: Subject, verdict: Verdict, stretch: Stretch) -> Finding:
    kept = verdict.rows_N
    first, last = subject.ids[kept[stretch.first]], subject.ids[kept[stretch.last - 1]]
    evidence = {
        "current": round(verdict.court.current.accuracy, 4),
        "best": None,
        "pairing": None,
        "kind": "unknown",
        "first": first,
        "last": last,
        "images": stretch.last - stretch.first,
        "nats": round(stretch.nats, 1),
    }
    return Finding(
        "misaligned-labels",
        "error",
        tuple(subject.ids[kept[row]] for row in stretch.rows),
        evidence,
        f"the labels of the {stretch.last - stretch.first} images from {first} to {last} fit them no better than the "
        "same labels shuffled, while those of the other images fit well; none of the pairings tried explains it",
        f"look at how these rows were made; {REMEDY}",
    )


def _no_signal(verdict: Verdict) -> Finding:
    current = verdict.court.current
    return Finding(
        "no-signal",
        "warning",
        (),
        {"current": round(current.accuracy, 4), "chance": round(float(verdict.chance[:, 1].mean()), 4)},
        f"the probe knows no more of these labels ({current.accuracy:.2f}) than of the same labels in random order: "
        "either they are paired at random, or the images do not show what the labels say",
        "look at twenty images with their labels (`finefold show`); if they are right, the task needs training",
    )
