"""Does a property of the file or the picture tell the label? A model would learn it instead of the subject.

Shapes: N samples, G groups, C classes, B bins.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from finefold.auditing.labels import is_of_groups, rows_of_groups
from finefold.auditing.looks import Looks
from finefold.data.findings import Finding

FILE_PROPERTIES = ("width", "height", "shape", "jpeg_quality", "format", "channels", "suffix")
PICTURE_PROPERTIES = (
    "bytes_per_pixel",
    "brightness",
    "contrast",
    "saturation",
    "edges",
    "border_brightness",
    "border_spread",
)
BINS = 8
FOLDS = 5
PERMUTATIONS = 99
LEAST_GAIN = {"file": 0.05, "picture": 0.2}  # of balanced accuracy above chance, as a share of what is possible

Codes = NDArray[np.int64]
Floats = NDArray[np.float64]


def find_shortcuts(
    looks: Looks,
    groups_N: Codes,
    labels: Mapping[str, tuple[Sequence[str], Codes]],
    *,
    seed: int = 0,
) -> list[Finding]:
    """One `shortcut` per property and attribute where the property alone predicts the label beyond chance.

    Each property is binned and, over folds that keep groups whole, the likeliest class of its bin is predicted. The
    balanced accuracy is compared with that under permuted labels: of whole groups where the attribute belongs to them.
    What a file is like (size, format, quality) should tell nothing; what a picture is like (brightness) may be part of
    the subject, so that more is asked of it.

    Args:
        looks: of the samples.
        groups_N: codes 0..G-1.
        labels: attribute -> its class names, and [N] codes, -1 where missing.
        seed: of folds and permutations.
    """
    rng = np.random.default_rng(seed)
    readable = looks.is_readable_N
    findings = []
    for name, (classes, codes_N) in labels.items():
        rows = np.flatnonzero(readable & (codes_N >= 0))
        if len(rows) < 40:
            continue
        _, groups = np.unique(groups_N[rows], return_inverse=True)
        folds = (rng.permutation(int(groups.max()) + 1) % FOLDS)[groups]
        codes = codes_N[rows]
        shuffled = _permuted(codes, groups, is_of_groups(codes, groups), rng)
        for kind, properties in (("file", FILE_PROPERTIES), ("picture", PICTURE_PROPERTIES)):
            for prop in properties:
                bins = _binned(_property(looks, prop)[rows])
                if bins.max() == 0:
                    continue
                gain = _gain(bins, codes, folds, len(classes))
                if gain < LEAST_GAIN[kind]:
                    continue
                chance = np.array([_gain(bins, one, folds, len(classes)) for one in shuffled])
                if (chance >= gain).sum() == 0:
                    findings.append(_finding(looks, rows, prop, kind, name, classes, codes, gain, chance))
    return sorted(findings, key=lambda finding: -finding.evidence["gain"])


def _property(looks: Looks, name: str) -> NDArray[np.float64]:
    width, height = looks.measure("width"), looks.measure("height")
    if name == "shape":
        return width / np.maximum(height, 1)
    if name == "bytes_per_pixel":
        return looks.measure("bytes") / np.maximum(width * height, 1)
    if name == "format":
        return np.unique(looks.formats_N, return_inverse=True)[1].astype(np.float64)
    if name == "suffix":
        suffixes = [path.suffix for path in looks.paths]
        return np.unique(suffixes, return_inverse=True)[1].astype(np.float64)
    return looks.measure(name)


def _binned(values_N: Floats) -> Codes:
    """[N] bins of about equal counts; equal values share a bin."""
    edges = np.unique(np.quantile(values_N, np.linspace(0, 1, BINS + 1)[1:-1]))
    by_value = np.unique(values_N)
    if len(by_value) <= BINS:
        return np.searchsorted(by_value, values_N)
    return np.searchsorted(edges, values_N, side="right")


def _gain(bins: Codes, codes: Codes, folds: Codes, num_classes: int) -> float:
    """Balanced accuracy out of fold, 0 at chance and at most 1: each bin says the class it holds most of, by shares."""
    num_bins, num_folds = int(bins.max()) + 1, int(folds.max()) + 1
    cells = np.ravel_multi_index((folds, bins, codes), (num_folds, num_bins, num_classes))
    counts_FBC = np.bincount(cells, minlength=num_folds * num_bins * num_classes).reshape(num_folds, num_bins, -1)
    learnt_FBC = counts_FBC.sum(axis=0) - counts_FBC
    rates_FBC = learnt_FBC / np.maximum(learnt_FBC.sum(axis=1, keepdims=True), 1)
    said_FB = rates_FBC.argmax(axis=2)
    right_C = np.zeros(num_classes)
    for fold in range(num_folds):
        np.add.at(right_C, said_FB[fold], counts_FBC[fold][np.arange(num_bins), said_FB[fold]])
    totals_C = counts_FBC.sum(axis=(0, 1))
    present = totals_C > 0
    chance = 1 / max(1, int(present.sum()))
    balanced = float((right_C[present] / totals_C[present]).mean())
    return (balanced - chance) / max(1 - chance, 1e-9)


def _permuted(codes: Codes, groups: Codes, is_whole: bool, rng: np.random.Generator) -> list[Codes]:
    """Labels dealt anew: to whole groups where they belong to groups, else within groups where those hold several."""
    if is_whole:
        first = np.array([codes[rows[0]] for rows in rows_of_groups(groups)])
        return [rng.permutation(first)[groups] for _ in range(PERMUTATIONS)]
    if int(groups.max()) + 1 == len(groups):
        return [rng.permutation(codes) for _ in range(PERMUTATIONS)]
    by_group = np.argsort(groups, kind="stable")
    permuted = []
    for _ in range(PERMUTATIONS):
        dealt = np.empty_like(codes)
        dealt[by_group] = codes[np.lexsort((rng.random(len(codes)), groups))]
        permuted.append(dealt)
    return permuted


def _finding(
    looks: Looks,
    rows: Codes,
    prop: str,
    kind: str,
    attribute: str,
    classes: Sequence[str],
    codes: Codes,
    gain: float,
    chance: Floats,
) -> Finding:
    values = _property(looks, prop)[rows]
    medians = {
        name: round(float(np.median(values[codes == k])), 4) for k, name in enumerate(classes) if (codes == k).any()
    }
    counts: dict[str, dict[str, int]] = {}
    if prop in ("format", "suffix"):
        texts = looks.formats_N[rows] if prop == "format" else np.array([looks.paths[row].suffix for row in rows])
        counts = {
            name: {str(text): int(((codes == k) & (texts == text)).sum()) for text in np.unique(texts)}
            for k, name in enumerate(classes)
        }
    said = (
        f"{prop.replace('_', ' ')} alone reaches {100 * gain:.0f} % of the way from guessing {attribute} to knowing it"
    )
    maybe = "" if kind == "file" else ", unless it belongs to the subject"
    return Finding(
        "shortcut",
        "warning" if kind == "file" or gain >= 0.5 else "info",
        (),
        {
            "property": prop,
            "attribute": attribute,
            "gain": round(gain, 4),
            "chance_at_most": round(float(chance.max()), 4),
            "permutations": len(chance),
            **({"counts": counts} if counts else {"medians": medians}),
        },
        cause=f"{said}: a model can learn it instead of what is shown{maybe}",
        remedy=_REMEDIES.get(
            prop, "check where the classes' images come from; make them alike, or score on images where they are"
        ),
    )


_REMEDIES = {
    "width": "sizes must not tell classes: train on one size, and score on images whose sizes do not follow the label",
    "height": "sizes must not tell classes: train on one size, and score on images whose sizes do not follow the label",
    "brightness": "compare under augmented light (`augment.preset`), and look whether lighting followed the class",
}
