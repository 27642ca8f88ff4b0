"""Drawn portraits: the competition's layout, repeatable, with something to learn."""

import csv
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from finefold.data import synthetic
from finefold.data.images import list_images, read_image
from finefold.data.synthetic import SHOTS, draw_portraits, portrait_answers
from finefold.errors import DataError

NUM_PEOPLE, NUM_TEST = 66, 100


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("portraits")
    draw_portraits(path, num_people=NUM_PEOPLE, num_test=NUM_TEST, size_px=(96, 128))
    return path


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def read_bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def cell(row: dict[str, str]) -> int:
    age = int(row["age"])
    return 3 * (row["gender"] == "female") + (age >= 30) + (age >= 60)


def test_training_set_is_in_the_layout(folder: Path) -> None:
    """train.csv names one folder per person, each with exactly the seven shots, and nothing else lies there."""
    rows = read_rows(folder / "train" / "train.csv")
    assert list(rows[0]) == ["id", "gender", "race", "age", "path"]
    assert len(rows) == len({row["path"] for row in rows}) == NUM_PEOPLE
    for row in rows:
        assert row["path"] == f"{row['id']}_{row['gender']}_{row['race']}_{row['age']}"
        assert row["path"].count("_") == 3
        shots = [path.stem for path in (folder / "train" / "images" / row["path"]).iterdir()]
        assert sorted(shots) == sorted(SHOTS)
    listing = list_images(folder / "train" / "images")
    assert len(listing.paths) == 7 * NUM_PEOPLE
    assert not listing.skipped


def test_ids_keep_what_breaks_naive_tools(folder: Path) -> None:
    """Ids have leading zeros, one has a suffix, and one is used by two people."""
    names = [row["id"] for row in read_rows(folder / "train" / "train.csv")]
    assert all(re.fullmatch(r"00\d{4}(-1)?", name) for name in names)
    assert sum(name.endswith("-1") for name in names) == 1
    assert sorted(Counter(names).values())[-2:] == [1, 2]


def test_every_gender_and_age_has_five_people(folder: Path) -> None:
    """From 60 people on, all six cells have at least 5 people, in unequal shares, aged 18 to 60."""
    rows = read_rows(folder / "train" / "train.csv")
    counts = Counter(map(cell, rows))
    assert set(counts) == set(range(6))
    assert min(counts.values()) >= 5
    assert max(counts.values()) > 2 * min(counts.values())
    assert {int(row["age"]) for row in rows} <= set(range(18, 61))


@pytest.mark.parametrize("num_people", [1, 5, 6, 13, 60, 61, 500])
def test_any_number_of_people_is_dealt_exactly(num_people: int) -> None:
    """However many people are asked for, as many come, no cell below its share of five."""
    people = synthetic._people(num_people, synthetic._TRAIN_SHARES, seed=(1, 2))
    assert len(people) == num_people
    counts = Counter((person.gender, (person.age >= 30) + (person.age >= 60)) for person in people)
    assert min(counts.get(key, 0) for key in synthetic._CELLS) >= min(5, num_people // 6)


def test_extensions_are_mixed(folder: Path) -> None:
    """Most files are .jpg, a few .png and .jpeg, mixed inside a folder, each of the kind it says."""
    paths = sorted((folder / "train" / "images").rglob("*.*"))
    counts = Counter(path.suffix for path in paths)
    assert counts[".jpg"] > 0.9 * len(paths)
    assert counts[".png"] > counts[".jpeg"] > 0
    assert any(
        len({path.suffix for path in person.iterdir()}) > 1 for person in (folder / "train" / "images").iterdir()
    )
    assert all((path.read_bytes()[:4] == b"\x89PNG") == (path.suffix == ".png") for path in paths)


def test_evaluation_set_is_in_the_layout(folder: Path) -> None:
    """info.csv has every image once, named by 40 hex digits, answered 0; the true labels are in no file."""
    rows = read_rows(folder / "eval" / "info.csv")
    names = [row["ImageID"] for row in rows]
    assert all(re.fullmatch(r"[0-9a-f]{40}\.jpg", name) for name in names)
    assert len(names) == len(set(names)) == NUM_TEST
    assert {row["ans"] for row in rows} == {"0"}
    assert {path.name for path in (folder / "eval" / "images").iterdir()} == set(names)
    assert sorted(path.name for path in (folder / "eval").iterdir()) == ["images", "info.csv"]


def test_answers_belong_to_the_evaluation_images() -> None:
    """The answers cover the same images, hold all 18 classes, and do not lie in the order of the template."""
    answers = portrait_answers(num_test=280)
    assert len(answers) == 280
    assert set(answers.values()) == set(range(18))
    in_order = [answers[name] for name in sorted(answers)]
    assert in_order != list(answers.values())


def test_the_same_seed_draws_the_same_bytes(tmp_path: Path) -> None:
    """The same arguments write the same bytes; another seed draws other people."""
    for name, seed in (("one", 0), ("two", 0), ("other", 1)):
        draw_portraits(tmp_path / name, num_people=6, num_test=7, seed=seed, size_px=(48, 64))
    assert read_bytes(tmp_path / "one") == read_bytes(tmp_path / "two")
    one, other = (set(read_bytes(tmp_path / name).values()) for name in ("one", "other"))
    assert not one & other - {(tmp_path / "one" / "eval" / "info.csv").read_bytes()}


@pytest.mark.parametrize("part", ["train", "eval"])
def test_nothing_is_drawn_over(part: str, tmp_path: Path) -> None:
    """A folder that holds a set already is refused before anything is written; other things in it are no trouble."""
    (tmp_path / "notes.txt").touch()
    (tmp_path / part).mkdir()
    with pytest.raises(DataError) as caught:
        draw_portraits(tmp_path, num_people=1, num_test=1)
    assert caught.value.message == f"{tmp_path / part} exists"
    assert caught.value.hint == "give another folder, or delete it first"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["notes.txt", part])


def test_size_is_an_argument(folder: Path, tmp_path: Path) -> None:
    """Images have the size that was asked for, and 192 x 256 otherwise."""
    path = next((folder / "eval" / "images").iterdir())
    assert read_image(path).shape == (128, 96, 3)
    draw_portraits(tmp_path / "small", num_people=1, num_test=1)
    assert {read_image(path).shape for path in (tmp_path / "small").rglob("*.*g")} == {(256, 192, 3)}


def test_pictures_teach_the_labels_to_people_never_seen(folder: Path) -> None:
    """Ridge regression on small pixels, trained on the training people, reads the evaluation people's labels."""

    def look(path: Path) -> NDArray[np.float64]:
        pixels = read_image(path).reshape(32, 4, 24, 4, 3).mean(axis=(1, 3))
        return np.append((pixels / 255 - 0.5).ravel(), 1.0)

    rows = [(row, shot) for row in read_rows(folder / "train" / "train.csv") for shot in SHOTS]
    images = folder / "train" / "images"
    train_ND = np.stack([look(next((images / row["path"]).glob(f"{shot}.*"))) for row, shot in rows])
    masks = [{"incorrect_mask": 1, "normal": 2}.get(shot, 0) for _, shot in rows]
    train_y = np.array([mask * 6 + cell(row) for (row, _), mask in zip(rows, masks, strict=True)])
    answers = portrait_answers(num_test=NUM_TEST)
    test_ND = np.stack([look(folder / "eval" / "images" / name) for name in answers])
    test_y = np.array(list(answers.values()))
    gram_NN = train_ND @ train_ND.T + 30 * np.eye(len(train_ND))
    weights_NN = test_ND @ train_ND.T @ np.linalg.inv(gram_NN)

    def accuracy(attribute: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
        return float(((weights_NN @ np.eye(3)[attribute]).argmax(axis=1) == truth).mean())

    assert accuracy(train_y // 6, test_y // 6) > 0.85
    assert 0.65 < accuracy(train_y // 3 % 2, test_y // 3 % 2) < 1
    assert 0.5 < accuracy(train_y % 3, test_y % 3) < 1
