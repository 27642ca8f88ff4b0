"""Raw values to classes: training-only bands, patches, and the wording of everything that does not fit."""

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from finefold.data.labelling import label_samples
from finefold.data.labels import Attribute, Bands, LabelSpace
from finefold.errors import DataError

BOUNDS = {"<30": 30.0, "30-59": 60.0, ">=60": float("inf")}
KIND = Attribute("kind", ("cat", "dog"), "kind", (("cat", "kitten*"), ("dog",)))


def age(train_bands: dict[str, float] | None = None, train_drop: tuple[tuple[float, float], ...] = ()) -> Attribute:
    return Attribute(
        "age",
        tuple(BOUNDS),
        "age",
        bands=Bands.from_mapping(BOUNDS),
        train_bands=Bands.from_mapping(train_bands) if train_bands else None,
        train_drop=train_drop,
    )


def raw(**columns: list[str | None]) -> pl.DataFrame:
    return pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String))


def label(
    source: pl.DataFrame, *attributes: Attribute, patches: Path | None = None, groups: list[str] | None = None
) -> pl.DataFrame:
    """Samples `a`, `b`, `c`, ..., each its own group unless said otherwise."""
    ids = [chr(ord("a") + row) for row in range(source.height)]
    samples = pl.DataFrame({"id": ids, "path": ids, "group": groups or ids, "source": [""] * len(ids)})
    return label_samples(samples, source, LabelSpace(attributes), patches)


def told(*arguments: object, **options: object) -> tuple[str, str | None]:
    """Message and hint of the DataError."""
    with pytest.raises(DataError) as caught:
        label(*arguments, **options)  # type: ignore[arg-type]
    return caught.value.message, caught.value.hint


# --------------------------------------------------------------------------------------------------- values


def test_values_become_classes_and_codes() -> None:
    """Each attribute gets a column of class names, and the label counts them like digits."""
    table = label(raw(kind=["dog", "cat", "kitten7"], age=["30", "29.5", "060"]), KIND, age())
    assert table["kind"].to_list() == ["dog", "cat", "cat"]
    assert table["age"].to_list() == ["30-59", "<30", ">=60"]
    assert table["label"].to_list() == table["train_label"].to_list() == [4, 0, 2]
    assert table.columns == ["id", "path", "group", "source", "kind", "age", "label", "train_label"]


def test_an_attribute_reads_the_sources_own_column() -> None:
    """A column called `group` or `id` in the source may hold a label: it is not the sample's group or id."""
    attribute = Attribute("arm", ("drug", "placebo"), "group", (("drug",), ("placebo",)))
    assert label(raw(group=["placebo", "drug"]), attribute)["arm"].to_list() == ["placebo", "drug"]


def test_no_rows_are_no_error_here() -> None:
    """An empty source labels to an empty table; the sample table says what is wrong."""
    assert label(raw(kind=[], age=[]), KIND, age()).height == 0


def test_a_missing_column_is_refused() -> None:
    """A `from` that names no column tells the columns there are."""
    assert told(raw(sort=["cat"], age=["3"]), KIND) == (
        "[attributes.kind] from = `kind`: there is no such column",
        "the source has sort, age",
    )


def test_values_no_class_claims_are_refused() -> None:
    """All rows with strange values are counted, blank ones too, and five values shown."""
    values = ["cat", None, "Cat", "Cat", " dog", "3", "4", "5"]
    assert told(raw(kind=values), KIND) == (
        "[attributes.kind]: 7 samples have a value no class claims: (empty), `Cat`, ` dog`, `3`, `4`",
        "declared are cat, dog; add the value to a class, or mend the rows; if empty ones are not known, declare "
        'them: missing = [""]',
    )
    assert (
        told(raw(kind=["cat", "Cat"]), KIND)[1] == "declared are cat, dog; add the value to a class, or mend the rows"
    )


def test_composed_and_decomposed_letters_are_other_values() -> None:
    """`é` in one code point is not `e` with an accent: the error comes, whatever it looks like."""
    attribute = Attribute("food", ("caf\u00e9", "tea"), "food", (("caf\u00e9",), ("tea",)))
    message, _ = told(raw(food=["cafe\u0301", "tea"]), attribute)
    assert message == "[attributes.food]: 1 samples have a value no class claims: `cafe\u0301`"


# ---------------------------------------------------------------------------------------------------- bands


@pytest.mark.parametrize(
    ("text", "name"),
    [("057", "30-59"), ("-3", "<30"), ("29.999", "<30"), ("6e1", ">=60"), ("0", "<30"), ("1e308", ">=60")],
)
def test_any_number_is_banded(text: str, name: str) -> None:
    """Leading zeros, signs, fractions and exponents are numbers."""
    assert label(raw(age=[text]), age())["age"].to_list() == [name]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (None, "(empty)"),
        ("", "(empty)"),
        ("old", "`old`"),
        ("0x1F", "`0x1F`"),
        ("nan", "`nan`"),
        ("inf", "`inf`"),
        ("-inf", "`-inf`"),
        ("5 7", "`5 7`"),
    ],
)
def test_what_is_no_number_is_refused(text: str | None, shown: str) -> None:
    """A banded attribute's blank, word, not-a-number or infinity is an error that shows it."""
    assert told(raw(age=["20", text]), age()) == (
        f"[attributes.age]: 1 values are not numbers, e.g. {shown}",
        "mend the rows" + ("" if text else '; if empty ones are not known, declare them: missing = [""]'),
    )


def test_training_bands_move_training_only() -> None:
    """With another bound for training the truth that scores use stays."""
    table = label(raw(age=["57", "58", "59", "60"]), age({"<30": 29, "30-59": 58, ">=60": float("inf")}))
    assert table["label"].to_list() == [1, 1, 1, 2]
    assert table["train_label"].to_list() == [1, 2, 2, 2]
    assert table["age"].to_list() == ["30-59", "30-59", "30-59", ">=60"]


def test_dropped_ranges_are_kept_out_of_training_only() -> None:
    """`train_drop` [57, 60) has no training label, and keeps its label."""
    table = label(raw(age=["56.9", "57", "59.9", "60"]), age(train_drop=((57, 60),)))
    assert table["label"].to_list() == [1, 1, 1, 2]
    assert table["train_label"].to_list() == [1, None, None, 2]


def test_one_dropped_attribute_drops_the_sample() -> None:
    """A sample that one attribute keeps out of training has no joint training label at all."""
    table = label(raw(kind=["dog", "dog"], age=["58", "20"]), KIND, age(train_drop=((57, 60),)))
    assert table["label"].to_list() == [4, 3]
    assert table["train_label"].to_list() == [None, 3]


# -------------------------------------------------------------------------------------------------- missing


def lacking(attribute: Attribute, *missing: str) -> Attribute:
    return replace(attribute, missing=missing)


def test_declared_values_are_missing() -> None:
    """A declared value, an empty cell as the empty text, is no class of its attribute, and leaves the others theirs."""
    source = raw(kind=["dog", "?", "cat", "kitten"], age=["30", "20", None, ""])
    table = label(source, lacking(KIND, "?"), lacking(age(), "", "unknown"))
    assert table["kind"].to_list() == ["dog", None, "cat", "cat"]
    assert table["age"].to_list() == ["30-59", "<30", None, None]
    assert table["label"].to_list() == table["train_label"].to_list() == [4, None, None, None]
    assert table["train_codes"].to_list() == [[1, 1], [-1, 0], [0, -1], [0, -1]]


def test_nothing_is_missing_that_was_not_declared() -> None:
    """Declaring one value lets no other through, of classes and of numbers."""
    assert (
        "1 samples have a value no class claims: (empty)" in told(raw(kind=["dog", "?", None]), lacking(KIND, "?"))[0]
    )
    assert "1 values are not numbers, e.g. `?`" in told(raw(age=["", "?", "20"]), lacking(age(), ""))[0]
    assert "1 samples have a value no class claims: ` `" in told(raw(kind=["dog", " "]), lacking(KIND, ""))[0]


def test_a_table_that_lacks_nothing_is_as_it_was() -> None:
    """Declaring values that never occur changes nothing of the table."""
    source = raw(kind=["dog", "cat"], age=["30", "20"])
    assert label(source, lacking(KIND, "", "?"), lacking(age(), "")).equals(label(source, KIND, age()))


def test_a_declared_value_beats_patterns() -> None:
    """Declared values are taken as they are written, no matter which pattern would match them."""
    anything = Attribute("kind", ("cat", "other"), "kind", (("cat",), ("*",)), missing=("?", "un*"))
    table = label(raw(kind=["cat", "?", "x", "unknown", "un*"]), anything)
    assert table["kind"].to_list() == ["cat", None, "other", "other", None]


def test_a_class_cannot_be_missing() -> None:
    """A value that means a class, or names one, is not declared missing."""
    for text in ("dog", "kitten*"):
        with pytest.raises(DataError, match="is declared missing, and is a class or a value of one"):
            lacking(KIND, text)


def test_what_is_dropped_from_training_trains_nothing() -> None:
    """`train_drop` keeps the whole sample out, what is known of it beside a missing value too."""
    table = label(
        raw(kind=["?", "?", "cat"], age=["58", "20", ""]), lacking(KIND, "?"), lacking(age(None, ((57, 60),)), "")
    )
    assert table["age"].to_list() == ["30-59", "<30", None]
    assert table["train_codes"].to_list() == [[-1, -1], [-1, 0], [0, -1]]


def test_training_bands_hold_beside_a_missing_value() -> None:
    """What training sees of a banded number does not depend on another attribute being known."""
    table = label(raw(kind=["?"], age=["58"]), lacking(KIND, "?"), age({"<30": 29, "30-59": 58, ">=60": float("inf")}))
    assert (table["age"].to_list(), table["train_codes"].to_list()) == (["30-59"], [[-1, 2]])


# -------------------------------------------------------------------------------------------------- patches


@pytest.fixture
def patches(tmp_path: Path) -> Path:
    return tmp_path / "patches.csv"


def write(path: Path, *rows: str, header: str = "id,attribute,from,to,reason") -> Path:
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def test_patches_mend_labels_for_training_and_truth(patches: Path) -> None:
    """A patch of a sample changes its class in evaluation and in training; others keep theirs."""
    write(patches, "b,kind,cat,dog,seen by eye")
    table = label(raw(kind=["cat", "cat"]), KIND, patches=patches)
    assert table["label"].to_list() == table["train_label"].to_list() == [0, 1]
    assert table["kind"].to_list() == ["cat", "dog"]


def test_a_patch_of_a_group_mends_its_samples(patches: Path) -> None:
    """A group's name patches those of its samples that have the class `from`."""
    write(patches, "anna,kind,cat,dog,")
    table = label(raw(kind=["cat", "dog", "cat", "cat"]), KIND, patches=patches, groups=["anna", "anna", "anna", "ben"])
    assert table["kind"].to_list() == ["dog", "dog", "dog", "cat"]


def test_patches_may_swap_two_classes(patches: Path) -> None:
    """Patches of single samples, in whatever order, swap two labels."""
    write(patches, "a,kind,cat,dog,swapped", "b,kind,dog,cat,swapped")
    assert label(raw(kind=["cat", "dog"]), KIND, patches=patches)["kind"].to_list() == ["dog", "cat"]


def test_a_patch_may_correct_a_number(patches: Path) -> None:
    """A banded attribute is patched by its raw number, and training bands and ranges see the new one."""
    write(patches, "a,age,75,58,typo", "b,age,20,045,", "c,age,58,40,")
    table = label(raw(age=["75", "20", "58"]), age(train_drop=((57, 60),)), patches=patches)
    assert table["label"].to_list() == [1, 1, 1]
    assert table["train_label"].to_list() == [None, 1, 1]


def test_a_patch_may_correct_a_band(patches: Path) -> None:
    """A banded attribute is patched by the band's name as well."""
    write(patches, "a,age,30-59,>=60,")
    assert label(raw(age=["57"]), age(), patches=patches)["age"].to_list() == [">=60"]


def test_patches_fill_gaps_and_make_them(patches: Path) -> None:
    """A declared value stands in a patch for not known: before it is filled in, and after it is taken back."""
    write(patches, "a,kind,?,dog,", "b,kind,dog,?,", "a,age,,58,", "b,age,20,,", "c,age,,>=60,", "b,age,,33,found")
    source = raw(kind=["?", "dog", "cat"], age=["", "20", ""])
    table = label(source, lacking(KIND, "?"), lacking(age(None, ((57, 60),)), ""), patches=patches)
    assert table["kind"].to_list() == ["dog", None, "cat"]
    assert table["age"].to_list() == ["30-59", "30-59", ">=60"]
    assert table["train_codes"].to_list() == [[-1, -1], [-1, 1], [0, 2]]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_patches_of_any_editor_are_read(patches: Path, encoding: str, newline: str) -> None:
    """A byte order mark, CRLF, blank lines, quotes and more columns do no harm; the reason may be left out."""
    text = newline.join(["id,attribute,from,to,by", "", '"a",kind,cat,"dog","O""Neil, seen"', "", ""])
    patches.write_bytes(text.encode(encoding))
    assert label(raw(kind=["cat"]), KIND, patches=patches)["kind"].to_list() == ["dog"]


def test_every_patch_that_does_not_apply_is_named(patches: Path) -> None:
    """Wrong `from`, nothing matched, unknown attribute or class: all rows are told at once, by line."""
    write(
        patches,
        "a,kind,dog,cat,it is a cat now",
        "zoe,kind,cat,dog,",
        "a,sort,cat,dog,",
        "a,kind,cat,cow,",
        "",
        "b,kind,cat,dog,fine",
        "b,kind,cat,dog,again",
        "a,age,nan,20,",
        "a,age,20,inf,",
        "a,age,21,20,",
        ",kind,cat,dog,",
        "a,kind,,dog,",
    )
    message, hint = told(raw(kind=["cat", "cat"], age=["20", "30"]), KIND, age(), patches=patches)
    assert message.split("\n") == [
        "10 patches do not apply in patches.csv:",
        "  line 2: `a` is not `dog` in `kind`, so the patch does not match",
        "  line 3: no sample or group has the id `zoe`",
        "  line 4: no attribute `sort`; known are kind, age",
        "  line 5: `cat` -> `cow`: classes of `kind` are cat, dog",
        "  line 8: `b` is not `cat` in `kind`, so the patch does not match",
        "  line 9: `nan` -> `20`: classes of `age` are <30, 30-59, >=60",
        "  line 10: `20` -> `inf`: classes of `age` are <30, 30-59, >=60",
        "  line 11: `a` is not `21` in `age`, so the patch does not match",
        "  line 12: no sample or group has the id ``",
        "  line 13: `` -> `dog`: classes of `kind` are cat, dog",
    ]
    assert hint == (
        "a patch names a sample's id or a group, the class it has now (`from`) and the one it should have (`to`)"
    )


def test_a_single_wrong_patch_is_told_in_the_singular(patches: Path) -> None:
    """One row that matches nothing reads as one."""
    write(patches, "a,kind,dog,cat,")
    assert told(raw(kind=["cat"]), KIND, patches=patches)[0] == (
        "1 patch does not apply in patches.csv:\n  line 2: `a` is not `dog` in `kind`, so the patch does not match"
    )


def test_a_group_without_the_class_is_named(patches: Path) -> None:
    """A patch of a group none of whose samples has the class `from` does not match."""
    write(patches, "anna,kind,dog,cat,")
    message, _ = told(raw(kind=["cat", "cat"]), KIND, patches=patches, groups=["anna", "anna"])
    assert message.endswith("line 2: `anna` is not `dog` in `kind`, so the patch does not match")


def test_patches_without_their_columns_are_refused(patches: Path) -> None:
    """Missing columns are named, beside those there are."""
    write(patches, "a,kind,cat", header="id,attribute,was")
    assert told(raw(kind=["cat"]), KIND, patches=patches) == (
        "patches.csv lacks the columns from, to",
        "it has id, attribute, was",
    )


def test_patches_that_cannot_be_read_are_refused(patches: Path) -> None:
    """A missing, empty or torn patch file, or one with a column twice, is an error that names the file."""
    assert told(raw(kind=["cat"]), KIND, patches=patches) == (
        f"cannot read {patches}: No such file or directory",
        "mend the path in data.toml",
    )
    patches.write_text("")
    assert told(raw(kind=["cat"]), KIND, patches=patches)[0] == f"cannot read {patches}: empty CSV"
    write(patches, 'a,kind,cat,"dog')
    assert told(raw(kind=["cat"]), KIND, patches=patches)[0].startswith(f"cannot read {patches}: ")
    write(patches, "a,kind,cat,dog,dog", header="id,attribute,from,to,to")
    assert told(raw(kind=["cat"]), KIND, patches=patches)[0] == f"{patches} has more than one column `to`"


def test_a_patch_file_with_a_header_only_changes_nothing(patches: Path) -> None:
    """No patches is a fine number of patches."""
    write(patches)
    assert label(raw(kind=["cat"]), KIND, patches=patches)["kind"].to_list() == ["cat"]
