"""ROC and precision-recall curves to one SVG picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from finefold.report.page import (
    EDGE_IN,
    FAINT,
    INK,
    PALETTE,
    RULE,
    SMALL_PT,
    TITLE_IN,
    axes_at,
    drawing_style,
    page,
    shown_name,
    to_svg,
    widest_in,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIDE_IN, LEFT_IN, BOTTOM_IN, GAP_IN = 3.0, 0.75, 0.6, 0.75
ROW_IN = 0.19
MOST_CURVES = len(PALETTE)
MOST_POINTS = 400  # of a curve: more are not seen at this size, and a file of them is slow to open


@dataclass(frozen=True, eq=False)
class Curve:
    """One class against the rest.

    Args:
        name: of the class.
        false_T, recall_T, precision_T: over thresholds, highest first.
        auc, average_precision: areas.
        share: of rows that are of the class.
    """

    name: str
    false_T: NDArray[np.float64]
    recall_T: NDArray[np.float64]
    precision_T: NDArray[np.float64]
    auc: float
    average_precision: float
    share: float


def draw_ranking(curves: Sequence[Curve], *, title: str) -> str:
    """Draw ROC curves and, beside them, precision-recall curves of some classes.

    Args:
        curves: at least one; of more than seven the seven with the lowest area under the ROC curve are drawn.
        title: the line above the picture.

    Returns:
        SVG text.

    Raises:
        ValueError: there is no curve.
    """
    if not curves:
        raise ValueError("there are no curves to draw")
    worst = sorted(range(len(curves)), key=lambda place: curves[place].auc)[:MOST_CURVES]
    kept = [curves[place] for place in sorted(worst)]
    texts = [f"{shown_name(one.name)}   {one.auc:.3f} / {one.average_precision:.3f}" for one in kept]
    note = "Area under the ROC curve / average precision; a short dash marks each class's share."
    if len(kept) < len(curves):
        note = f"The {len(kept)} lowest of {len(curves)} classes. {note}"
    high_in = len(kept) * ROW_IN + 0.1
    with drawing_style():
        width_in = max(LEFT_IN + 2 * SIDE_IN + GAP_IN + 0.3, 2 * EDGE_IN + 0.3 + widest_in([note, *texts], SMALL_PT))
        figure = page(width_in, BOTTOM_IN + SIDE_IN + high_in + TITLE_IN + 0.3, title, note=note)
        roc = axes_at(figure, LEFT_IN, BOTTOM_IN, SIDE_IN, SIDE_IN)
        recall = axes_at(figure, LEFT_IN + SIDE_IN + GAP_IN, BOTTOM_IN, SIDE_IN, SIDE_IN)
        roc.set(xlabel="share of the others above the threshold", ylabel="recall")
        recall.set(xlabel="recall", ylabel="precision")
        roc.plot([0, 1], [0, 1], color=FAINT, linewidth=0.8, linestyle=(0, (4, 3)))
        for color, one in zip(PALETTE, kept, strict=False):
            places = _places(len(one.recall_T))
            roc.plot(one.false_T[places], one.recall_T[places], color=color, linewidth=1.4)
            # precision jumps at every threshold: steps, as the area under it is counted
            recall.step(one.recall_T[places], one.precision_T[places], where="pre", color=color, linewidth=1.4)
            recall.plot([0, 0.05], [one.share, one.share], color=color, linewidth=2.5, solid_capstyle="butt")
        for axes in (roc, recall):
            _finish(axes)
        for row, (color, text) in enumerate(zip(PALETTE, texts, strict=False)):
            _key(figure, BOTTOM_IN + SIDE_IN + high_in - (row + 0.5) * ROW_IN + 0.1, color, text)
        return to_svg(figure, title)


def _places(num_points: int) -> NDArray[np.int64]:
    """Places along a curve that are drawn: both ends, and the others evenly."""
    return np.unique(np.linspace(0, num_points - 1, min(num_points, MOST_POINTS)).round().astype(np.int64))


def _finish(axes: Axes) -> None:
    axes.set(xlim=(0, 1), ylim=(0, 1.005))
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.grid(color=RULE, linewidth=0.6)
    axes.spines[["left", "bottom"]].set(visible=True, color=RULE)


def _key(figure: Figure, y_in: float, color: str, text: str) -> None:
    """One coloured line and what it stands for."""
    from matplotlib.lines import Line2D

    width_in, height_in = figure.get_size_inches()
    x, y = EDGE_IN / width_in, y_in / height_in
    figure.add_artist(Line2D([x, x + 0.2 / width_in], [y, y], color=color, linewidth=2))
    figure.text(x + 0.28 / width_in, y, text, size=SMALL_PT, color=INK, va="center_baseline")
