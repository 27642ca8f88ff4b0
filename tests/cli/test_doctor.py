"""finefold doctor."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from finefold.cli.main import main
from finefold.data.images import natural_key
from finefold.data.synthetic import draw_portraits
from finefold.steps.init import init
from finefold.steps.reading import read_data

MAKER = """
import cv2

def _rows():
    import json
    from pathlib import Path
    return json.loads(Path("rows.json").read_text())

class Photos:
    def __init__(self, rows):
        self.rows = rows
    def __len__(self):
        return len(self.rows)
    def __getitem__(self, index):
        path, label = self.rows[index]
        return cv2.imread(path), label

def make():
    return Photos(_rows())

def broken():
    return Photos(no_such_name)
"""


@pytest.fixture(scope="module")
def home(portraits, tmp_path_factory) -> Path:
    """Two data.tomls of the same photos: labels of one are right, of the other moved down by two rows."""
    folder = tmp_path_factory.mktemp("doctor")
    images = portraits / "train" / "images"
    paths = sorted((path.relative_to(images).as_posix() for path in images.rglob("*.*")), key=natural_key)
    kinds = {"incorrect_mask": "incorrect", "normal": "normal"}
    labels = [kinds.get(Path(path).stem, "wear") + ("-f" if "_female_" in path else "-m") for path in paths]
    for name, by in (("right", 0), ("moved", 2)):
        moved = np.roll(labels, by).tolist()
        pl.DataFrame({"file": paths, "kind": moved}).write_csv(folder / f"{name}.csv")
        (folder / f"{name}.toml").write_text(
            f'[samples]\nroot = "{images}"\ncsv = "{name}.csv"\npath = "file"\n'
            f"[attributes.kind]\nclasses = {json.dumps(sorted(set(labels)))}\n"
        )
    (folder / "rows.json").write_text(
        json.dumps([[str(images / path), label] for path, label in zip(paths, labels, strict=True)])
    )
    (folder / "maker_of_photos.py").write_text(MAKER)
    return folder


def test_wrong_labels_are_an_error_with_a_remedy(home, tmp_path, capsys):
    """Moved labels exit 1, the right pairing is named, and --fix writes patches after which nothing is found."""
    patches = tmp_path / "patches.csv"
    assert main(["doctor", str(home / "moved.toml"), "--only", "alignment", "--fix", str(patches)]) == 1
    said = capsys.readouterr().out
    assert "misaligned-labels: labels are paired with the wrong images" in " ".join(said.split())
    assert "shift of the labels by -2 rows" in " ".join(said.split())
    assert f"patches to {patches}" in said
    before, after = (home / "moved.csv").read_text(), tmp_path / "mended.toml"
    after.write_text(
        (home / "moved.toml").read_text().replace('csv = "moved', f'patches = "{patches}"\ncsv = "{home}/moved')
    )
    assert (home / "moved.csv").read_text() == before
    mended, right = read_data(after).samples, read_data(home / "right.toml").samples
    assert (mended.labels_N[:-2] == right.labels_N[:-2]).all()
    assert main(["doctor", str(after), "--only", "alignment"]) == 0
    assert "nothing found" in capsys.readouterr().out


def test_images_without_a_label_are_named(tmp_path, capsys):
    """Three labels were lost at the beginning, others stand at the end: these images are named, for --json as well."""
    draw_portraits(tmp_path, num_people=40, size_px=(96, 128))
    images = tmp_path / "train" / "images"
    paths = sorted((path.relative_to(images).as_posix() for path in images.rglob("*.*")), key=natural_key)
    labels = [("n" if "/normal" in path else "w") + ("f" if "_female_" in path else "m") for path in paths]
    others = [next(one for one in labels if one != label) for label in labels[:3]]  # would be wrong there as well
    pl.DataFrame({"file": paths, "kind": labels[3:] + others}).write_csv(tmp_path / "cut.csv")
    (tmp_path / "cut.toml").write_text(
        f'[samples]\nroot = "{images}"\ncsv = "cut.csv"\npath = "file"\n'
        f"[attributes.kind]\nclasses = {json.dumps(sorted(set(labels)))}\n"
    )
    asked = ["doctor", str(tmp_path / "cut.toml"), "--only", "alignment"]
    assert main([*asked, "--fix", str(tmp_path / "patches.csv")]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert f"3 images have no label under this pairing and keep others: look at {', '.join(paths[:3])}, and" in said
    assert not set(paths[:3]) & set(pl.read_csv(tmp_path / "patches.csv")["id"])
    assert main([*asked, "--json"]) == 1
    (found,) = json.loads(capsys.readouterr().out)
    assert found["evidence"]["unlabelled"] == paths[:3] and found["evidence"]["without_label"] == 3


def test_one_attribute_alone_is_named_and_mended(portraits, tmp_path, capsys):
    """A column of data.toml that moved by three rows is named, and --fix writes the patch of that column alone."""
    images = portraits / "train" / "images"
    paths = sorted((path.relative_to(images).as_posix() for path in images.rglob("*.*")), key=natural_key)
    genders = ["female" if "_female_" in path else "male" for path in paths]
    masks = [{"incorrect_mask": "incorrect", "normal": "normal"}.get(Path(path).stem, "wear") for path in paths]
    pl.DataFrame({"file": paths, "mask": masks, "gender": np.roll(genders, 3)}).write_csv(tmp_path / "moved.csv")
    toml = (
        f'[samples]\nroot = "{images}"\ncsv = "moved.csv"\npath = "file"\n'
        '[attributes.mask]\nclasses = ["wear", "incorrect", "normal"]\n'
        '[attributes.gender]\nclasses = ["male", "female"]\n[label]\njoint = ["mask", "gender"]\n'
    )
    (tmp_path / "moved.toml").write_text(toml)
    patches = tmp_path / "patches.csv"
    assert main(["doctor", str(tmp_path / "moved.toml"), "--only", "alignment", "--fix", str(patches)]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "`gender` is laid beside the wrong images" in said and "by -3 rows" in said
    assert set(pl.read_csv(patches)["attribute"]) == {"gender"}
    (tmp_path / "mended.toml").write_text(toml.replace('csv = "m', 'patches = "patches.csv"\ncsv = "m'))
    mended = read_data(tmp_path / "mended.toml").samples
    assert mended.frame["gender"].to_list()[:-3] == genders[:-3] and mended.frame["mask"].to_list() == masks
    assert main(["doctor", str(tmp_path / "mended.toml"), "--only", "alignment"]) == 0
    assert "nothing found" in capsys.readouterr().out


def test_json_is_the_list_of_findings(home, capsys):
    """--json prints every finding with kind, severity, ids, evidence, cause and remedy; nothing else goes to stdout."""
    assert main(["doctor", str(home / "moved.toml"), "--only", "alignment", "--json"]) == 1
    (found,) = json.loads(capsys.readouterr().out)
    assert set(found) == {"kind", "severity", "ids", "evidence", "cause", "remedy"}
    assert found["kind"] == "misaligned-labels" and found["severity"] == "error"
    assert {"current", "best", "pairing"} <= set(found["evidence"])
    assert found["evidence"]["best"] > found["evidence"]["current"] and len(found["ids"]) > 20


def test_a_function_of_the_users_is_imported(home, monkeypatch, capsys):
    """module:function is imported from the working directory, its data set examined; a broken one is told."""
    monkeypatch.chdir(home)
    assert main(["doctor", "maker_of_photos:make", "--only", "alignment"]) == 0
    assert "ok        alignment: 126 images" in capsys.readouterr().out
    assert main(["doctor", "maker_of_photos:broken"]) == 2
    assert "no_such_name" in capsys.readouterr().err


def test_a_run_is_examined_with_its_predictions(job, capsys):
    """A run's folder is a target: its labels, and the classes that its folds gave out of fold."""
    assert main(["doctor", str(job.run), "--only", "collapse", "--only", "alignment"]) in (0, 1)
    said = capsys.readouterr().out
    assert "collapse: predictions for 126 images" in said and "alignment: 126 images" in said


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["data.toml", "--only", "alingment"], "the checks are alignment"),
        (["nowhere.toml"], "package.module:make_dataset"),
        (["no_such_module_here:make"], "cannot import"),
        (["maker_of_photos:make", "--fix", "x.csv"], "--fix writes patches for a data.toml"),
    ],
)
def test_mistakes_exit_2(arguments, told, home, monkeypatch, capsys):
    """An unknown check, a target that is not there, and --fix without a data.toml are told before anything is read."""
    monkeypatch.chdir(home)
    assert main(["doctor", *arguments]) == 2
    said = capsys.readouterr()
    assert told in said.err and not said.out


def test_patches_are_never_written_over(home, tmp_path, capsys):
    """--fix refuses a file that exists, and leaves it as it was."""
    (tmp_path / "patches.csv").write_text("mine")
    assert main(["doctor", str(home / "moved.toml"), "--fix", str(tmp_path / "patches.csv")]) == 2
    assert "never written over" in capsys.readouterr().err
    assert (tmp_path / "patches.csv").read_text() == "mine"


def test_too_few_images_are_said_to_be_too_few(shapes, tmp_path, capsys):
    """Where nothing can be judged the check says that it was not done, which is no error."""
    (tmp_path / "few").mkdir()
    for name in ("disc", "square"):
        (tmp_path / "few" / name).mkdir()
        for file in sorted((shapes / name).glob("0*.png")):
            (tmp_path / "few" / name / file.name).write_bytes(file.read_bytes())
    init(tmp_path / "few", out=tmp_path / "data.toml")
    assert main(["doctor", str(tmp_path / "data.toml"), "--only", "alignment"]) == 0
    assert "not done  alignment: 20 images of 2 classes are too few" in capsys.readouterr().out
