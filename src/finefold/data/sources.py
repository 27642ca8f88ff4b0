"""data.toml, and what it points at, read into a sample table.

Three sources give a frame of text columns (`path` and whatever paths or rows say); `parse` splits
columns further; attributes turn raw values into classes; patches mend labels; the joint class follows.
"""

import os
import posixpath
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import polars as pl

from finefold.data.images import list_images
from finefold.data.labelling import label_samples
from finefold.data.labels import Attribute, Bands, LabelSpace
from finefold.data.rows import read_rows
from finefold.data.samples import SampleTable
from finefold.data.schema import AttributeTable, DataFile, PredictTable, SamplesTable
from finefold.data.strict import load_toml, validate
from finefold.errors import DataError

_FIELD = re.compile(r"\{([^\W\d]\w*)(?::(int))?\}")


@dataclass(frozen=True)
class DataSpec:
    """A checked data.toml.

    Args:
        file: its tables.
        folder: where it lies; relative paths start here.
        space: the label space it declares.
    """

    file: DataFile
    folder: Path
    space: LabelSpace

    @property
    def root(self) -> Path:
        """Folder of the labelled images."""
        return (self.folder / self.file.samples.root).resolve()

    @property
    def predict(self) -> PredictTable | None:
        """Where the unlabelled images and their template are, if said."""
        return self.file.predict


def read_spec(path: Path) -> DataSpec:
    """A data.toml, checked.

    Raises:
        DataError: the file is missing or malformed, or says something impossible (all of it at once).
    """
    file = validate(DataFile, load_toml(path, DataError), where=str(path), error=DataError)
    return DataSpec(file, path.parent.resolve(), label_space(file))


def label_space(file: DataFile) -> LabelSpace:
    """The label space that `[attributes]` and `[label]` declare."""
    joint = file.label.joint if file.label else list(file.attributes)
    unknown = [name for name in joint if name not in file.attributes]
    if unknown:
        raise DataError(
            f"[label] joint names {', '.join(f'`{name}`' for name in unknown)}, which no [attributes] table declares",
            f"declared are {', '.join(file.attributes)}",
        )
    return LabelSpace(tuple(_attribute(name, file.attributes[name]) for name in joint))


def _attribute(name: str, table: AttributeTable) -> Attribute:
    column = table.from_ or name
    train_bands = None if table.train_bands is None else Bands.from_mapping(table.train_bands)
    if table.bands is not None:
        bands = Bands.from_mapping(table.bands)
        return Attribute(
            name,
            bands.names,
            column,
            bands=bands,
            train_bands=train_bands,
            train_drop=tuple(table.train_drop),
            missing=tuple(table.missing),
        )
    classes = table.classes or {}
    return Attribute(
        name,
        tuple(classes),
        column,
        patterns=tuple(map(tuple, classes.values())),
        train_bands=train_bands,
        train_drop=tuple(table.train_drop),
        missing=tuple(table.missing),
    )


def read_samples(spec: DataSpec) -> SampleTable:
    """The labelled samples of a data.toml, sorted as their source lists them (folders: natural order).

    Raises:
        DataError: the source is missing, a path or row does not fit what data.toml says of it, a value
            belongs to no class, or a patch does not apply.
    """
    return read_and_exclude(spec)[0]


def read_and_exclude(spec: DataSpec) -> tuple[SampleTable, frozenset[str]]:
    """`read_samples`, and the ids of the samples that `[samples] exclude` keeps out."""
    table, frame = spec.file.samples, read_source(spec)
    samples, excluded = _identify(frame, table), frozenset[str]()
    if table.exclude:
        is_out = _excluded(samples, spec.folder / table.exclude)
        excluded = frozenset(samples["id"].filter(is_out))
        samples, frame = samples.filter(~is_out), frame.filter(~is_out)
    fold = _column(frame, table.fold, "fold") if table.fold else None
    patches = spec.folder / table.patches if table.patches else None
    return SampleTable(label_samples(samples, frame, spec.space, patches), spec.space, spec.root, fold), excluded


def read_source(spec: DataSpec) -> pl.DataFrame:
    """What paths or rows say of the labelled images, as text: `path`, and every column or field of the source.

    Raises:
        DataError: the source is missing, or a path or row does not fit what data.toml says of it.
    """
    table = spec.file.samples
    if table.csv:
        frame = _from_rows(table, spec.folder, spec.root)
    elif table.class_folders:
        frame = _from_class_folders(table, spec.root)
    else:
        assert table.template is not None
        frame = _parse(_from_listing(table, spec.root), "path", table.template, "template")
    for column, template in table.parse.items():
        frame = _parse(frame, column, template, f"parse.{column}")
    return frame


def _from_listing(table: SamplesTable, root: Path) -> pl.DataFrame:
    if not root.is_dir():
        raise DataError(f"the folder {root} does not exist", "mend `[samples] root` in data.toml")
    paths = [
        path for path in list_images(root).paths if not any(fnmatchcase(path, pattern) for pattern in table.ignore)
    ]
    return pl.DataFrame({"path": paths}, schema={"path": pl.String})


def _from_class_folders(table: SamplesTable, root: Path) -> pl.DataFrame:
    """Images of `root[/part]/<class>/...`; the columns `folder` (class) and `source` (part) say where each was."""
    frame = _from_listing(table, root)
    prefix = f"(?:{'|'.join(map(re.escape, table.parts))})/" if table.parts else ""
    pattern = rf"^(?P<source>{prefix})(?P<folder>[^/]+)/"
    found = frame["path"].str.extract_groups(pattern).struct.unnest()
    frame = pl.concat([frame, found], how="horizontal")
    if table.parts:  # a part that is not listed (test/) is not a class
        frame = frame.filter(pl.col("path").str.contains(f"^{prefix}"))
    outside = frame.filter(pl.col("folder").is_null())
    if outside.height:
        raise DataError(
            f"{outside.height} images lie outside any class folder, e.g. {outside['path'][0]}",
            'move them into a folder, or leave them out: [samples] ignore = ["*.jpg"]',
        )
    return frame.with_columns(pl.col("source").str.strip_chars_end("/"))


def _from_rows(table: SamplesTable, folder: Path, root: Path) -> pl.DataFrame:
    frame = _rows(table, folder, root)
    missing = _without_file(frame, root)
    if missing:
        name = Path(str(table.csv)).name
        raise DataError(
            f"{len(missing)} of {frame.height} images that {name} names do not exist under {root}, e.g. {missing[0]}",
            f"put them there or take their rows out of {name}; in a data.toml, mend `root`, `path` or `suffix` in "
            "[samples], or leave rows out with `ignore`",
        )
    return frame


def missing_images(spec: DataSpec) -> tuple[list[str], int]:
    """Images that a table names and that are no files, and how many it names; none of a folder.

    Raises:
        DataError: the table cannot be read.
    """
    if not spec.file.samples.csv:
        return [], 0
    frame = _rows(spec.file.samples, spec.folder, spec.root)
    return _without_file(frame, spec.root), frame.height


def _without_file(frame: pl.DataFrame, root: Path) -> list[str]:
    return [path for path in frame["path"] if not os.path.isfile(root / path)]  # noqa: PTH113 - Path raises on long names


def _rows(table: SamplesTable, folder: Path, root: Path) -> pl.DataFrame:
    assert table.csv is not None and table.path is not None
    file = folder / table.csv
    frame = read_rows(file, separator=table.separator, columns=table.columns)
    paths = _column(frame, table.path, "path") + table.suffix
    inside = pl.Series([_inside(path, root) for path in paths], dtype=pl.String)
    frame = frame.with_columns(inside.alias("path"))
    return frame.filter(~_ignored(frame["path"], table.ignore))


def _inside(path: str, root: Path) -> str:
    """A row's path as `list_images` would say it: with /, without detours, relative where it lies in the root."""
    plain = posixpath.normpath(path.replace("\\", "/"))
    return plain.removeprefix(f"{root.as_posix().rstrip('/')}/")


def _ignored(paths: pl.Series, patterns: list[str]) -> pl.Series:
    return pl.Series([any(fnmatchcase(path, p) for p in patterns) for path in paths], dtype=pl.Boolean)


def _column(frame: pl.DataFrame, name: str, key: str) -> pl.Series:
    if name not in frame.columns:
        raise DataError(
            f"[samples] {key} = `{name}`: there is no such column",
            f"the source has {', '.join(frame.columns)}",
        )
    column = frame[name]
    lacks = column.is_null() | (column == "").fill_null(False)
    if lacks.any():
        row = lacks.arg_true()[0]
        raise DataError(f"[samples] {key} = `{name}`: row {row + 1} has no value", "fill it in, or drop the row")
    return column


def template_pattern(template: str) -> str:
    """`{id}_{age:int}.{ext}` as an anchored regular expression with named groups; a field never spans a `/`."""
    pattern, end, seen, texts = "", 0, set[str](), []
    for field in _FIELD.finditer(template):
        name, kind = field.group(1), field.group(2)
        if name in seen:
            raise DataError(f"template `{template}` names `{name}` twice", "name every field once")
        seen.add(name)
        texts.append(template[end : field.start()])
        pattern += re.escape(texts[-1])
        pattern += f"(?P<{name}>{'[0-9]+' if kind == 'int' else '[^/]+?'})"
        end = field.end()
    texts.append(template[end:])
    if not seen or any(brace in text for text in texts for brace in "{}"):
        raise DataError(f"`{template}` is not a template", "write fields in braces: {folder}/{shot}.{ext}")
    return f"^{pattern}{re.escape(texts[-1])}$"


def _parse(frame: pl.DataFrame, column: str, template: str, key: str) -> pl.DataFrame:
    """Adds the fields of `template` found in `column`; a value it does not fit is an error."""
    pattern = template_pattern(template)
    found = _column(frame, column, key).str.extract_groups(pattern).struct.unnest()
    clash = [name for name in found.columns if name in frame.columns]
    if clash:
        raise DataError(f"[samples] {key} names `{clash[0]}`, a column that exists already", "name the field otherwise")
    misfits = frame[column].filter(found[found.columns[0]].is_null())
    if len(misfits):
        raise DataError(
            f"[samples] {key} = `{template}` does not fit {len(misfits)} of {frame.height} values of `{column}`, "
            f"e.g. `{misfits[0]}`",
            'mend the template, or leave such files out: [samples] ignore = ["pattern"]',
        )
    return pl.concat([frame, found], how="horizontal")


def _excluded(samples: pl.DataFrame, file: Path) -> pl.Series:
    """[N] which samples a list of exclusions names, by their id or their group's.

    Raises:
        DataError: the list has no column `id`, or names what is not there: then it belongs to other data.
    """
    rows = read_rows(file)
    if "id" not in rows.columns:
        raise DataError(f"{file.name} lacks the column id", f"it has {', '.join(rows.columns)}")
    names = rows["id"].drop_nulls().unique(maintain_order=True)
    known = set(samples["id"]) | set(samples["group"])
    unknown = [name for name in names if name not in known]
    if unknown:
        raise DataError(
            f"{len(unknown)} of {len(names)} ids in {file.name} are no sample and no group, e.g. `{unknown[0]}`",
            "mend `[samples] exclude` in data.toml, or take the rows out of the list",
        )
    return samples["id"].is_in(names.implode()) | samples["group"].is_in(names.implode())


def _identify(frame: pl.DataFrame, table: SamplesTable) -> pl.DataFrame:
    """Every sample's `id`, `path`, `group` and `source`."""
    ids = _column(frame, table.id, "id") if table.id else frame["path"]
    return pl.DataFrame(
        {
            "id": ids,
            "path": frame["path"],
            "group": _column(frame, table.group, "group") if table.group else ids,
            "source": frame["source"].fill_null("") if "source" in frame.columns else [""] * frame.height,
        },
        schema_overrides={"source": pl.String},
    )
