"""Does a model give every image the same class?"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from finefold.data.findings import Finding
from finefold.doctor.diagnosis import Checked
from finefold.doctor.subject import Subject
from finefold.nn.watching import COLLAPSED

NAME = "collapse"
KIND = "one-class-collapse"
SHORT = {  # what explains a collapse, most telling first
    "misaligned-labels": "labels are paired with the wrong images",
    "input-statistics": "images are not scaled as the model expects",
    "rate-too-high": "the rate was too high",
    "nothing-learned": "training does not get below the prior's entropy, as with a rate far too high",
    "no-gradient": "no gradient reaches many of the parameters",
}
MARGIN = 0.05  # by which that is more than the largest class's share among the labels


def check_collapse(subject: Subject) -> Checked:
    """Whether the predictions of the model that was given, or of the run, are nearly all of one class."""
    if subject.predict is None:
        return Checked(
            NAME, "not done: no model was given; of a trained run it is asked by `finefold doctor RUN`", is_done=False
        )
    codes_N = subject.predict()
    shares_K = np.bincount(codes_N, minlength=subject.num_classes) / len(codes_N)
    most = int(shares_K.argmax())
    name = subject.class_names[most] if most < subject.num_classes else f"output {most}"
    known_N = subject.labels_N[subject.labels_N >= 0]
    largest = float(np.bincount(known_N).max() / len(known_N))
    numbers = {"class": name, "share": float(shares_K[most]), "largest_class": largest}
    says = (
        f"predictions for {len(codes_N)} images: {shares_K[most]:.1%} are `{name}`; the largest class has {largest:.1%}"
    )
    collapsed = shares_K[most] >= COLLAPSED and shares_K[most] > min(largest + MARGIN, 0.999)
    findings = (_finding(name, numbers, codes_N),) if collapsed else ()
    return Checked(NAME, says, findings, numbers=numbers)


def _finding(name: str, numbers: dict[str, object], codes_N: NDArray[np.int64]) -> Finding:
    return Finding(
        KIND,
        "error",
        (),
        {**numbers, "n": len(codes_N)},
        f"the model answers `{name}` to nearly every image",
        "look at the other findings first; then at the learning rate and at how images are scaled",
    )


def with_causes(checks: Sequence[Checked]) -> list[Checked]:
    """The checks, a collapse explained by the errors that the others found; by their warnings where there are none."""
    others = [finding for check in checks for finding in check.findings if finding.kind in SHORT]
    causes = [SHORT[finding.kind] for finding in others if finding.severity == "error"]
    causes = causes or [SHORT[finding.kind] for finding in others]
    if not causes:
        return list(checks)
    reason = f"; the likely cause: {', and '.join(dict.fromkeys(causes))}"

    def explained(finding: Finding) -> Finding:
        return replace(finding, cause=finding.cause + reason) if finding.kind == KIND else finding

    return [replace(check, findings=tuple(map(explained, check.findings))) for check in checks]
