"""Strata: joint classes, and beside them the partial labels that occur."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from finefold.data.labelling import label_samples
from finefold.data.labels import Attribute, LabelSpace
from finefold.data.samples import SampleTable
from finefold.data.strata import Strata


def attribute(name: str, *classes: str) -> Attribute:
    return Attribute(name, classes, name, tuple((one,) for one in classes), missing=("?",))


SPACE = LabelSpace((attribute("mask", "on", "off"), attribute("age", "young", "old", "older")))
ROWS = [("on", "old"), ("?", "young"), ("off", "?"), ("?", "?"), ("off", "older"), ("off", "?")]
CODES_NA = np.array([[0, 1], [-1, 0], [1, -1], [-1, -1], [1, 2], [1, -1]])


def samples(rows: list[tuple[str, str]]) -> SampleTable:
    """Samples `0`, `1`, ... whose source says this of mask and age."""
    ids = [str(number) for number in range(len(rows))]
    frame = pl.DataFrame({"id": ids, "path": ids, "group": ids, "source": [""] * len(ids)})
    raw = pl.DataFrame(rows, schema=["mask", "age"], orient="row")
    return SampleTable(label_samples(frame, raw, SPACE, None), SPACE, Path("root"))


def test_partial_labels_come_after_the_classes() -> None:
    """Whole labels keep their joint code, each partial one that occurs gets a code of its own, nothing known is -1."""
    strata = Strata.of(SPACE, CODES_NA)
    assert strata.codes_N.tolist() == [1, 6, 7, -1, 5, 7]
    assert len(strata) == 8
    assert strata.names == (*SPACE.class_names, "(missing)/young", "off/(missing)")


def test_what_a_partial_label_may_be() -> None:
    """A partial label is every class that agrees with what is known."""
    possible_PK = Strata.of(SPACE, CODES_NA).possible_PK
    assert [np.flatnonzero(row).tolist() for row in possible_PK] == [[0, 3], [3, 4, 5]]


def test_members_leave_out_what_is_missing() -> None:
    """A stratum is of its class of an attribute, or of none where that is missing."""
    strata = Strata.of(SPACE, CODES_NA)
    assert strata.members("mask")[6:].tolist() == [[0, 0], [0, 1]]
    assert strata.members("age")[6:].tolist() == [[1, 0, 0], [0, 0, 0]]
    assert strata.members("age")[:6].argmax(axis=1).tolist() == [0, 1, 2, 0, 1, 2]


def test_the_likely_class_is_the_most_frequent_of_those_possible() -> None:
    """A partial label counts as the most frequent class that agrees with it, a class as itself."""
    assert Strata.of(SPACE, CODES_NA).likely_N(np.array([9, 0, 0, 8, 0, 11])).tolist() == [1, 0, 5, -1, 5, 5]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(-1, 1), st.integers(-1, 2)), min_size=1, max_size=12).map(np.array))
def test_strata_say_what_the_codes_say(codes_NA: NDArray[np.int64]) -> None:
    """Members of all attributes give the codes back, whichever are missing."""
    strata = Strata.of(SPACE, codes_NA)
    something = (codes_NA >= 0).any(axis=1)
    assert ((strata.codes_N >= 0) == something).all()
    for place, name in enumerate(SPACE.names):
        member_SC = strata.members(name)
        back_S = np.where(member_SC.any(axis=1), member_SC.argmax(axis=1), -1)
        assert (back_S[strata.codes_N[something]] == codes_NA[something, place]).all()


# --- tables -----------------------------------------------------------------------------------------------------------


def test_a_table_tells_what_it_lacks() -> None:
    """Joint labels are -1 with any gap, attributes' codes where theirs is; counts are of whole labels."""
    table = samples(ROWS)
    assert table.has_missing
    assert table.labels_N.tolist() == table.train_labels_N.tolist() == [1, -1, -1, -1, 5, -1]
    assert table.codes_NA.tolist() == table.train_codes_NA.tolist() == CODES_NA.tolist()
    assert table.num_missing() == {"mask": 2, "age": 3}
    assert table.counts_K().tolist() == [0, 1, 0, 0, 0, 1]
    assert table.strata.codes_N.tolist() == table.train_strata.codes_N.tolist() == [1, 6, 7, -1, 5, 7]


def test_a_whole_table_has_codes_too() -> None:
    """Without gaps the attributes' codes are the joint code's digits, and nothing is missing."""
    table = samples([("on", "old"), ("off", "older")])
    assert not table.has_missing
    assert table.codes_NA.tolist() == [[0, 1], [1, 2]]
    assert table.num_missing() == {}


@pytest.mark.parametrize(("name", "place"), [("mask", 0), ("age", 1)])
def test_one_attribute_alone(name: str, place: int) -> None:
    """Under one attribute's classes a sample has a label where that attribute is known, whatever else is missing."""
    alone = samples(ROWS).for_attribute(name)
    assert alone.labels_N.tolist() == alone.train_labels_N.tolist() == CODES_NA[:, place].tolist()
    assert not alone.has_missing
    assert alone.strata.codes_N.tolist() == CODES_NA[:, place].tolist()
    assert len(alone.strata) == len(alone.space.class_names)


def test_the_hash_sees_what_is_known_beside_a_gap() -> None:
    """Tables that differ only in a partial label hash differently; order still does not matter."""
    one = samples([("on", "old"), ("?", "young")])
    assert one.hash != samples([("on", "old"), ("?", "older")]).hash
    assert one.hash != samples([("on", "old"), ("off", "?")]).hash
    turned = SampleTable(one.frame.reverse(), SPACE, Path("root"))
    assert turned.hash == one.hash


def test_a_whole_tables_hash_is_fixed() -> None:
    """Runs and splits of tables without gaps keep their hash."""
    assert samples([("on", "old"), ("off", "older")]).hash == "3627f735faaf80c9"


def test_a_table_survives_its_file(tmp_path: Path) -> None:
    """What a run keeps of its samples reads back with the same gaps."""
    table = samples(ROWS)
    table.frame.write_parquet(tmp_path / "samples.parquet")
    again = SampleTable(pl.read_parquet(tmp_path / "samples.parquet"), SPACE, Path("root"))
    assert again.train_codes_NA.tolist() == CODES_NA.tolist()
    assert again.hash == table.hash
