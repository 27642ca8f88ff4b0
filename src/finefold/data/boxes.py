"""Where the subject is in each image: boxes from a CSV or Parquet file, and what of an image a box keeps."""

import hashlib
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import polars as pl

from finefold.data.preprocessing import Box
from finefold.data.rows import read_rows
from finefold.errors import DataError

SIDES = ("left", "top", "right", "bottom")
NAMES = ("id", "path")

Edges = tuple[float, float, float, float]  # left, top, right, bottom as somebody says them: of any sort


@dataclass(frozen=True)
class BoxTable:
    """Boxes of images, one each, by id, by path, or by both.

    Args:
        frame: text columns `id` and `path` (at least one of them) and the four sides, in pixels of the upright image.
    """

    frame: pl.DataFrame

    def __len__(self) -> int:
        return self.frame.height

    @property
    def hash(self) -> str:
        """16 hex digits over all rows, in their order."""
        return hashlib.sha256(self.frame.write_csv().encode()).hexdigest()[:16]

    @property
    def by_id(self) -> Mapping[str, Edges]:
        """Id -> sides."""
        return self._by("id")

    @property
    def by_path(self) -> Mapping[str, Edges]:
        """Path as the table says it, with / -> sides."""
        return self._by("path")

    def _by(self, column: str) -> Mapping[str, Edges]:
        if column not in self.frame.columns:
            return MappingProxyType({})
        rows = self.frame.drop_nulls(column).select(column, *SIDES).iter_rows()
        return MappingProxyType({name: (left, top, right, bottom) for name, left, top, right, bottom in rows})

    def without(self, names: Collection[str]) -> "BoxTable":
        """The table less the rows whose id or path is one of these."""
        given = [column for column in NAMES if column in self.frame.columns]
        is_named = pl.any_horizontal(pl.col(column).is_in(list(names)).fill_null(False) for column in given)
        return BoxTable(self.frame.filter(~is_named))


def read_boxes(file: Path) -> BoxTable:
    """The boxes in a file. Of several boxes of one image the one of the highest `score` counts, else the largest.

    Args:
        file: CSV or Parquet with the columns `id` or `path`, left, top, right, bottom, and perhaps `score`.

    Raises:
        DataError: the file cannot be read, lacks a column, or has a side that is no number.
    """
    if not file.is_file():
        raise DataError(f"there is no file of boxes {file}", "mend image.boxes, or --boxes: a CSV or Parquet file")
    frame = read_rows(file)
    lacking = [side for side in SIDES if side not in frame.columns]
    if not any(name in frame.columns for name in NAMES):
        lacking.append("id (or path)")
    if lacking:
        raise DataError(
            f"{file} has no column {', '.join(lacking)}",
            "name the columns id or path, left, top, right, bottom; it has " + ", ".join(frame.columns),
        )
    numbers = [name for name in (*SIDES, "score") if name in frame.columns]
    cast = frame.with_columns(pl.col(name).str.strip_chars().cast(pl.Float64, strict=False) for name in numbers)
    for name in numbers:
        is_text = cast[name].is_null() & (frame[name].fill_null("").str.strip_chars() != "")
        if is_text.any():
            row = is_text.arg_true()[0]
            raise DataError(
                f"{file}: row {row + 1} has the {name} `{frame[name][row]}`, which is no number",
                "write pixels, or leave the sides empty where an image has no box",
            )
    return BoxTable(_one_each(cast.with_columns(_plain_path(cast))))


def _plain_path(frame: pl.DataFrame) -> list[pl.Expr]:
    if "path" not in frame.columns:
        return []
    return [pl.col("path").str.replace_all("\\", "/", literal=True).str.strip_prefix("./")]


def _one_each(frame: pl.DataFrame) -> pl.DataFrame:
    """The best row of every image, in the file's order."""
    given = [name for name in NAMES if name in frame.columns]
    area = (pl.col("right") - pl.col("left")) * (pl.col("bottom") - pl.col("top"))
    worth = pl.col("score") if "score" in frame.columns else area
    ranked = frame.with_columns(worth.fill_nan(None).alias("worth")).with_row_index("row")
    ranked = ranked.sort("worth", descending=True, nulls_last=True, maintain_order=True)
    return ranked.unique(given, keep="first", maintain_order=True).sort("row").select(*given, *SIDES)


def box_within(edges: Edges, height: int, width: int, *, margin: float) -> Box | None:
    """What a box keeps of an image; None where it is impossible or lies outside.

    Args:
        edges: left, top, right, bottom in pixels.
        height, width: of the upright image.
        margin: share of the box's longer side that is added on every side.

    Returns:
        Whole pixels, rounded outward, inside the image.
    """
    if any(edge is None or not math.isfinite(edge) for edge in edges):
        return None
    left, top, right, bottom = edges
    is_outside = right <= 0 or bottom <= 0 or left >= width or top >= height
    if right <= left or bottom <= top or is_outside:
        return None
    added = margin * max(right - left, bottom - top)
    return (
        max(0, math.floor(left - added)),
        max(0, math.floor(top - added)),
        min(width, math.ceil(right + added)),
        min(height, math.ceil(bottom + added)),
    )
