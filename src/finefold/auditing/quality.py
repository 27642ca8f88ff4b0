"""What is odd about single images: name and content disagree, turned by EXIF, blank, dark, bright, blurred, odd sizes.

Thresholds for brightness, blur, information and shape are cleanvision's (0.3.7).

Shapes: N images.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finefold.auditing.looks import Looks
from finefold.data.findings import Finding
from finefold.data.split_checks import are, counted

SUFFIXES: Mapping[str, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "WebP": (".webp",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "GIF": (".gif",),
}
BLANK = 0.01  # deviation of brightness
DARK, BRIGHT = 0.32, 0.05  # cleanvision: the 99th percentile below, and 1 less the 5th below
BLURRED, TONES_COUNT = 0.29, 0.18
LITTLE, SHAPE = 0.3, 0.35  # entropy / 10, and the shorter through the longer side
FENCE = 3.0  # quartile ranges beyond the quartiles, for sizes
RARE = 0.05  # a share of images above which a trait is the data's way and not a fault

Floats = NDArray[np.float64]


def quality_findings(looks: Looks) -> list[Finding]:
    """`wrong-extension`, `exif-rotation` and `image-quality`, one finding each for all images of one kind of oddity."""
    return [*_wrong_extensions(looks), *_rotated(looks), *_qualities(looks)]


def blur_scores(edges_N: Floats, tones_N: Floats) -> Floats:
    """[N] cleanvision's score of sharpness, 0 (blurred) to 1."""
    tones = 1 - np.exp(-tones_N / 100)
    return np.asarray(np.minimum(1 - np.exp(-edges_N / 100) + np.where(tones <= TONES_COUNT, 0, tones), 1))


def odd_sizes(sizes_N: Floats) -> NDArray[np.bool_]:
    """[N] which sizes lie three quartile ranges outside the quartiles; where most are equal, half or double counts."""
    low, high = np.quantile(sizes_N, [0.25, 0.75])
    spread = max(high - low, (low + high) / 2 / (2 * FENCE))
    return np.asarray((sizes_N < low - FENCE * spread) | (sizes_N > high + FENCE * spread))


def _wrong_extensions(looks: Looks) -> list[Finding]:
    formats = looks.formats_N.tolist()
    rows = [
        row
        for row, (path, form) in enumerate(zip(looks.paths, formats, strict=True))
        if form and Path(path).suffix.lower() not in SUFFIXES[form]
    ]
    if not rows:
        return []
    shown = {looks.ids[row]: formats[row] for row in rows[:20]}
    return [
        Finding(
            "wrong-extension",
            "info",
            tuple(looks.ids[row] for row in rows),
            {"count": len(rows), "formats": shown},
            cause="names and contents disagree: the files are read by their content all the same",
            remedy="rename them, for other programs may go by the name",
        )
    ]


def _rotated(looks: Looks) -> list[Finding]:
    rows = np.flatnonzero(looks.measure("orientation") > 1)
    if not len(rows):
        return []
    return [
        Finding(
            "exif-rotation",
            "info",
            tuple(looks.ids[row] for row in rows),
            {"count": len(rows), "share": round(len(rows) / max(1, int(looks.is_readable_N.sum())), 4)},
            cause="an EXIF mark turns these images; here they are turned upright, elsewhere perhaps not",
            remedy="nothing for finefold; other programs must heed the mark, or the files be saved upright",
        )
    ]


def _qualities(looks: Looks) -> list[Finding]:
    readable = looks.is_readable_N
    if not readable.any():
        return []
    width, height = looks.measure("width"), looks.measure("height")
    blank = readable & (looks.measure("contrast") < BLANK)
    seen = readable & ~blank
    shape = np.minimum(width, height) / np.maximum(np.maximum(width, height), 1)
    size = np.sqrt(width * height)
    is_odd_size = np.zeros(len(size), bool)
    is_odd_size[readable] = odd_sizes(size[readable])
    is_grey = readable & ((looks.measure("channels") < 3) | (looks.measure("saturation") < 0.004))
    sharpness = blur_scores(looks.measure("edges"), looks.measure("tones"))
    rules: list[tuple[str, NDArray[np.bool_], Floats, str]] = [
        ("blank", blank, looks.measure("contrast"), "the image is one even colour"),
        ("dark", seen & (looks.measure("brightness_p99") < DARK), looks.measure("brightness_p99"), "nearly black"),
        (
            "bright",
            seen & (1 - looks.measure("brightness_p5") < BRIGHT),
            looks.measure("brightness_p5"),
            "nearly white",
        ),
        ("blurred", seen & (sharpness < BLURRED), sharpness, "without sharp edges"),
        (
            "little-content",
            seen & (looks.measure("entropy") / 10 < LITTLE),
            looks.measure("entropy"),
            "few grey levels",
        ),
        ("odd-shape", readable & (shape < SHAPE), shape, "much longer than wide, or wider than long"),
        ("odd-size", is_odd_size, size, "a size far from the others'"),
        ("grey", is_grey, looks.measure("saturation"), "grey among coloured images"),
    ]
    findings = []
    for issue, is_odd, measure, words in rules:
        rows = np.flatnonzero(is_odd)
        if issue == "grey" and len(rows) > readable.sum() / 2:
            continue  # grey data with some coloured images; said by nothing else, for it is rarely a fault
        if len(rows):
            findings.append(_quality(looks.ids, issue, rows, measure, words, int(readable.sum())))
    return findings


def _quality(
    ids: Sequence[str], issue: str, rows: NDArray[np.int64], measure: Floats, words: str, total: int
) -> Finding:
    share = len(rows) / total
    order = rows[np.argsort(-measure[rows] if issue in ("bright", "odd-size") else measure[rows], kind="stable")]
    is_fault = issue == "blank" or (share <= RARE and issue in ("dark", "bright", "blurred", "little-content"))
    evidence: dict[str, Any] = {
        "issue": issue,
        "count": len(rows),
        "share": round(share, 4),
        "worst": {ids[row]: round(float(measure[row]), 4) for row in order[:20]},
    }
    usual = "" if share <= RARE else "; so many that it may be the data's own way"
    return Finding(
        "image-quality",
        "warning" if is_fault else "info",
        tuple(ids[row] for row in order),
        evidence,
        cause=f"{counted(len(rows), 'image')} {are(len(rows))} {issue} ({words}){usual}",
        remedy="look at them; leave out what shows nothing",
    )
