"""Verdicts on pairings in words: the sentence of the check, its numbers, its findings.

Shapes: N rows, C classes, G clusters of rows.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from finefold.data.findings import Finding
from finefold.doctor.apart import Verdicts
from finefold.doctor.judging import Verdict
from finefold.doctor.parts import Stretch
from finefold.doctor.subject import Subject
from finefold.doctor.trials import CLEAR, SURE, Court, Trial

REMEDY = "pair images and labels by the file's name in one table, never by their places in two lists"


def says_of(verdicts: Verdicts) -> str:
    """One sentence: what was looked at, and what could have been seen."""
    joint = "no sample has all its labels" if verdicts.joint is None else _says(verdicts.joint)
    if not verdicts.apart:
        return joint
    reached = ", ".join(f"{name} {one.court.current.accuracy:.2f}" for name, one in verdicts.apart.items())
    return f"{joint}; each attribute alone: {reached}"


def numbers_of(verdicts: Verdicts) -> dict[str, Any]:
    """Of the joint classes, and under `attributes` of each alone."""
    found = {} if verdicts.joint is None else _numbers(verdicts.joint)
    apart = {name: _numbers(verdict) for name, verdict in verdicts.apart.items()}
    return found | ({"attributes": apart} if apart else {})


def findings_of(subject: Subject, verdicts: Verdicts) -> Iterator[Finding]:
    """Of all labels, then of each attribute alone; that images say nothing of any attribute is told once, of all."""
    judged = ({} if verdicts.joint is None else {"": verdicts.joint}) | dict(verdicts.apart)
    for name, verdict in judged.items():
        if verdict.best is not None:
            yield _misaligned(subject, name, verdict, verdict.best)
        if verdict.stretch is not None:
            yield _shuffled(subject, name, verdict, verdict.stretch)
    silent = [name for name, verdict in judged.items() if _is_silent(verdict)]
    if verdicts.apart and verdicts.joint is not None:
        are_all = set(verdicts.apart) <= set(silent) and not verdicts.joint.is_wrong
        silent = [""] if are_all else [name for name in silent if name]
    for name in silent:
        yield _no_signal(name, judged[name])


def _is_silent(verdict: Verdict) -> bool:
    """Whether all there is to say is that the images say nothing."""
    return not verdict.is_wrong and not verdict.has_signal


def _says(verdict: Verdict) -> str:
    court, current = verdict.court, verdict.court.current
    low, high = np.quantile(verdict.chance[:, 1], (0.025, 0.975))
    by_one = int((court.labels_N[1:] != court.labels_N[:-1]).sum())
    power = f"labels off by one row would be wrong for {by_one} images"
    if verdict.has_signal:
        least, count = seen_from(court), len(court.labels_N)
        power += f"; a stretch of about {least} wrongly paired images would be seen"
        power += ", whatever the pairing (shorter ones where a pairing explains them)" * (least > count // 2)
    elif verdict.is_wrong:
        power += "; as they are paired the backbone sees nothing of these labels, re-paired as below it does"
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


def _misaligned(subject: Subject, name: str, verdict: Verdict, best: Trial) -> Finding:
    current, kept = verdict.court.current, verdict.rows_N
    wrong = np.flatnonzero((best.labels_N >= 0) & (best.labels_N != verdict.court.labels_N))
    unlabelled = [subject.ids[kept[row]] for row in np.flatnonzero(best.labels_N < 0)]
    evidence = _of_attribute(name) | {
        "current": round(current.accuracy, 4),
        "best": round(best.belief.accuracy, 4),
        "pairing": best.pairing.name,
        "kind": best.pairing.kind,
        "images": len(kept),
        "relabelled": len(wrong),
        "without_label": len(unlabelled),
        "unlabelled": unlabelled,
        "nats": round(best.nats, 1),
        "z": round(best.z, 1),
        "chance": round(float(verdict.chance[:, 1].mean()), 4),
    }
    what = f"`{name}` is laid beside the wrong images" if name else "labels are paired with the wrong images"
    cause = (
        f"{what}: re-pairing {'that column alone ' if name else ''}by {best.pairing.name} raises the probe "
        f"from {current.accuracy:.2f} to {best.belief.accuracy:.2f} and changes {len(wrong)} of {len(kept)} labels"
    )
    if best.pairing.kind == "subset":
        cause += "; one of the two lists is a part, the other the whole"
    if best.pairing.kind == "end":
        cause += "; one of the two lists probably lacks entries before that row"
    ids = tuple(subject.ids[kept[row]] for row in wrong)
    return Finding("misaligned-labels", "error", ids, evidence, cause, _remedy(name))


def _shuffled(subject: Subject, name: str, verdict: Verdict, stretch: Stretch) -> Finding:
    kept = verdict.rows_N
    first, last = subject.ids[kept[stretch.first]], subject.ids[kept[stretch.last - 1]]
    evidence = _of_attribute(name) | {
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
        f"{f'`{name}`' if name else 'the labels'} of the {stretch.last - stretch.first} images from {first} to {last} "
        f"{'fits' if name else 'fit'} them no better than the same labels shuffled, while those of the other images "
        "fit well; none of the pairings tried explains it",
        f"look at how these rows were made; {_remedy(name)}",
    )


def _no_signal(name: str, verdict: Verdict) -> Finding:
    current = verdict.court.current
    return Finding(
        "no-signal",
        "warning",
        (),
        _of_attribute(name)
        | {"current": round(current.accuracy, 4), "chance": round(float(verdict.chance[:, 1].mean()), 4)},
        f"the probe knows no more of {f'`{name}`' if name else 'these labels'} ({current.accuracy:.2f}) than of the "
        "same labels in random order: either they are paired at random, or the images do not show what the labels say",
        "look at twenty images with their labels (`finefold show`); if they are right, the task needs training",
    )


def _of_attribute(name: str) -> dict[str, Any]:
    return {"attribute": name} if name else {}


def _remedy(name: str) -> str:
    return f"take `{name}` from the row that names its image, never by its place in another list" if name else REMEDY
