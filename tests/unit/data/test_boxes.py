"""Boxes from tables, and what of an image a box keeps."""

from pathlib import Path

import polars as pl
import pytest

from finefold.data.boxes import box_within, read_boxes
from finefold.errors import DataError

HEADER = "id,left,top,right,bottom\n"


def written(folder: Path, text: str, name: str = "boxes.csv") -> Path:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return file


def test_a_table_is_read_by_id_path_or_both(tmp_path):
    """CSV and Parquet give the same boxes; paths lose backslashes and ./ in front; ids keep leading zeros."""
    file = written(tmp_path, "id,path,left,top,right,bottom\n007,.\\a\\b.jpg,1,2,3.5,4\n,c.jpg,5,6,7,8\n")
    boxes = read_boxes(file)
    assert dict(boxes.by_id) == {"007": (1, 2, 3.5, 4)}
    assert dict(boxes.by_path) == {"a/b.jpg": (1, 2, 3.5, 4), "c.jpg": (5, 6, 7, 8)}
    boxes.frame.write_parquet(tmp_path / "boxes.parquet")
    again = read_boxes(tmp_path / "boxes.parquet")
    assert (again.by_id, again.by_path, again.hash) == (boxes.by_id, boxes.by_path, boxes.hash)
    assert not read_boxes(written(tmp_path, HEADER + "a,1,2,3,4\n")).by_path


def test_of_several_boxes_the_best_score_counts_or_the_largest(tmp_path):
    """Scores decide where there are any; a row without one comes last; without the column the area decides."""
    scored = "id,left,top,right,bottom,score\na,0,0,9,9,\na,0,0,2,2,0.2\na,0,0,1,1,0.9\nb,0,0,5,5,nan\n"
    assert dict(read_boxes(written(tmp_path, scored)).by_id) == {"a": (0, 0, 1, 1), "b": (0, 0, 5, 5)}
    plain = HEADER + "a,0,0,2,2\na,0,0,3,3\na,,,,\n"
    assert dict(read_boxes(written(tmp_path, plain)).by_id) == {"a": (0, 0, 3, 3)}


def test_named_rows_can_be_left_out(tmp_path):
    """A row goes by its id or its path, others stay, those that lack the one or the other too."""
    boxes = read_boxes(written(tmp_path, "id,path,left,top,right,bottom\na,x,0,0,1,1\nb,y,0,0,1,1\n,z,0,0,1,1\n"))
    assert set(boxes.without({"a", "y"}).by_path) == {"z"}
    assert len(boxes.without(set())) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("left,top,right,bottom\n1,2,3,4\n", r"no column id \(or path\)"),
        ("id,left,top,right\na,1,2,3\n", "no column bottom"),
        (HEADER + "a,1,2,3,4\nb,1,two,3,4\n", "row 2 has the top `two`"),
    ],
)
def test_what_is_no_table_of_boxes_is_told(tmp_path, text, message):
    """A lacking column or a word for a number is an error that names it."""
    with pytest.raises(DataError, match=message) as told:
        read_boxes(written(tmp_path, text))
    assert told.value.hint


def test_a_missing_file_is_told(tmp_path):
    """The error says which file, and which settings name it."""
    with pytest.raises(DataError, match="no file of boxes") as told:
        read_boxes(tmp_path / "gone.csv")
    assert "image.boxes" in str(told.value.hint)


@pytest.mark.parametrize(
    ("edges", "margin", "kept"),
    [
        ((10, 20, 30, 60), 0.0, (10, 20, 30, 60)),
        ((10.9, 20.1, 29.2, 59.9), 0.0, (10, 20, 30, 60)),  # outward
        ((10, 20, 30, 60), 0.1, (6, 16, 34, 64)),  # a tenth of 40 on every side
        ((-50, -50, 500, 500), 0.0, (0, 0, 100, 200)),
        ((90, 190, 130, 230), 0.5, (70, 170, 100, 200)),
        ((99.5, 199.5, 300, 300), 0.0, (99, 199, 100, 200)),  # a pixel is enough
    ],
)
def test_a_box_keeps_whole_pixels_inside_the_image(edges, margin, kept):
    """Margin is a share of the longer side; edges are rounded outward and end at the image's."""
    assert box_within(edges, 200, 100, margin=margin) == kept


@pytest.mark.parametrize(
    "edges",
    [
        (10, 20, 10, 60),
        (30, 20, 10, 60),
        (10, 60, 30, 20),
        (100, 0, 110, 10),
        (-20, 0, 0, 10),
        (0, 200, 10, 210),
        (0, -10, 10, 0),
        (float("nan"), 20, 30, 60),
        (0, 0, float("inf"), 60),
        (None, None, None, None),
    ],
)
def test_an_impossible_box_keeps_nothing(edges):
    """Empty, turned round, outside, not finite or not there: None, whatever the margin."""
    assert box_within(edges, 200, 100, margin=1.0) is None


def test_empty_cells_are_no_box(tmp_path):
    """A row without sides is an image that somebody looked at and found nothing in."""
    boxes = read_boxes(written(tmp_path, HEADER + "a,,,,\n"))
    assert box_within(boxes.by_id["a"], 10, 10, margin=0) is None
    assert boxes.frame.schema["left"] == pl.Float64
