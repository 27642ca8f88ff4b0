"""Filling in an answer template: joined by id, in the template's order, refused where anything is off."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from finefold.data.predictions import Predictions
from finefold.data.rows import read_rows
from finefold.errors import SubmissionError

SHARE_DISTANCE = 0.25  # total variation between predicted and training shares that is worth a warning
CHANCE = 0.05  # of a warning for answers drawn at the usual shares


@dataclass(frozen=True)
class Template:
    """The table to fill in.

    Args:
        frame: all columns as text, in the file's order.
        id_column: names the images.
        answer_column: gets the answers.
        answer: "number" writes the class's code, "name" its name.
    """

    frame: pl.DataFrame
    id_column: str
    answer_column: str
    answer: Literal["number", "name"] = "number"

    @property
    def ids(self) -> list[str]:
        """[N] ids in the template's order."""
        return self.frame[self.id_column].to_list()


def read_template(path: Path, *, id_column: str, answer_column: str, answer: Literal["number", "name"]) -> Template:
    """A CSV template.

    Raises:
        SubmissionError: a named column does not exist, or ids are empty or repeated.
    """
    frame = read_rows(path)
    for key, name in (("id_column", id_column), ("answer_column", answer_column)):
        if name not in frame.columns:
            raise SubmissionError(
                f"{path.name} has no column `{name}` ({key})",
                f"it has {', '.join(frame.columns)}; mend [predict]",
            )
    ids = frame[id_column]
    if blank := int((ids.fill_null("") == "").sum()):
        raise SubmissionError(f"{path.name}: {blank} rows have no id", "fill them in, or drop the rows")
    repeated = ids.filter(ids.is_duplicated()).unique(maintain_order=True)
    if len(repeated):
        raise SubmissionError(
            f"{path.name}: {len(repeated)} ids stand in more than one row, e.g. `{repeated[0]}`",
            "keep one row per id",
        )
    return Template(frame, id_column, answer_column, answer)


def fill_template(template: Template, predictions: Predictions, class_names: Sequence[str]) -> pl.DataFrame:
    """The template with its answers.

    Args:
        template: whose ids and predictions' ids must be the same set.
        predictions: probabilities over classes of the label space.
        class_names: [K] the label space; an answer's number is its place here.

    Raises:
        SubmissionError: missing or extra ids, or a class outside the label space.
    """
    strangers = [name for name in predictions.class_names if name not in class_names]
    if strangers:
        raise SubmissionError(
            f"predictions name a class outside the label space: `{strangers[0]}`",
            f"the label space has {', '.join(class_names)}",
        )
    check_ids(template, predictions.ids)
    place = {name: number for number, name in enumerate(class_names)}
    codes = [place[predictions.class_names[code]] for code in predictions.rows_for(template.ids).codes_N]
    return answered(template, template.frame, np.asarray(codes, np.int64), class_names)


def check_ids(template: Template, ids: Sequence[str]) -> None:
    """A template asks for exactly these ids.

    Raises:
        SubmissionError: missing or extra ids, or answers would replace the ids.
    """
    if template.id_column == template.answer_column:
        raise SubmissionError(
            f"`{template.id_column}` is both the id column and the answer column",
            "answers would replace the ids; mend [predict]",
        )
    wanted, given = set(template.ids), set(ids)
    problems = []
    if missing := [name for name in template.ids if name not in given]:
        problems.append(f"{len(missing)} ids of the template were not predicted, e.g. `{missing[0]}`")
    if extra := [name for name in ids if name not in wanted]:
        problems.append(f"{len(extra)} predicted ids are not in the template, e.g. `{extra[0]}`")
    if problems:
        raise SubmissionError(
            "; ".join(problems),
            'check `root`, `id_column` and `suffix` in [predict]; images outside the template: extra = "ignore"',
        )


def answered(
    template: Template, rows: pl.DataFrame, codes_N: NDArray[np.int64], class_names: Sequence[str]
) -> pl.DataFrame:
    """Some rows of a template with their answers.

    Args:
        template: says where answers go, and how they are written.
        rows: of the template's frame.
        codes_N: each row's class, a place in the label space.
        class_names: [K] the label space.
    """
    codes = codes_N.tolist()
    answers = [str(code) if template.answer == "number" else class_names[code] for code in codes]
    return rows.with_columns(pl.Series(template.answer_column, answers, dtype=pl.String))


def share_distance(first_K: NDArray[np.float64], second_K: NDArray[np.float64]) -> float:
    """Total variation distance of two share vectors, in [0, 1]."""
    return float(abs(first_K - second_K).sum() / 2)


def is_far(shares_K: NDArray[np.float64], usual_K: NDArray[np.float64], count: int) -> bool:
    """Whether shares of `count` answers are worth a warning: well off the usual ones, and beyond what so few show.

    Answers drawn at the usual shares lie beyond the bar with a chance of `CHANCE` at most.

    References:
        McDiarmid, On the method of bounded differences, Surveys in Combinatorics, 1989: one answer moves the distance
        by at most 1 / count.
    """
    count = max(1, count)
    mean = float(np.sqrt(usual_K * (1 - usual_K) / count).sum() / 2)  # no less than the mean distance
    beyond = float(np.sqrt(np.log(1 / CHANCE) / (2 * count)))
    return share_distance(shares_K, usual_K) > max(SHARE_DISTANCE, mean + beyond)


def write_csv(frame: pl.DataFrame, path: Path) -> None:
    """Writes a whole CSV or nothing.

    Raises:
        SubmissionError: the place refuses, or the disk is full.
    """
    with csv_parts(path) as write:
        write(frame)


@contextmanager
def csv_parts(path: Path) -> Iterator[Callable[[pl.DataFrame], None]]:
    """A CSV written some rows at a time: whole in its place once the block ends, and nothing of it before.

    Raises:
        SubmissionError: the place refuses, or the disk is full.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("wb") as file:
            is_first = True

            def write(rows: pl.DataFrame) -> None:
                nonlocal is_first
                file.write(rows.write_csv(include_header=is_first).encode())
                is_first = False

            yield write
        unfinished.replace(path)
    except OSError as reason:
        raise SubmissionError(f"cannot write {path}: {reason.strerror}", "choose another place") from reason
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
