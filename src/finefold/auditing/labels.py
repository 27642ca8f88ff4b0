"""Which labels are suspect: of single samples, and of whole groups that share them.

Shapes: N samples, G groups, C classes of an attribute, K joint classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from finefold.auditing.confident import (
    agreement,
    confident_classes,
    confident_thresholds,
    group_vote,
    margins,
    noise_share,
)
from finefold.auditing.voting import MOST_GROUPS, group_kernel, oddness_of_numbers, vote_of_groups
from finefold.data.findings import Finding

MOST_FINDINGS = 200  # per attribute; the rest is counted
LEAST_KAPPA = 0.3  # agreement with the labels beyond chance, below which a judge knows too little to doubt them
SURE_KAPPA = 0.6  # from where on it can say how many are wrong: "substantial" (Landis, Koch, Biometrics 33, 1977)
LEAST_ODDS = 0.7  # log odds by which another class must be more likely; twice as likely
_CONSTANT_SHARE = 0.95  # of the groups with several samples in which an attribute must agree to belong to the group
_NUMBER_COST = 1.16  # log(8 / sqrt(2 pi)): a wrong number is anywhere within four deviations, a right one is normal
_SWAP_ODDS = 1.0

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]


@dataclass(frozen=True)
class Labelled:
    """One attribute's labels, and what is thought of them.

    Args:
        name: of the attribute.
        classes: its names.
        codes_N: given labels, -1 where missing.
        probs_NC: out-of-fold probabilities.
        numbers_N: raw numbers of a banded attribute that agree with its label, else NaN; None where it has none.
        edges: lower bounds of all bands but the first, where it is banded.
    """

    name: str
    classes: tuple[str, ...]
    codes_N: Codes
    probs_NC: Floats
    numbers_N: Floats | None = None
    edges: tuple[float, ...] = ()

    @property
    def accuracy(self) -> float:
        """Share of the known labels that the probabilities agree with: how good a judge they are."""
        known_N = self.codes_N >= 0
        return float((self.probs_NC[known_N].argmax(axis=1) == self.codes_N[known_N]).mean()) if known_N.any() else 0.0


@dataclass(frozen=True)
class Suspect:
    """A label that may be wrong.

    Args:
        attribute: its name.
        rows: the samples concerned.
        group: where the label belongs to a group, its code, else -1.
        given: class that the label says.
        suggested: class that it more likely is.
        odds: log odds of the suggested against the given class, each by its usual share of trust.
        evidence: further numbers.
    """

    attribute: str
    rows: tuple[int, ...]
    group: int
    given: str
    suggested: str
    odds: float
    evidence: dict[str, float | str | int | list[str]]


def is_of_groups(codes_N: Codes, groups_N: Codes) -> bool:
    """Whether an attribute belongs to groups: in nearly all that have several samples, these agree."""
    shared = [set(codes_N[rows].tolist()) - {-1} for rows in rows_of_groups(groups_N) if len(rows) > 1]
    agreeing = sum(len(codes) <= 1 for codes in shared)
    return len(shared) > 0 and agreeing >= _CONSTANT_SHARE * len(shared)


def rows_of_groups(groups_N: Codes) -> list[NDArray[np.int64]]:
    """[G] the rows of each group."""
    order = np.argsort(groups_N, kind="stable")
    return np.split(order, np.cumsum(np.bincount(groups_N))[:-1])


def find_suspects(
    labelled: Sequence[Labelled],
    groups_N: Codes,
    *,
    features: Sequence[NDArray[np.floating]] = (),
) -> tuple[list[Suspect], dict[str, float]]:
    """Labels that may be wrong, the likeliest first, and each attribute's estimated share of wrong labels.

    The share is NaN where the judge does not agree with the labels well enough to tell its own errors from theirs.
    Where it agrees hardly beyond chance, no label is suspected either, but for numbers that are far from what
    look-alikes have.

    Of attributes that belong to groups (a person's gender) whole groups are judged. With features a classifier of
    groups is fitted; without, the samples' probabilities vote. Of others single samples are judged, by confident
    learning.

    Args:
        labelled: every attribute.
        groups_N: codes 0..G-1.
        features: of the samples, one or more arrays [N, D]; empty lets the probabilities vote.
    """
    rows_G = rows_of_groups(groups_N)
    of_groups = {one.name: len(rows_G) < len(groups_N) and is_of_groups(one.codes_N, groups_N) for one in labelled}
    kernel_GG = None
    if features and any(of_groups.values()) and 20 <= len(rows_G) <= MOST_GROUPS:
        varying = [one.codes_N for one in labelled if not of_groups[one.name]]
        kernel_GG = group_kernel(features, groups_N, _kinds(varying, len(groups_N)))
    suspects: list[Suspect] = []
    shares = {}
    for one in labelled:
        if of_groups[one.name]:
            found, share = _of_groups(one, groups_N, rows_G, kernel_GG)
        else:
            found, share = _of_samples(one, groups_N, rows_G)
        suspects += found
        shares[one.name] = share
    return sorted(suspects, key=lambda suspect: -suspect.odds), shares


def _kinds(varying: Sequence[Codes], num_samples: int) -> Codes:
    """[N] which combination of the attributes that differ within groups; a single kind where that is too many."""
    if not varying:
        return np.zeros(num_samples, np.int64)
    _, kinds_N = np.unique(np.stack(varying, axis=1), axis=0, return_inverse=True)
    kinds_N = kinds_N.reshape(-1)
    return kinds_N if kinds_N.max() < 6 else np.zeros(num_samples, np.int64)


def _of_groups(
    one: Labelled, groups_N: Codes, rows_G: list[NDArray[np.int64]], kernel_GG: Floats | None
) -> tuple[list[Suspect], float]:
    labels_G = np.array([_majority(one.codes_N[rows]) for rows in rows_G])
    known = np.flatnonzero(labels_G >= 0)
    if len(set(labels_G[known].tolist())) < 2:
        return [], 0.0
    if kernel_GG is None:
        probs_GC = group_vote(one.probs_NC, groups_N, labels_G)
    else:
        probs_GC = vote_of_groups(kernel_GG, labels_G, len(one.classes))
    kappa = agreement(labels_G[known], probs_GC[known])
    share = noise_share(labels_G[known], probs_GC[known]) if kappa >= SURE_KAPPA else float("nan")
    numbers_G = np.full(len(rows_G), np.nan)
    if one.numbers_N is not None:
        numbers_G = np.array([one.numbers_N[rows[0]] for rows in rows_G])
    if kernel_GG is not None and np.isfinite(numbers_G).sum() >= 20 and np.nanstd(numbers_G) > 0:
        return _of_numbers(one, rows_G, labels_G, numbers_G, kernel_GG, probs_GC), share
    if kappa < LEAST_KAPPA:
        return [], share
    trusted_GC = probs_GC / confident_thresholds(labels_G[known], probs_GC[known])
    odds_G = np.full(len(rows_G), -np.inf)
    odds_G[known] = -margins(labels_G[known], trusted_GC[known])
    found = []
    for group in np.flatnonzero(odds_G >= LEAST_ODDS).tolist():
        suggested = int(trusted_GC[group].argmax())
        found.append(_group_suspect(one, group, rows_G[group], labels_G[group], suggested, odds_G[group], probs_GC))
    return found, share


def _of_numbers(
    one: Labelled,
    rows_G: list[NDArray[np.int64]],
    labels_G: Codes,
    numbers_G: Floats,
    kernel_GG: Floats,
    probs_GC: Floats,
) -> list[Suspect]:
    """Groups whose number is odd for what they look like, where that is another band."""
    oddness_G, usual_G = oddness_of_numbers(kernel_GG, numbers_G)
    bands_G = np.searchsorted(np.asarray(one.edges), usual_G, side="right")
    odds_G = np.square(oddness_G) / 2 - _NUMBER_COST
    found = []
    for group in np.flatnonzero(np.isfinite(numbers_G) & (odds_G >= LEAST_ODDS) & (bands_G != labels_G)).tolist():
        suspect = _group_suspect(one, group, rows_G[group], labels_G[group], bands_G[group], odds_G[group], probs_GC)
        numbers: dict[str, float | str | int | list[str]] = {
            "number": float(numbers_G[group]),
            "looks_like": round(float(usual_G[group])),
            "deviations": round(float(oddness_G[group]), 2),
        }
        found.append(replace(suspect, evidence=suspect.evidence | numbers))
    return found


def _group_suspect(
    one: Labelled, group: int, rows: NDArray[np.int64], given: int, suggested: int, odds: float, probs_GC: Floats
) -> Suspect:
    agreeing = int((one.probs_NC[rows].argmax(axis=1) == suggested).sum())
    evidence: dict[str, float | str | int | list[str]] = {
        "prob_given": round(float(probs_GC[group, given]), 3),
        "prob_suggested": round(float(probs_GC[group, suggested]), 3),
        "votes": f"{agreeing} of {len(rows)} samples by themselves say {one.classes[suggested]}",
    }
    return Suspect(
        one.name, tuple(rows.tolist()), group, one.classes[given], one.classes[suggested], float(odds), evidence
    )


def _of_samples(one: Labelled, groups_N: Codes, rows_G: list[NDArray[np.int64]]) -> tuple[list[Suspect], float]:
    """Samples off the diagonal of the confident joint; of one group together, and pairs that changed places."""
    known = np.flatnonzero(one.codes_N >= 0)
    codes, probs = one.codes_N[known], one.probs_NC[known]
    if len(set(codes.tolist())) < 2:
        return [], 0.0
    kappa = agreement(codes, probs)
    share = noise_share(codes, probs) if kappa >= SURE_KAPPA else float("nan")
    if kappa < LEAST_KAPPA:
        return [], share
    trusted = probs / confident_thresholds(codes, probs)
    odds = -margins(codes, trusted)
    confident = confident_classes(codes, probs)
    off = np.flatnonzero((confident >= 0) & (confident != codes) & (odds >= LEAST_ODDS))
    found, told = [], set[int]()
    for place in off[np.argsort(-odds[off], kind="stable")].tolist():
        row, suggested = int(known[place]), int(confident[place])
        if row in told:
            continue
        partner = _partner(one, row, suggested, rows_G[groups_N[row]])
        rows = (row,) if partner is None else (row, partner)
        told |= set(rows)
        evidence: dict[str, float | str | int | list[str]] = {
            "prob_given": round(float(probs[place, codes[place]]), 3),
            "prob_suggested": round(float(probs[place, suggested]), 3),
        }
        if partner is not None:
            evidence["swapped"] = "the two look as if they had changed places"
        given = one.classes[codes[place]]
        found.append(Suspect(one.name, rows, -1, given, one.classes[suggested], float(odds[place]), evidence))
    return found, share


def _partner(one: Labelled, row: int, suggested: int, rows: NDArray[np.int64]) -> int | None:
    """The sample of the same group with which this one more likely changed places; None where there is none."""
    given = int(one.codes_N[row])
    others = [int(other) for other in rows if one.codes_N[other] == suggested]
    if not others:
        return None
    logs_NC = np.log(np.maximum(one.probs_NC, 1e-12))
    other = max(others, key=lambda place: logs_NC[place, given] - logs_NC[place, suggested])
    gain = logs_NC[row, suggested] + logs_NC[other, given] - logs_NC[row, given] - logs_NC[other, suggested]
    is_odd_one = len(others) == 1 or logs_NC[other, given] > logs_NC[other, suggested]
    return other if is_odd_one and gain >= _SWAP_ODDS else None


def _majority(codes: Codes) -> int:
    known = codes[codes >= 0]
    return int(np.bincount(known).argmax()) if len(known) else -1


def label_findings(
    suspects: Sequence[Suspect], shares: dict[str, float], ids: Sequence[str], group_names: Sequence[str]
) -> list[Finding]:
    """Suspects as findings, the likeliest first; at most `MOST_FINDINGS` of an attribute."""
    findings, told = [], dict.fromkeys(shares, 0)
    total = {name: sum(one.attribute == name for one in suspects) for name in shares}
    for rank, one in enumerate(suspects, start=1):
        told[one.attribute] += 1
        if told[one.attribute] > MOST_FINDINGS:
            continue
        who = f"group `{group_names[one.group]}`" if one.group >= 0 else f"`{ids[one.rows[0]]}`"
        evidence = {
            "rank": rank,
            "attribute": one.attribute,
            **({"group": group_names[one.group]} if one.group >= 0 else {}),
            "given": one.given,
            "suggested": one.suggested,
            "log_odds": round(one.odds, 2),
            **one.evidence,
            "suspects_of_attribute": total[one.attribute],
            "estimated_share_wrong": None if np.isnan(shares[one.attribute]) else round(shares[one.attribute], 4),
        }
        swapped = " and its partner seem to have changed places" if "swapped" in one.evidence else ""
        findings.append(
            Finding(
                "label-suspect",
                "warning",
                tuple(ids[row] for row in one.rows),
                evidence,
                cause=f"{who}{swapped or f' looks {one.suggested}, and {one.attribute} says {one.given}'}",
                remedy="look at the images; where the label is wrong, put it into a patches file (`--fix` drafts one)",
            )
        )
    return findings
