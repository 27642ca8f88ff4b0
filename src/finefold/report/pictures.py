"""Facts to SVG pictures: confusion matrix, bars per class, shares of the classes.

Each function takes plain numbers and returns SVG text; see page.py for what all pictures have in common.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from finefold.report.page import (
    BLUE,
    EDGE_IN,
    INK,
    PALETTE,
    RULE,
    SMALL_PT,
    TEXT_PT,
    TITLE_IN,
    axes_at,
    clean_text,
    drawing_style,
    page,
    shown_name,
    text_in,
    to_svg,
    widest_in,
    write_beside,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RAMP = ("#f3f8fc", "#5b9bc9", "#08306b")
DARK_SHARE = 0.6  # from here on white figures stand out better than black ones

MAX_ROWS = 40
ROW_IN, PLOT_IN = 0.26, 4.6


def draw_confusion(confusion: ArrayLike, class_names: Sequence[str], *, title: str) -> str:
    """Draw a confusion matrix: counts as numbers, colour for the share of the row's true class.

    Args:
        confusion: [K, K] counts, rows the truth; made for 2 to 40 classes.
        class_names: K names, in the order of the rows.
        title: the line above the picture.

    Returns:
        SVG text.

    Raises:
        ValueError: the matrix is not K x K, or there are no classes.
    """
    counts_KK, names = np.asarray(confusion), [shown_name(name) for name in class_names]
    num_classes = len(names)
    if counts_KK.shape != (num_classes, num_classes) or not names:
        raise ValueError(f"confusion has shape {counts_KK.shape}, expected K x K for {num_classes} class names")
    support_K = counts_KK.sum(axis=1)
    shares_KK = counts_KK / np.maximum(support_K, 1)[:, None]
    names_in = widest_in(names, TEXT_PT)
    cell_in = float(np.clip(7.2 / num_classes, 0.28, 0.62))
    if num_classes <= 5:
        cell_in = float(np.clip(names_in + 0.12, 0.8, 1.1))
    side_in = cell_in * num_classes
    flat = names_in < cell_in - 0.05  # then the names fit side by side under the columns
    left_in, bottom_in = names_in + 0.45, 0.6 if flat else names_in + 0.45
    right_in = widest_in([f"{support:,}" for support in support_K] + ["no sample"], SMALL_PT) + 0.25
    note = "Colour: share of the true class. Empty: none."
    width_in = max(left_in + side_in + right_in, text_in(note, SMALL_PT) + 2 * EDGE_IN)
    with drawing_style():
        figure = page(width_in, bottom_in + side_in + TITLE_IN + 0.35, title, note=note)
        axes = axes_at(figure, left_in, bottom_in, side_in, side_in)
        axes.set(xlim=(0, num_classes), ylim=(num_classes, 0), xlabel="predicted", ylabel="true")
        axes.spines[:].set(visible=True, color=RULE)
        _fill_cells(axes, counts_KK, shares_KK, min(TEXT_PT, 72 * cell_in * 0.25))
        middles = np.arange(num_classes) + 0.5
        axes.set_yticks(middles, names)
        axes.set_xticks(middles, names)
        if not flat:
            # anchored at its end, a name stays in place in whatever font the reader has
            for label in axes.get_xticklabels():
                label.set(rotation=90, rotation_mode="anchor", ha="right", va="center")
        for row, support in enumerate(support_K):
            text = f"{support:,}" if support else "no sample"
            write_beside(axes, num_classes, row + 0.5, text, 6)
        write_beside(axes, num_classes, 0, "samples", 6, rise_pt=8)
        return to_svg(figure, title)


def draw_class_bars(scores: Mapping[str, Mapping[str, Any]], *, title: str) -> str:
    """Draw each class's F1 with its 95 % interval, and how many samples the class has.

    The dashed line is the mean F1 of all classes that have samples: macro F1.

    Args:
        scores: class name -> {"f1": {"value", "low", "high"} or None, "support"}, in class order; the
            `classes` of a summary or of one of its attributes. Of more than 40 classes the 40 with
            the lowest F1 are drawn.
        title: the line above the picture.

    Returns:
        SVG text.

    Raises:
        ValueError: there are no classes.
    """
    if not scores:
        raise ValueError("there are no classes to draw")
    f1_values = {name: one["f1"]["value"] for name, one in scores.items() if one["f1"] is not None}
    lowest = sorted(scores, key=lambda name: f1_values.get(name, np.inf))[:MAX_ROWS]
    kept = [name for name in scores if name in set(lowest)]
    names = [shown_name(name) for name in kept]
    left_in, right_in = widest_in(names, TEXT_PT) + 0.2, 1.35
    with drawing_style():
        figure, axes = _row_page(names, ROW_IN, left_in, right_in, title, bottom_in=0.5)
        label = "F1 and its 95 % interval"
        if len(kept) < len(scores):
            label += f"; the {len(kept)} lowest of {len(scores)} classes"
        axes.set(xlim=(0, 1), xlabel=label)
        axes.set_xticks(np.linspace(0, 1, 6))
        axes.grid(axis="x", color=RULE, linewidth=0.6)
        for row, name in enumerate(kept):
            _draw_class_bar(axes, row, scores[name]["f1"], int(scores[name]["support"]))
        write_beside(axes, 1, -0.5, "F1", 8, rise_pt=8)
        write_beside(axes, 1, -0.5, "samples", 90, rise_pt=8, align="right")
        if f1_values:
            macro_f1 = float(np.mean(list(f1_values.values())))
            axes.axvline(macro_f1, color=INK, linewidth=1, linestyle=(0, (4, 3)))
            align = "left" if macro_f1 < 0.1 else "right" if macro_f1 > 0.9 else "center"
            write_beside(axes, macro_f1, -0.5, f"macro F1 {macro_f1:.2f}", 0, rise_pt=8, align=align, color=INK)
        return to_svg(figure, title)


def draw_shares(names: Sequence[str], shares: Mapping[str, Sequence[float]], *, title: str) -> str:
    """Draw shares of the classes as grouped bars: say, those of training against those predicted.

    Args:
        names: K class names.
        shares: what is compared -> its K shares, 0..1; one to seven of them. Of more than 40 classes
            the 40 where they differ most are drawn, in class order.
        title: the line above the picture.

    Returns:
        SVG text.

    Raises:
        ValueError: there is nothing to compare, more than the palette can tell apart, or not K shares.
    """
    if not 1 <= len(shares) <= len(PALETTE):
        raise ValueError(f"{len(shares)} sets of shares; expected 1 to {len(PALETTE)}")
    lengths = {series: len(values) for series, values in shares.items() if len(values) != len(names)}
    if lengths or not names:
        raise ValueError(f"expected {len(names)} shares each, and at least one; got {lengths}")
    shares_SK = np.asarray(list(shares.values()), dtype=np.float64)
    gaps_K = shares_SK.max(axis=0) - shares_SK.min(axis=0)
    kept = np.sort(np.argsort(-gaps_K, kind="stable")[:MAX_ROWS])
    shares_SK, shown = shares_SK[:, kept], [shown_name(names[k]) for k in kept]
    thickness, row_in = 0.8 / len(shares), max(ROW_IN, 0.145 * len(shares) + 0.1)
    left_in = widest_in(shown, TEXT_PT) + 0.2
    legend_in = EDGE_IN + sum(_key_in(series) for series in shares)
    with drawing_style():
        right_in = max(0.7, legend_in - left_in - PLOT_IN)
        figure, axes = _row_page(shown, row_in, left_in, right_in, title, bottom_in=0.55)
        for series, (color, values_K) in enumerate(zip(PALETTE, shares_SK, strict=False)):
            middles = np.arange(len(shown)) + (series - (len(shares) - 1) / 2) * thickness
            axes.barh(middles, values_K, height=0.9 * thickness, color=color, linewidth=0)
            for value, middle in zip(values_K, middles, strict=True):
                write_beside(axes, value, middle, f"{100 * value:.1f} %", 3, size_pt=7)
        label = "share of the samples, %"
        if len(shown) < len(names):
            label += f"; the {len(shown)} of {len(names)} classes that differ most"
        axes.set(xlim=(0, float(shares_SK.max()) or 1), xlabel=label)
        ticks = [tick for tick in axes.get_xticks() if tick <= axes.get_xlim()[1]]
        axes.set_xticks(ticks, [f"{100 * tick:g}" for tick in ticks])
        _draw_legend(figure, list(shares))
        return to_svg(figure, title)


def _fill_cells(axes: Axes, counts_KK: NDArray[Any], shares_KK: NDArray[Any], count_pt: float) -> None:
    """Colour the cells that hold samples and write their counts."""
    from matplotlib.colors import LinearSegmentedColormap

    ramp = LinearSegmentedColormap.from_list("ramp", RAMP)
    # a mesh of paths, not an image: an image would be an embedded, blurred bitmap
    filled = np.ma.masked_where(counts_KK == 0, shares_KK)
    axes.pcolormesh(filled, cmap=ramp, vmin=0, vmax=1, edgecolors="white", linewidth=0.8)
    for row, column in np.argwhere(counts_KK > 0):
        color = "white" if shares_KK[row, column] >= DARK_SHARE else "black"
        text = _short_count(int(counts_KK[row, column]))
        axes.text(column + 0.5, row + 0.5, text, size=count_pt, color=color, ha="center", va="center")


def _draw_class_bar(axes: Axes, row: int, f1: Mapping[str, float] | None, support: int) -> None:
    """One class: bar, whiskers, and the numbers beside them."""
    write_beside(axes, 1, row, f"{support:,}", 90, align="right")
    if f1 is None:
        write_beside(axes, 0, row, "no sample", 6)
        return
    axes.barh(row, f1["value"], height=0.62, color="#8cbfe0", linewidth=0)
    axes.plot([f1["low"], f1["high"]], [row, row], color=BLUE, linewidth=1.6, solid_capstyle="butt")
    axes.plot([f1["low"], f1["high"]], [row, row], color=BLUE, linestyle="none", marker="|", markersize=6)
    write_beside(axes, 1, row, f"{f1['value']:.2f}", 8, color=INK)


def _draw_legend(figure: Figure, series: Sequence[str]) -> None:
    """A line of coloured squares and what they stand for, under the title."""
    from matplotlib.patches import Rectangle

    width_in, height_in = figure.get_size_inches()
    x_in, y_in = EDGE_IN, height_in - TITLE_IN
    for color, text in zip(PALETTE, series, strict=False):
        square = Rectangle(
            (x_in / width_in, (y_in - 0.05) / height_in), 0.1 / width_in, 0.1 / height_in,
            color=color, transform=figure.transFigure,
        )  # fmt: skip
        figure.add_artist(square)
        x, y = (x_in + 0.16) / width_in, y_in / height_in
        figure.text(x, y, clean_text(text), size=SMALL_PT, va="center_baseline")
        x_in += _key_in(text)


def _key_in(text: str) -> float:
    """The width of one entry of the legend."""
    return 0.16 + text_in(text, SMALL_PT) + 0.2


def _row_page(
    names: Sequence[str], row_in: float, left_in: float, right_in: float, title: str, *, bottom_in: float
) -> tuple[Figure, Axes]:
    """A page with one horizontal row per name, the first on top."""
    height_in = max(len(names), 1) * row_in
    figure = page(left_in + PLOT_IN + right_in, bottom_in + height_in + TITLE_IN + 0.25, title)
    axes = axes_at(figure, left_in, bottom_in, PLOT_IN, height_in)
    axes.set(ylim=(len(names) - 0.5, -0.5))
    axes.set_yticks(range(len(names)), names)
    axes.spines["left"].set_visible(True)
    return figure, axes


def _short_count(count: int) -> str:
    """At most five characters: 99999, 100k, 2.4M."""
    if count < 100_000:
        return str(count)
    return f"{count / 1000:.0f}k" if count < 999_500 else f"{count / 1_000_000:.3g}M"
