"""Predictions and the ledger: an illegal one cannot be made, and a written one reads back as it was."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from finefold.data.labels import Attribute, LabelSpace
from finefold.data.predictions import Ledger, Predictions, write_parquet
from finefold.errors import DataError, FinefoldError, RunError

NAMES = ("wear/male/<30", "wear/male/>=60", "日本 é/\U0001f600")
PROBS = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.2, 0.5, 0.3]])


def predictions(
    probs_NK: Any = PROBS, ids: tuple[str, ...] = ("007", "b", "c"), names: tuple[str, ...] = NAMES
) -> Predictions:
    return Predictions(ids, np.asarray(probs_NK, np.float64), names)


def ledger(**fields: Any) -> Ledger:
    given = {
        "predictions": predictions(),
        "folds_N": np.array([0, 1, 1]),
        "groups": ("x", "y", "y"),
        "labels_N": np.array([2, 0, 1]),
    }
    return Ledger(**(given | fields))


def told(action: Callable[[], Any], kind: type[FinefoldError] = DataError) -> str:
    with pytest.raises(kind) as caught:
        action()
    return caught.value.message


# ---------------------------------------------------------------------------------------------- predictions


def test_the_most_probable_class_wins() -> None:
    """Codes are the places of the largest probabilities; the lowest wins a tie."""
    assert predictions().codes_N.tolist() == [0, 2, 1]
    assert predictions([[0.4, 0.4, 0.2], [0.2, 0.4, 0.4], [0, 0, 1]]).codes_N.tolist() == [0, 1, 2]


def test_rows_are_found_by_id() -> None:
    """`rows_for` answers in the order asked for; ids are text, so 7 is not 007."""
    some = predictions().rows_for(["c", "007"])
    assert some.ids == ("c", "007")
    np.testing.assert_array_equal(some.probs_NK, PROBS[[2, 0]])
    assert told(lambda: predictions().rows_for(["7", "c", "x"])) == "2 ids were not predicted, e.g. `7`"
    assert told(lambda: predictions().rows_for(["c", "c"])) == "predictions name an id twice"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: predictions(PROBS[:2]),
            "3 ids and 3 classes do not fit probabilities of shape (2, 3)",
        ),
        (lambda: predictions(PROBS[:, :2]), "3 ids and 3 classes do not fit probabilities of shape (3, 2)"),
        (lambda: predictions(PROBS[0]), "3 ids and 3 classes do not fit probabilities of shape (3,)"),
        (lambda: predictions(ids=("a", "b", "a")), "predictions name an id twice"),
        (lambda: predictions(names=("a", "b", "a")), "predictions name a class twice"),
        (
            lambda: predictions([[1.5, -0.5, 0], [1, 0, 0], [1, 0, 0]]),
            "probabilities are negative, infinite or not numbers",
        ),
        (
            lambda: predictions([[np.nan, 1, 0], [1, 0, 0], [1, 0, 0]]),
            "probabilities are negative, infinite or not numbers",
        ),
        (
            lambda: predictions([[np.inf, 1, 0], [1, 0, 0], [1, 0, 0]]),
            "probabilities are negative, infinite or not numbers",
        ),
        (lambda: predictions([[1, 0, 0], [3, 1, 2], [0.9, 0, 0]]), "the probabilities of `b` do not sum to 1"),
        (lambda: predictions([[1, 0, 0], [1, 0, 0], [0.99, 0, 0]]), "the probabilities of `c` do not sum to 1"),
    ],
)
def test_what_is_no_prediction_is_refused(make: Callable[[], Predictions], message: str) -> None:
    """Shapes that do not fit, repeated ids or classes, and rows that are no probabilities are errors."""
    assert told(make) == message


def test_rounding_is_allowed_and_nobody_may_be_predicted() -> None:
    """Sums of float32 rows are near enough to 1; no ids at all are fine."""
    predictions(np.full((3, 3), np.float32(1 / 3)))
    assert len(Predictions((), np.empty((0, 3)), NAMES)) == 0


def test_marginals_sum_the_other_attributes_out() -> None:
    """Each attribute's probabilities are sums of the joint ones."""
    space = LabelSpace(
        tuple(
            Attribute(name, names, name, tuple((n,) for n in names))
            for name, names in [("x", ("a", "b")), ("y", ("c", "d"))]
        )
    )
    joint = Predictions(("i",), np.array([[0.1, 0.2, 0.3, 0.4]]), space.class_names)
    marginals = joint.marginals(space.attribute_table())
    np.testing.assert_allclose(marginals["x"], [[0.3, 0.7]])
    np.testing.assert_allclose(marginals["y"], [[0.4, 0.6]])


@pytest.mark.parametrize("order", ["C", "F"])
def test_the_frame_has_a_column_per_class(order: Any) -> None:
    """As many samples as classes, in either memory order: rows stay samples and columns stay classes."""
    frame = predictions(np.array(PROBS, order=order)).to_frame()
    assert frame.columns == ["id", *NAMES]
    assert frame["id"].to_list() == ["007", "b", "c"]
    np.testing.assert_array_equal(frame.drop("id").to_numpy(), PROBS)


# --------------------------------------------------------------------------------------------------- ledger


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_ledger_reads_back_as_it_was_written(order: Any, tmp_path: Path) -> None:
    """Ids, folds, groups, labels, class names with / < > and any script, and every bit of the numbers."""
    written = ledger(predictions=predictions(np.array(PROBS, order=order)))
    written.write(tmp_path / "oof.parquet")
    read = Ledger.read(tmp_path / "oof.parquet")
    assert read.predictions.ids == written.predictions.ids
    assert read.predictions.class_names == NAMES
    np.testing.assert_array_equal(read.predictions.probs_NK, PROBS)
    assert (read.folds_N.tolist(), read.groups, read.labels_N.tolist()) == ([0, 1, 1], ("x", "y", "y"), [2, 0, 1])
    assert read.folds_N.dtype == read.labels_N.dtype == np.int64
    assert [path.name for path in tmp_path.iterdir()] == ["oof.parquet"]


def test_a_ledger_is_a_plain_table(tmp_path: Path) -> None:
    """Anyone can read it: id, fold, group, the label's name, then a column per class."""
    ledger().write(tmp_path / "oof.parquet")
    frame = pl.read_parquet(tmp_path / "oof.parquet")
    assert frame.columns == ["id", "fold", "group", "label", *NAMES]
    assert frame.row(0) == ("007", 0, "x", NAMES[2], 0.7, 0.2, 0.1)


@pytest.mark.parametrize("names", [("*", "^.*$", "a"), ("", " ", "\n"), ("fold/x", "ID", "labels")])
def test_class_names_are_never_patterns(names: tuple[str, ...], tmp_path: Path) -> None:
    """Names that mean something to the table library, or nearly a column of ours, come back unharmed."""
    ledger(predictions=predictions(names=names)).write(tmp_path / "oof.parquet")
    read = Ledger.read(tmp_path / "oof.parquet")
    assert read.predictions.class_names == names
    np.testing.assert_array_equal(read.predictions.probs_NK, PROBS)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"folds_N": np.array([0, 1])}, "a ledger's columns differ in length: [2, 3]"),
        ({"groups": ("x",)}, "a ledger's columns differ in length: [1, 3]"),
        ({"groups": ("x", "x", "y")}, "group `x` was predicted in folds 0 and 1"),
        ({"labels_N": np.array([0, 1, 3])}, "a ledger's label is no code of its classes"),
        ({"labels_N": np.array([0, 1, -1])}, "a ledger's label is no code of its classes"),
    ],
)
def test_what_is_no_ledger_is_refused(fields: dict[str, Any], message: str) -> None:
    """A leak, or columns that do not belong together, is an error."""
    assert told(lambda: ledger(**fields)) == message


def altered(**columns: Any) -> Callable[[pl.DataFrame], pl.DataFrame]:
    return lambda frame: frame.with_columns(**columns)


@pytest.mark.parametrize(
    "change",
    [
        lambda frame: frame.drop("fold"),
        lambda frame: frame.drop("id", "label"),
        lambda frame: frame.select("id", "fold", "group", "label"),
        altered(label=pl.lit("nobody")),
        altered(label=pl.lit(None, dtype=pl.String)),
        altered(id=pl.lit("same")),
        altered(fold=pl.Series([0, 1, 2])),
        altered(fold=pl.lit("first")),
        altered(more=pl.lit(0.5)),
        altered(more=pl.lit("text")),
        altered(more=pl.lit(None, dtype=pl.Float64)),
    ],
)
def test_a_file_that_holds_no_ledger_is_refused(change: Callable[[pl.DataFrame], pl.DataFrame], tmp_path: Path) -> None:
    """Missing columns, unknown labels, repeated ids, leaks and wrong numbers are errors naming the file."""
    path = tmp_path / "oof.parquet"
    ledger().write(path)
    write_parquet(change(pl.read_parquet(path)), path)
    assert told(lambda: Ledger.read(path), RunError).startswith(f"cannot read the ledger {path}: ")


@pytest.mark.parametrize("content", [None, b"", b"PAR1", b"id,fold\n"])
def test_a_broken_or_missing_ledger_is_refused(content: bytes | None, tmp_path: Path) -> None:
    """No file, an empty one, or another format: told, with what to do."""
    path = tmp_path / "oof.parquet"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RunError) as caught:
        Ledger.read(path)
    assert caught.value.message.startswith(f"cannot read the ledger {path}: ")
    assert caught.value.hint == "the run is broken: train it again"


def test_a_torn_ledger_is_refused(tmp_path: Path) -> None:
    """Half a file is no ledger."""
    path = tmp_path / "oof.parquet"
    ledger().write(path)
    path.write_bytes(path.read_bytes()[:-40])
    told(lambda: Ledger.read(path), RunError)


CODES = np.array([[0, 2], [0, -1], [-1, -1]])


def test_a_ledger_with_gaps_reads_back(tmp_path: Path) -> None:
    """Where attributes' values are missing a sample has no label, and keeps the codes of what is known."""
    written = ledger(labels_N=np.array([2, -1, -1]), codes_NA=CODES)
    written.write(tmp_path / "oof.parquet")
    read = Ledger.read(tmp_path / "oof.parquet")
    assert read.labels_N.tolist() == [2, -1, -1]
    assert read.codes_NA is not None
    assert read.codes_NA.tolist() == CODES.tolist()
    assert read.predictions.class_names == NAMES
    assert pl.read_parquet(tmp_path / "oof.parquet")["label"].to_list() == [NAMES[2], None, None]


def test_a_ledger_without_gaps_is_written_as_ever(tmp_path: Path) -> None:
    """No column is added where every label is known whole."""
    ledger().write(tmp_path / "oof.parquet")
    assert pl.read_parquet(tmp_path / "oof.parquet").columns == ["id", "fold", "group", "label", *NAMES]
    assert Ledger.read(tmp_path / "oof.parquet").codes_NA is None


def test_labels_and_codes_agree_on_what_is_missing(tmp_path: Path) -> None:
    """A label beside a gap, no label without one, or codes of other samples are refused, and a file with such too."""
    assert (
        told(lambda: ledger(labels_N=np.array([2, 1, -1]), codes_NA=CODES))
        == "a ledger's label is no code of its classes"
    )
    assert told(lambda: ledger(labels_N=np.array([-1, -1, -1]), codes_NA=CODES)) == (
        "a ledger's label is no code of its classes"
    )
    assert told(lambda: ledger(labels_N=np.array([2, -1, -1]))) == "a ledger's label is no code of its classes"
    assert told(lambda: ledger(codes_NA=CODES[:2])) == "a ledger has 3 labels and 2 rows of codes"
    ledger().write(tmp_path / "oof.parquet")
    frame = pl.read_parquet(tmp_path / "oof.parquet")
    frame.with_columns(label=pl.lit(None, pl.String)).write_parquet(tmp_path / "oof.parquet")
    assert "a row lacks its id, fold, group or label" in told(lambda: Ledger.read(tmp_path / "oof.parquet"), RunError)


def test_what_is_known_of_attributes():
    """Rows that lack an attribute drop out of what is known whole, and count for the attributes that they have."""
    names = ("a/x", "a/y", "b/x", "b/y")
    codes_NA = np.array([[0, 1], [1, -1], [1, 0]])
    whole = Predictions(("1", "2", "3"), np.eye(4)[[1, 2, 2]], names)
    ledger = Ledger(whole, np.array([0, 1, 0]), ("g", "h", "g"), np.array([1, -1, 2]), codes_NA)
    codes = {"first": np.array([0, 0, 1, 1]), "second": np.array([0, 1, 0, 1])}
    assert ledger.known().predictions.ids == ("1", "3")
    assert ledger.attribute_labels(codes)["second"].tolist() == [1, -1, 0]
    assert ledger.known().attribute_labels(codes)["second"].tolist() == [1, 0]
