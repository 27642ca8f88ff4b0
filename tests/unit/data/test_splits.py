"""Splits: what they hold, and the wording of everything that can be wrong with one."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from finefold.data.splits import (
    ANEW,
    Split,
    check_split_covers,
    check_trainable,
    describe_balance,
    make_split,
    read_split,
    split_from_folds,
    write_split,
)
from finefold.errors import SplitError


def split_of(folds: str, groups: str | None = None) -> Split:
    """A split of samples a, b, c, ..., one digit a fold."""
    ids = [chr(ord("a") + i) for i in range(len(folds))]
    return Split(pl.DataFrame({"id": ids, "fold": [int(f) for f in folds], "group": list(groups or ids)}))


def told(action: Callable[[], Any]) -> tuple[list[str], str | None]:
    """The lines and the hint of the SplitError that the action raises."""
    with pytest.raises(SplitError) as caught:
        action()
    return caught.value.message.split("\n"), caught.value.hint


def test_holds_fold_of_every_id() -> None:
    """Folds are told in the order of the ids asked for."""
    split = split_of("0112")
    assert split.num_folds == 3
    assert len(split) == 4
    assert split.folds_for(["d", "a", "c", "a"]).tolist() == [2, 0, 1, 0]
    assert split.frame.schema == {"id": pl.String, "fold": pl.Int32, "group": pl.String}


def test_hash_is_of_the_content() -> None:
    """The hash is fixed for good, does not see the order of rows, and sees ids, folds and groups."""
    split = split_of("0112")
    assert split.hash == "f6a88033466536ee"
    assert Split(split.frame.reverse()) == split
    assert hash(Split(split.frame.reverse())) == hash(split)
    others = [split_of("0122"), split_of("0112", "abbd"), Split(split.frame.with_columns(pl.col("id") + "x"))]
    assert len({split.hash, *(other.hash for other in others)}) == 4


def test_hash_keeps_neighbouring_texts_apart() -> None:
    """Ids `ab`, `c` and ids `a`, `bc` are other splits."""
    frames = [pl.DataFrame({"id": ids, "fold": [0, 1], "group": ["x", "y"]}) for ids in (["ab", "c"], ["a", "bc"])]
    assert Split(frames[0]) != Split(frames[1])


def test_is_the_same_in_another_process() -> None:
    """A made split depends on nothing but samples and seed: not on the process, not on the machine."""
    code = (
        "from finefold.data.splits import make_split;"
        "ids = [f'{i:02d}' for i in range(40)];"
        "print(make_split(ids, [i % 3 for i in range(40)], [i[0] + str(int(i) // 4) for i in ids],"
        " class_names=['p', 'q', 'r'], seed=7).hash)"
    )
    shown = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout for _ in range(2)]
    assert shown == ["73db57b66a101419\n"] * 2


def test_seed_changes_the_split() -> None:
    """Another seed deals other samples to the folds."""
    ids = [f"{i:02d}" for i in range(40)]
    made = {make_split(ids, [0] * 40, None, class_names=["x"], seed=seed).hash for seed in range(3)}
    assert len(made) == 3


def test_unknown_ids_are_named() -> None:
    """Asking for samples that are not there names the first of them."""
    lines, hint = told(lambda: split_of("01").folds_for(list("axyzuvw")))
    assert lines == ["6 samples of 7 not in the split: `x`, `y`, `z`, `u`, `v` and 1 more"]
    assert hint == ANEW


@pytest.mark.parametrize(
    ("frame", "lines"),
    [
        ({"id": ["a", "a", None], "fold": [0, 1, 1], "group": ["p", "q", "r"]},
         ["1 sample without id", "1 id more than once: `a`"]),
        ({"id": ["a", "b"], "fold": [0, 1], "group": ["p", ""]}, ["1 sample without group"]),
        ({"id": ["a", "b"], "fold": [0, None], "group": ["p", "q"]}, ["1 row without a fold"]),
        ({"id": ["a", "b"], "fold": [0, 0], "group": ["p", "q"]}, ["all samples are in fold 0"]),
        ({"id": ["a", "b"], "fold": [1, 2], "group": ["p", "q"]},
         ["folds are 1, 2; expected 0 to 1 without gaps"]),
        ({"id": ["a", "b", "c"], "fold": [0, 1, 3], "group": ["p", "q", "r"]},
         ["folds are 0, 1, 3; expected 0 to 2 without gaps"]),
        ({"id": ["a", "b", "c"], "fold": [0, 2, 1], "group": ["p", "p", "q"]},
         ["1 group is in more than one fold: `p` (folds 0, 2)"]),
        ({"id": [], "fold": [], "group": []}, ["there are no samples to split"]),
    ],
)  # fmt: skip
def test_an_illegal_split_cannot_be_made(frame: dict[str, list[Any]], lines: list[str]) -> None:
    """Empty or repeated ids, folds with gaps, groups in two folds: all told at once."""
    assert told(lambda: Split(pl.DataFrame(frame)))[0] == lines


def test_many_crossing_groups_are_counted() -> None:
    """Of many groups in two folds the first five are named, with what to do."""
    ids = [str(i) for i in range(14)]
    frame = pl.DataFrame({"id": ids, "fold": [0, 1] * 7, "group": [f"g{i // 2}" for i in range(14)]})
    lines, hint = told(lambda: Split(frame))
    assert lines == [
        "7 groups are in more than one fold: `g0` (folds 0, 1), `g1` (folds 0, 1), `g2` (folds 0, 1),"
        " `g3` (folds 0, 1), `g4` (folds 0, 1) and 2 more"
    ]
    assert hint == "keep a group in one fold, or its samples are trained on and validated: `finefold split` does"


@pytest.mark.parametrize(
    ("arguments", "lines", "hint"),
    [
        (([], [], None), ["there are no samples to split"], "check the [samples] table of data.toml"),
        ((list("abc"), [0, 1], None), ["3 ids, 2 labels, 3 groups"], "give one of each per sample, in one order"),
        ((list("abc"), [0, 1, 0], list("ppq")), ["cannot split 2 groups into 3 folds: none may be empty"],
         "use at most 2 folds"),
        ((list("ab"), [0, 1], None), ["cannot split 2 samples into 3 folds: none may be empty"],
         "use at most 2 folds"),
        ((list("ab"), [0, 1], list("pp")), ["cannot split 1 group into 3 folds: none may be empty"],
         "a split needs at least 2 groups"),
        ((list("aabcd"), [0, 1, 1, 5, -1], None),
         ["1 id more than once: `a`", "label codes run from -1 to 5; expected 0 to 1"],
         "ids must be unique; leave out samples without a label"),
        ((list("abcd"), [0, 1, 1, 0], ["p", None, "q", ""]),
         ["2 samples without group"], "give every sample its group"),
    ],
)  # fmt: skip
def test_impossible_splits_say_why(arguments: Any, lines: list[str], hint: str) -> None:
    """Input that no split can be made of is refused with what is wrong and what to do."""
    assert told(lambda: make_split(*arguments, class_names=["x", "y"], folds=3)) == (lines, hint)


def test_folds_and_seed_are_checked() -> None:
    """One fold is no cross-validation, and seeds are not negative."""
    lines, hint = told(lambda: make_split(list("abcd"), [0] * 4, None, class_names=["x"], folds=1, seed=-1))
    assert lines == ["cannot split into 1 fold", "seed is -1; expected 0 or more"]
    assert hint == "use at least 2 folds; use another seed"


def test_a_class_of_one_group_is_refused() -> None:
    """A class that one group holds cannot be trained for the fold the group is in."""
    labels, groups = [0, 0, 0, 1, 1], ["p", "q", "r", "r", "r"]
    lines, hint = told(
        lambda: make_split(list("abcde"), labels, groups, class_names=["x", "incorrect/male/>=60"], folds=3)
    )
    assert len(lines) == 1
    assert lines[0][5] in "012"
    assert lines[0][6:] == " has no training sample of class `incorrect/male/>=60`"
    assert hint == "2 samples of it come from 1 group; merge classes or bands in data.toml, or add samples"


def test_all_untrainable_classes_are_told_at_once() -> None:
    """Classes of one group, of no sample, and all in one fold: a line each, and a hint that fits."""
    split = split_of("0012223")
    lines, hint = told(lambda: check_trainable(split, [0, 1, 0, 2, 2, 0, 0], ["v", "w", "x", "y"]))
    assert lines == [
        "fold 0 has no training sample of class `w`",
        "fold 2 has no training sample of class `x`",
        "no fold has a training sample of class `y`",
    ]
    assert hint == (
        "1 sample of `w` comes from 1 group, 2 samples of `x` come from 2 groups, there is no sample of `y`;"
        " merge classes or bands in data.toml, or add samples;"
        " spread its groups over folds, or try another number of folds"
    )


def test_classes_that_cannot_all_be_spread_are_refused() -> None:
    """Three classes in each two of three groups cannot be spread over two folds."""
    lines, hint = told(
        lambda: make_split(list("abcdef"), [0, 2, 0, 1, 1, 2], list("ppqqrr"), class_names=list("xyz"), folds=2)
    )
    assert len(lines) == 1
    assert hint == ("2 samples of it come from 2 groups; spread its groups over folds, or try another number of folds")


def test_a_trainable_split_passes() -> None:
    """A class in two folds can be trained in all."""
    check_trainable(split_of("0012"), [0, 1, 1, 0], ["x", "y"])


def test_a_class_of_few_groups_is_legal() -> None:
    """Three groups of a class for five folds: two folds lack it, and the balance says which."""
    labels = [1] * 3 + [0] * 17
    ids = [f"{i:02d}" for i in range(20)]
    split = make_split(ids, labels, None, class_names=["x", "rare"], folds=5)
    balance = describe_balance(split, labels, ["x", "rare"])
    lacking = np.flatnonzero(balance.counts_FK[:, 1] == 0)
    assert balance.unreached == (
        f"class `rare` has 3 groups for 5 folds: folds {lacking[0]}, {lacking[1]} have no sample of it",
    )
    assert balance.sizes_F.tolist() == [4] * 5
    assert balance.groups_F.tolist() == [4] * 5


def test_balance_tells_uneven_folds() -> None:
    """A hand-made split is told what is uneven by more than a group and 10 %, with the numbers."""
    balance = describe_balance(split_of("00000000" + "11" + "222"), [0] * 4 + [1] * 8 + [0], ["x", "y", "z"])
    assert balance.counts_FK.tolist() == [[4, 4, 0], [0, 2, 0], [1, 2, 0]]
    assert balance.unreached == (
        "class `x` has 5 groups for 3 folds: fold 1 has no sample of it",
        "class `y`: 2 to 4 samples per fold, 2.7 wanted",
        "class `z` has no sample",
        "all classes together: 2 to 8 samples per fold, 4.3 wanted",
    )


def test_balance_forgives_one_group() -> None:
    """What one group more or less makes is not told."""
    assert describe_balance(split_of("0000111", "ppppqqq"), [0] * 7, ["x"]).unreached == ()


def test_covering_splits_pass() -> None:
    """A split covers its samples in any order, with groups or without."""
    check_split_covers(split_of("0112"), list("dbca"), list("qppr"))
    check_split_covers(split_of("0112"), list("dbca"), None)


def test_splits_of_other_data_are_refused() -> None:
    """Unknown ids, missing samples and groups of the samples across folds are told at once."""
    lines, hint = told(lambda: check_split_covers(split_of("0112"), list("abcxy"), list("ppqqq")))
    assert lines == [
        "1 id of the split not among the samples: `d`",
        "2 samples not in the split: `x`, `y`",
        "1 group is in more than one fold: `p` (folds 0, 1)",
    ]
    assert hint == (
        f"{ANEW}; keep a group in one fold, or its samples are trained on and validated: `finefold split` does"
    )


@pytest.mark.parametrize(
    ("folds", "expected"),
    [
        ([1, 2, 3, 1], [0, 1, 2, 0]),
        (["10", "2", "1", "2"], [2, 1, 0, 1]),
        (["fold10", "fold2", "fold1", "fold1"], [2, 1, 0, 0]),
        ([1.0, 0.0, 5.0, 1.0], [1, 0, 2, 1]),
        (np.array([-1, 4, 4, -1]), [0, 1, 1, 0]),
        (pl.Series(["b", "a", "3", "b"]), [2, 1, 0, 2]),
    ],
)
def test_a_users_folds_are_numbered_in_natural_order(folds: Any, expected: list[int]) -> None:
    """Numbers and names of folds become 0..F-1, 2 before 10."""
    assert split_from_folds(list("abcd"), folds, None).fold_N.tolist() == expected


def test_a_users_folds_are_checked() -> None:
    """Every sample needs a fold, and groups stay in one."""
    lines, hint = told(lambda: split_from_folds(list("abc"), [0, None, float("nan")], None))
    assert (lines, hint) == (
        ["2 samples without a fold: `b`, `c`"],
        "give every sample a fold, or leave it out of the data",
    )
    assert told(lambda: split_from_folds(list("abc"), [0, 1], None))[0] == ["3 ids, 2 folds, 3 groups"]
    assert told(lambda: split_from_folds(list("abc"), [3, 3, 3], None))[0] == ["all samples are in fold 0"]
    assert told(lambda: split_from_folds(list("abc"), [3, 4, 4], list("ppq")))[0] == [
        "1 group is in more than one fold: `p` (folds 0, 1)"
    ]


def test_files_keep_ids_as_text(tmp_path: Path) -> None:
    """Leading zeros survive, columns may come in any order, with others, and with a byte order mark."""
    path = tmp_path / "split.csv"
    path.write_text("\ufeff group,fold,note,id\n001,0,x,0012\n2, 1 ,y,1e3\n", encoding="utf-8")
    split = read_split(path)
    assert split.frame.rows() == [("0012", 0, "001"), ("1e3", 1, "2")]
    write_split(split, path)
    assert path.read_bytes() == b"id,fold,group\n0012,0,001\n1e3,1,2\n"
    assert [file.name for file in tmp_path.iterdir()] == ["split.csv"]


def test_files_without_groups_let_every_id_go_alone(tmp_path: Path) -> None:
    """Where there is no group column, every id is its own group."""
    path = tmp_path / "split.csv"
    path.write_text("id,fold\r\n01,0\r\n02,1\r\n", encoding="utf-8")
    assert read_split(str(path)).frame["group"].to_list() == ["01", "02"]


def test_all_mistakes_of_a_file_are_told_with_their_lines(tmp_path: Path) -> None:
    """One error tells every wrong row of a file by its line."""
    path = tmp_path / "split.csv"
    path.write_text('id,fold,group\na,0,x\n\n"b\nc",1.5,y\n,0,z\na,1,x\nq,0\nr,1,\ns,,t\n', encoding="utf-8")
    lines, hint = told(lambda: read_split(path))
    assert lines == [
        f"{path}: 1 row with another number of cells than the 3 of the header: line 8 (2)",
        f"{path}: 1 row without id: line 6",
        f"{path}: 1 row without group: line 9",
        f"{path}: 2 rows with a fold that is not a whole number: line 4 (`1.5`), line 10 (``)",
        f"{path}: 1 id more than once: `a` (lines 2, 7)",
        f"{path}: 1 group is in more than one fold: `x` (folds 0, 1)",
    ]
    assert hint is not None
    assert hint.startswith("quote texts with commas; give every row its id; ")


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"", "no column `id` and `fold`; got no header"),
        (b"name,fold\na,1\n", "no column `id`; got `name`, `fold`"),
        (b"id,fold,id\na,1,b\n", "column `id` more than once"),
        (b"id,fold\n", "no rows"),
        (b"id,fold\na,0\nb,0\n", "all samples are in fold 0"),
        (b"id,fold\na,1\nb,2\n", "folds are 1, 2; expected 0 to 1 without gaps"),
        (b"id,fold\na,0\n\"b\"c,1\n", "not a CSV file: line 3: ',' expected after '\"'"),
        (b"id,fold\n\xff,0\n", "not UTF-8 text: invalid start byte"),
    ],
)  # fmt: skip
def test_files_that_are_no_splits_say_why(tmp_path: Path, content: bytes, line: str) -> None:
    """A file that is no split is named with what it lacks."""
    path = tmp_path / "split.csv"
    path.write_bytes(content)
    assert told(lambda: read_split(path))[0] == [f"{path}: {line}"]


def test_absent_files_say_how_to_make_one(tmp_path: Path) -> None:
    """A file that is not there, or is a folder, is told with what to do."""
    assert told(lambda: read_split(tmp_path / "no.csv")) == (
        [f"{tmp_path / 'no.csv'}: no such file"],
        "make one with `finefold split data.toml --out split.csv`",
    )
    assert told(lambda: read_split(tmp_path))[0] == [f"{tmp_path}: cannot be read: Is a directory"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    """Where the new file cannot take its place, nothing is left behind and the old one stays."""
    target = tmp_path / "split.csv"
    target.mkdir()
    lines, hint = told(lambda: write_split(split_of("01"), target))
    assert lines == [f"{target}: cannot be written: Is a directory"]
    assert hint == "give a path in a folder that exists and can be written"
    assert [file.name for file in tmp_path.iterdir()] == ["split.csv"]
    assert told(lambda: write_split(split_of("01"), tmp_path / "no" / "split.csv"))[0] == [
        f"{tmp_path / 'no' / 'split.csv'}: cannot be written: No such file or directory"
    ]


def test_ids_are_texts() -> None:
    """Numbers as ids are refused, for they have lost their zeros; numpy's texts are texts."""
    assert told(lambda: split_from_folds([7, 12], [0, 1], None))[0] == [  # type: ignore[list-item]
        "ids and groups are texts; `7` is of type int"
    ]
    assert split_from_folds(np.array(["07", "12"]), [0, 1], None).folds_for(["12"]).tolist() == [1]  # type: ignore[arg-type]


def test_only_the_first_classes_must_be_trainable() -> None:
    """Classes after them may lie in one fold, are still counted and spread, and nothing is told of them."""
    split, labels, names = split_of("001122"), [0, 0, 0, 0, 1, 2], ["x", "one", "two"]
    assert told(lambda: check_trainable(split, labels, names))[0] == [
        "fold 2 has no training sample of class `one`",
        "fold 2 has no training sample of class `two`",
    ]
    check_trainable(split, labels, names, trainable=1)
    balance = describe_balance(split, labels, names, trainable=1)
    assert balance.counts_FK.tolist() == [[2, 0, 0], [2, 0, 0], [0, 1, 1]]
    assert balance.unreached == ("class `x` has 4 groups for 3 folds: fold 2 has no sample of it",)
    ids = [f"{number:02}" for number in range(24)]
    labels = [0] * 12 + [1] * 11 + [2]
    made = make_split(ids, labels, None, class_names=names, trainable=2, folds=3)
    assert describe_balance(made, labels, names).sizes_F.tolist() == [8, 8, 8]
