"""Boxes on the whole way: read or found, used for training and new images, told where they are missing."""

import json
import shutil

import cv2
import numpy as np
import polars as pl
import pytest
import torch
from torch import nn

import finefold as ff
from finefold.errors import DataError, UsageError
from finefold.nn import streaming
from finefold.nn.features import PrefixCache
from finefold.steps import predict as predicting
from finefold.steps.diagnose import subject_of
from finefold.steps.predict import write_answers
from finefold.steps.progress import Silent
from finefold.steps.pseudo import pseudo
from finefold.steps.show import CELL_PX, GAP_PX, LABEL_PX, TOP_PX, show

SIZE_PX = 32
RECIPE = """
[split]
folds = 2
[model]
engine = "torch"
[image]
box_margin = 0.25
{boxes}
"""


class Noting(Silent):
    """Keeps what is said."""

    def __init__(self):
        self.lines = []

    def say(self, line):
        self.lines.append(line)


class Means(nn.Module):
    """An image's mean colours, and nothing else: what it looks at is what it computes."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, images_BCHW):
        return images_BCHW.mean((2, 3)) * self.scale


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Grey noise of 80 x 100 with a patch of 16 px somewhere whose colour is the class; nothing else tells it."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    rows = ["path,left,top,right,bottom"]
    for name, colour in (("blue", (230, 60, 60)), ("red", (60, 60, 230))):
        (folder / "train" / name).mkdir(parents=True)
        for number in range(12):
            image = np.repeat(rng.integers(0, 256, (80, 100, 1), dtype=np.uint8), 3, axis=2)
            left, top = int(rng.integers(8, 76)), int(rng.integers(8, 56))
            image[top : top + 16, left : left + 16] = colour
            cv2.imwrite(str(folder / "train" / name / f"{number:02}.png"), image)
            rows.append(f"{name}/{number:02}.png,{left},{top},{left + 16},{top + 16}")
    (folder / "boxes.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def data(photos, tmp_path):
    ff.init(photos / "train", out=tmp_path / "data.toml")
    return ff.read_data(tmp_path / "data.toml")


def find(image_HWC):
    """The patch, by its colour."""
    where = np.argwhere(np.ptp(image_HWC.astype(int), axis=2) > 40)
    if not len(where):
        return None
    (top, left), (bottom, right) = where.min(axis=0), where.max(axis=0) + 1
    return left, top, right, bottom


def train(data, home, *, boxes="", own=None, progress=None, name="run", phase=""):
    (home / "recipe.toml").write_text(RECIPE.format(boxes=boxes) + phase, encoding="utf-8")
    own = ff.Own(Means(), ff.Preprocessing(SIZE_PX, SIZE_PX), boxes=own)
    return ff.train(data, recipe=str(home / "recipe.toml"), out=home / name, own=own, progress=progress or Silent())


def findings(run):
    return json.loads(run.folder.findings.read_text(encoding="utf-8"))


def run_boxes(run):
    """What each sample of a run was cropped to."""
    return pl.read_parquet(run.folder.samples).select("box left", "box top", "box right", "box bottom").iter_rows()


def edited(photos, home, change):
    """A table of boxes with some lines changed; `boxes = ...` of a recipe."""
    lines = (photos / "boxes.csv").read_text(encoding="utf-8").splitlines()
    file = home / "boxes.csv"
    file.write_text("\n".join(change(lines)) + "\n", encoding="utf-8")
    return f'boxes = "{file}"'


def test_boxes_are_what_is_looked_at_in_training_and_in_new_images(photos, data, tmp_path):
    """A table and a callable that finds the same give the same run, and new images are looked at alike."""
    by_file = train(data, tmp_path, boxes=f'boxes = "{photos / "boxes.csv"}"', name="file")
    by_call = train(data, tmp_path, own=find, name="call")
    assert by_call.manifest["features"]["computed"] == 0  # the same boxes have the same address
    assert by_call.manifest["own"]["boxes"] == "find"
    for run in (by_file, by_call):
        assert run.has_boxes
        assert not findings(run)
    assert np.array_equal(by_file.ledger().predictions.probs_NK, by_call.ledger().predictions.probs_NK)
    probs = [by_file.predict(photos / "train").predictions.probs_NK]
    probs.append(by_call.predict(photos / "train", boxes=find).predictions.probs_NK)
    probs.append(by_call.predict(photos / "train", boxes=photos / "boxes.csv").predictions.probs_NK)
    assert np.array_equal(probs[0], probs[1])
    assert np.array_equal(probs[0], probs[2])
    assert (probs[0].argmax(axis=1) == np.repeat([0, 1], 12)).all()
    assert np.abs(probs[0][:, 0] - 0.5).min() > 0.2  # the patch is 4/9 of what is seen, not 1/31


def test_rows_of_one_box_are_never_taken_for_another(photos, data, tmp_path):
    """Moved boxes, no boxes: each computes rows of its own, and going back computes none."""
    table = f'boxes = "{photos / "boxes.csv"}"'

    def reordered(lines):
        return [lines[0], *reversed(lines[1:])]

    def moved(lines):
        name, left, *rest = lines[1].split(",")
        return [lines[0], ",".join([name, str(int(left) - 4), *rest]), *lines[2:]]

    def computed(name, boxes=""):
        return train(data, tmp_path, boxes=boxes, name=name).manifest["features"]["computed"]

    assert computed("a", table) in (0, 24)
    assert computed("b", edited(photos, tmp_path, reordered)) == 0
    assert computed("c", edited(photos, tmp_path, moved)) == 1
    assert computed("d") == 24
    assert computed("e", table) == 0


def test_images_without_a_box_fall_back_and_are_told(photos, data, tmp_path):
    """A missing row, an empty box and one outside: one finding with their ids, one line, and the centre is used."""

    def spoil(lines):
        name = [line.split(",")[0] for line in lines]
        return [lines[0], f"{name[1]},5,5,5,9", f"{name[2]},500,5,600,9", *lines[4:]]

    said = Noting()
    run = train(data, tmp_path, boxes=edited(photos, tmp_path, spoil), progress=said)
    (found,) = findings(run)
    assert (found["kind"], found["severity"]) == ("box-missing", "warning")
    assert found["ids"] == [f"blue/{number:02}.png" for number in range(3)]
    assert [line for line in said.lines if "no box" in line] == [
        "3 of 24 images have no box, e.g. blue/00.png: the centre is used"
    ]
    assert len(run.ledger().predictions) == 24


def test_an_unreadable_image_is_told_as_that_alone(photos, tmp_path):
    """Whether a table names it or not, a file that is no image is left out, and not among the missing boxes."""
    names = ("blue/00.png", "blue/01.png")
    shutil.copytree(photos / "train", tmp_path / "train")
    for name in names:
        (tmp_path / "train" / name).write_bytes(b"no image at all, but some text")
    ff.init(tmp_path / "train", out=tmp_path / "broken.toml")
    boxes = edited(photos, tmp_path, lambda lines: [line for line in lines if not line.startswith(names[0])])
    run = train(ff.read_data(tmp_path / "broken.toml"), tmp_path, boxes=boxes)
    assert [(one["kind"], tuple(one["ids"])) for one in findings(run)] == [("unreadable", (one,)) for one in names]


@pytest.mark.parametrize(("preset", "cut"), [("none", "mean"), ("light", "images")])
def test_folds_that_take_steps_see_the_boxes(photos, data, tmp_path, preset, cut):
    """From cached rows and from images alike, boxes reach the steps, the judging and the predictions."""
    phase = '[[phase]]\ntrainable = "all"\nuntil = "20 epochs"\nlr = 1e-1\n[augment]\nviews = ["plain"]\n'
    run = train(data, tmp_path, own=find, phase=f'{phase}preset = "{preset}"\n')
    assert run.manifest["cut"] == cut
    assert (run.ledger().predictions.codes_N == np.repeat([0, 1], 12)).all()
    again = run.predict(photos / "train", boxes=find)
    assert (again.predictions.codes_N == np.repeat([0, 1], 12)).all()
    assert not again.unboxed


def test_new_images_never_get_the_box_of_a_training_image_of_the_same_name(photos, data, tmp_path):
    """Names alone are no proof elsewhere: without boxes of their own they fall back, said once with the count."""
    run = train(data, tmp_path, boxes=f'boxes = "{photos / "boxes.csv"}"')
    other = tmp_path / "other" / "blue"
    other.mkdir(parents=True)
    for name in ("00.png", "new.png"):
        cv2.imwrite(str(other / name), np.full((80, 100, 3), 128, np.uint8))
    said = Noting()
    answers = run.predict(other.parent, progress=said)
    assert answers.about()["without box"] == ["blue/00.png", "blue/new.png"]
    assert [line for line in said.lines if "no box" in line] == [
        "2 of 2 images have no box, e.g. blue/00.png: the centre is used"
    ]


def test_one_table_may_hold_training_and_new_images(photos, data, tmp_path):
    """The run keeps the table: rows of images that it was not trained on serve when they are predicted."""

    def more(lines):
        return [*lines, "new.png,10,10,26,26"]

    train(data, tmp_path, boxes=edited(photos, tmp_path, more))
    (tmp_path / "boxes.csv").unlink()
    (tmp_path / "other").mkdir()
    image = np.full((80, 100, 3), 128, np.uint8)
    image[10:26, 10:26] = (60, 60, 230)
    cv2.imwrite(str(tmp_path / "other" / "new.png"), image)
    answers = ff.open_run(tmp_path / "run", network=Means()).predict(tmp_path / "other")
    assert not answers.unboxed
    assert answers.predictions.class_names[answers.predictions.codes_N[0]] == "red"
    assert answers.predictions.probs_NK[0].max() > 0.7


def test_many_images_are_looked_at_like_few(photos, data, tmp_path, monkeypatch):
    """Images that pass the cache by are cropped to the boxes that cached rows are cropped to."""
    run = train(data, tmp_path, boxes=f'boxes = "{photos / "boxes.csv"}"')
    kept_NK = run.predict(photos / "train").predictions.probs_NK
    monkeypatch.setattr(streaming, "CACHED_IMAGES", 1)
    passed_NK = run.predict(photos / "train").predictions.probs_NK
    assert np.allclose(kept_NK, passed_NK, atol=1e-5)


def test_an_unfinished_answer_file_belongs_to_its_boxes(photos, data, tmp_path, monkeypatch):
    """The same boxes go on where an earlier run stopped; with others it starts anew, and gives their answers."""
    run, out = train(data, tmp_path, own=find), tmp_path / "answers.csv"
    moved = tmp_path / "moved.csv"
    moved.write_text((photos / "boxes.csv").read_text().replace("blue/00.png,", "blue/00.png,0,0,4,4\nno/00.png,"))

    def stop(*_):
        raise KeyboardInterrupt

    def said_of(boxes):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(predicting, "_write", stop)
            write_answers(run, photos / "train", out=out, boxes=photos / "boxes.csv")
        said = Noting()
        write_answers(run, photos / "train", out=out, boxes=boxes, progress=said)
        return any("left unfinished" in line for line in said.lines), out.read_text()

    goes_on, answers = said_of(find)
    is_other_taken, others = said_of(moved)
    assert goes_on
    assert not is_other_taken
    assert [a != b for a, b in zip(answers.splitlines(), others.splitlines(), strict=True)] == [
        False,
        True,
        *[False] * 23,
    ]


def test_pseudo_looks_at_boxes(photos, data, tmp_path, monkeypatch):
    """Samples keep the boxes that they were trained with; unlabelled images get theirs from the run's table."""

    def more(lines):
        return [*lines, "new.png,10,10,26,26"]

    run = train(data, tmp_path, boxes=edited(photos, tmp_path, more))
    (tmp_path / "other").mkdir()
    shutil.copy(photos / "train" / "blue" / "00.png", tmp_path / "other" / "new.png")
    asked, fill = [], PrefixCache.fill
    monkeypatch.setattr(PrefixCache, "fill", lambda *facts, **named: (asked.append(named), fill(*facts, **named))[1])
    found = pseudo(run, tmp_path / "other", out=tmp_path / "next", overrides=["pseudo.rounds=1"])
    assert found.num_images == 1
    assert asked[0]["boxes"] == list(run_boxes(run))
    assert asked[1]["boxes"] == [(6, 6, 30, 30)]


def test_mistakes_are_told(photos, data, tmp_path):
    """Boxes of other images, boxes twice, no four numbers, boxes for a run without: errors that say so."""

    def foreign(lines):
        return [lines[0], "elsewhere.png,1,1,2,2"]

    with pytest.raises(DataError, match=r"none of 24 images has a box that fits: it names e.g. `elsewhere.png`"):
        train(data, tmp_path, boxes=edited(photos, tmp_path, foreign))
    assert not (tmp_path / "run").exists()
    with pytest.raises(UsageError, match="and from your own callable"):
        train(data, tmp_path, boxes='boxes = "boxes.csv"', own=find)
    with pytest.raises(DataError, match=r"boxes gave 3 for `blue/00.png`"):
        train(data, tmp_path, own=lambda _: 3)
    with pytest.raises(DataError, match="your boxes gave none"):
        train(data, tmp_path, own=lambda _: None)
    plain = train(data, tmp_path)
    with pytest.raises(UsageError, match="was trained without"):
        plain.predict(photos / "train", boxes=find)


def test_a_sheet_shows_what_boxes_keep(photos, data, tmp_path):
    """Beside the original the box with its margin; the words say so; an image without one says that."""
    recipe = ff.load_recipe("probe", [f"image.boxes={photos / 'boxes.csv'}", "image.box_margin=0", "image.size_px=32"])
    shown = show(data, recipe=recipe, out=tmp_path / "s.png", rows=2)
    assert "of its box and 0 % around it (without one, all of the image)" in shown.roles["test"]
    sheet = cv2.imread(str(tmp_path / "s.png"))[:, :, ::-1]
    left = LABEL_PX + CELL_PX + GAP_PX
    for row, sample in enumerate(shown.ids):
        top = TOP_PX + (CELL_PX + GAP_PX) * row
        cell = sheet[top : top + CELL_PX, left : left + CELL_PX].reshape(-1, 3)
        expected = (60, 60, 230) if sample.startswith("blue") else (230, 60, 60)
        assert np.abs(cell.astype(int) - expected).max() <= 2


def test_the_doctor_looks_at_what_the_run_looks_at(data, photos, tmp_path):
    """Features of a run with boxes are of the boxes, its samples' and the test images'; without a box of the centre."""
    (tmp_path / "eval").mkdir()
    for file in sorted((photos / "train" / "red").iterdir())[:4]:
        (tmp_path / "eval" / f"new-{file.name}").write_bytes(file.read_bytes())
    toml = data.file.read_text(encoding="utf-8") + f'[predict]\nroot = "{tmp_path}/eval"\n'
    data.file.write_text(toml, encoding="utf-8")
    new = [line.replace("red/", "new-") for line in (photos / "boxes.csv").read_text().splitlines() if "red/" in line]
    run = train(ff.read_data(data.file), tmp_path, boxes=edited(photos, tmp_path, lambda lines: [*lines[:-1], *new]))
    noting = Noting()
    framed = subject_of(run, progress=noting)
    whole = subject_of(ff.read_data(data.file))
    assert framed.ids == whole.ids and framed.notes[0].endswith("1 without a box are looked at in their centre")
    is_same_N = (framed.features.rows_ND == whole.features.rows_ND).all(axis=1)
    assert [framed.ids[row] for row in np.flatnonzero(is_same_N)] == ["red/11.png"]
    assert framed.test_features is not None
    reds = [framed.ids.index(f"red/{name.removeprefix('new-')}") for name in framed.test_ids]
    assert np.allclose(framed.test_features.rows_ND, framed.features.rows_ND[reds])
