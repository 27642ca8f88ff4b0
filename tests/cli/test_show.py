"""finefold show."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finefold.cli.main import main
from finefold.steps.init import init
from finefold.steps.reading import read_data
from finefold.steps.show import CELL_PX, GAP_PX, LABEL_PX, OUTLINE, TOP_PX

STEP_PX = CELL_PX + GAP_PX


@pytest.fixture(scope="module")
def data(portraits, tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("show") / "data.toml"
    init(portraits, out=file)
    return file


def cell(file: Path, row: int, column: int) -> np.ndarray:
    top, left = TOP_PX + STEP_PX * row, LABEL_PX + STEP_PX * column
    with Image.open(file) as sheet:
        return np.asarray(sheet)[top : top + CELL_PX, left : left + CELL_PX]


def test_it_draws_a_line_per_sample_and_says_what_roles_do(data, tmp_path, capsys):
    """The sheet has as many lines as --rows and a column per picture; stdout says where it is and what roles do."""
    out = tmp_path / "new" / "sheet.png"
    assert main(["show", str(data), "--out", str(out), "--rows", "5", "--set", "augment.preset=light"]) == 0
    said = capsys.readouterr()
    assert f"wrote {out} (5 samples)" in said.out
    for word in ("training", "validation", "test", "light: crop of 80 % to 100 % of the area", "plain, hflip"):
        assert word in said.out
    assert "Traceback" not in said.err
    columns = 2 + 2 + 4
    with Image.open(out) as sheet:
        assert sheet.size == (LABEL_PX + STEP_PX * columns + GAP_PX, TOP_PX + STEP_PX * 5 + GAP_PX)


def test_a_probe_sees_images_as_they_are(data, tmp_path, capsys):
    """A recipe that only fits the head has no views and no augmentation to draw, and says so."""
    out = tmp_path / "sheet.png"
    assert main(["show", str(data), "--out", str(out), "--rows", "2", "--recipe", "probe", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["roles"]
    assert "fitted to images as they are" in told["training"] and "views" not in told["training"]
    with Image.open(out) as sheet:
        assert sheet.size[0] == LABEL_PX + STEP_PX * 2 + GAP_PX


def test_evaluation_is_plain_and_training_varies(data, tmp_path, capsys):
    """The evaluation picture is the plain view, hflip its mirror image, and no two training pictures are alike."""
    out = tmp_path / "sheet.png"
    assert main(["show", str(data), "--out", str(out), "--rows", "2", "--set", "augment.preset=strong"]) == 0
    capsys.readouterr()
    for row in range(2):
        plain, view, mirrored = (cell(out, row, column) for column in (1, 2, 3))
        assert np.array_equal(plain, view)
        assert np.abs(mirrored[:, ::-1].astype(int) - plain).max() <= 1  # rounding where it is made smaller
        assert len({cell(out, row, column).tobytes() for column in range(4, 8)}) == 4


def test_copies_have_columns_and_are_what_training_is_shown(data, tmp_path, capsys):
    """A class with copies has different pictures there; one without has white; words say how many and of whom."""
    out = tmp_path / "sheet.png"
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        """
        [[phase]]
        trainable = "head"
        until = "1 epochs"
        [augment]
        copies = { "wear/*" = 2 }
        copies_preset = "strong"
        """,
        encoding="utf-8",
    )
    assert main(["show", str(data), "--out", str(out), "--rows", "18", "--recipe", str(recipe), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert "up to 2 copies of an image, made once, for 6 of 18 classes" in told["roles"]["training"]
    assert "copies" not in told["roles"]["validation"]
    table = read_data(data).samples
    labels = dict(zip(table.ids, table.labels_N.tolist(), strict=True))
    for row, sample in enumerate(told["samples"]):
        pictures = [cell(out, row, column) for column in (4, 5)]
        is_blank = [bool((picture[8:-8, 32:-32] == 255).all()) for picture in pictures]
        assert is_blank == [not table.space.class_names[labels[sample]].startswith("wear/")] * 2
        assert is_blank[0] or not np.array_equal(*pictures)


def test_the_part_that_is_kept_is_outlined_and_shown(data, tmp_path, capsys):
    """A centre is a red line in the original; grey and CLAHE are in every other picture, and all is said in words."""
    out = tmp_path / "sheet.png"
    settings = ("image.centre=[64, 40]", "image.grey=true", "image.clahe=2", "augment.preset=medium")
    arguments = [part for setting in settings for part in ("--set", setting)]
    assert main(["show", str(data), "--out", str(out), "--rows", "2", *arguments]) == 0
    said = capsys.readouterr().out
    assert "of the middle 40x64 px: centre" in said
    assert "grey, CLAHE 2" in said
    for row in range(2):
        red = (np.abs(cell(out, row, 0).astype(int) - OUTLINE) < 8).all(axis=2)
        top, left = np.argwhere(red).min(axis=0)
        bottom, right = np.argwhere(red).max(axis=0)
        assert abs((bottom - top) / (right - left) - 64 / 40) < 0.15
        assert red[CELL_PX // 2, CELL_PX // 2 - 10 : CELL_PX // 2 + 10].sum() == 0
        for column in range(1, 8):
            inside = cell(out, row, column)
            assert np.ptp(inside, axis=2).max() == 0


def test_the_seed_decides(data, tmp_path, capsys):
    """The same recipe draws the same bytes, another seed another sheet."""
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        arguments = ["--rows", "3", "--set", "augment.preset=medium", "--set", f"seed={seed}"]
        assert main(["show", str(data), "--out", str(tmp_path / f"{name}.png"), *arguments]) == 0
    capsys.readouterr()
    first, again, other = ((tmp_path / f"{name}.png").read_bytes() for name in "abc")
    assert first == again != other


def test_scarce_classes_appear(data, tmp_path, capsys):
    """With fewer rows than classes no class comes twice, and the scarcest is there; --json names the samples."""
    assert main(["show", str(data), "--out", str(tmp_path / "s.png"), "--rows", "6", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    samples = read_data(data).samples
    labels = dict(zip(samples.ids, samples.labels_N.tolist(), strict=True))
    shown = [labels[one] for one in told["samples"]]
    assert len(set(shown)) == len(shown) == 6
    assert shown == sorted(shown)
    assert samples.counts_K()[shown].min() == samples.counts_K().min()
    assert set(told) == {"file", "samples", "roles"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "sheet.jpg"], "is no .png"),
        (["--set", "augment.presett=light"], "did you mean"),
        (["--set", 'augment.classes={ "incorect" = "light" }'], "did you mean `incorrect/*`?"),
        (["--rows", "0"], "Invalid value for '--rows'"),
    ],
)
def test_mistakes_exit_2_and_print_nothing(data, arguments, message, capsys, tmp_path, monkeypatch):
    """A wrong suffix, key, class or number exits 2, says what is meant, and draws nothing."""
    monkeypatch.chdir(tmp_path)
    assert main(["show", str(data), *arguments]) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert not said.out
    assert not list(tmp_path.iterdir())
