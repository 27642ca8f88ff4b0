"""The page that pictures are drawn on: its colours, letters, places, and SVG out of it.

The same bytes for the same input, text kept as text (searchable, and drawn in the reader's font), colours that
colour-blind readers can tell apart. matplotlib is imported on the first picture; its settings are put back after
each one.
"""

from __future__ import annotations

import io
import threading
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT, RULE = "#1f2328", "#656d76", "#d0d7de"
BLUE = "#0072b2"
# Okabe and Ito's palette in the order that keeps neighbours apart; its yellow is too pale on white
PALETTE = (BLUE, "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#000000")
FONTS = "'DejaVu Sans', Verdana, Arial, sans-serif"
WIDE, NARROW = frozenset("mwMW@%"), frozenset("fijlrtI.,:;/|()[]'! -")

MAX_NAME = 60
TITLE_PT, TEXT_PT, SMALL_PT = 11.0, 9.0, 8.0
TITLE_IN, EDGE_IN = 0.5, 0.12

_drawing = threading.Lock()


def page(width_in: float, height_in: float, title: str, *, note: str = "") -> Figure:
    """An empty figure, wide enough for its title in the upper left corner and a note below that."""
    from matplotlib.figure import Figure

    # bold letters are a tenth wider than those that text_in knows
    width_in = max(width_in, 1.1 * text_in(title, TITLE_PT) + 2 * EDGE_IN)
    figure = Figure(figsize=(width_in, height_in), facecolor="white")
    x, y = EDGE_IN / width_in, 1 - 0.22 / height_in
    figure.text(x, y, clean_text(title), size=TITLE_PT, weight="bold", va="center")
    figure.text(x, 1 - TITLE_IN / height_in, note, size=SMALL_PT, color=FAINT, va="center")
    return figure


def axes_at(figure: Figure, left_in: float, bottom_in: float, width_in: float, height_in: float) -> Axes:
    """Axes at a place given in inches, without frame or tick marks."""
    page_in = figure.get_size_inches()
    axes = figure.add_axes(
        (left_in / page_in[0], bottom_in / page_in[1], width_in / page_in[0], height_in / page_in[1])
    )
    axes.tick_params(length=0, labelsize=TEXT_PT)
    axes.spines[:].set_visible(False)
    axes.set_axisbelow(True)
    return axes


def write_beside(
    axes: Axes,
    x: float,
    y: float,
    text: str,
    shift_pt: float,
    *,
    rise_pt: float = 0,
    align: Any = "left",
    color: str = FAINT,
    size_pt: float = SMALL_PT,
) -> None:
    """Write text some points away from a place in the axes, outside of them too."""
    axes.annotate(
        text, (x, y), (shift_pt, rise_pt), textcoords="offset points", annotation_clip=False,
        ha=align, va="center", color=color, size=size_pt,
    )  # fmt: skip


def shown_name(name: str) -> str:
    """A class name as drawn: its middle is left out beyond 60 characters."""
    clean = clean_text(name)
    return clean if len(clean) <= MAX_NAME else f"{clean[: MAX_NAME // 2 - 1]}…{clean[-MAX_NAME // 2 :]}"


def clean_text(text: str) -> str:
    """The text without control characters, which XML cannot hold."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)


def text_in(text: str, size_pt: float) -> float:
    """An upper estimate of a text's width in inches, for letters that no font here may have as well."""
    return sum(_width_em(letter) for letter in text) * size_pt / 72


def widest_in(texts: Sequence[str], size_pt: float) -> float:
    return max((text_in(text, size_pt) for text in texts), default=0.0)


def _width_em(letter: str) -> float:
    if letter in WIDE or unicodedata.east_asian_width(letter) in "WF":
        return 1.0
    if letter in NARROW:
        return 0.42
    return 0.79 if letter.isupper() else 0.65


@contextmanager
def drawing_style() -> Iterator[None]:
    """matplotlib's defaults and ours for the time of one picture; the caller's settings come back after."""
    import matplotlib.style

    ours = {
        "svg.hashsalt": "finefold",
        "svg.fonttype": "none",
        "font.family": "DejaVu Sans",
        "text.parse_math": False,
        "text.color": INK,
        "axes.labelcolor": FAINT,
        "axes.labelsize": SMALL_PT,
        "axes.edgecolor": FAINT,
        "xtick.color": INK,
        "ytick.color": INK,
    }
    # settings and warning filters belong to the process: one picture at a time
    with _drawing, warnings.catch_warnings(), matplotlib.style.context(["default", ours]):
        # the reader's font draws the letters, not ours: Korean class names are no problem
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def to_svg(figure: Figure, title: str) -> str:
    """The figure as SVG text that holds no date and no version."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": "finefold", "Title": clean_text(title)})
    return buffer.getvalue().replace("'DejaVu Sans'", FONTS)
