"""Do labels belong to their images? The labels as they are paired, against other pairings and against chance.

A linear probe on the embedded backbone's features is fitted to the labels as they are, to labels in random orders, and
to what other pairings would give. Rows are often sorted, so labels that are a few rows off still score high: the right
pairing is not one that scores well, but one that no other beats.

Shapes: N rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finefold.data.findings import Finding
from finefold.doctor.diagnosis import Checked
from finefold.doctor.evidence import ClosedProbe
from finefold.doctor.pairings import Pairing, Ranks, by_orders, folders_of, of_whole_folder, orders_of
from finefold.doctor.parts import Stretch, best_part, is_shuffled, misfit
from finefold.doctor.subject import Subject
from finefold.doctor.trials import CLEAR, SURE, Court, Trial
from finefold.doctor.warping import best_warp

NAME = "alignment"
NUM_CHANCE = 20  # random orders of the labels
ROUNDS = 6  # of parts that are re-paired one after the other
WEAK = 0.1  # of the labels' entropy: with less known of the labels, nearly anything may be wrong
LEAST_IMAGES = 40
REMEDY = "pair images and labels by the file's name in one table, never by their places in two lists"


@dataclass(frozen=True)
class Verdict:
    """What was found of some rows.

    Args:
        court: the labels as they are.
        chance: [times, 2] information and accuracy of random orders.
        best: the pairing that beats theirs beyond doubt.
        stretch: rows whose labels do not belong, and for which no pairing was found.
        num_pairings: how many others were looked at.
    """

    court: Court
    chance: NDArray[np.float64]
    best: Trial | None
    stretch: Stretch | None
    num_pairings: int

    @property
    def has_signal(self) -> bool:
        """Whether the probe knows more of the labels than of all random orders."""
        return self.court.current.information > float(self.chance[:, 0].max()) + 1e-3


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
    verdict = judge(subject, kept)
    subject.memory[NAME] = verdict
    findings = tuple(_findings(subject, verdict, kept))
    return Checked(NAME, _says(verdict), findings, numbers=_numbers(verdict))


def repaired_labels(subject: Subject) -> NDArray[np.int64] | None:
    """[N] what the labels should be, after `check_alignment`; -1 where there is none. None where nothing was found."""
    verdict = subject.memory.get(NAME)
    if not isinstance(verdict, Verdict) or verdict.best is None:
        return None
    labels_N = subject.labels_N.copy()
    labels_N[_judged(subject)] = verdict.best.labels_N
    return labels_N


def _judged(subject: Subject) -> NDArray[np.int64]:
    """The rows that are readable and have a label."""
    return np.flatnonzero(subject.features.is_readable_N & (subject.labels_N >= 0))


def judge(subject: Subject, kept: NDArray[np.int64]) -> Verdict:
    """All pairings, on the readable rows of a subject."""
    rng = np.random.default_rng(subject.recipe.seed)
    labels_N = subject.labels_N[kept]
    probe = ClosedProbe(subject.features.rows_ND[kept], subject.folds_N[kept])
    clusters_N = np.unique(subject.group_codes_N[kept], return_inverse=True)[1]
    court = Court.of(probe, labels_N, subject.num_classes, clusters_N)
    chance = probe.permuted(labels_N, subject.num_classes, times=NUM_CHANCE, rng=rng)
    paths = None if subject.paths is None else [str(subject.paths[row]) for row in kept]
    orders = {} if paths is None else orders_of(paths)
    whole = [*court.shifts(), *by_orders(orders, np.arange(len(kept)), len(kept))]
    listed = _by_lists(subject, kept, court)
    trials = [trial for trial in (court.best(whole), *listed) if trial is not None and trial.is_better]
    if trials and trials[0].pairing.kind == "shift":
        trials[0] = court.cut_or_cyclic(trials[0])
    best = max(trials, key=lambda trial: trial.nats, default=None)
    longer = _longest_labels(subject)
    if best is None and (longer is not None or _is_weak(court)):
        best = best_warp(court if longer is None else court.with_labels(longer), rng)
    steps: list[Trial] = []
    if best is None or best.pairing.scope != "all" or best.pairing.kind == "shift":
        steps = _parts(court, {} if paths is None else folders_of(paths), orders, rng)
    if steps and (part := court.hear(_joined(steps, len(kept)))).nats > (0.0 if best is None else best.nats):
        best = part
        if any(step.pairing.kind == "shift" for step in steps):
            warped = best_warp(court, rng)
            best = warped if warped is not None and warped.nats > 1.05 * best.nats else best
    stretch = _unexplained(court, best, rng)
    return Verdict(court, chance, best, stretch, len(whole) + len(listed))


def _parts(
    court: Court, folders: Mapping[str, NDArray[np.int64]], orders: Mapping[str, Ranks], rng: np.random.Generator
) -> list[Trial]:
    """Re-pairings of parts, each on top of those before."""
    steps: list[Trial] = []
    for _ in range(ROUNDS):
        step = best_part(court, orders, folders, rng)
        if step is None or not court.explains(step):
            break
        steps.append(step)
        court = Court.of(court.probe, step.labels_N, court.num_classes, court.clusters_N)
    return steps


def _joined(steps: list[Trial], count: int) -> Pairing:
    """Several re-pairings as one."""
    source_N = np.arange(count)
    for step in steps:
        source_N = source_N[step.pairing.source_N]
    first = max(steps, key=lambda step: step.nats).pairing
    more = f", and {len(steps) - 1} more such parts" if len(steps) > 1 else ""
    return Pairing(f"{first.name}{more}", source_N, first.kind, first.scope)


def _unexplained(court: Court, best: Trial | None, rng: np.random.Generator) -> Stretch | None:
    """Rows whose labels do not belong, once the best pairing is made."""
    if best is not None and (best.labels_N < 0).any():
        return None
    left = court if best is None else Court.of(court.probe, best.labels_N, court.num_classes, court.clusters_N)
    stretch = misfit(left)
    return stretch if stretch is not None and is_shuffled(left, stretch, rng) else None


def _is_weak(court: Court) -> bool:
    shares = np.bincount(court.labels_N) / len(court.labels_N)
    entropy = -float((shares[shares > 0] * np.log(shares[shares > 0])).sum())
    return court.current.information < WEAK * entropy


def _longest_labels(subject: Subject) -> NDArray[np.int64] | None:
    """A list of the data set that begins with the labels as they are and goes on."""
    codes = {name: code for code, name in enumerate(subject.class_names)}
    if (subject.labels_N < 0).any():
        return None
    own = [subject.class_names[code] for code in subject.labels_N]
    for texts in (subject.lists.labels or {}).values():
        if len(texts) > len(own) and list(texts[: len(own)]) == own and set(texts) <= codes.keys():
            return np.array([codes[text] for text in texts], np.int64)
    return None


def _by_lists(subject: Subject, kept: NDArray[np.int64], court: Court) -> list[Trial]:
    """Pairings that the data set's own lists suggest."""
    longer = _longest_labels(subject)
    if longer is None:
        short = [
            Pairing(f"the positions in `{name}`, one for each label", _inverse(places, len(kept)), "subset")
            for name, places in (subject.lists.indices or {}).items()
            if len(places) == len(kept) and list(places) != list(range(len(kept)))
        ]
        return [court.hear(pairing) for pairing in short if (pairing.source_N >= 0).any()]
    wide = court.with_labels(longer)
    found = [
        Pairing(f"the positions in `{name}`", np.asarray(places)[kept], "subset")
        for name, places in (subject.lists.indices or {}).items()
        if len(places) == len(subject.ids) and max(places) < len(longer)
    ]
    every, own = subject.lists.every_path, subject.lists.paths
    if len(every) == len(longer) and own:
        place_of = {path: place for place, path in enumerate(every)}
        positions = np.array([place_of.get(own[row], -1) for row in kept])
        found.append(Pairing("the place of each path in the whole list of paths", positions, "subset"))
    if subject.paths is not None:
        found += of_whole_folder([str(subject.paths[row]) for row in kept], len(longer))
    return [wide.hear(pairing) for pairing in found]


def _inverse(places: tuple[int, ...], count: int) -> NDArray[np.int64]:
    """[N] which entry of an index list names each row; -1 for rows that none names."""
    source_N = np.full(count, -1, np.int64)
    for entry, place in enumerate(places):
        if place < count:
            source_N[place] = entry
    return source_N


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


def _findings(subject: Subject, verdict: Verdict, kept: NDArray[np.int64]) -> list[Finding]:
    found = []
    if verdict.best is not None:
        found.append(_misaligned(subject, verdict, verdict.best, kept))
    if verdict.stretch is not None:
        found.append(_shuffled(subject, verdict, verdict.stretch, kept))
    if not found and not verdict.has_signal:
        found.append(_no_signal(verdict))
    return found


def _misaligned(subject: Subject, verdict: Verdict, best: Trial, kept: NDArray[np.int64]) -> Finding:
    current = verdict.court.current
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


def _shuffled(subject: Subject, verdict: Verdict, stretch: Stretch, kept: NDArray[np.int64]) -> Finding:
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
