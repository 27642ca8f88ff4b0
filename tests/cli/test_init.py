"""finefold init."""

import json
import shutil

import pytest

from finefold.cli.main import main
from finefold.steps.reading import read_data


def test_it_says_what_is_there_and_writes_data_toml(shapes, tmp_path, capsys):
    """Counts per class go to stdout with where data.toml was written and what to do next; progress to stderr."""
    out = tmp_path / "data.toml"
    assert main(["init", str(shapes), "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("a folder per class: 48 samples\n")
    assert "disc" in said.out
    assert "50.0 %" in said.out
    assert f"wrote {out}" in said.out
    assert f"next: finefold doctor {out} " in said.out and f"finefold split {out} --folds 5" in said.out
    assert "decoding: 48 images" in said.err
    assert out.read_text().startswith("# Where the samples and their labels come from.")


def test_json_says_the_same(portraits, tmp_path, capsys):
    """--json has the layout, samples, groups, counts per class and attribute, skipped files and findings."""
    out = tmp_path / "data.toml"
    assert main(["init", str(portraits), "--out", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["file"], told["samples"], told["groups"]) == (str(out), 126, 18)
    assert len(told["classes"]) == 18
    assert told["attributes"]["mask"] == {"wear": 90, "incorrect": 18, "normal": 18}
    assert told["findings"] == []


def test_unreadable_and_skipped_files_are_told(shapes, tmp_path, capsys):
    """A broken image is warned of by name and reason; what is no image is counted."""
    import shutil

    folder = tmp_path / "set"
    shutil.copytree(shapes, folder)
    (folder / "disc" / "broken.png").write_bytes(b"")
    (folder / "disc" / "notes.txt").write_text("hello")
    (folder / "disc" / "._00.png").write_bytes(b"x")
    assert main(["init", str(folder), "--out", str(tmp_path / "data.toml")]) == 0
    said = capsys.readouterr()
    assert "warning: disc/broken.png: empty file; it will be left out" in said.err
    assert "skipped: 1 hidden or system file, 1 not an image suffix" in said.out


@pytest.mark.parametrize("make", ["nothing", "empty", "one-class"])
def test_a_folder_without_labels_exits_1(make, tmp_path, capsys):
    """A folder that is missing, empty or has a single class is an error with a hint; nothing is written."""
    folder = tmp_path / "set"
    if make != "nothing":
        (folder / "only").mkdir(parents=True)
    assert main(["init", str(folder), "--out", str(tmp_path / "data.toml")]) == 1
    said = capsys.readouterr()
    expected = "does not exist" if make == "nothing" else "no labels recognised in"
    assert said.err.startswith("error: ")
    assert expected in said.err
    assert "hint: " in said.err
    assert not said.out
    assert not (tmp_path / "data.toml").exists()


def test_data_toml_is_not_overwritten(shapes, tmp_path, capsys):
    """An existing data.toml, which may have been edited, stays as it is."""
    out = tmp_path / "data.toml"
    out.write_text("# mine")
    assert main(["init", str(shapes), "--out", str(out)]) == 1
    assert f"error: {out} exists" in capsys.readouterr().err
    assert out.read_text() == "# mine"


def test_many_unreadable_files_are_named_in_part(shapes, tmp_path, capsys):
    """Twenty of 23 are named and three counted, by `init` and by `split`; --json has them all."""
    folder = shutil.copytree(shapes, tmp_path / "shapes")
    for number in range(23):
        (folder / "disc" / f"broken{number}.png").write_bytes(b"")
    out = tmp_path / "data.toml"
    for command in (["init", str(folder), "--out", str(out)], ["split", str(out), "--folds", "3"]):
        assert main(command) == 0
        warned = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
        assert sum("empty file" in line for line in warned) == 20
        assert warned[-1].startswith("warning: and 3 more: ")
    assert main(["init", str(folder), "--out", str(tmp_path / "again.toml"), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["findings"]) == 23


def test_a_table_that_names_images_that_are_gone(shapes, tmp_path, capsys):
    """A few rows without their image are left out by name, and told; many say that something else is wrong."""
    rows = [f"disc/{number:02}.png,round" for number in range(24)] + [
        f"square/{number:02}.png,flat" for number in range(24)
    ]
    (tmp_path / "set").mkdir()
    shutil.copytree(shapes, tmp_path / "set" / "images")
    table = tmp_path / "set" / "labels.csv"
    table.write_text("\n".join(["file,label", *rows, "disc/[1].png,round", "disc/99.png,round"]) + "\n")
    assert main(["init", str(tmp_path / "set"), "--out", str(tmp_path / "data.toml")]) == 0
    assert "2 images of the table are not there, e.g. disc/[1].png: left out by `ignore`" in capsys.readouterr().out
    samples = read_data(tmp_path / "data.toml").samples
    assert len(samples) == 48 and "disc/99.png" not in samples.ids
    gone = [f"gone/{number}.png,flat" for number in range(30)]
    table.write_text("\n".join(["file,label", *rows, *gone]) + "\n")
    assert main(["init", str(tmp_path / "set"), "--out", str(tmp_path / "other.toml")]) == 1
    assert "30 of 78 images that labels.csv names do not exist" in capsys.readouterr().err
    assert not (tmp_path / "other.toml").exists()
