"""data.toml, and what it points at, read into a sample table.

Three sources give a frame of text columns (`path` and whatever paths or rows say); `parse` splits
columns further; attributes turn raw values into classes; patches mend labels; the joint class follows.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import polars as pl

from finefold.data.images import list_images
from finefold.data.labelling import label_samples
from finefold.data.labels import Attribute, Bands, LabelSpace
from finefold.data.samples import SampleTable
from finefold.data.schema import AttributeTable, DataFile, PredictTable, SamplesTable
from finefold.data.strict import load_toml, validate
from finefold.errors import DataError

_FIELD = re.compile(r"\{(\w+)(?::(int))?\}")


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
    if table.bands is not None:
        bands = Bands.from_mapping(table.bands)
        return Attribute(
            name,
            bands.names,
            column,
            bands=bands,
            train_bands=Bands.from_mapping(table.train_bands) if table.train_bands else None,
            train_drop=tuple(table.train_drop),
        )
    classes = table.classes if isinstance(table.classes, dict) else {value: [value] for value in table.classes or []}
    drop = tuple(table.train_drop)
    return Attribute(name, tuple(classes), column, patterns=tuple(map(tuple, classes.values())), train_drop=drop)


def read_samples(spec: DataSpec) -> SampleTable:
    """The labelled samples of a data.toml, sorted as their source lists them (folders: natural order).

    Raises:
        DataError: the source is missing, a path or row does not fit what data.toml says of it, a value
            belongs to no class, or a patch does not apply.
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
    frame = _identify(frame, table)
    fold = _column(frame, table.fold, "fold") if table.fold else None
    patches = spec.folder / table.patches if table.patches else None
    return SampleTable(label_samples(frame, spec.space, patches), spec.space, spec.root, fold)


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
        frame = frame.filter(pl.col("folder").is_not_null())
    outside = frame.filter(pl.col("folder").is_null())
    if outside.height:
        raise DataError(
            f"{outside.height} images lie outside any class folder, e.g. {outside['path'][0]}",
            'move them into a folder, or leave them out: [samples] ignore = ["*.jpg"]',
        )
    return frame.with_columns(pl.col("source").str.strip_chars_end("/"))


def _from_rows(table: SamplesTable, folder: Path, root: Path) -> pl.DataFrame:
    assert table.csv is not None and table.path is not None
    file = folder / table.csv
    frame = read_rows(file, separator=table.separator, columns=table.columns)
    paths = _column(frame, table.path, "path") + table.suffix
    frame = frame.with_columns(paths.str.replace_all("\\", "/", literal=True).alias("path"))
    frame = frame.filter(~_ignored(frame["path"], table.ignore))
    missing = [path for path in frame["path"] if not (root / path).exists()]
    if missing:
        raise DataError(
            f"{len(missing)} of {frame.height} images that {file.name} names do not exist under {root}, "
            f"e.g. {missing[0]}",
            "mend `root`, `path` or `suffix` in [samples], or leave rows out with `ignore`",
        )
    return frame


def _ignored(paths: pl.Series, patterns: list[str]) -> pl.Series:
    return pl.Series([any(fnmatchcase(path, p) for p in patterns) for path in paths], dtype=pl.Boolean)


def read_rows(file: Path, *, separator: str = ",", columns: list[str] | None = None) -> pl.DataFrame:
    """A CSV or Parquet file with every column as text, so that leading zeros survive.

    Args:
        file: `.parquet`, or text with a header line (without one where `columns` names them).
        separator: one character, or "whitespace" for runs of blanks.
        columns: names of the columns of a file without a header line.
    """
    try:
        if file.suffix.lower() in {".parquet", ".pq"}:
            return pl.read_parquet(file).with_columns(pl.all().cast(pl.String))
        text = file.read_text(encoding="utf-8-sig")
    except OSError as reason:
        raise DataError(f"cannot read {file}: {reason.strerror}", "mend the path in data.toml") from reason
    except (pl.exceptions.PolarsError, UnicodeDecodeError) as reason:
        raise DataError(f"cannot read {file}: {reason}", "save it as UTF-8 CSV or as Parquet") from reason
    if separator == "whitespace":
        text = "\n".join("\t".join(line.split()) for line in text.splitlines() if line.strip())
        separator = "\t"
    try:
        return pl.read_csv(
            text.encode(),
            separator=separator,
            has_header=columns is None,
            new_columns=columns,
            infer_schema=False,
        )
    except pl.exceptions.PolarsError as reason:
        raise DataError(f"cannot read {file}: {reason}", "check `separator` and `columns` in data.toml") from reason


def _column(frame: pl.DataFrame, name: str, key: str) -> pl.Series:
    if name not in frame.columns:
        raise DataError(
            f"[samples] {key} = `{name}`: there is no such column",
            f"the source has {', '.join(frame.columns)}",
        )
    column = frame[name]
    if column.null_count():
        row = column.is_null().arg_true()[0]
        raise DataError(f"[samples] {key} = `{name}`: row {row + 1} has no value", "fill it in, or drop the row")
    return column


def template_pattern(template: str) -> str:
    """`{id}_{age:int}.{ext}` as an anchored regular expression with named groups; a field never spans a `/`."""
    pattern, end, seen = "", 0, set[str]()
    for field in _FIELD.finditer(template):
        name, kind = field.group(1), field.group(2)
        if name in seen:
            raise DataError(f"template `{template}` names `{name}` twice", "name every field once")
        seen.add(name)
        pattern += re.escape(template[end : field.start()])
        pattern += f"(?P<{name}>{'[0-9]+' if kind == 'int' else '[^/]+?'})"
        end = field.end()
    rest = template[end:]
    if not seen or "{" in rest or "}" in rest:
        raise DataError(f"`{template}` is not a template", "write fields in braces: {folder}/{shot}.{ext}")
    return f"^{pattern}{re.escape(rest)}$"


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


def _identify(frame: pl.DataFrame, table: SamplesTable) -> pl.DataFrame:
    """Gives every sample the columns `id`, `group` and `source`."""
    columns: Mapping[str, pl.Series | pl.Expr] = {
        "id": _column(frame, table.id, "id") if table.id else frame["path"],
        "group": _column(frame, table.group, "group") if table.group else pl.col("id"),
        "source": frame["source"] if "source" in frame.columns else pl.lit(""),
    }
    for name, column in columns.items():
        frame = frame.with_columns(column.alias(name))
    return frame
