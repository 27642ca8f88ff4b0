"""Laws of predictions, ledger and store: order does not matter, and what is written is read."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from finefold.data.images import content_hash
from finefold.data.predictions import LEDGER_COLUMNS, Ledger, Predictions
from finefold.data.store import ContentStore
from finefold.data.submission import Template, fill_template, read_template, write_csv

few = settings(deadline=None, max_examples=40)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
class_name = text.filter(lambda name: name not in LEDGER_COLUMNS)


@st.composite
def predictions(draw: st.DrawFn, *, ids: st.SearchStrategy[str] = text) -> Predictions:
    """Up to six samples of any name over two to five classes of any name."""
    names = draw(st.lists(class_name, min_size=2, max_size=5, unique=True))
    chosen = draw(st.lists(ids, min_size=1, max_size=6, unique=True))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    probs_NK = rng.dirichlet(np.full(len(names), draw(st.sampled_from([0.05, 1.0, 50.0]))), len(chosen))
    order = draw(st.sampled_from(["C", "F"]))
    return Predictions(tuple(chosen), np.array(probs_NK, order=order), tuple(names))


@st.composite
def ledgers(draw: st.DrawFn) -> Ledger:
    """Any predictions, in folds that no group crosses."""
    made = draw(predictions())
    groups = [str(draw(st.integers(0, 3))) for _ in made.ids]
    folds = np.array([int(group) % 2 for group in groups])
    labels = [draw(st.integers(0, len(made.class_names) - 1)) for _ in made.ids]
    return Ledger(made, folds, tuple(groups), np.array(labels))


@st.composite
def reordered(draw: st.DrawFn) -> tuple[Predictions, Predictions]:
    """Predictions, and the same with rows and classes in another order."""
    made = draw(
        predictions(ids=st.text("ab1é/ ,\"'", min_size=1, max_size=5).filter(lambda name: name == name.strip()))
    )
    rows = draw(st.permutations(range(len(made))))
    columns = draw(st.permutations(range(len(made.class_names))))
    other = Predictions(
        tuple(made.ids[row] for row in rows),
        made.probs_NK[np.ix_(rows, columns)],
        tuple(made.class_names[column] for column in columns),
    )
    return made, other


@few
@given(ledgers())
def test_a_ledger_reads_back_as_it_was_written(written: Ledger) -> None:
    """Ids, names, folds, groups, labels and every bit of the probabilities survive the file."""
    with TemporaryDirectory() as folder:
        written.write(Path(folder) / "oof.parquet")
        read = Ledger.read(Path(folder) / "oof.parquet")
    assert read.predictions.ids == written.predictions.ids
    assert read.predictions.class_names == written.predictions.class_names
    assert read.predictions.probs_NK.tobytes() == written.predictions.probs_NK.tobytes()
    assert read.groups == written.groups
    np.testing.assert_array_equal(read.folds_N, written.folds_N)
    np.testing.assert_array_equal(read.labels_N, written.labels_N)


@few
@given(predictions(), st.data())
def test_rows_follow_the_ids_asked_for(made: Predictions, data: st.DataObject) -> None:
    """`rows_for` any order of any of the ids gives those rows, and all of them gives everything."""
    asked = data.draw(st.lists(st.sampled_from(made.ids), unique=True))
    some = made.rows_for(asked)
    assert some.ids == tuple(asked)
    for name, row in zip(asked, some.probs_NK, strict=True):
        np.testing.assert_array_equal(row, made.probs_NK[made.ids.index(name)])
    shuffled = made.rows_for(data.draw(st.permutations(made.ids)))
    np.testing.assert_array_equal(shuffled.rows_for(made.ids).probs_NK, made.probs_NK)


@few
@given(reordered(), st.data())
def test_a_submission_does_not_see_the_order_of_predictions(
    pair: tuple[Predictions, Predictions], data: st.DataObject
) -> None:
    """Rows and classes in another order fill the template alike, and it keeps its own order through its file."""
    made, other = pair
    ids = data.draw(st.permutations(made.ids))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "t.csv"
        write_csv(pl.DataFrame({"n": ids, "ans": ["0"] * len(ids)}), path)
        template = read_template(path, id_column="n", answer_column="ans", answer="number")
        assert template.ids == ids
        filled = fill_template(template, made, made.class_names)
        assert filled.rows() == fill_template(template, other, made.class_names).rows()
        write_csv(filled, path)
        read = read_template(path, id_column="n", answer_column="ans", answer="number")
    codes = dict(zip(made.ids, made.codes_N.tolist(), strict=True))
    assert read.frame.rows() == [(name, str(codes[name])) for name in ids]
    assert Template(filled, "n", "ans").ids == ids


@few
@given(
    st.lists(st.lists(st.tuples(st.integers(0, 20), st.integers(-(2**31), 2**31 - 1)), max_size=8), max_size=5),
    st.integers(1, 4),
)
def test_a_store_reads_what_was_written_last(batches: list[list[tuple[int, int]]], width: int) -> None:
    """After any batches, by one writer each, every content has its newest row and no other content has one."""
    newest: dict[int, int] = {}
    with TemporaryDirectory() as folder:
        for batch in batches:
            store = ContentStore.open(Path(folder), (width,), np.int32, about={})
            rows = np.array([[value] * width for _, value in batch], np.int32).reshape(-1, width)
            store.append([content_hash(bytes([key])) for key, _ in batch], rows)
            store.close()
            newest |= dict(batch)
        store = ContentStore.open(Path(folder), (width,), np.int32, about={})
        hashes = [content_hash(bytes([key])) for key in range(25)]
        rows, is_found_N = store.read(hashes)
        assert set(np.flatnonzero(is_found_N)) == set(np.flatnonzero(store.contains(hashes))) == set(newest)
        for key in range(25):
            assert rows[key].tolist() == [newest.get(key, 0)] * width
