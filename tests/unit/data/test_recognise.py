"""Layouts of the world: what is recognised reads as samples, and what is not is said."""

import importlib.util
import os
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import tomli_w

from finefold.data.recognise import Layout, recognise
from finefold.data.samples import SampleTable
from finefold.data.sources import read_samples, read_spec
from finefold.errors import DataError

SHARED = Path(__file__).parents[4] / "shared" / "data"
SHOTS = ("mask1", "mask2", "mask3", "mask4", "mask5", "incorrect_mask", "normal")


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def read(folder: Path) -> tuple[Layout, SampleTable]:
    """What is recognised, and the samples that its tables, written as data.toml, give."""
    layout = recognise(folder)
    file = folder / "written.toml"
    file.write_text(tomli_w.dumps(layout.tables), encoding="utf-8")
    return layout, read_samples(read_spec(file))


# -------------------------------------------------------------------------------------------- class folders


def test_class_folders(tmp_path: Path) -> None:
    """A folder per class, in natural order; empty folders, hidden ones and system files are no classes."""
    touch(
        tmp_path, *(f"{name}/{shot}.jpg" for name in ("10", "9", "1") for shot in "ab"), ".git/x/a.jpg", "1/Thumbs.db"
    )
    (tmp_path / "empty").mkdir()
    layout, samples = read(tmp_path)
    assert layout.kind == "a folder per class"
    assert layout.tables == {
        "samples": {"root": ".", "class_folders": True},
        "attributes": {"class": {"from": "folder", "classes": ["1", "9", "10"]}},
        "label": {"joint": ["class"]},
    }
    assert samples.counts_K().tolist() == [2, 2, 2]
    assert layout.notes == ()


@pytest.mark.parametrize("depth", ["data", "a/b/c", "set/Train"])
def test_class_folders_deep_down(tmp_path: Path, depth: str) -> None:
    """Folders that hold nothing but one folder are gone through, whatever lies hidden beside it."""
    touch(tmp_path, f"{depth}/cat/x/a.jpg", f"{depth}/dog/b.png", "__MACOSX/._a.jpg", "README.md")
    layout, samples = read(tmp_path)
    assert layout.tables["samples"]["root"] == depth
    assert samples.space.class_names == ("cat", "dog")


@pytest.mark.parametrize(
    ("parts", "test"), [(("train", "valid"), "test"), (("Training", "Validation"), "Testing"), (("train", "val"), None)]
)
def test_class_folders_under_parts(tmp_path: Path, parts: tuple[str, str], test: str | None) -> None:
    """train/ and valid/ are read together, test/ is what to predict, a class in one part only is a class."""
    touch(tmp_path, f"deep/{parts[0]}/cat/a.jpg", f"deep/{parts[1]}/cat/a.jpg", f"deep/{parts[1]}/dog/b.jpg")
    if test:
        touch(tmp_path, f"deep/{test}/x.jpg")
    layout, samples = read(tmp_path)
    assert layout.tables["samples"]["parts"] == list(parts)
    assert samples.counts_K().tolist() == [2, 1]
    assert samples.frame["source"].to_list() == [parts[0], parts[1], parts[1]]
    assert layout.notes[0] == f"{parts[0]} and {parts[1]} are read together: cross-validation makes its own folds"
    assert layout.tables.get("predict") == ({"root": f"deep/{test}"} if test else None)


def test_a_lone_train_beside_test(tmp_path: Path) -> None:
    """train/ and test/ without valid/: one part, and the images to predict."""
    touch(tmp_path, "train/cat/a.jpg", "train/dog/b.jpg", "test/c.jpg")
    layout, samples = read(tmp_path)
    assert samples.ids == ["train/cat/a.jpg", "train/dog/b.jpg"]
    assert layout.tables["predict"] == {"root": "test"}
    assert layout.notes == ("[predict] answers for the images in test",)


@pytest.mark.parametrize("loose", ["c.jpg", "scan[1].png", "what?.jpg", "*.jpg"])
@pytest.mark.parametrize("home", ["", "train/"])
def test_images_beside_class_folders_are_ignored_by_name(tmp_path: Path, home: str, loose: str) -> None:
    """Loose images are left out, whatever characters their names have, and nothing else is."""
    touch(tmp_path, f"{home}cat/a.jpg", f"{home}cat/scan1.png", f"{home}dog/what!.jpg", f"{home}{loose}", "test/x.jpg")
    if not home:
        (tmp_path / "test" / "x.jpg").unlink()
    layout, samples = read(tmp_path)
    assert samples.ids == [f"{home}cat/a.jpg", f"{home}cat/scan1.png", f"{home}dog/what!.jpg"]
    assert "1 images outside any class folder are ignored" in layout.notes


def test_a_class_folder_called_id_is_told(tmp_path: Path) -> None:
    """A class `id` is recognised, and refused with the line that mends it."""
    touch(tmp_path, "id/a.jpg", "cat/b.jpg")
    with pytest.raises(DataError, match="a class is called `id`, which is a column of the ledger") as caught:
        read(tmp_path)
    assert caught.value.hint is not None
    assert '"class id" = ["id"]' in caught.value.hint


def test_folder_names_that_cannot_be_written_are_no_classes(tmp_path: Path) -> None:
    """A folder whose name is no UTF-8 holds no samples, so it is no class."""
    touch(tmp_path, "cat/a.jpg", "dog/b.jpg")
    os.mkdir(os.fsencode(tmp_path) + b"/\xff")  # noqa: PTH102 - bytes
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff")) / "c.jpg").touch()
    assert read(tmp_path)[1].space.class_names == ("cat", "dog")


def test_class_names_of_any_script(tmp_path: Path) -> None:
    """Names with blanks, quotes, brackets and other scripts survive data.toml."""
    names = ['"q"', "[x]", "a b", "x\\y", "ключ", "日本"]
    touch(tmp_path, *(f"{name}/a.jpg" for name in names))
    assert set(read(tmp_path)[1].space.class_names) == set(names)


# ------------------------------------------------------------------------------------- tables beside images


def images(root: Path, *, number: int = 8, suffix: str = ".jpg") -> list[str]:
    names = [f"{row:03}{suffix}" for row in range(number)]
    touch(root, *names)
    return names


def write_rows(file: Path, separator: str = ",", /, **columns: list[Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pl.DataFrame(columns).write_csv(file, separator=separator)


LABELS = ["10", "2"] * 4


@pytest.mark.parametrize("place", ["", "images", "data/images"])
@pytest.mark.parametrize("label", ["label", "Class", "target", "breed"])
def test_a_table_beside_images(tmp_path: Path, place: str, label: str) -> None:
    """Images beside the table, or one or two folders deep; a label's usual name; natural order of classes."""
    names = images(tmp_path / place)
    write_rows(tmp_path / "train.csv", file=names, more=["x", "y"] * 4, **{label: LABELS})
    layout, samples = read(tmp_path)
    assert layout.kind == "a table beside images (train.csv)"
    assert layout.tables["samples"] == {"root": place or ".", "csv": "train.csv", "path": "file"}
    assert samples.space.class_names == ("2", "10")
    assert samples.ids == names
    assert layout.notes == (f"labels come from {label} of train.csv; images from column file",)


def test_a_table_in_a_folder(tmp_path: Path) -> None:
    """The table may lie in the images' folder, or in one beside it."""
    names = images(tmp_path / "img")
    write_rows(tmp_path / "meta" / "labels.csv", file=names, label=LABELS)
    assert read(tmp_path)[0].tables["samples"] == {"root": "img", "csv": "meta/labels.csv", "path": "file"}


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".JPG", ".jpeg"])
def test_a_table_of_stems(tmp_path: Path, suffix: str) -> None:
    """A column of ids without an extension names images: the extension is found."""
    names = images(tmp_path / "train", suffix=suffix)
    write_rows(tmp_path / "train.csv", id=[name.removesuffix(suffix) for name in names], label=LABELS)
    layout, samples = read(tmp_path)
    assert layout.tables["samples"] == {"root": "train", "csv": "train.csv", "path": "id", "suffix": suffix}
    assert samples.ids == names


@pytest.mark.parametrize("separator", [";", "\t"])
def test_a_table_with_another_separator(tmp_path: Path, separator: str) -> None:
    """Semicolons and tabs are found out and written down."""
    write_rows(tmp_path / "train.csv", separator, file=images(tmp_path), label=LABELS)
    layout, samples = read(tmp_path)
    assert layout.tables["samples"]["separator"] == separator
    assert len(samples) == 8


def test_a_table_in_parquet(tmp_path: Path) -> None:
    """A Parquet file with numbers for labels is a table too."""
    pl.DataFrame({"file": images(tmp_path), "label": [3, 20] * 4}).write_parquet(tmp_path / "train.parquet")
    assert read(tmp_path)[1].space.class_names == ("3", "20")


def test_a_table_with_windows_paths(tmp_path: Path) -> None:
    """Backslashes in paths are folders' separators here as in reading."""
    write_rows(tmp_path / "t.csv", file=[f"img\\{name}" for name in images(tmp_path / "img")], label=LABELS)
    assert read(tmp_path)[1].ids[0] == "img/000.jpg"


def test_groups_and_folds_are_recognised(tmp_path: Path) -> None:
    """A patient column is the group and a fold column gives the folds; neither they nor split are labels."""
    write_rows(
        tmp_path / "t.csv",
        file=images(tmp_path),
        kind=["a", "b"] * 4,
        patient=["p", "p", "q", "q"] * 2,
        fold=[0, 1] * 4,
        split=["train", "test"] * 4,
    )
    layout, samples = read(tmp_path)
    assert layout.tables["label"] == {"joint": ["kind"]}
    assert layout.notes[1:] == ("the group is `patient`: its images stay in one fold", "folds come from column `fold`")
    assert samples.groups[:3] == ["p", "p", "q"]
    assert samples.fold is not None


def test_columns_of_few_values_are_attributes(tmp_path: Path) -> None:
    """Without a usual name, columns of few repeated values make the joint class; names of ours are changed."""
    write_rows(tmp_path / "t.csv", file=images(tmp_path), source=["a", "b"] * 4, id=["l", "l", "r", "r"] * 2)
    layout, samples = read(tmp_path)
    assert list(layout.tables["attributes"]) == ["source_class", "id_class"]
    assert samples.space.class_names == ("a/l", "a/r", "b/l", "b/r")
    assert samples.labels_N.tolist() == [0, 2, 1, 3] * 2


def test_many_columns_do_not_make_a_label_without_end(tmp_path: Path) -> None:
    """Forty yes-no columns are all declared, and as many joined as make a label that can be learned."""
    flags = {f"f{number:02}": ["0", "1"] * 4 for number in range(40)}
    write_rows(tmp_path / "attr.csv", file=images(tmp_path), **flags)
    layout, samples = read(tmp_path)
    assert len(layout.tables["attributes"]) == 40
    assert samples.space.names == tuple(f"f{number:02}" for number in range(7))
    assert layout.notes[-1] == (
        "the label is f00, f01, f02, f03, f04, f05, f06; all columns together would make too many classes"
    )


def test_the_training_table_goes_before_templates(tmp_path: Path) -> None:
    """A sample submission and a test table that lie first in the alphabet are not taken for labels."""
    names = images(tmp_path / "images", number=16)
    write_rows(tmp_path / "sample_submission.csv", image=names[8:], label=LABELS)
    write_rows(tmp_path / "test.csv", image=names[8:], label=LABELS)
    write_rows(tmp_path / "train.csv", image=names[:8], label=LABELS)
    assert read(tmp_path)[0].tables["samples"]["csv"] == "train.csv"


def test_tables_that_have_nothing_to_do_with_it_do_no_harm(tmp_path: Path) -> None:
    """Torn, foreign, empty, huge-celled and hidden tables beside class folders are passed over."""
    touch(tmp_path, "cat/a.jpg", "dog/b.jpg")
    (tmp_path / "a.csv").write_bytes("größe,x\n".encode("latin-1"))
    (tmp_path / "b.csv").write_text("")
    (tmp_path / "c.csv").write_text('x,y\n"torn\n')
    (tmp_path / "d.csv").write_text("pixels,label\n" + "".join(f"{'7 ' * 2000}{row},{row % 2}\n" for row in range(9)))
    (tmp_path / "e.parquet").write_text("none")
    (tmp_path / "f.csv").mkdir()
    (tmp_path / "._g.csv").write_bytes(b"\0\5\x16\7")
    write_rows(
        tmp_path / ".ipynb_checkpoints" / "h.csv", file=["../cat/a.jpg", "../dog/b.jpg"] * 2, label=["a", "b"] * 2
    )
    assert read(tmp_path)[0].kind == "a folder per class"


def test_labels_with_gaps_are_told(tmp_path: Path) -> None:
    """A row without a label is an error that counts it, not a class."""
    write_rows(tmp_path / "t.csv", file=images(tmp_path), label=["a", "b", "a", "b", "a", "b", "a", None])
    with pytest.raises(DataError, match=r"1 samples have a value no class claims: \(empty\)"):
        read(tmp_path)


def test_blanks_beside_other_labels_are_declared(tmp_path: Path) -> None:
    """Where a sample has another label, a blank one is declared missing and told; other columns declare nothing."""
    names = images(tmp_path)
    write_rows(tmp_path / "t.csv", file=names, sort=["a", "b"] * 4, mood=["x", None, "y", "y", "x", None, "x", "y"])
    layout, samples = read(tmp_path)
    assert layout.tables["attributes"]["mood"] == {"from": "mood", "classes": ["x", "y"], "missing": [""]}
    assert "missing" not in layout.tables["attributes"]["sort"]
    assert layout.notes[-1] == "2 blank values of `mood` are taken for not known ([attributes.mood] missing)"
    assert samples.num_missing() == {"mood": 2}


# ---------------------------------------------------------------------------------------------- mask layout


def people(root: Path, *names: str) -> None:
    for number, name in enumerate(names):
        touch(root, *(f"{name}/{shot}{('.jpg', '.png', '.jpeg')[number % 3]}" for shot in SHOTS))


def test_the_mask_layout(tmp_path: Path) -> None:
    """18 classes, the folder as group, suffixes and leading zeros kept, the template found."""
    people(tmp_path / "train" / "images", "000001_female_Asian_45", "001498-1_male_Asian_060", "003277_male_Asian_9")
    write_rows(tmp_path / "train" / "train.csv", id=["1"] * 3, path=["a"] * 3)
    touch(tmp_path, "eval/images/aa.jpg", "eval/images/bb.jpg", "eval/._info.csv")
    write_rows(tmp_path / "eval" / "info.csv", ImageID=["bb.jpg", "aa.jpg"], ans=[0, 0])
    layout, samples = read(tmp_path)
    assert layout.kind == "mask layout (people with a folder each)"
    assert len(samples) == 21
    assert set(samples.groups) == {"000001_female_Asian_45", "001498-1_male_Asian_060", "003277_male_Asian_9"}
    codes = dict(zip(samples.ids, samples.labels_N.tolist(), strict=True))
    assert codes["000001_female_Asian_45/mask3.jpg"] == 0 * 6 + 1 * 3 + 1
    assert codes["001498-1_male_Asian_060/incorrect_mask.png"] == 1 * 6 + 0 * 3 + 2
    assert codes["003277_male_Asian_9/normal.jpeg"] == 2 * 6 + 0 * 3 + 0
    assert layout.tables["predict"] == {
        "root": "eval/images",
        "template_csv": "eval/info.csv",
        "id_column": "ImageID",
        "answer_column": "ans",
    }
    assert layout.notes == (
        "the group is the folder: all photos of a person stay in one fold",
        "[predict] answers for 2 images in eval/images",
    )


def test_the_mask_layout_without_its_train_folder(tmp_path: Path) -> None:
    """The folder that holds images/ is recognised as well."""
    people(tmp_path / "images", "000001_female_Asian_45", "000002_male_Asian_20")
    layout, samples = read(tmp_path)
    assert layout.tables["samples"]["root"] == "images"
    assert len(samples) == 14


def test_a_template_may_name_images_by_stem(tmp_path: Path) -> None:
    """Ids without an extension belong to the images as well."""
    people(tmp_path / "train" / "images", "1_female_Asian_45", "2_male_Asian_20")
    touch(tmp_path, "eval/images/aa.jpg")
    write_rows(tmp_path / "eval" / "info.csv", n=[7], who=["aa"], ans=[0])
    assert recognise(tmp_path).tables["predict"]["id_column"] == "who"


def test_strangers_among_people_are_ignored(tmp_path: Path) -> None:
    """A folder or image that is nobody's, sorted before everyone, spoils nothing and is told."""
    people(tmp_path / "train" / "images", *(f"{number:06}_male_Asian_{number}" for number in range(20, 40)))
    touch(tmp_path / "train" / "images", "!old[1]/x.jpg", "sheet[2].jpg", "000020_male_Asian_20/._mask1.jpg")
    layout, samples = read(tmp_path)
    assert len(samples) == 140
    assert layout.notes[0] == "2 folders or images that do not belong to a person are ignored: !old[[]1]/*"


def test_people_without_shots_are_no_mask_layout(tmp_path: Path) -> None:
    """Folders named like people with other photos are class folders, if anything."""
    touch(tmp_path, "images/1_male_Asian_20/a.jpg", "images/2_male_Asian_20/a.jpg")
    assert recognise(tmp_path).kind == "a folder per class"


# ----------------------------------------------------------------------------------------------------- ELPV


def test_elpv(tmp_path: Path) -> None:
    """labels.csv of path, probability and type: four levels by two types, in that order."""
    touch(tmp_path, *(f"images/{number}.png" for number in range(4)))
    rows = ["images/0.png  1.0  mono", "images/1.png  0.3333333333333333  poly", "images/2.png  0.0 poly", ""]
    (tmp_path / "labels.csv").write_text("\r\n".join([*rows, "images/3.png\t0.6666666666666666\tmono\n"]))
    layout, samples = read(tmp_path)
    assert layout.kind == "ELPV solar cells (labels.csv: path, defect probability, module type)"
    assert samples.space.class_names == (
        "0/mono",
        "0/poly",
        "1/3/mono",
        "1/3/poly",
        "2/3/mono",
        "2/3/poly",
        "1/mono",
        "1/poly",
    )
    assert samples.labels_N.tolist() == [6, 3, 1, 4]


def test_the_real_elpv_package() -> None:
    """The installed data set is recognised: 2,624 cells, 8 classes, no one class empty."""
    spec = importlib.util.find_spec("elpv_dataset")
    if spec is None or spec.origin is None:
        pytest.skip("the elpv-dataset package is not installed")
    layout = recognise(Path(spec.origin).parent / "data")
    assert layout.tables["samples"]["separator"] == "whitespace"
    assert layout.tables["label"] == {"joint": ["defect", "type"]}


@pytest.mark.parametrize(
    "content", [b"", b"\n\n", b"a b c\n", b"images/0.png,1.0,mono\n", b"\xff\xfe\0 \0 x 1 2\n", b"x 2.0 mono\n"]
)
def test_another_labels_csv_is_not_elpv(tmp_path: Path, content: bytes) -> None:
    """A labels.csv of another make is not read as ELPV's, nor does it raise."""
    touch(tmp_path, "images/0.png", "cat/a.jpg", "dog/b.jpg")
    (tmp_path / "labels.csv").write_bytes(content)
    assert recognise(tmp_path).kind == "a folder per class"


# ------------------------------------------------------------------------------------------ nothing, or odd


def test_nothing_recognised(tmp_path: Path) -> None:
    """An empty folder, loose images, or a single class: told what was looked for."""
    told = {
        (): "there is no image in it; ",
        ("a.jpg", "b.jpg"): "all images lie in one folder (2), which is one class at most; ",
        ("cat/c.jpg",): "",
        ("cat/deep/d.jpg",): "",
    }
    for names, why in told.items():
        touch(tmp_path, *names)
        with pytest.raises(DataError) as caught:
            recognise(tmp_path)
        assert caught.value.message == f"no labels recognised in {tmp_path}"
        assert caught.value.hint == (
            f"{why}looked for: a folder per class, a CSV or Parquet file naming images, the mask layout "
            "(train/images/<id>_<gender>_<race>_<age>/), ELPV's labels.csv; or write data.toml by hand"
        )


def test_a_missing_folder(tmp_path: Path) -> None:
    """No such folder, or a file in its place, is told."""
    touch(tmp_path, "file")
    told = {"none": f"the folder {tmp_path / 'none'} does not exist", "file": f"{tmp_path / 'file'} is a file"}
    for name, message in told.items():
        with pytest.raises(DataError, match=message) as caught:
            recognise(tmp_path / name)
        assert caught.value.hint == "give the folder that holds your images and labels"


def test_a_folder_that_links_to_itself(tmp_path: Path) -> None:
    """A loop of links ends."""
    (tmp_path / "loop").symlink_to(tmp_path)
    with pytest.raises(DataError, match="no labels recognised"):
        recognise(tmp_path)


@pytest.mark.parametrize(
    ("name", "kind", "num_samples", "num_classes"),
    [
        ("maskfaces", "mask layout (people with a folder each)", 2821, 18),
        ("facemask_folders", "a folder per class", 1197, 2),
    ],
)
def test_the_shared_data(name: str, kind: str, num_samples: int, num_classes: int, tmp_path: Path) -> None:
    """Real folders, faults and all, are recognised and read."""
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent")
    layout = recognise(folder)
    assert layout.kind == kind
    tables = layout.tables | {
        "samples": layout.tables["samples"] | {"root": str(folder / layout.tables["samples"]["root"])}
    }
    (tmp_path / "data.toml").write_text(tomli_w.dumps(tables))
    samples = read_samples(read_spec(tmp_path / "data.toml"))
    assert (len(samples), samples.space.num_classes) == (num_samples, num_classes)
