"""Do labels belong to their images? The labels as they are paired, against other pairings and chance."""

import numpy as np

from finefold.data.findings import Finding
from finefold.doctor.diagnosis import Checked
from finefold.doctor.evidence import ClosedProbe
from finefold.doctor.pairings import near_shifts
from finefold.doctor.subject import Subject

NAME = "alignment"


def check_alignment(subject: Subject) -> Checked:
    """Whether another pairing of images and labels explains them better than the one they have."""
    kept = np.flatnonzero(subject.features.is_readable_N)
    labels_N, num_classes = subject.labels_N[kept], subject.num_classes
    probe = ClosedProbe(subject.features.rows_ND[kept], subject.folds_N[kept])
    current = probe.believe(labels_N, num_classes)
    pairings = list(near_shifts(len(kept)))
    found = [probe.believe(pairing.labels(labels_N), num_classes) for pairing in pairings]
    best = max(range(len(found)), key=lambda number: found[number].information)
    findings = []
    if found[best].information > current.information + 0.02:
        findings.append(
            Finding(
                "misaligned-labels",
                "error",
                (),
                {"current": current.accuracy, "best": found[best].accuracy, "pairing": pairings[best].name},
                f"labels are paired with the wrong images: {pairings[best].name} raises the probe "
                f"from {current.accuracy:.2f} to {found[best].accuracy:.2f}",
                "pair images and labels by name, never by position in two lists",
            )
        )
    says = f"{len(kept)} images against {len(pairings)} other pairings; the probe reaches {current.accuracy:.2f}"
    return Checked(NAME, says, tuple(findings), numbers={"probe": current.accuracy})
