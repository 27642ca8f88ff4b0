"""Groups that contradict themselves: one person with two genders."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from finefold.auditing.labels import is_of_groups, rows_of_groups
from finefold.data.findings import Finding


def find_contradictions(
    ids: Sequence[str],
    groups_N: NDArray[np.int64],
    group_names: Sequence[str],
    labels: Mapping[str, tuple[Sequence[str], NDArray[np.int64]]],
) -> list[Finding]:
    """One finding per group and attribute where samples disagree although nearly all groups agree in it.

    Args:
        ids: [N].
        groups_N: codes 0..G-1.
        group_names: [G].
        labels: attribute -> its class names, and [N] codes, -1 where missing.
    """
    rows_G = rows_of_groups(groups_N)
    findings = []
    for name, (classes, codes_N) in labels.items():
        if not is_of_groups(codes_N, groups_N):
            continue
        for group, rows in enumerate(rows_G):
            known = rows[codes_N[rows] >= 0]
            values, counts = np.unique(codes_N[known], return_counts=True)
            if len(values) < 2:
                continue
            said = {classes[value]: int(count) for value, count in zip(values, counts, strict=True)}
            told = ", ".join(f"{count} {value}" for value, count in said.items())
            findings.append(
                Finding(
                    "group-contradiction",
                    "warning",
                    tuple(ids[row] for row in known),
                    {"group": group_names[group], "attribute": name, "counts": said},
                    cause=f"group `{group_names[group]}` is {told} in {name}: a wrong label, or two subjects",
                    remedy="correct the label with a patch, or give the two subjects groups of their own",
                )
            )
    return findings
