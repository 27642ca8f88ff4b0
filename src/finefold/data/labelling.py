"""Raw values to classes: attributes, bands, training-only bands, label patches, the joint class."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from finefold.data.labels import Attribute, LabelSpace
from finefold.data.rows import read_rows
from finefold.errors import DataError

PATCH_COLUMNS = ("id", "attribute", "from", "to", "reason")


@dataclass
class _Labelled:
    """One attribute's codes while they are being made, and raw numbers.

    In evaluation -1 is a missing value, in training also one that is left out; a missing number is NaN.
    """

    codes_N: NDArray[np.int64]
    train_N: NDArray[np.int64]
    numbers_N: NDArray[np.float64] | None


def label_samples(samples: pl.DataFrame, raw: pl.DataFrame, space: LabelSpace, patches: Path | None) -> pl.DataFrame:
    """Raw text columns as the columns of a sample table.

    Args:
        samples: columns `id`, `path`, `group`, `source`.
        raw: the same rows as the source has them, with each attribute's column.
        space: the attributes.
        patches: a CSV of corrections (id or group, attribute, from, to, reason).

    Raises:
        DataError: a raw value that no class claims and that is not declared missing, or a patch that does not apply.
    """
    labelled = {attribute.name: _label(raw, attribute) for attribute in space.attributes}
    if patches is not None:
        _apply_patches(samples, space, labelled, patches)
    codes_NA = np.stack([labelled[name].codes_N for name in space.names], axis=1)
    train_NA = np.stack([labelled[name].train_N for name in space.names], axis=1)
    is_known_NA = codes_NA >= 0
    train_NA[(is_known_NA & (train_NA < 0)).any(axis=1)] = -1  # what one attribute drops trains nothing
    names = [
        pl.Series(attribute.name, np.asarray([*attribute.classes, None], dtype=object)[codes_N].tolist(), pl.String)
        for attribute, codes_N in zip(space.attributes, codes_NA.T, strict=True)
    ]
    table = samples.select("id", "path", "group", "source").with_columns(
        *names, _joint("label", codes_NA, space), _joint("train_label", train_NA, space)
    )
    if is_known_NA.all():
        return table
    return table.with_columns(pl.Series("train_codes", train_NA.tolist(), dtype=pl.List(pl.Int32)))


def _joint(name: str, codes_NA: NDArray[np.int64], space: LabelSpace) -> pl.Series:
    """Joint codes, null where an attribute has none."""
    joint_N = np.where((codes_NA >= 0).all(axis=1), space.joint_codes(np.maximum(codes_NA, 0)), -1)
    return pl.Series(name, joint_N, dtype=pl.Int32).replace(-1, None)


def _label(source: pl.DataFrame, attribute: Attribute) -> _Labelled:
    where = f"[attributes.{attribute.name}]"
    if attribute.column not in source.columns:
        raise DataError(
            f"{where} from = `{attribute.column}`: there is no such column",
            f"the source has {', '.join(source.columns)}",
        )
    raw = source[attribute.column]
    is_missing = raw.fill_null("").is_in(attribute.missing)
    if attribute.bands is not None:
        numbers_N = _numbers(raw, is_missing, where)
        codes_N = np.where(is_missing.to_numpy(), -1, attribute.bands.codes_for(numbers_N))
        return _Labelled(codes_N, np.where(codes_N < 0, -1, _train_codes(attribute, numbers_N)), numbers_N)
    values = raw.filter(~is_missing).unique(maintain_order=True)
    codes = {value: None if value is None else attribute.class_of(value) for value in values}
    strangers = [value for value, code in codes.items() if code is None]
    if strangers:
        is_claimed = raw.is_in([value for value, code in codes.items() if code is not None]).fill_null(False)
        shown = ", ".join(f"`{value}`" if value else "(empty)" for value in strangers[:5])
        raise DataError(
            f"{where}: {int((~is_missing & ~is_claimed).sum())} samples have a value no class claims: {shown}",
            f"declared are {', '.join(attribute.classes)}; add the value to a class, or mend the rows"
            + _about_empty(strangers),
        )
    codes_N = np.full(len(raw), -1, dtype=np.int64)
    known = raw.filter(~is_missing).replace_strict(codes, return_dtype=pl.Int64).cast(pl.Int64)  # an empty one is text
    codes_N[~is_missing.to_numpy()] = known.to_numpy()
    return _Labelled(codes_N, codes_N.copy(), None)


def _numbers(raw: pl.Series, is_missing: pl.Series, where: str) -> NDArray[np.float64]:
    """The raw values as numbers, NaN where missing."""
    numbers = raw.cast(pl.Float64, strict=False)
    wrong = raw.filter(~numbers.is_finite().fill_null(False) & ~is_missing)
    if len(wrong):
        shown = f"`{wrong[0]}`" if wrong[0] else "(empty)"
        hint = "mend the rows" + _about_empty(wrong.to_list())
        raise DataError(f"{where}: {len(wrong)} values are not numbers, e.g. {shown}", hint)
    return np.where(is_missing.to_numpy(), np.nan, numbers.to_numpy())


def _about_empty(values: Sequence[str | None]) -> str:
    """What to add to a hint where some of the values are empty."""
    return "" if all(values) else '; if empty ones are not known, declare them: missing = [""]'


def _train_codes(attribute: Attribute, numbers_N: NDArray[np.float64]) -> NDArray[np.int64]:
    bands = attribute.train_bands or attribute.bands
    assert bands is not None
    codes_N = bands.codes_for(numbers_N)
    for low, high in attribute.train_drop:
        codes_N[(numbers_N >= low) & (numbers_N < high)] = -1
    return codes_N


def _apply_patches(frame: pl.DataFrame, space: LabelSpace, labelled: dict[str, _Labelled], patches: Path) -> None:
    """Corrects codes in place. Each row names a sample or a group, and what the label was before."""
    table = read_rows(patches, keep_blank=True)
    lacking = [name for name in PATCH_COLUMNS[:4] if name not in table.columns]
    if lacking:
        raise DataError(f"{patches.name} lacks the columns {', '.join(lacking)}", f"it has {', '.join(table.columns)}")
    attributes = {attribute.name: attribute for attribute in space.attributes}
    rows_of: dict[str, list[int]] = {}
    for row, (sample, group) in enumerate(frame.select("id", "group").iter_rows()):
        rows_of.setdefault(sample, []).append(row)
        if group != sample:
            rows_of.setdefault(group, []).append(row)
    wrong = []
    for line, patch in enumerate(table.iter_rows(named=True), start=2):
        problem = _apply_patch(patch, attributes, labelled, rows_of) if any(patch.values()) else None
        if problem:
            wrong.append(f"  line {line}: {problem}")
    if wrong:
        count = "1 patch does" if len(wrong) == 1 else f"{len(wrong)} patches do"
        raise DataError(
            f"{count} not apply in {patches.name}:\n" + "\n".join(wrong[:20]),
            "a patch names a sample's id or a group, the class it has now (`from`) and the one it should have (`to`)",
        )


def _apply_patch(
    patch: dict[str, str | None],
    attributes: dict[str, Attribute],
    labelled: dict[str, _Labelled],
    rows_of: dict[str, list[int]],
) -> str | None:
    """Applies one patch; what is wrong with it where it does not apply."""
    target, name, before, after = (patch[key] or "" for key in PATCH_COLUMNS[:4])
    if name not in attributes:
        return f"no attribute `{name}`; known are {', '.join(attributes)}"
    if target not in rows_of:
        return f"no sample or group has the id `{target}`"
    attribute, values, rows = attributes[name], labelled[name], np.asarray(rows_of[target])
    code = {text: number for number, text in enumerate(attribute.classes)} | dict.fromkeys(attribute.missing, -1)
    numbers_N, was_missing, is_missing = values.numbers_N, before in attribute.missing, after in attribute.missing
    if before in code and after in code:
        matching = rows[values.codes_N[rows] == code[before]]
        values.codes_N[matching] = values.train_N[matching] = code[after]
        if numbers_N is not None and is_missing:
            numbers_N[matching] = np.nan
    elif (
        attribute.bands is not None
        and numbers_N is not None
        and (was_missing or _is_number(before))
        and (is_missing or _is_number(after))
    ):
        matching = rows[values.codes_N[rows] < 0 if was_missing else numbers_N[rows] == float(before)]
        numbers_N[matching] = np.nan if is_missing else float(after)
        values.codes_N[matching] = -1 if is_missing else attribute.bands.codes_for(numbers_N[matching])
        values.train_N[matching] = -1 if is_missing else _train_codes(attribute, numbers_N[matching])
    else:
        return f"`{before}` -> `{after}`: classes of `{name}` are {', '.join(attribute.classes)}"
    if not len(matching):
        return f"`{target}` is not `{before}` in `{name}`, so the patch does not match"
    return None


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
