"""finefold cache."""

import json
import os
import time
from pathlib import Path

import pytest

from finefold.cli.main import main
from finefold.data.cachedir import write_about

DAY = 86_400


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """Three entries of 1, 2 and 3 MB, last used 40, 10 and 0 days ago."""
    root = tmp_path / "cache"
    monkeypatch.setenv("FINEFOLD_CACHE", str(root))
    for megabytes, days in ((1, 40), (2, 10), (3, 0)):
        folder = root / "features" / f"entry{megabytes}"
        write_about(folder, {"kind": "features", "what": f"model {megabytes}"})
        (folder / "a.rows").write_bytes(bytes(megabytes * 1_000_000 - (folder / "about.json").stat().st_size))
        used = time.time() - days * DAY
        os.utime(folder / "about.json", (used, used))
    return root


def left(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "features").iterdir())


def test_it_shows_what_is_there(cache, capsys):
    """Each entry with its kind, size and age, least recently used first, and the whole size; nothing is removed."""
    assert main(["cache"]) == 0
    said = capsys.readouterr()
    assert [line.split()[:2] for line in said.out.splitlines() if "model" in line] == [["model", n] for n in "123"]
    assert "40.0" in said.out
    assert f"6 MB in {cache}" in said.out
    assert not said.err
    assert len(left(cache)) == 3


def test_json_says_the_same(cache, capsys):
    """--json has the root, the bytes, and every entry with its path, bytes and days."""
    assert main(["cache", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["root"], told["bytes"], told["freed"]) == (str(cache), 6_000_000, 0)
    assert [entry["bytes"] for entry in told["entries"]] == [1_000_000, 2_000_000, 3_000_000]
    assert told["entries"][0]["days"] == pytest.approx(40, abs=0.1)


@pytest.mark.parametrize(
    ("limits", "kept", "freed"),
    [
        ([], [], "6 MB"),
        (["--older-than", "30"], ["entry2", "entry3"], "1 MB"),
        (["--max-size", "3.5MB"], ["entry3"], "3 MB"),
        (["--max-size", "6MB"], ["entry1", "entry2", "entry3"], "0 B"),
        (["--older-than", "30", "--max-size", "3MB"], ["entry3"], "3 MB"),
    ],
)
def test_clear_removes_by_age_and_size(limits, kept, freed, cache, capsys):
    """--clear removes everything, or what is older, or the least recently used beyond a size; it says how much."""
    assert main(["cache", "--clear", *limits]) == 0
    assert f"freed {freed}\n" in capsys.readouterr().out
    assert left(cache) == kept


@pytest.mark.parametrize("limits", [["--older-than", "30"], ["--max-size", "1GB"]])
def test_limits_without_clear_are_a_mistake(limits, cache, capsys):
    """Limits alone remove nothing and exit 2, saying that --clear is missing."""
    assert main(["cache", *limits]) == 2
    said = capsys.readouterr()
    assert "add --clear" in said.err
    assert not said.out
    assert len(left(cache)) == 3


@pytest.mark.parametrize("text", ["much", "GB", "-1GB", "nan", "infGB", ""])
def test_a_size_that_is_none_is_a_mistake(text, cache, capsys):
    """A size that is no size, or below zero, exits 2 and removes nothing."""
    assert main(["cache", "--clear", "--max-size", text]) == 2
    assert f"`{text}` is not a size: write 500MB or 2GB" in capsys.readouterr().err
    assert len(left(cache)) == 3


def test_an_empty_cache_is_no_error(tmp_path, monkeypatch, capsys):
    """Where nothing was cached yet, it says so: zero bytes."""
    monkeypatch.setenv("FINEFOLD_CACHE", str(tmp_path / "nothing"))
    assert main(["cache"]) == 0
    assert f"0 B in {tmp_path / 'nothing'}" in capsys.readouterr().out
    assert main(["cache", "--clear"]) == 0
    capsys.readouterr()
