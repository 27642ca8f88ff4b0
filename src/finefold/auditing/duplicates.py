"""What pairs of copies mean: the same photo twice, under two groups, with two labels, in training and test."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from finefold.auditing.copies import Copies, clusters
from finefold.data.findings import Finding, Severity

SHOWN_PAIRS = 20
MANY = 0.02  # share of images with a copy in another fold, from which on that is an error
KEEP_APART = (
    "keep one of each: `finefold audit --fix` drafts the list; or, where a column or the files' names tell who is "
    "shown, name it in `[samples] group`, so that every split keeps copies together"
)


def duplicate_findings(
    copies: Copies,
    ids: Sequence[str],
    groups_N: NDArray[np.int64],
    group_names: Sequence[str],
    labels: Mapping[str, tuple[Sequence[str], NDArray[np.int64]]],
) -> list[Finding]:
    """`exact-duplicate`, `near-duplicate` and `duplicate-labels-differ`, sets of copies as one finding each.

    Args:
        copies: pairs of rows.
        ids: [N].
        groups_N: codes.
        group_names: [G].
        labels: attribute -> its class names, and [N] codes, -1 where missing.
    """
    is_grouped = len(group_names) < len(ids)
    pairs = [(i, j) for i, j in copies.pairs_P2.tolist()]
    exact = [pair for pair, same in zip(pairs, copies.is_exact_P, strict=True) if same]
    near = [(number, pair) for number, pair in enumerate(pairs) if not copies.is_exact_P[number]]
    findings = [_exact(rows, ids, groups_N, group_names, is_grouped) for rows in clusters(exact)]
    for members in _near_sets([pair for _, pair in near], groups_N if is_grouped else None):
        numbers = [number for number, pair in near if set(pair) <= members]
        findings.append(_near(numbers, copies, ids, groups_N, group_names, is_grouped))
    return findings + _differing(copies, ids, labels)


def overlap_findings(copies: Copies, ids: Sequence[str], is_test_N: NDArray[np.bool_]) -> list[Finding]:
    """`test-in-train`: one finding per image to be predicted that is also among the labelled ones.

    Args:
        copies: pairs of rows of labelled and unlabelled images together.
        ids: [N].
        is_test_N: [N] which are to be predicted.
    """
    trained: dict[int, list[int]] = {}
    for number in copies.across(is_test_N.astype(np.int64)).tolist():
        i, j = copies.pairs_P2[number].tolist()
        trained.setdefault(i if is_test_N[i] else j, []).append(number)
    findings = []
    for test, numbers in trained.items():
        others = [int(row) for number in numbers for row in copies.pairs_P2[number] if row != test]
        is_exact = bool(copies.is_exact_P[numbers].any())
        findings.append(
            Finding(
                "test-in-train",
                "error" if is_exact else "warning",
                (ids[test], *(ids[row] for row in others)),
                {"test": ids[test], "likeness": round(float(copies.likeness_P[numbers].max()), 3), "exact": is_exact},
                cause=f"`{ids[test]}` is to be predicted, and `{ids[others[0]]}` shows the same photo with its label",
                remedy="leave the labelled copy out of training, or its answer says nothing of new images",
            )
        )
    return findings


def severity_of_leak(num_exact: int, share: float) -> Severity:
    """How bad copies in two folds are: an error where files are equal, or where a good part of the images is concerned.

    Args:
        num_exact: pairs of equal files among them.
        share: of all images, in 0..1.
    """
    return "error" if num_exact or share >= MANY else "warning"


def split_findings(
    copies: Copies, ids: Sequence[str], folds_N: NDArray[np.int64], labels_N: NDArray[np.int64]
) -> list[Finding]:
    """`split-leak`: one finding for all copies that lie in two folds of a split; none where there are none.

    Args:
        copies: pairs of rows.
        ids: [N].
        folds_N: of the samples.
        labels_N: joint codes.
    """
    numbers = copies.across(folds_N)
    if not len(numbers):
        return []
    pairs_P2 = copies.pairs_P2[numbers]
    same = int((labels_N[pairs_P2[:, 0]] == labels_N[pairs_P2[:, 1]]).sum())
    rows = np.unique(pairs_P2)
    share = len(rows) / len(ids)
    return [
        Finding(
            "split-leak",
            severity_of_leak(int(copies.is_exact_P[numbers].sum()), share),
            tuple(ids[row] for row in rows),
            {
                "pairs": len(numbers),
                "samples": len(rows),
                "share": round(share, 4),
                "same_label": same,
                "shown": _told(numbers.tolist(), copies, ids),
            },
            cause=f"{len(rows):,} samples ({100 * share:.1f} %) have a copy in another fold: trained on, then scored",
            remedy=KEEP_APART,
        )
    ]


def _near_sets(pairs: Sequence[tuple[int, int]], groups_N: NDArray[np.int64] | None) -> Iterable[set[int]]:
    """Rows that copies connect; whole groups connect where there are groups."""
    if groups_N is None:
        yield from map(set, clusters(pairs))
        return
    for groups in clusters([(int(groups_N[i]), int(groups_N[j])) for i, j in pairs]):
        inside = set(groups)
        yield {row for pair in pairs for row in pair if int(groups_N[row]) in inside}


def _exact(
    rows: Sequence[int], ids: Sequence[str], groups_N: NDArray[np.int64], group_names: Sequence[str], is_grouped: bool
) -> Finding:
    groups = [group_names[group] for group in dict.fromkeys(groups_N[rows].tolist())]
    inside = is_grouped and len(groups) == 1
    severity: Literal["info", "warning"] = "info" if inside else "warning"
    return Finding(
        "exact-duplicate",
        severity,
        tuple(ids[row] for row in rows),
        {"copies": len(rows), **({"groups": groups} if is_grouped else {})},
        cause=f"{_named([ids[row] for row in rows])} are the same file, byte by byte"
        + (f", under {len(groups)} groups" if is_grouped and not inside else ""),
        remedy="keep one of them" + ("" if inside else "; else a split may train on one and score on the other"),
    )


def _near(
    numbers: Sequence[int],
    copies: Copies,
    ids: Sequence[str],
    groups_N: NDArray[np.int64],
    group_names: Sequence[str],
    is_grouped: bool,
) -> Finding:
    rows = list(dict.fromkeys(copies.pairs_P2[numbers].ravel().tolist()))
    groups = [group_names[group] for group in dict.fromkeys(groups_N[rows].tolist())]
    best = float(copies.likeness_P[numbers[0]])
    evidence: dict[str, Any] = {
        "likeness": round(best, 3),
        "counts_as_copy_from": round(copies.least, 3),
        "typical_of_neighbours": round(copies.typical, 3),
        "pairs": _told(numbers, copies, ids),
        **({"groups": groups} if is_grouped else {}),
    }
    if copies.is_mirrored_P[numbers].any():
        evidence["mirrored"] = int(copies.is_mirrored_P[numbers].sum())
    cause = f"{_named([ids[row] for row in rows])} show the same photo ({best:.2f} alike)"
    remedy = "keep one of them, or give them one group, so that no split tears them apart"
    if is_grouped:
        cause = f"groups {_named(groups)} share a photo ({best:.2f} alike): likely one subject"
        remedy = "give them one group, or leave one out; else a split may train on one and score on the other"
    return Finding("near-duplicate", "warning", tuple(ids[row] for row in rows), evidence, cause=cause, remedy=remedy)


def _named(names: Sequence[str]) -> str:
    """The first three names."""
    more = [] if len(names) <= 3 else [f"{len(names) - 3} more"]
    return " and ".join([*(f"`{name}`" for name in names[:3]), *more])


def _told(numbers: Sequence[int], copies: Copies, ids: Sequence[str]) -> list[list[Any]]:
    """The first pairs with their likeness."""
    return [
        [*(ids[row] for row in copies.pairs_P2[number].tolist()), round(float(copies.likeness_P[number]), 3)]
        for number in numbers[:SHOWN_PAIRS]
    ]


def _differing(
    copies: Copies, ids: Sequence[str], labels: Mapping[str, tuple[Sequence[str], NDArray[np.int64]]]
) -> list[Finding]:
    findings = []
    told = set[tuple[int, ...]]()
    for number, (i, j) in enumerate(copies.pairs_P2.tolist()):
        said = {}
        for name, (classes, codes_N) in labels.items():
            left, right = int(codes_N[i]), int(codes_N[j])
            if left >= 0 and right >= 0 and left != right:
                said[name] = [classes[left], classes[right]]
        if not said or (i, j) in told:
            continue
        told.add((i, j))
        is_exact = bool(copies.is_exact_P[number])
        shown = "; ".join(f"{name}: {left} and {right}" for name, (left, right) in said.items())
        findings.append(
            Finding(
                "duplicate-labels-differ",
                "error" if is_exact else "warning",
                (ids[i], ids[j]),
                {"labels": said, "likeness": round(float(copies.likeness_P[number]), 3), "exact": is_exact},
                cause=f"{_named([ids[i], ids[j]])} are one photo with two labels ({shown}): one of them is wrong",
                remedy="find out which label is right and patch the other, or leave both out",
            )
        )
    return findings
