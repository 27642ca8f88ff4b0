"""Looking at a folder and saying, as the tables of a data.toml, how it is laid out. Asks nothing.

Recognised, first match wins: the mask layout, ELPV's `labels.csv`, a CSV or Parquet file beside
images, class folders (also under train/valid).
"""

import os
import re
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any

import polars as pl

from finefold.data.images import IMAGE_SUFFIXES, is_hidden_or_system, is_utf8, list_images, natural_key
from finefold.data.labels import RESERVED
from finefold.data.rows import read_rows
from finefold.errors import DataError

TRAIN_PARTS = ("train", "training", "valid", "validation", "val")
TEST_PARTS = ("test", "eval", "testing")
LABEL_NAMES = ("label", "class", "target", "y", "category", "diagnosis", "species", "breed")
GROUP_NAMES = (
    "group",
    "subject",
    "patient",
    "person",
    "subject_id",
    "patient_id",
    "person_id",
    "identity",
    "user_id",
)
MASK_FOLDER = re.compile(r"^[^_/]+_(male|female)_[^_/]+_\d+$")
MASK_SHOTS = {"normal", "incorrect_mask", "mask1", "mask2", "mask3", "mask4", "mask5"}
PART_NAMES = ("fold", "split", "set", "subset", "partition", "usage")
MAX_CLASSES = 200  # a column with more distinct values is not taken for a label, nor are more joint classes
SUFFIXES = (*sorted(IMAGE_SUFFIXES), *sorted(suffix.upper() for suffix in IMAGE_SUFFIXES))
SEPARATORS = (",", ";", "\t")


@dataclass(frozen=True)
class Layout:
    """What was recognised.

    Args:
        kind: in words.
        tables: data.toml's tables; paths relative to the looked-at folder.
        notes: what a person should know about the guess.
    """

    kind: str
    tables: dict[str, Any]
    notes: tuple[str, ...] = ()


def recognise(folder: Path) -> Layout:
    """The layout of `folder`.

    Raises:
        DataError: the folder does not exist, or nothing in it looks like labelled images.
    """
    if not folder.is_dir():
        problem = f"{folder} is a file" if folder.exists() else f"the folder {folder} does not exist"
        raise DataError(problem, "give the folder that holds your images and labels")
    for look in (_mask_layout, _elpv, _table_beside_images, _class_folders):
        layout = look(folder)
        if layout is not None:
            return layout
    raise DataError(
        f"no labels recognised in {folder}",
        f"{_images_in_words(folder)}looked for: a folder per class, a CSV or Parquet file naming images, the mask "
        "layout (train/images/<id>_<gender>_<race>_<age>/), ELPV's labels.csv; or write data.toml by hand",
    )


def _images_in_words(folder: Path) -> str:
    """What the lack of labels may come from: no images, or all of them in one folder."""
    paths = list_images(folder).paths
    homes = {str(Path(path).parent) for path in paths}
    if not paths:
        return "there is no image in it; "
    return f"all images lie in one folder ({len(paths):,}), which is one class at most; " if len(homes) == 1 else ""


def _mask_layout(folder: Path) -> Layout | None:
    for train in (folder / "train", folder):
        people = _subfolders(train / "images")
        if people and sum(bool(MASK_FOLDER.match(name)) for name in people) >= 0.9 * len(people):
            break
    else:
        return None
    images = train / "images"
    strangers = [name for name in people if not MASK_FOLDER.match(name)]
    if not any(_shots(images / name) & MASK_SHOTS for name in people if name not in strangers):
        return None
    tables: dict[str, Any] = {
        "samples": {
            "root": images.relative_to(folder).as_posix(),
            "template": "{folder}/{shot}.{ext}",
            "group": "folder",
            "parse": {"folder": "{person}_{gender}_{race}_{age:int}"},
        },
        "attributes": {
            "mask": {
                "from": "shot",
                "classes": {"wear": ["mask*"], "incorrect": ["incorrect_mask"], "normal": ["normal"]},
            },
            "gender": {"from": "gender", "classes": ["male", "female"]},
            "age": {"from": "age", "bands": {"<30": 30, "30-59": 60, ">=60": "inf"}},
        },
        "label": {"joint": ["mask", "gender", "age"]},
    }
    notes = []
    if ignored := [*(f"{escape(name)}/*" for name in strangers), *_loose_images(images, [images])]:
        tables["samples"]["ignore"] = ignored
        notes.append(f"{len(ignored)} folders or images that do not belong to a person are ignored: {ignored[0]}")
    notes.append("the group is the folder: all photos of a person stay in one fold")
    _add_template(tables, folder, notes)
    return Layout("mask layout (people with a folder each)", tables, tuple(notes))


def _shots(person: Path) -> set[str]:
    return {Path(path).stem for path in list_images(person).paths}


def _add_template(tables: dict[str, Any], folder: Path, notes: list[str]) -> None:
    """Adds [predict] where an evaluation folder with images, and perhaps an answer template, lies beside."""
    for part in TEST_PARTS:
        images = next(
            (d for d in (folder / part / "images", folder / part) if d.is_dir() and list_images(d).paths),
            None,
        )
        if images is None:
            continue
        predict: dict[str, Any] = {"root": images.relative_to(folder).as_posix()}
        paths = [Path(path) for path in list_images(images).paths]
        names = {name for path in paths for name in (path.name, path.stem)}
        for file in _tables(folder / part, "*.csv"):
            rows, _ = _read_table(file, (",",))  # as templates are read
            id_column = next((name for name in rows.columns if set(rows[name].drop_nulls()) & names), None)
            others = [name for name in rows.columns if name != id_column]
            if id_column and others:
                template = {"template_csv": file.relative_to(folder).as_posix(), "id_column": id_column}
                predict |= {**template, "answer_column": others[-1]}
                break
        tables["predict"] = predict
        notes.append(f"[predict] answers for {len(paths)} images in {predict['root']}")
        return


def _elpv(folder: Path) -> Layout | None:
    file = folder / "labels.csv"
    if not file.is_file():
        return None
    text = file.read_text(encoding="utf-8-sig", errors="replace")
    lines = [line.split() for line in text.splitlines()[:20] if line.strip()]
    if not lines or any(len(line) != 3 or "," in "".join(line) for line in lines):
        return None
    if not (folder / lines[0][0]).is_file() or not re.fullmatch(r"[01](\.\d+)?", lines[0][1]):
        return None
    tables = {
        "samples": {
            "root": ".",
            "csv": "labels.csv",
            "separator": "whitespace",
            "columns": ["path", "probability", "type"],
            "path": "path",
        },
        "attributes": {
            "defect": {
                "from": "probability",
                "classes": {"0": ["0.0", "0"], "1/3": ["0.3*"], "2/3": ["0.6*"], "1": ["1.0", "1"]},
            },
            "type": {"from": "type", "classes": ["mono", "poly"]},
        },
        "label": {"joint": ["defect", "type"]},
    }
    return Layout("ELPV solar cells (labels.csv: path, defect probability, module type)", tables)


def _table_beside_images(folder: Path) -> Layout | None:
    for file in _tables(folder, "*.csv", "*.tsv", "*.parquet", "*/*.csv"):
        rows, separator = _read_table(file)
        found = _path_column(folder, file, rows)
        if found is None:
            continue
        root, path_column, suffix = found
        labels = _label_columns(rows, path_column)
        if not labels:
            continue
        samples: dict[str, Any] = {
            "root": root.relative_to(folder).as_posix(),
            "csv": file.relative_to(folder).as_posix(),
        }
        samples["path"] = path_column
        if separator != ",":
            samples["separator"] = separator
        if suffix:
            samples["suffix"] = suffix
        notes = [f"labels come from {', '.join(labels)} of {file.name}; images from column {path_column}"]
        group = next((name for name in rows.columns if name.lower() in GROUP_NAMES and name not in labels), None)
        if group:
            samples["group"] = group
            notes.append(f"the group is `{group}`: its images stay in one fold")
        if (fold := next((name for name in rows.columns if name.lower() == "fold"), None)) is not None:
            samples["fold"] = fold
            notes.append(f"folds come from column `{fold}`")
        attributes: dict[str, dict[str, Any]] = {
            _attribute_name(name): {"from": name, "classes": _values(rows[name])} for name in labels
        }
        joint = _joint(attributes)
        if len(joint) > 1:  # of a sample whose only label is blank nothing is known: that is told, not declared
            notes += _declare_blanks(attributes, rows)
        if len(joint) < len(attributes):
            notes.append(f"the label is {', '.join(joint)}; all columns together would make too many classes")
        tables: dict[str, Any] = {"samples": samples, "attributes": attributes, "label": {"joint": joint}}
        _add_template(tables, folder, notes)
        return Layout(f"a table beside images ({file.name})", tables, tuple(notes))
    return None


def _tables(folder: Path, *patterns: str) -> list[Path]:
    """The tables at some places: a training table first, what looks like an answer template last."""
    files = [file for pattern in patterns for file in sorted(folder.glob(pattern))]
    visible = [file for file in files if not any(map(is_hidden_or_system, file.relative_to(folder).parts))]
    return sorted(visible, key=lambda file: bool(re.search("test|sample|submission", file.stem.lower())))


def _read_table(file: Path, separators: tuple[str, ...] = SEPARATORS) -> tuple[pl.DataFrame, str]:
    """A table and its separator; one that cannot be read is empty, for it may have nothing to do with the images."""
    rows = pl.DataFrame()
    for separator in separators:
        with suppress(DataError):
            rows = read_rows(file, separator=separator)
            if rows.width > 1:
                return rows, separator
    return rows, separators[0]


def _values(column: pl.Series) -> list[str]:
    return sorted((value for value in column.unique().drop_nulls() if value), key=natural_key)


def _declare_blanks(attributes: dict[str, dict[str, Any]], rows: pl.DataFrame) -> list[str]:
    """Declares blank values missing, and says so."""
    notes = []
    for name, table in attributes.items():
        if blank := int((rows[table["from"]].fill_null("") == "").sum()):
            table["missing"] = [""]
            notes.append(
                f"{blank} blank values of `{table['from']}` are taken for not known ([attributes.{name}] missing)"
            )
    return notes


def _joint(attributes: dict[str, dict[str, Any]]) -> list[str]:
    """The first attributes, as many as make no more than MAX_CLASSES joint classes together."""
    names, num_classes = list(attributes)[:1], len(next(iter(attributes.values()))["classes"])
    for name in list(attributes)[1:]:
        num_classes *= len(attributes[name]["classes"])
        if num_classes > MAX_CLASSES:
            break
        names.append(name)
    return names


def _attribute_name(column: str) -> str:
    if column not in RESERVED:
        return column
    return "class" if column == "label" else f"{column}_class"


def _path_column(folder: Path, file: Path, rows: pl.DataFrame) -> tuple[Path, str, str] | None:
    """Root, column and missing suffix under which a table's first values name existing images."""
    roots = [file.parent, folder, *(folder / name for name in _subfolders(folder))]
    roots += [folder / a / b for a in _subfolders(folder) for b in _subfolders(folder / a)[:50]]
    for column in rows.columns:
        values = [value.replace("\\", "/") for value in rows[column].drop_nulls().head(20)]
        if not values or len(set(values)) < len(values):
            continue
        has_suffix = Path(values[0]).suffix.lower() in IMAGE_SUFFIXES
        for root in dict.fromkeys(roots):
            for suffix in ("",) if has_suffix else SUFFIXES:
                if all(os.path.isfile(root / (value + suffix)) for value in values):  # noqa: PTH113 - Path raises on long names
                    return root, column, suffix
    return None


def _label_columns(rows: pl.DataFrame, path_column: str) -> list[str]:
    """The column with a label's usual name; else every text column of few, repeated values."""
    columns = [name for name in rows.columns if name != path_column and name.lower() not in {*GROUP_NAMES, *PART_NAMES}]
    few = {name: 2 <= len(_values(rows[name])) <= min(MAX_CLASSES, rows.height // 2) for name in columns}
    usual = [name for name in columns if name.lower() in LABEL_NAMES and few[name]]
    return usual[:1] or [name for name in columns if few[name] and rows[name].n_unique() <= 20]


def _class_folders(folder: Path) -> Layout | None:
    root = folder
    while len(only := _subfolders(root)) == 1 and not _has_images(root):
        root = root / only[0]
    parts = [name for name in _subfolders(root) if name.lower() in TRAIN_PARTS]
    notes: list[str] = []
    tests = [name for name in _subfolders(root) if name.lower() in TEST_PARTS] if parts else []
    homes = [root / part for part in parts] or [root]
    counts: Counter[str] = Counter()
    for home in homes:
        for name in _subfolders(home):
            counts[name] += len(list_images(home / name).paths)
    classes = sorted((name for name, count in counts.items() if count), key=natural_key)
    if len(classes) < 2:
        return None
    samples: dict[str, Any] = {"root": root.relative_to(folder).as_posix(), "class_folders": True}
    if parts:
        samples["parts"] = parts
        if len(parts) > 1:
            notes.append(f"{' and '.join(parts)} are read together: cross-validation makes its own folds")
    if any(_has_images(home) for home in homes):
        samples["ignore"] = _loose_images(root, homes)
        notes.append(f"{len(samples['ignore'])} images outside any class folder are ignored")
    tables: dict[str, Any] = {
        "samples": samples,
        "attributes": {"class": {"from": "folder", "classes": classes}},
        "label": {"joint": ["class"]},
    }
    if tests:
        tables["predict"] = {"root": (root / tests[0]).relative_to(folder).as_posix()}
        notes.append(f"[predict] answers for the images in {tables['predict']['root']}")
    return Layout("a folder per class", tables, tuple(notes))


def _loose_images(root: Path, homes: list[Path]) -> list[str]:
    """Patterns of the images right under `homes`."""
    loose = [child for home in homes for child in sorted(home.iterdir()) if _is_image(child)]
    return [escape(child.relative_to(root).as_posix()) for child in loose]


def _has_images(folder: Path) -> bool:
    return any(_is_image(child) for child in folder.iterdir())


def _is_image(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES and not is_hidden_or_system(path.name)


def _subfolders(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    names = (child.name for child in folder.iterdir() if child.is_dir() and not is_hidden_or_system(child.name))
    return sorted((name for name in names if is_utf8(name)), key=natural_key)
