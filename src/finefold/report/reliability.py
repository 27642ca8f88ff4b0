"""Is a probability of 0.8 right eight times in ten? The answer as an SVG picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from finefold.report.page import (
    BLUE,
    FAINT,
    RULE,
    TITLE_IN,
    axes_at,
    drawing_style,
    page,
    to_svg,
    write_beside,
)

SIDE_IN, LEFT_IN, BOTTOM_IN, COUNT_IN = 3.2, 0.8, 0.6, 0.7


@dataclass(frozen=True)
class Bin:
    """Answers of about the same confidence.

    Args:
        low, high: ends of the confidences.
        count: of answers.
        confidence: their mean.
        accuracy: share of them that is right.
        accuracy_low, accuracy_high: its 95 % interval.
    """

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float
    accuracy_low: float
    accuracy_high: float


def draw_reliability(bins: Sequence[Bin], *, title: str, note: str = "") -> str:
    """Draw accuracy over confidence, with intervals, and below it how many answers there are of each confidence.

    Args:
        bins: at least one that holds answers.
        title: the line above the picture.
        note: below the title.

    Returns:
        SVG text.

    Raises:
        ValueError: no bin holds an answer.
    """
    filled = [one for one in bins if one.count]
    if not filled:
        raise ValueError("there are no answers to draw")
    with drawing_style():
        height_in = BOTTOM_IN + COUNT_IN + 0.25 + SIDE_IN + TITLE_IN + 0.25
        figure = page(LEFT_IN + SIDE_IN + 0.6, height_in, title, note=note)
        below = axes_at(figure, LEFT_IN, BOTTOM_IN, SIDE_IN, COUNT_IN)
        above = axes_at(figure, LEFT_IN, BOTTOM_IN + COUNT_IN + 0.25, SIDE_IN, SIDE_IN)
        above.plot([0, 1], [0, 1], color=FAINT, linewidth=0.8, linestyle=(0, (4, 3)))
        for one in filled:
            above.plot([one.confidence] * 2, [one.accuracy_low, one.accuracy_high], color=BLUE, linewidth=1.2)
        places = [one.confidence for one in filled]
        above.plot(places, [one.accuracy for one in filled], color=BLUE, linewidth=1.4, marker="o", markersize=4)
        total = sum(one.count for one in filled)
        for one in filled:
            below.bar(one.low, one.count / total, width=one.high - one.low, align="edge", color="#8cbfe0", linewidth=0)
        above.set(xlim=(0, 1), ylim=(0, 1.005), ylabel="share that is right")
        above.set_xticks(np.linspace(0, 1, 6), [])
        above.set_yticks(np.linspace(0, 1, 6))
        below.set(xlim=(0, 1), xlabel="confidence: probability of the answer", ylabel="answers")
        below.set_xticks(np.linspace(0, 1, 6))
        below.set_yticks([])
        largest = max(filled, key=lambda one: one.count)
        middle = (largest.low + largest.high) / 2
        align = "right" if middle > 0.8 else "left" if middle < 0.2 else "center"
        write_beside(
            below, middle, largest.count / total, f"{100 * largest.count / total:.0f} %", 0, rise_pt=6, align=align
        )
        for axes in (above, below):
            axes.grid(axis="y" if axes is below else "both", color=RULE, linewidth=0.6)
            axes.spines[["left", "bottom"]].set(visible=True, color=RULE)
        return to_svg(figure, title)
