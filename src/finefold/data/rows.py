"""CSV and Parquet files as rows of text, read loudly: what cannot be meant is an error, never a guess."""

from pathlib import Path

import polars as pl

from finefold.errors import DataError


def read_rows(
    file: Path, *, separator: str = ",", columns: list[str] | None = None, keep_blank: bool = False
) -> pl.DataFrame:
    """A CSV or Parquet file with every column as text, so that leading zeros survive.

    Args:
        file: `.parquet`, or text with a header line (without one where `columns` names them).
        separator: one character, or "whitespace" for runs of blanks.
        columns: names of the columns of a file without a header line.
        keep_blank: keep rows without any value, so that rows can be counted as lines.

    Raises:
        DataError: the file cannot be read, or names a column twice.
    """
    try:
        if file.suffix.lower() in {".parquet", ".pq"}:
            return pl.read_parquet(file).with_columns(pl.all().cast(pl.String))
        text = file.read_text(encoding="utf-8-sig")
    except OSError as reason:
        raise DataError(f"cannot read {file}: {reason.strerror or reason}", "mend the path in data.toml") from reason
    except (pl.exceptions.PolarsError, UnicodeDecodeError) as reason:
        raise DataError(f"cannot read {file}: {reason}", "save it as UTF-8 CSV or as Parquet") from reason
    if separator == "whitespace":
        text = "\n".join("\t".join(line.split()) for line in text.splitlines() if line.strip())
        separator = "\t"
    try:
        names = columns or _header(text, separator)
        _check_names(names, file)
        frame = pl.read_csv(
            text.encode(),
            separator=separator,
            has_header=columns is None,
            new_columns=columns,
            infer_schema=False,
        )
    except pl.exceptions.PolarsError as reason:
        message = str(reason).partition("\n")[0]
        raise DataError(
            f"cannot read {file}: {message}",
            "check `separator` and `columns` in data.toml, and quote texts that hold a separator or a quote",
        ) from reason
    return frame if keep_blank else frame.filter(~pl.all_horizontal(pl.all().is_null()))


def _header(text: str, separator: str) -> list[str]:
    first = pl.read_csv(text.encode(), separator=separator, has_header=False, infer_schema=False, n_rows=1)
    return [name for name in first.row(0) if name]


def _check_names(names: list[str], file: Path) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        named = ", ".join(f"`{name}`" for name in twice)
        raise DataError(f"{file} has more than one column {named}", "give every column its own name")
