"""Drawn portraits in the mask layout, for the demo and the tests: nothing is downloaded, nobody is shown.

What a person looks like follows from gender and age with overlap, so that a classifier has something to
learn and something to get wrong.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import polars as pl
from numpy.typing import NDArray

from finefold.data.portraits import SHOTS, Canvas, Person, Size, draw_shots, make_person
from finefold.errors import DataError

# People by gender (male, female) and age band (<30, 30-59, >=60).
_CELLS = [(gender, band) for gender in ("male", "female") for band in range(3)]
_TRAIN_SHARES = np.array([0.20, 0.15, 0.05, 0.26, 0.28, 0.06])
_TEST_SHARES = np.array([0.17, 0.18, 0.12, 0.22, 0.23, 0.08])


def draw_portraits(
    folder: Path,
    *,
    num_people: int,
    seed: int = 0,
    size_px: Size = (192, 256),
    num_test: int = 140,
    advance: Callable[[int], None] = lambda _: None,
) -> None:
    """Write a training and an evaluation set of drawn people in the layout of the mask competition.

    The same arguments write the same bytes. From 60 people on, each gender and age band has at least 5.

    Args:
        num_people: people to train on, 7 images each.
        size_px: width and height of the images.
        num_test: evaluation images, of people who are not in the training set. Their labels are not
            written; `portrait_answers` tells them.
        advance: told after each person of the training set.

    Raises:
        DataError: `folder` holds a training or an evaluation set already.
    """
    for part in ("train", "eval"):
        if (folder / part).exists():
            raise DataError(f"{folder / part} exists", "give another folder, or delete it first")
    images = folder / "train" / "images"
    rows = []
    for index, person in enumerate(_people(num_people, _TRAIN_SHARES, seed=(seed, 0))):
        row = [person.name, person.gender, "Drawn", str(person.age)]
        path = images / "_".join(row)
        path.mkdir(parents=True)
        rows.append([*row, path.name])
        shots = draw_shots(person, rng=np.random.default_rng((seed, 1, index)), size_px=size_px)
        for number, (shot, pixels) in enumerate(zip(SHOTS, shots, strict=True)):
            _write_image(path / f"{shot}{_suffix(index * len(SHOTS) + number)}", pixels)
        advance(1)
    columns = ["id", "gender", "race", "age", "path"]
    pl.DataFrame(rows, columns, orient="row").write_csv(folder / "train" / "train.csv")

    images = folder / "eval" / "images"
    images.mkdir(parents=True)
    names, people = _test_set(num_test, seed=seed)
    for index, person in enumerate(people):
        shots = draw_shots(person, rng=np.random.default_rng((seed, 2, index)), size_px=size_px)
        for name, pixels in zip(names[index * len(SHOTS) :], shots, strict=False):
            _write_image(images / name, pixels)
    pl.DataFrame({"ImageID": sorted(names), "ans": [0] * num_test}).write_csv(folder / "eval" / "info.csv")


def portrait_batch(count: int, *, seed: int = 0, size_px: Size = (192, 256)) -> list[NDArray[np.uint8]]:
    """RGB uint8 [H, W, 3] photos of `count` drawn people, in memory, no two of one person."""
    people = _people(count, _TRAIN_SHARES, seed=(seed, 5))
    rngs = (np.random.default_rng((seed, 6, index)) for index in range(count))
    return [draw_shots(person, rng=rng, size_px=size_px)[-1] for person, rng in zip(people, rngs, strict=True)]


def portrait_answers(*, num_test: int = 140, seed: int = 0) -> dict[str, int]:
    """The classes of the evaluation images that `draw_portraits` writes: mask * 6 + gender * 3 + age."""
    names, people = _test_set(num_test, seed=seed)
    cells = [_CELLS.index((person.gender, (person.age >= 30) + (person.age >= 60))) for person in people]
    return dict(zip(names, [mask * 6 + cell for cell in cells for mask in (0, 0, 0, 0, 0, 1, 2)], strict=False))


def _test_set(num_test: int, *, seed: int) -> tuple[list[str], list[Person]]:
    """The evaluation images' names, and the people whose seven images they are, in that order."""
    rng = np.random.default_rng((seed, 4))
    names = [f"{rng.bytes(20).hex()}.jpg" for _ in range(num_test)]
    return names, _people(-(-num_test // len(SHOTS)), _TEST_SHARES, seed=(seed, 3))


def _people(num_people: int, shares: NDArray[np.float64], *, seed: Sequence[int]) -> list[Person]:
    """People dealt over the six cells: at least 5 in each where there are enough, the rest by `shares`."""
    rng = np.random.default_rng(seed)
    least = min(5, num_people // 6)
    more = shares * (num_people - 6 * least)
    wanted = least + np.floor(more).astype(int)
    wanted[np.argsort(np.floor(more) - more, kind="stable")[: num_people - wanted.sum()]] += 1
    cells = rng.permutation(np.repeat(np.arange(6), wanted))
    names = [f"{number:06}" for number in np.sort(rng.choice(np.arange(1, 7000), num_people, replace=False))]
    if num_people >= 12:  # as in the real set: a suffix, and an id that two people share
        names[5] += "-1"
        other = next(index for index in range(num_people) if cells[index] != cells[0])
        names[other] = names[0]
    return [make_person(name, *_CELLS[cell], rng=rng) for name, cell in zip(names, cells, strict=True)]


def _suffix(number: int) -> str:
    """3 % .png, 2 % .jpeg, the rest .jpg, mixed inside folders as in the real set."""
    return ".png" if number % 33 == 8 else ".jpeg" if number % 50 == 17 else ".jpg"


def _write_image(path: Path, pixels: Canvas) -> None:
    options = [] if path.suffix == ".png" else [cv2.IMWRITE_JPEG_QUALITY, 92]
    path.write_bytes(cv2.imencode(path.suffix, pixels[:, :, ::-1], options)[1].tobytes())
