"""Courses to SVG pictures: learning rates over steps, a range test, a training's history.

Each function takes plain numbers and returns SVG text; see page.py for what all pictures have in common. Lines carry
their names at their right ends, so that no legend lies over data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from finefold.report.page import (
    BLUE,
    FAINT,
    INK,
    PALETTE,
    RULE,
    SMALL_PT,
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
    from matplotlib.axis import Axis

PLOT_IN, HIGH_IN, LEFT_IN, BOTTOM_IN = 5.6, 2.8, 0.8, 0.55
LABEL_PT = 11.0  # from one label of a line to the next
LEADER_PT = 16.0  # from a line's end to its label
LOG_FROM = 10.0  # times that peaks differ, from which on the axis is logarithmic
DASHES = ("solid", (0, (4, 2)), (0, (1, 1.5)))  # one for each round through the palette


@dataclass(frozen=True)
class Epoch:
    """One epoch of one fold.

    Args:
        phase: counted from 1.
        loss: mean training loss over its steps.
        score: of the samples that the fold holds out.
    """

    phase: int
    loss: float
    score: float


@dataclass(frozen=True)
class _Line:
    """Numbers over the places 1, 2, ... of the x axis, NaN where there is none."""

    name: str
    values: NDArray[np.float64]
    color: str
    dash: object

    @property
    def end(self) -> tuple[float, float]:
        """The last place that has a number, and the number."""
        last = int(np.flatnonzero(np.isfinite(self.values))[-1])
        return last + 1.0, float(self.values[last])


def draw_rates(rates: Mapping[str, Sequence[float]], *, boundaries: Sequence[tuple[int, str]], title: str) -> str:
    """Draw the learning rate of each stage over optimiser steps.

    The axis of rates is logarithmic where the peaks differ tenfold or more; rates of 0 are left out of it. Stages
    whose rates are the same throughout share a line.

    Args:
        rates: stage -> one rate per step, all of one length; NaN where the stage does not train.
        boundaries: where a phase begins (0-based step), and what it is called; ascending.
        title: the line above the picture.

    Returns:
        SVG text.

    Raises:
        ValueError: there are no steps, stages of different lengths, or no rate above 0.
    """
    lengths = {len(one) for one in rates.values()}
    if len(lengths) != 1 or lengths == {0}:
        raise ValueError(f"expected rates of one length above 0; got lengths {sorted(lengths)}")
    merged = _merged({name: np.asarray(one, dtype=np.float64) for name, one in rates.items()})
    peaks = [float(np.nanmax(one)) for one in merged.values() if np.nan_to_num(one).max() > 0]
    if not peaks:
        raise ValueError("no rate is above 0")
    is_log = max(peaks) >= LOG_FROM * min(peaks)
    if is_log:
        merged = {name: np.where(one > 0, one, np.nan) for name, one in merged.items()}
    lines = _lines({name: one for name, one in merged.items() if np.isfinite(one).any()})
    with drawing_style():
        names = [line.name for line in lines]
        levels = _levels(boundaries, lengths.pop())
        high_in, rise_in = _height_in(len(lines)), 0.2 * (max(levels, default=0) + 1)
        figure = page(LEFT_IN + PLOT_IN + _labels_in(names), BOTTOM_IN + high_in + rise_in + TITLE_IN - 0.1, title)
        axes = axes_at(figure, LEFT_IN, BOTTOM_IN, PLOT_IN, high_in)
        axes.set(xlabel="optimiser step", ylabel="learning rate", yscale="log" if is_log else "linear")
        if is_log:
            _log_ticks(axes.yaxis)
        _draw_lines(axes, lines)
        _draw_phases(axes, boundaries, levels)
        _label_ends(axes, lines, high_in)
        return to_svg(figure, title)


def draw_range_test(rates: Sequence[float], losses: Sequence[float], *, suggestion: float | None, title: str) -> str:
    """Draw the smoothed loss of a learning rate range test.

    Args:
        rates: [N] ascending, above 0.
        losses: [N] smoothed.
        suggestion: the rate to mark; None for none.
        title: the line above the picture.

    Returns:
        SVG text.

    Raises:
        ValueError: there is nothing to draw, or not a loss for each rate.
    """
    if len(rates) != len(losses) or not rates:
        raise ValueError(f"{len(rates)} rates and {len(losses)} losses; expected as many, at least one")
    with drawing_style():
        figure = page(LEFT_IN + PLOT_IN + 0.4, BOTTOM_IN + HIGH_IN + TITLE_IN + 0.2, title)
        axes = axes_at(figure, LEFT_IN, BOTTOM_IN, PLOT_IN, HIGH_IN)
        axes.set(xlabel="learning rate", ylabel="training loss, smoothed", xscale="log")
        _log_ticks(axes.xaxis)
        axes.plot(rates, losses, color=BLUE, linewidth=1.6, marker="o" if len(rates) == 1 else "none", markersize=4)
        _look_into_the_valley(axes, np.asarray(losses))
        _finish(axes)
        if suggestion is not None:
            axes.axvline(suggestion, color=INK, linewidth=1, linestyle=(0, (4, 3)))
            at = float(np.interp(np.log(suggestion), np.log(rates), losses))
            axes.plot([suggestion], [at], color=INK, linestyle="none", marker="o", markersize=5)
            share = _share_along(axes, suggestion)
            align = "left" if share < 0.15 else "right" if share > 0.85 else "center"
            top = axes.get_ylim()[1]
            write_beside(axes, suggestion, top, f"suggestion {suggestion:.2g}", 0, rise_pt=8, align=align, color=INK)
        return to_svg(figure, title)


def draw_history(folds: Sequence[Sequence[Epoch]], *, metric: str, title: str) -> str:
    """Draw each fold's score on what it holds out, and below that its training loss, over epochs.

    A dot marks each fold's best score. Phases follow each other, and are marked where there are several.

    Args:
        folds: [F] the epochs of each, in order; a fold without epochs is left out.
        metric: what the score is called; `log loss` is best where it is lowest.
        title: the line above the picture.

    Returns:
        SVG text.

    Raises:
        ValueError: no fold has an epoch.
    """
    known = {f"fold {number}": epochs for number, epochs in enumerate(folds) if epochs}
    if not known:
        raise ValueError("no fold has an epoch to draw")
    boundaries, starts = _phases_of(list(known.values()))
    num_epochs = starts["end"]
    levels = _levels(boundaries, num_epochs)
    scores = _lines({name: _placed(epochs, starts, "score") for name, epochs in known.items()})
    losses = _lines({name: _placed(epochs, starts, "loss") for name, epochs in known.items()})
    best = np.nanargmin if metric == "log loss" else np.nanargmax
    with drawing_style():
        high_in, rise_in = max(2.0, _height_in(len(scores)) - 0.8), 0.2 * (max(levels, default=-1) + 1)
        gap_in = 0.3
        width_in = LEFT_IN + PLOT_IN + _labels_in([line.name for line in scores])
        figure = page(width_in, BOTTOM_IN + 2 * high_in + gap_in + rise_in + TITLE_IN, title)
        below = axes_at(figure, LEFT_IN, BOTTOM_IN, PLOT_IN, high_in)
        above = axes_at(figure, LEFT_IN, BOTTOM_IN + high_in + gap_in, PLOT_IN, high_in)
        for axes, lines, label in ((above, scores, f"{metric}, held out"), (below, losses, "training loss")):
            axes.set(ylabel=label)
            _draw_lines(axes, lines)
            _whole_ticks(axes, num_epochs)
            _draw_phases(axes, boundaries, levels if axes is above else [])
        for line in scores:
            place = int(best(line.values))
            above.plot([place + 1], [line.values[place]], color=line.color, marker="o", markersize=4)
        above.set_xticklabels([])
        below.set(xlabel="epoch")
        for axes, lines in ((above, scores), (below, losses)):
            _label_ends(axes, lines, high_in)
        return to_svg(figure, title)


def _look_into_the_valley(axes: Axes, losses_N: NDArray[np.float64]) -> None:
    """Limits of y by the fall of the loss: its explosion would flatten all before it."""
    lowest = int(losses_N.argmin())
    low, before = float(losses_N[lowest]), float(losses_N[: lowest + 1].max())
    if before > low:
        top = low + 2 * (before - low)
        axes.set_ylim(low - 0.1 * (top - low), min(top, axes.get_ylim()[1]))


def _merged(rates: Mapping[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
    """Stages whose rates are the same throughout, as one."""
    names_of: dict[bytes, list[str]] = {}
    for name, one in rates.items():
        names_of.setdefault(one.tobytes(), []).append(name)
    return {_joined(names): rates[names[0]] for names in names_of.values()}


def _joined(names: Sequence[str]) -> str:
    shown = [shown_name(name) for name in names]
    if len(shown) <= 3:
        return ", ".join(shown)
    return f"{shown[0]}, {shown[1]} and {len(shown) - 2} more"


def _lines(values_of: Mapping[str, NDArray[np.float64]]) -> list[_Line]:
    """A colour for each, and another dash once the colours have been through."""
    return [
        _Line(name, values, PALETTE[number % len(PALETTE)], DASHES[number // len(PALETTE) % len(DASHES)])
        for number, (name, values) in enumerate(values_of.items())
    ]


def _placed(epochs: Sequence[Epoch], starts: Mapping[str, int], what: str) -> NDArray[np.float64]:
    """[all epochs] numbers of one fold, each phase where it starts for all folds."""
    values = np.full(starts["end"], np.nan)
    done: dict[int, int] = {}
    for epoch in epochs:
        within = done.get(epoch.phase, 0)
        values[starts[f"phase {epoch.phase}"] + within] = getattr(epoch, what)
        done[epoch.phase] = within + 1
    return values


def _phases_of(folds: Sequence[Sequence[Epoch]]) -> tuple[list[tuple[int, str]], dict[str, int]]:
    """Where phases are marked, nowhere if there is but one; and where each starts, and the last ends."""
    longest: dict[int, int] = {}
    for epochs in folds:
        for phase in {epoch.phase for epoch in epochs}:
            longest[phase] = max(longest.get(phase, 0), sum(epoch.phase == phase for epoch in epochs))
    starts, at = {}, 0
    for phase in sorted(longest):
        starts[f"phase {phase}"] = at
        at += longest[phase]
    boundaries = [(start, name) for name, start in starts.items()] if len(starts) > 1 else []
    return boundaries, {**starts, "end": at}


def _draw_lines(axes: Axes, lines: Sequence[_Line]) -> None:
    """The lines over 1, 2, ...; a dot where a number stands alone."""
    for line in lines:
        places = np.arange(1, len(line.values) + 1)
        axes.plot(places, line.values, color=line.color, linestyle=line.dash, linewidth=1.5)
        is_there = np.concatenate([[False], np.isfinite(line.values), [False]])
        alone = is_there[1:-1] & ~is_there[:-2] & ~is_there[2:]
        axes.plot(places[alone], line.values[alone], color=line.color, linestyle="none", marker="o", markersize=3)
    num_places = max(len(line.values) for line in lines)
    axes.set_xlim(1, max(num_places, 2))
    _finish(axes)


def _finish(axes: Axes) -> None:
    """Axes' lines, a grid, and limits that stay."""
    axes.spines[["left", "bottom"]].set(visible=True, color=RULE)
    axes.grid(axis="y", color=RULE, linewidth=0.6)
    axes.minorticks_off()
    axes.set(xlim=axes.get_xlim(), ylim=axes.get_ylim())


def _log_ticks(axis: Axis) -> None:
    """Powers of ten as 1e-3: the reader's font has no raised figures for every one of them."""
    axis.set_major_formatter(lambda rate, _place: f"{rate:.0e}".replace("e-0", "e-").replace("e+00", ""))


def _whole_ticks(axes: Axes, num_epochs: int) -> None:
    """Epochs are whole numbers."""
    every = max(1, -(-num_epochs // 10))
    axes.set_xticks(range(every if every > 1 else 1, max(num_epochs, 1) + 1, every))


def _share_along(axes: Axes, x: float) -> float:
    """How far along a logarithmic x axis a place is, 0..1."""
    low, high = np.log(axes.get_xlim())
    return float((np.log(x) - low) / (high - low))


def _levels(boundaries: Sequence[tuple[int, str]], num_places: int) -> list[int]:
    """How high each phase's name stands above the axes: one higher where it would meet an earlier one."""
    ends_in: list[float] = []
    levels = []
    for start, name in boundaries:
        at_in = PLOT_IN * start / max(num_places - 1, 1)
        level = next((level for level, end_in in enumerate(ends_in) if end_in < at_in), len(ends_in))
        ends_in[level : level + 1] = [at_in + text_in(name, SMALL_PT) + 0.1]
        levels.append(level)
    return levels


def _draw_phases(axes: Axes, boundaries: Sequence[tuple[int, str]], levels: Sequence[int]) -> None:
    """A rule where each phase begins, and its name above the axes where levels are given."""
    top = axes.get_ylim()[1]
    for number, (start, name) in enumerate(boundaries):
        if start:
            axes.axvline(start + 1, color=FAINT, linewidth=0.8, linestyle=(0, (2, 2)))
        if levels:
            write_beside(axes, start + 1, top, clean_text(name), 2, rise_pt=8 + 14.4 * levels[number], color=INK)


def _labels_in(names: Sequence[str]) -> float:
    """What labels take beside the axes."""
    return (LEADER_PT + 4) / 72 + widest_in(names, SMALL_PT) + 0.1


def _height_in(num_lines: int) -> float:
    """So high that every line's label has its place."""
    return max(HIGH_IN, (num_lines + 1) * LABEL_PT / 72)


def _label_ends(axes: Axes, lines: Sequence[_Line], high_in: float) -> None:
    """Each line's name right of the axes, as near to its end's height as the others allow."""
    to_axes = axes.transData + axes.transAxes.inverted()
    high_pt, right = 72 * high_in, axes.get_xlim()[1]
    wanted_pt = [float(to_axes.transform(line.end)[1]) * high_pt for line in lines]
    for line, end_pt, at_pt in zip(lines, wanted_pt, spread(wanted_pt, LABEL_PT, high_pt), strict=True):
        x, y = line.end
        if x < right:  # a line that ends early is led to where labels are
            axes.plot([x, right], [y, y], color=line.color, linewidth=0.6, linestyle=(0, (1, 3)))
        axes.annotate(
            "", (right, y), (LEADER_PT, at_pt - end_pt), textcoords="offset points", annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": line.color, "linewidth": 0.7, "shrinkA": 0, "shrinkB": 1},
        )  # fmt: skip
        axes.annotate(
            clean_text(line.name), (1, at_pt / high_pt), (LEADER_PT + 3, 0), xycoords="axes fraction",
            textcoords="offset points", annotation_clip=False, ha="left", va="center", color=INK, size=SMALL_PT,
        )  # fmt: skip


def spread(wanted: Sequence[float], gap: float, high: float) -> list[float]:
    """Places in 0..high as near to those wanted as a gap between neighbours allows, in the same order.

    Args:
        wanted: [N] places; equal ones keep their order.
        gap: between neighbours, at least; all the room there is, evenly, where that is less.
        high: of the whole.
    """
    order = sorted(range(len(wanted)), key=lambda one: (wanted[one], -one))
    gap = min(gap, high / max(len(wanted) - 1, 1))
    # blocks of neighbours that touch, each around the mean of what its members want (pool adjacent violators)
    blocks: list[tuple[float, int]] = []
    for rank, one in enumerate(order):
        mean, count = wanted[one] - rank * gap, 1
        while blocks and blocks[-1][0] > mean:
            before, size = blocks.pop()
            mean, count = (before * size + mean * count) / (size + count), size + count
        blocks.append((mean, count))
    free = [mean for mean, count in blocks for _ in range(count)]
    most = high - (len(wanted) - 1) * gap
    places = [0.0] * len(wanted)
    for rank, one in enumerate(order):
        places[one] = min(max(free[rank], 0.0), most) + rank * gap
    return places
