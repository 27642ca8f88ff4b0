"""The answer file: joined by id, in the template's order, and refused in words where anything is off."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import pytest

from finefold.data.predictions import Predictions
from finefold.data.submission import Template, fill_template, is_far, read_template, share_distance, write_csv
from finefold.errors import DataError, FinefoldError, SubmissionError

NAMES = ("cat", "dog", "owl")


def answers(**codes: int) -> Predictions:
    """Sure predictions: id to the class's place in NAMES."""
    return Predictions(tuple(codes), np.eye(3)[list(codes.values())].reshape(-1, 3), NAMES)


def template_of(ids: list[str], *, answer: Literal["number", "name"] = "number") -> Template:
    return Template(pl.DataFrame({"n": ids, "ans": ["0"] * len(ids)}), "n", "ans", answer)


def read(path: Path, text: str | bytes, *, id_column: str = "n", answer_column: str = "ans") -> Template:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_template(path, id_column=id_column, answer_column=answer_column, answer="number")


def told(action: Callable[[], Any], kind: type[FinefoldError] = SubmissionError) -> tuple[str, str | None]:
    with pytest.raises(kind) as caught:
        action()
    return caught.value.message, caught.value.hint


# ------------------------------------------------------------------------------------------------ filling in


def test_answers_are_joined_by_id_in_the_templates_order() -> None:
    """Predictions in another order answer the same: each id gets its own class's number."""
    template = template_of(["b", "a", "c"])
    for predictions in (answers(a=0, b=1, c=2), answers(c=2, b=1, a=0)):
        filled = fill_template(template, predictions, NAMES)
        assert filled.rows() == [("b", "1"), ("a", "0"), ("c", "2")]


def test_numbers_are_places_in_the_label_space() -> None:
    """Where predictions hold fewer classes, or in another order, names decide the numbers."""
    predictions = Predictions(("a", "b"), np.array([[1.0, 0.0], [0.0, 1.0]]), ("owl", "cat"))
    assert fill_template(template_of(["a", "b"]), predictions, NAMES)["ans"].to_list() == ["2", "0"]


def test_names_may_be_the_answer() -> None:
    """`answer = "name"` writes the class's name."""
    filled = fill_template(template_of(["a", "b"], answer="name"), answers(a=2, b=0), NAMES)
    assert filled["ans"].to_list() == ["owl", "cat"]


def test_other_columns_stay_as_they_were(tmp_path: Path) -> None:
    """Columns keep their order and text: leading zeros, blanks, commas, quotes."""
    text = 'x,n,ans,more\n007,b.jpg,0,"a, b"\n1.50,a.jpg,0,\n"say ""hi""",ü.jpg,0,é\n'
    filled = fill_template(read(tmp_path / "t.csv", text), answers(**{"a.jpg": 1, "b.jpg": 2, "ü.jpg": 0}), NAMES)
    write_csv(filled, tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text(encoding="utf-8") == (
        'x,n,ans,more\n007,b.jpg,2,"a, b"\n1.50,a.jpg,1,\n"say ""hi""",ü.jpg,0,é\n'
    )


@pytest.mark.parametrize(
    "text", ["\ufeffn,ans\r\na,0\r\nb,0\r\n", "n,ans\na,0\nb,0\n\n\n", '"n","ans"\n"a","0"\n"b",""\n']
)
def test_templates_of_any_editor_are_filled(text: str, tmp_path: Path) -> None:
    """Byte order marks, CRLF, blank lines at the end and quotes change nothing."""
    filled = fill_template(read(tmp_path / "t.csv", text), answers(b=1, a=2), NAMES)
    assert filled.rows() == [("a", "2"), ("b", "1")]


def test_an_empty_template_wants_nobody() -> None:
    """A header alone is filled by no predictions, and refuses one."""
    assert fill_template(template_of([]), answers(), NAMES).is_empty()
    assert told(lambda: fill_template(template_of([]), answers(a=0), NAMES))[0] == (
        "1 predicted ids are not in the template, e.g. `a`"
    )


# --------------------------------------------------------------------------------------------------- refusals


def test_missing_ids_are_refused() -> None:
    """Ids of the template without a prediction are counted, and the first is named."""
    assert told(lambda: fill_template(template_of(["a", "c", "b"]), answers(a=0), NAMES)) == (
        "2 ids of the template were not predicted, e.g. `c`",
        'check `root`, `id_column` and `suffix` in [predict]; images outside the template: extra = "ignore"',
    )


def test_extra_ids_are_refused() -> None:
    """Predictions that the template does not ask for are counted, and the first is named."""
    assert told(lambda: fill_template(template_of(["a"]), answers(x=1, a=0, y=2), NAMES))[0] == (
        "2 predicted ids are not in the template, e.g. `x`"
    )


def test_missing_and_extra_ids_are_told_together() -> None:
    """Ids in another form, 7 for 007, are missing and extra at once."""
    assert told(lambda: fill_template(template_of(["007", "a"]), answers(**{"7": 0, "a": 1}), NAMES))[0] == (
        "1 ids of the template were not predicted, e.g. `007`; 1 predicted ids are not in the template, e.g. `7`"
    )


def test_a_class_outside_the_label_space_is_refused() -> None:
    """Predictions of another label space are refused, even where that class never wins."""
    assert told(lambda: fill_template(template_of(["a"]), answers(a=0), ("cat", "dog"))) == (
        "predictions name a class outside the label space: `owl`",
        "the label space has cat, dog",
    )


def test_duplicate_ids_are_refused(tmp_path: Path) -> None:
    """An id in two rows of the template is named; predictions cannot hold one twice."""
    assert told(lambda: read(tmp_path / "t.csv", "n,ans\na,0\nb,0\nc,0\nb,0\na,0\n")) == (
        "t.csv: 2 ids stand in more than one row, e.g. `a`",
        "keep one row per id",
    )
    assert told(lambda: Predictions(("a", "a"), np.eye(3)[:2], NAMES), DataError)[0] == "predictions name an id twice"


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"answer_column": "answer"}, "t.csv has no column `answer` (answer_column)"),
        ({"id_column": "N"}, "t.csv has no column `N` (id_column)"),
    ],
)
def test_an_unknown_column_is_refused(columns: dict[str, str], message: str, tmp_path: Path) -> None:
    """A column the template lacks is named, beside those it has."""
    assert told(lambda: read(tmp_path / "t.csv", "n,ans\na,0\n", **columns)) == (
        message,
        "it has n, ans; mend [predict]",
    )


def test_an_answer_in_place_of_the_id_is_refused(tmp_path: Path) -> None:
    """One column cannot name the images and take the answers."""
    template = read(tmp_path / "t.csv", "n,ans\na,0\n", answer_column="n")
    assert told(lambda: fill_template(template, answers(a=0), NAMES)) == (
        "`n` is both the id column and the answer column",
        "answers would replace the ids; mend [predict]",
    )


def test_rows_without_an_id_are_refused(tmp_path: Path) -> None:
    """A row that has an answer but no id is an error that counts it."""
    for blank in ("", '""'):
        assert told(lambda text=blank: read(tmp_path / "t.csv", f"n,ans\na,0\n{text},0\n")) == (  # type: ignore[misc]
            "t.csv: 1 rows have no id",
            "fill them in, or drop the rows",
        )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file or directory"),
        (b"", "empty CSV"),
        (b"n,ans\na,0,1\n", "found more fields"),
        ("n,ans\né,0\n".encode("latin-1"), "'utf-8' codec can't decode"),
    ],
)
def test_a_template_that_cannot_be_read_is_refused(content: bytes | None, message: str, tmp_path: Path) -> None:
    """Missing, empty, ragged or foreign-encoded: an error that names the file."""
    path = tmp_path / "t.csv"
    if content is not None:
        path.write_bytes(content)
    got, hint = told(lambda: read_template(path, id_column="n", answer_column="ans", answer="number"), DataError)
    assert got.startswith(f"cannot read {path}: {message}")
    assert hint


# ----------------------------------------------------------------------------------------- shares and writing


def test_share_distance_is_total_variation() -> None:
    """Half the summed differences: 0 for the same shares, 1 for shares without anything in common."""
    assert share_distance(np.array([0.5, 0.5]), np.array([0.5, 0.5])) == 0
    assert share_distance(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == 1
    assert share_distance(np.array([0.6, 0.4]), np.array([0.4, 0.6])) == pytest.approx(0.2)


def test_few_answers_may_be_far_by_chance() -> None:
    """All five answers of one class in two are nothing odd; fifty are, and so are shares of many a little off never."""
    even = np.array([0.5, 0.5])
    assert not is_far(np.array([1.0, 0.0]), even, 5)
    assert is_far(np.array([1.0, 0.0]), even, 50)
    assert not is_far(np.array([0.7, 0.3]), even, 10_000)


def test_a_file_is_written_whole(tmp_path: Path) -> None:
    """Folders are made, an older file is replaced, and nothing else is left."""
    path = tmp_path / "deep" / "out.csv"
    for value in ("1", "2"):
        write_csv(pl.DataFrame({"a": [value]}), path)
    assert path.read_text() == "a\n2\n"
    assert [child.name for child in path.parent.iterdir()] == ["out.csv"]


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    """A folder in the file's place, or a file in the folder's, is an error, and nothing is left behind."""
    (tmp_path / "out.csv").mkdir()
    (tmp_path / "file").touch()
    for path, reason in [
        ("out.csv", "Is a directory"),
        ("file/out.csv", "File exists"),
        ("file/x/out.csv", "Not a directory"),
    ]:
        message, hint = told(lambda name=path: write_csv(pl.DataFrame({"a": ["1"]}), tmp_path / name))  # type: ignore[misc]
        assert message == f"cannot write {tmp_path / path}: {reason}"
        assert hint == "choose another place"
    assert sorted(child.name for child in tmp_path.iterdir()) == ["file", "out.csv"]
