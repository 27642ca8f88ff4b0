"""data.toml and what it points at: three sources, read as they are meant or refused in words."""

import codecs
import os
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import tomli_w

from finefold.data.images import list_images
from finefold.data.rows import read_rows
from finefold.data.samples import SampleTable
from finefold.data.sources import read_samples, read_spec, template_pattern
from finefold.errors import DataError

KIND = {"kind": {"from": "kind", "classes": ["cat", "dog"]}}
FOLDERS = {"class": {"from": "folder", "classes": ["cat", "dog"]}}


def touch(root: Path, *names: str) -> None:
    """Empty files: sources look at names, never into images."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def write(folder: Path, samples: dict[str, Any], attributes: dict[str, Any], **tables: Any) -> Path:
    file = folder / "data.toml"
    file.write_text(tomli_w.dumps({"samples": samples, "attributes": attributes, **tables}), encoding="utf-8")
    return file


def read(folder: Path, samples: dict[str, Any], attributes: dict[str, Any], **tables: Any) -> SampleTable:
    return read_samples(read_spec(write(folder, samples, attributes, **tables)))


def told(action: Callable[[], Any]) -> tuple[str, str | None]:
    """Message and hint of the DataError."""
    with pytest.raises(DataError) as caught:
        action()
    return caught.value.message, caught.value.hint


# -------------------------------------------------------------------------------------------- class folders


def test_class_folders_give_classes_in_the_declared_order(tmp_path: Path) -> None:
    """A folder's name is the class at any depth below it; the order is the declared one; ids are the paths."""
    touch(tmp_path, "img/dog/b.png", "img/cat/a.jpg", "img/cat/deep/er/c.JPEG")
    table = read(
        tmp_path, {"root": "img", "class_folders": True}, {"class": {"from": "folder", "classes": ["dog", "cat"]}}
    )
    assert table.space.class_names == ("dog", "cat")
    assert dict(zip(table.ids, table.labels_N.tolist(), strict=True)) == {
        "cat/a.jpg": 1,
        "cat/deep/er/c.JPEG": 1,
        "dog/b.png": 0,
    }
    assert table.groups == table.ids
    assert table.paths == [tmp_path / "img" / name for name in table.ids]
    assert table.frame["source"].to_list() == [""] * 3


def test_files_come_in_natural_order(tmp_path: Path) -> None:
    """1, 2, 10: files and folders are sorted as people count."""
    touch(tmp_path, *(f"{name}/{shot}.png" for name in ("10", "2", "1") for shot in ("10", "9")))
    table = read(tmp_path, {"class_folders": True}, {"digit": {"from": "folder", "classes": ["1", "2", "10"]}})
    assert table.ids == ["1/9.png", "1/10.png", "2/9.png", "2/10.png", "10/9.png", "10/10.png"]
    assert table.labels_N.tolist() == [0, 0, 1, 1, 2, 2]


def test_hidden_and_system_files_are_skipped_and_counted(tmp_path: Path) -> None:
    """`._a.jpg`, `.git`, `Thumbs.db` and texts are no samples, and the listing says how many there were."""
    touch(tmp_path, "cat/a.jpg", "dog/b.jpg", "cat/._a.jpg", "cat/Thumbs.db", "cat/notes.txt", ".git/c.jpg")
    table = read(tmp_path, {"class_folders": True}, FOLDERS)
    assert table.ids == ["cat/a.jpg", "dog/b.jpg"]
    assert list_images(tmp_path).skipped == {
        "hidden or system file": 2,
        "hidden or system folder": 1,
        "not an image suffix": 2,  # notes.txt and data.toml
    }


def test_parts_are_read_together_and_others_left_out(tmp_path: Path) -> None:
    """train/ and valid/ are one table that says where each sample was; test/ is not a class."""
    touch(tmp_path, "train/cat/a.jpg", "valid/cat/a.jpg", "train/dog/b.jpg", "test/x.jpg", "test/cat/y.jpg", "z.jpg")
    table = read(tmp_path, {"class_folders": True, "parts": ["train", "valid"]}, FOLDERS)
    assert table.ids == ["train/cat/a.jpg", "train/dog/b.jpg", "valid/cat/a.jpg"]
    assert table.frame["source"].to_list() == ["train", "train", "valid"]
    assert table.labels_N.tolist() == [0, 1, 0]


@pytest.mark.parametrize("samples", [{}, {"parts": ["train"]}])
def test_an_image_without_a_class_folder_is_refused(tmp_path: Path, samples: dict[str, Any]) -> None:
    """An image right under the root or a part has no class: an error that names it, never a silent loss."""
    home = "train/" if samples else ""
    touch(tmp_path, f"{home}cat/a.jpg", f"{home}dog/b.jpg", f"{home}c.jpg")
    assert told(lambda: read(tmp_path, {"class_folders": True, **samples}, FOLDERS)) == (
        f"1 images lie outside any class folder, e.g. {home}c.jpg",
        'move them into a folder, or leave them out: [samples] ignore = ["*.jpg"]',
    )
    table = read(tmp_path, {"class_folders": True, "ignore": [f"{home}c.*"], **samples}, FOLDERS)
    assert len(table) == 2


def test_an_empty_class_folder_is_no_trouble(tmp_path: Path) -> None:
    """A declared class without images has none; a folder without images needs no class."""
    touch(tmp_path, "cat/a.jpg", "cat/b.jpg")
    (tmp_path / "dog").mkdir()
    (tmp_path / "bird").mkdir()
    assert read(tmp_path, {"class_folders": True}, FOLDERS).counts_K().tolist() == [2, 0]


def test_an_undeclared_class_folder_is_refused(tmp_path: Path) -> None:
    """A folder no class claims is an error that counts its images."""
    touch(tmp_path, "cat/a.jpg", "dog/b.jpg", "Dog/c.jpg", "Dog/d.jpg")
    assert told(lambda: read(tmp_path, {"class_folders": True}, FOLDERS))[0] == (
        "[attributes.class]: 2 samples have a value no class claims: `Dog`"
    )


def test_a_class_called_id_is_refused_with_the_way_out(tmp_path: Path) -> None:
    """The hint for a class folder `id` is a data.toml line that works."""
    touch(tmp_path, "cat/a.jpg", "id/b.jpg")
    samples = {"class_folders": True}
    message, hint = told(lambda: read(tmp_path, samples, {"class": {"from": "folder", "classes": ["cat", "id"]}}))
    assert message == "a class is called `id`, which is a column of the ledger"
    assert hint == 'name it otherwise in data.toml: classes = { "class id" = ["id"], ... }'
    classes = {"cat": ["cat"], "class id": ["id"]}
    assert read(tmp_path, samples, {"class": {"from": "folder", "classes": classes}}).labels_N.tolist() == [0, 1]


def test_links_are_followed_once(tmp_path: Path) -> None:
    """A linked file is a sample; a link that leads back to the folder above gives no file twice."""
    touch(tmp_path, "img/cat/a.jpg", "elsewhere/b.jpg")
    (tmp_path / "img" / "dog").mkdir()
    (tmp_path / "img" / "dog" / "b.jpg").symlink_to(tmp_path / "elsewhere" / "b.jpg")
    (tmp_path / "img" / "dog" / "loop").symlink_to(tmp_path / "img")
    assert read(tmp_path, {"root": "img", "class_folders": True}, FOLDERS).ids == ["cat/a.jpg", "dog/b.jpg"]


@pytest.mark.parametrize("samples", [{"class_folders": True}, {"template": "{folder}/{shot}.jpg"}])
def test_a_missing_or_empty_root_is_refused(tmp_path: Path, samples: dict[str, Any]) -> None:
    """No such folder, or no image in it, is an error that names the folder."""
    assert told(lambda: read(tmp_path, {"root": "img", **samples}, FOLDERS)) == (
        f"the folder {tmp_path / 'img'} does not exist",
        "mend `[samples] root` in data.toml",
    )
    (tmp_path / "img").mkdir()
    assert told(lambda: read(tmp_path, {"root": "img", **samples}, FOLDERS)) == (
        f"no samples in {tmp_path / 'img'}",
        "check `root` and the template, csv or class folders",
    )


# ------------------------------------------------------------------------------------------- CSV and Parquet


CSV = {"csv": "train.csv", "path": "file"}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Three images, for tables to name."""
    touch(tmp_path, "a.jpg", "b.jpg", "sub/c.jpg")
    return tmp_path


def table(home: Path, text: str | bytes, **samples: Any) -> SampleTable:
    (home / "train.csv").write_bytes(text.encode() if isinstance(text, str) else text)
    return read(home, {**CSV, **samples}, KIND)


def test_rows_come_in_their_order(home: Path) -> None:
    """A table's samples are its rows, in their order, each its own group; the id is the path unless said."""
    samples = table(home, "file,kind\nsub/c.jpg,dog\na.jpg,cat\n")
    assert samples.ids == samples.groups == ["sub/c.jpg", "a.jpg"]
    assert samples.labels_N.tolist() == [1, 0]


def test_leading_zeros_survive(home: Path) -> None:
    """Ids, groups and folds are text: 007 stays 007, 1.0 stays 1.0."""
    samples = table(home, "n,who,file,kind,k\n007,01,a.jpg,cat,1.0\n7,1,b.jpg,dog,00\n", id="n", group="who", fold="k")
    assert (samples.ids, samples.groups) == (["007", "7"], ["01", "1"])
    assert samples.fold is not None
    assert samples.fold.to_list() == ["1.0", "00"]


@pytest.mark.parametrize("kind", ["cat", "001"])
def test_classes_with_leading_zeros_are_text(home: Path, kind: str) -> None:
    """A class `001` is not a class `1`."""
    (home / "train.csv").write_text(f"file,kind\na.jpg,{kind}\nb.jpg,1\n")
    attributes = {"kind": {"classes": ["1", kind]}}
    assert read(home, CSV, attributes).labels_N.tolist() == [1, 0]


def test_parquet_is_read_as_text(home: Path) -> None:
    """Numbers in Parquet become text, so that classes and ids are the same from both kinds of file."""
    pl.DataFrame({"file": ["a.jpg", "b.jpg"], "kind": [2, 10], "n": ["01", "1"]}).write_parquet(home / "train.parquet")
    samples = {"csv": "train.parquet", "path": "file", "id": "n"}
    read_table = read(home, samples, {"kind": {"classes": ["2", "10"]}})
    assert (read_table.ids, read_table.labels_N.tolist()) == (["01", "1"], [0, 1])


@pytest.mark.parametrize("column", [[[1], [2]], [b"\xff", b"\xfe"]])
def test_parquet_that_is_no_text_is_refused(tmp_path: Path, column: list[Any]) -> None:
    """A column of lists or bytes is an error that names the file, not a traceback."""
    pl.DataFrame({"image": column}).write_parquet(tmp_path / "a.parquet")
    message, hint = told(lambda: read_rows(tmp_path / "a.parquet"))
    assert message.startswith(f"cannot read {tmp_path / 'a.parquet'}: ")
    assert hint == "save it as UTF-8 CSV or as Parquet"


def test_what_is_no_parquet_is_refused(tmp_path: Path) -> None:
    """A text called .parquet is an error that names the file."""
    (tmp_path / "a.parquet").write_text("file,kind\n")
    assert told(lambda: read_rows(tmp_path / "a.parquet"))[0].startswith(f"cannot read {tmp_path / 'a.parquet'}: ")


def test_a_suffix_completes_the_path(home: Path) -> None:
    """`suffix` is added to every path, so that a column of stems names files."""
    assert table(home, "file,kind\na,cat\nsub/c,dog\n", suffix=".jpg").ids == ["a.jpg", "sub/c.jpg"]


def test_runs_of_blanks_may_separate(home: Path) -> None:
    """Tables aligned with blanks and tabs, without a header, are read as ELPV's labels are."""
    text = "a.jpg   1.0\tmono\n\nsub/c.jpg 0.0  poly  \n"
    (home / "train.csv").write_text(text)
    samples = {"csv": "train.csv", "path": "file", "separator": "whitespace", "columns": ["file", "p", "kind"]}
    assert read(home, samples, {"kind": {"classes": ["poly", "mono"]}}).labels_N.tolist() == [1, 0]


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_any_character_may_separate(home: Path, separator: str) -> None:
    """Semicolons and tabs are separators when data.toml says so."""
    assert len(table(home, f"file{separator}kind\na.jpg{separator}cat\n", separator=separator)) == 1


@pytest.mark.parametrize("separator", ["", ";;", "；"])
def test_other_separators_are_refused(home: Path, separator: str) -> None:
    """A separator of no, two or odd characters is a mistake in data.toml, not a traceback."""
    message, _ = told(lambda: table(home, "file,kind\na.jpg,cat\n", separator=separator))
    assert message == (
        f"{home / 'data.toml'} has 1 mistake:\n  `samples`: separator is one ASCII character or "
        f'"whitespace"; given: {separator!r}'
    )


@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_tables_of_any_editor_are_read(home: Path, mark: bytes, newline: str) -> None:
    """Byte order marks, CRLF, old Mac line ends, blank lines and quotes change nothing."""
    text = newline.join(["file,kind", '"a.jpg",cat', "", 'sub/c.jpg,"dog"', "", ""])
    samples = table(home, mark + text.encode())
    assert (samples.ids, samples.labels_N.tolist()) == (["a.jpg", "sub/c.jpg"], [0, 1])


def test_names_may_be_any_text(tmp_path: Path) -> None:
    """Paths with blanks, commas, quotes, brackets and letters of any script are found."""
    names = ["mit leer zeichen.jpg", "a,b.jpg", 'say "hi".jpg', "[x]*.jpg", "日本/ä.jpg", "#1%20.jpg"]
    touch(tmp_path, *names)
    pl.DataFrame({"file": names, "kind": ["cat"] * 6}).write_csv(tmp_path / "train.csv")
    assert read(tmp_path, CSV, KIND).ids == names


def test_paths_may_be_written_in_windows_ways(home: Path) -> None:
    """Backslashes are folders' separators."""
    assert table(home, "file,kind\nsub\\c.jpg,dog\n").ids == ["sub/c.jpg"]


def test_absolute_paths_inside_the_root_are_told_relative(home: Path) -> None:
    """An absolute path names the same sample as the relative one; one outside the root stays absolute."""
    other = home.parent / f"{home.name}-other.jpg"
    other.touch()
    assert table(home, f"file,kind\n{home}/sub/c.jpg,dog\n{other},cat\n").ids == ["sub/c.jpg", str(other)]


@pytest.mark.parametrize(
    "again", ["a.jpg", "./a.jpg", "sub/../a.jpg", "sub\\..\\a.jpg", "{home}/a.jpg", "sub//../a.jpg"]
)
def test_an_image_listed_twice_is_refused(home: Path, again: str) -> None:
    """However its path is written, an image that stands in two rows would be in training and validation."""
    text = f"n,file,kind\n1,a.jpg,cat\n2,{again.format(home=home)},cat\n"
    assert told(lambda: table(home, text, id="n")) == (
        "two samples share the file `a.jpg` (1 such)",
        "list every image once",
    )


def test_an_id_used_twice_is_refused(home: Path) -> None:
    """Ids are unique, or the error shows those that are not."""
    assert told(lambda: table(home, "n,file,kind\n1,a.jpg,cat\n1,b.jpg,cat\n", id="n")) == (
        "two samples have the id `1` (1 such)",
        "give `[samples] id` a column without repeats",
    )


@pytest.mark.parametrize("path", ["x.jpg", "C:\\img\\a.jpg", "sub", "A.JPG", "a.jpg ", "x" * 5000, "~/a.jpg"])
def test_rows_without_their_image_are_refused(home: Path, path: str) -> None:
    """Missing files, folders and impossible names are counted, and one is shown."""
    message, hint = told(lambda: table(home, f"file,kind\n{path},cat\nb.jpg,dog\n"))
    shown = path.replace("\\", "/")
    assert message == f"1 of 2 images that train.csv names do not exist under {home}, e.g. {shown}"
    assert hint == (
        "put them there or take their rows out of train.csv; in a data.toml, mend `root`, `path` or `suffix` in "
        "[samples], or leave rows out with `ignore`"
    )


def test_rows_are_left_out_by_pattern(home: Path) -> None:
    """`ignore` leaves rows out before their images are looked for."""
    assert table(home, "file,kind\nx.jpg,cat\nb.jpg,dog\n", ignore=["x*"]).ids == ["b.jpg"]


@pytest.mark.parametrize("key", ["path", "id", "group", "fold"])
@pytest.mark.parametrize("blank", ["", '""'])
def test_a_blank_cell_that_is_needed_is_refused(home: Path, key: str, blank: str) -> None:
    """A row without its path, id, group or fold is an error naming the row."""
    keys = {"path": "file", key: "x"}
    assert told(lambda: table(home, f"x,file,kind,y\n1,a.jpg,cat,\n{blank},b.jpg,dog,1\n", **keys))[0] == (
        f"[samples] {key} = `x`: row 2 has no value"
    )


@pytest.mark.parametrize("key", ["path", "id", "group", "fold"])
def test_a_missing_column_is_refused(home: Path, key: str) -> None:
    """A column that is not there is named, beside those that are."""
    assert told(lambda: table(home, "file,kind\na.jpg,cat\n", **{"path": "file", key: "x"})) == (
        f"[samples] {key} = `x`: there is no such column",
        "the source has file, kind" if key == "path" else "the source has file, kind, path",
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty CSV"),
        ("\ufeff", "empty CSV"),
        ("file,kind\na.jpg,cat,grey\n", "found more fields"),
        ('file,kind\na.jpg,"cat\nb.jpg,dog\n', "could not parse"),
        ('file,kind\na.jpg,5" cat\nb.jpg,dog\n', "CSV malformed"),
        ("file,kind\na.jpg,caf\u00e9\n".encode("latin-1"), "'utf-8' codec can't decode byte 0xe9"),
        ("file,kind\na.jpg,cat\n".encode("utf-16"), "'utf-8' codec can't decode byte 0xff"),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused(home: Path, text: str | bytes, message: str) -> None:
    """Empty, ragged, torn and foreign-encoded tables are errors of one line that name the file."""
    got, hint = told(lambda: table(home, text))
    assert got.startswith(f"cannot read {home / 'train.csv'}: {message}")
    assert "\n" not in got
    assert hint


def test_a_column_named_twice_is_refused(home: Path) -> None:
    """Which of two `kind` columns is meant cannot be told, so neither is read."""
    assert told(lambda: table(home, "file,kind,kind\na.jpg,cat,dog\n")) == (
        f"{home / 'train.csv'} has more than one column `kind`",
        "give every column its own name",
    )


def test_a_table_without_rows_is_refused(home: Path) -> None:
    """A header alone is no data."""
    assert told(lambda: table(home, "file,kind\n"))[0] == f"no samples in {home}"


def test_a_missing_table_is_refused(home: Path) -> None:
    """No such file, or a folder in its place, names the path."""
    assert told(lambda: read(home, CSV, KIND)) == (
        f"cannot read {home / 'train.csv'}: No such file or directory",
        "mend the path in data.toml",
    )
    (home / "train.csv").mkdir()
    assert told(lambda: read(home, CSV, KIND))[0] == f"cannot read {home / 'train.csv'}: Is a directory"


@pytest.mark.parametrize("columns", [["file"], ["file", "kind", "more"], ["file", "file"]])
def test_columns_that_do_not_fit_are_refused(home: Path, columns: list[str]) -> None:
    """Too few, too many or repeated names for a table without a header are errors."""
    message, _ = told(lambda: table(home, "a.jpg,cat\n", columns=columns))
    assert str(home / "train.csv") in message


@pytest.mark.parametrize("name", ["id", "path", "group", "source", "label", "train_label", "fold"])
def test_columns_named_like_our_own_are_the_users(home: Path, name: str) -> None:
    """A label column may be called like one of the sample table's; the attribute has its own name."""
    (home / "train.csv").write_text(f"file,{name}\na.jpg,cat\nb.jpg,dog\n")
    attributes = {"kind": {"from": name, "classes": ["cat", "dog"]}}
    if name == "path":  # then `path` of the table is the image's
        assert told(lambda: read(home, CSV, attributes))[0].endswith("no class claims: `a.jpg`, `b.jpg`")
    else:
        assert read(home, CSV, attributes).labels_N.tolist() == [0, 1]


def test_a_source_column_with_gaps_is_text(home: Path) -> None:
    """A column `source` says where samples are from; where it is blank they are from nowhere."""
    assert table(home, "file,kind,source\na.jpg,cat,web\nb.jpg,dog,\n").frame["source"].to_list() == ["web", ""]


def test_names_in_another_normal_form_are_not_found(tmp_path: Path) -> None:
    """A composed `é` in a table does not name a file whose `é` is decomposed: told, not guessed."""
    touch(tmp_path, unicodedata.normalize("NFD", "é.jpg"))
    (tmp_path / "train.csv").write_text(f"file,kind\n{unicodedata.normalize('NFC', 'é.jpg')},cat\n", encoding="utf-8")
    assert told(lambda: read(tmp_path, CSV, KIND))[0].startswith("1 of 1 images that train.csv names do not exist")


# --------------------------------------------------------------------------------------------------- templates


MASK = {"mask": {"from": "shot", "classes": {"wear": ["mask*"], "normal": ["normal"]}}}


def test_a_template_reads_fields_from_paths(tmp_path: Path) -> None:
    """Fields become columns, parsed further by `parse`; ids are paths, the group a field."""
    touch(tmp_path, "001498-1_male_Asian_057/mask1.jpg", "001498-1_male_Asian_057/normal.png")
    samples = {
        "template": "{folder}/{shot}.{ext}",
        "parse": {"folder": "{id}_{gender}_{race}_{age:int}"},
        "group": "folder",
    }
    age = {"age": {"bands": {"<30": 30, "30-59": 60, ">=60": "inf"}}}
    table = read(
        tmp_path, samples, {**MASK, **age, "gender": {"classes": ["male", "female"]}}, label={"joint": ["mask", "age"]}
    )
    assert table.ids == ["001498-1_male_Asian_057/mask1.jpg", "001498-1_male_Asian_057/normal.png"]
    assert set(table.groups) == {"001498-1_male_Asian_057"}
    assert table.is_grouped
    assert table.labels_N.tolist() == [1, 4]


def test_a_path_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    """Files that the template does not fit are counted and one shown; `ignore` leaves them out."""
    touch(tmp_path, "a/mask1.jpg", "b/normal.jpg", "loose.jpg", "b/deep/normal.jpg")
    samples: dict[str, Any] = {"template": "{folder}/{shot}.jpg"}
    assert told(lambda: read(tmp_path, samples, MASK)) == (
        "[samples] template = `{folder}/{shot}.jpg` does not fit 2 of 4 values of `path`, e.g. `b/deep/normal.jpg`",
        'mend the template, or leave such files out: [samples] ignore = ["pattern"]',
    )
    assert len(read(tmp_path, samples | {"ignore": ["loose*", "*/deep/*"]}, MASK)) == 2


def test_a_field_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    """A folder whose age is no whole number is told under the parse that found it."""
    touch(tmp_path, "1_20/mask1.jpg", "2_-3/normal.jpg", "3_old/normal.jpg")
    samples = {"template": "{folder}/{shot}.jpg", "parse": {"folder": "{n}_{age:int}"}}
    assert told(lambda: read(tmp_path, samples, MASK))[0] == (
        "[samples] parse.folder = `{n}_{age:int}` does not fit 2 of 3 values of `folder`, e.g. `2_-3`"
    )


def test_a_parse_of_no_column_is_refused(tmp_path: Path) -> None:
    """`parse` of a field that does not exist names it."""
    touch(tmp_path, "a/mask1.jpg")
    samples = {"template": "{folder}/{shot}.jpg", "parse": {"person": "{n}"}}
    assert (
        told(lambda: read(tmp_path, samples, MASK))[0] == "[samples] parse.person = `person`: there is no such column"
    )


def test_a_field_named_like_a_column_is_refused(tmp_path: Path) -> None:
    """A field that would replace a column is an error naming it."""
    touch(tmp_path, "a/mask1.jpg")
    assert told(lambda: read(tmp_path, {"template": "{path}/{shot}.jpg"}, MASK)) == (
        "[samples] template names `path`, a column that exists already",
        "name the field otherwise",
    )


@pytest.mark.parametrize(
    "template",
    ["", "plain.jpg", "{a.jpg", "a}.jpg", "{a:str}_{b:int}.jpg", "{1}.jpg", "{a b}.jpg", "{}", "{{a}}", "{a}{"],
)
def test_what_is_no_template_is_refused(template: str) -> None:
    """Unknown kinds, stray braces and fields without a proper name are told, wherever they stand."""
    assert told(lambda: template_pattern(template)) == (
        f"`{template}` is not a template",
        "write fields in braces: {folder}/{shot}.{ext}",
    )


def test_a_field_named_twice_is_refused() -> None:
    """A template cannot ask two things to be one."""
    assert told(lambda: template_pattern("{a}_{a}"))[0] == "template `{a}_{a}` names `a` twice"


def test_a_template_is_taken_literally_outside_its_fields(tmp_path: Path) -> None:
    """Dots, brackets, blanks and letters of any script mean themselves."""
    touch(tmp_path, "über [x] (normal) + 1.jpg")
    samples = {"template": "über [x] ({größe}) + {n:int}.jpg"}
    assert read(tmp_path, samples, {"kind": {"from": "größe", "classes": ["normal", "other"]}}).labels_N.tolist() == [0]
    (tmp_path / "über [x] (normal) + 1.jpg").rename(tmp_path / "über [x] (normal) + 1xjpg.jpg")
    assert "does not fit" in told(lambda: read(tmp_path, samples, MASK))[0]


# -------------------------------------------------------------------------------------------- data.toml itself


def test_a_missing_or_malformed_file_is_refused(tmp_path: Path) -> None:
    """No data.toml, or one that is no TOML, says which and where."""
    file = tmp_path / "data.toml"
    assert told(lambda: read_spec(file)) == (
        f"cannot read {file}: No such file or directory",
        "give the path of an existing TOML file",
    )
    file.write_text("[samples\n")
    assert told(lambda: read_spec(file))[0].startswith(f"{file} is not valid TOML: ")
    file.write_bytes("[samples]\nroot = 'é'\n".encode("latin-1"))
    assert told(lambda: read_spec(file))[0].startswith(f"{file} is not valid TOML: ")


def test_a_file_of_a_windows_editor_is_read(tmp_path: Path) -> None:
    """A byte order mark and CRLF are no mistakes."""
    touch(tmp_path, "cat/a.jpg", "dog/b.jpg")
    file = write(tmp_path, {"class_folders": True}, FOLDERS)
    file.write_bytes(codecs.BOM_UTF8 + file.read_bytes().replace(b"\n", b"\r\n"))
    assert len(read_samples(read_spec(file))) == 2


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    """Unknown keys, wrong values and impossible combinations come in one error, with suggestions."""
    attributes = {
        "kind": {"clases": ["a", "b"], "bands": {"x": "wide"}},
        "view": {"classes": [1, 2]},
        "age": {"from": "age"},
        "part": {"classes": {"left": "l*"}},
        "side": {"classes": ["l", "r", "l"]},
        "classes": {"form": "x", "classes": ["a", "b"]},
    }
    samples = {"rot": "img", "class_folders": True, "csv": "train.csv"}
    file = write(tmp_path, samples, attributes, labels={}, predict={"root": "x", "answer": "nmae"})
    assert told(lambda: read_spec(file))[0].split("\n") == [
        f"{file} has 10 mistakes:",
        "  unknown key `samples.rot`: did you mean `samples.root`?",
        "  `attributes.kind.bands.x`: input should be a valid number, unable to parse string as a number, got 'wide'",
        "  unknown key `attributes.kind.clases`: did you mean `attributes.kind.classes`?",
        "  `attributes.view.classes`: classes are texts in quotes; given: 1",
        "  `attributes.age`: an attribute has either `classes` or `bands`",
        "  `attributes.part.classes.left`: input should be a valid list, got 'l*'",
        "  `attributes.side.classes`: class named twice: l",
        "  unknown key `attributes.classes.form`: did you mean `attributes.classes.from`?",
        "  `predict.answer`: input should be 'number' or 'name', got 'nmae': did you mean `name`?",
        "  unknown key `labels`: did you mean `label`?",
    ]


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ({}, "exactly one of template, csv, class_folders says where samples come from; given: []"),
        (
            {"csv": "a.csv", "path": "p", "class_folders": True},
            "exactly one of template, csv, class_folders says where samples come from; given: ['csv', 'class_folders']",
        ),
        ({"csv": "a.csv"}, "csv needs `path`, the column that holds the image's path"),
    ],
)
def test_samples_have_one_source(tmp_path: Path, samples: dict[str, Any], message: str) -> None:
    """None, two, or half of a source are told as such."""
    file = write(tmp_path, samples, FOLDERS)
    assert told(lambda: read_spec(file))[0] == f"{file} has 1 mistake:\n  `samples`: {message}"


@pytest.mark.parametrize(
    ("predict", "message"),
    [
        ({"root": "x", "template_csv": "t.csv"}, "template_csv needs `id_column` and `answer_column`"),
        (
            {"root": "x", "template_csv": "t.csv", "id_column": "id", "answer_column": "id"},
            "id_column and answer_column are both `id`: answers would replace the ids",
        ),
    ],
)
def test_a_template_needs_its_two_columns(tmp_path: Path, predict: dict[str, Any], message: str) -> None:
    """[predict] says which column names the images and which other one takes the answers."""
    file = write(tmp_path, {"class_folders": True}, FOLDERS, predict=predict)
    assert told(lambda: read_spec(file))[0] == f"{file} has 1 mistake:\n  `predict`: {message}"


def test_a_joint_of_undeclared_attributes_is_refused(tmp_path: Path) -> None:
    """[label] joint names declared attributes, each once, and at least one."""
    samples = {"class_folders": True}
    joint = {"joint": ["class", "age", "sex"]}
    assert told(lambda: read_spec(write(tmp_path, samples, FOLDERS, label=joint))) == (
        "[label] joint names `age`, `sex`, which no [attributes] table declares",
        "declared are class",
    )
    twice = {"joint": ["class", "class"]}
    assert told(lambda: read_spec(write(tmp_path, samples, FOLDERS, label=twice)))[0] == (
        "[label] joint names `class` twice"
    )
    assert told(lambda: read_spec(write(tmp_path, samples, FOLDERS, label={"joint": []})))[0] == (
        "no attribute makes the label"
    )


def test_training_bands_without_bands_are_refused(tmp_path: Path) -> None:
    """`train_bands` beside `classes` would be without effect, so it is an error."""
    attributes = {"class": {"from": "folder", "classes": ["a", "b"], "train_bands": {"a": 1, "b": "inf"}}}
    assert told(lambda: read_spec(write(tmp_path, {"class_folders": True}, attributes)))[0] == (
        "[attributes.class]: train_bands and train_drop need `bands`"
    )


def test_paths_start_where_the_file_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """root is relative to data.toml, wherever the program runs."""
    touch(tmp_path, "img/cat/a.jpg", "img/dog/b.jpg")
    write(tmp_path, {"root": "img", "class_folders": True}, FOLDERS)
    (tmp_path / "else").mkdir()
    monkeypatch.chdir(tmp_path / "else")
    table = read_samples(read_spec(Path(os.pardir) / "data.toml"))
    assert table.root == tmp_path / "img"


def test_a_users_folds_come_along(home: Path) -> None:
    """A fold column is kept with its samples, in their order, also when samples are left out."""
    samples = table(home, "file,kind,k\na.jpg,cat,x\nb.jpg,dog,y\nsub/c.jpg,cat,x\n", fold="k")
    assert samples.fold is not None
    kept = samples.without(["b.jpg"])
    assert kept.fold is not None
    assert kept.fold.to_list() == ["x", "x"]


def test_a_list_of_exclusions_leaves_out_samples_and_groups(tmp_path):
    """`[samples] exclude` names ids or groups; one that is neither, or no column id, is an error."""
    for person in ("a", "b", "c"):
        for shot in ("x", "y"):
            file = tmp_path / "images" / person / f"{shot}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"")
    text = (
        '[samples]\nroot = "images"\ntemplate = "{person}/{shot}.{ext}"\ngroup = "person"\nexclude = "out.csv"\n'
        '[attributes.shot]\nclasses = ["x", "y"]\n'
    )
    (tmp_path / "data.toml").write_text(text)
    (tmp_path / "out.csv").write_text("id,reason\na/x.jpg,broken\nb,copy\n")
    spec = read_spec(tmp_path / "data.toml")
    assert read_samples(spec).ids == ["a/y.jpg", "c/x.jpg", "c/y.jpg"]
    (tmp_path / "out.csv").write_text("id\nd\n")
    with pytest.raises(DataError, match="no sample and no group"):
        read_samples(spec)
    (tmp_path / "out.csv").write_text("name\na\n")
    with pytest.raises(DataError, match="lacks the column id"):
        read_samples(spec)
