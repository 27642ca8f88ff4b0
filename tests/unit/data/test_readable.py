"""Which files decode: every reason is told, in order, and the cache never changes an answer."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from finefold.data import readable
from finefold.data.findings import Finding
from finefold.data.readable import find_unreadable
from finefold.errors import CacheError, ImageError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Good images, and one of each kind of bad one."""
    good = cv2.imencode(".png", np.random.default_rng(0).integers(0, 256, (12, 10, 3), np.uint8))[1].tobytes()
    jpeg = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))[1].tobytes()
    contents = {
        "a.png": good,
        "b.jpg": b"",
        "c.jpg": b"hello",
        "d.jpg": jpeg[: len(jpeg) // 2],
        "e.jpg": jpeg,
        "g.png": good,
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "h.jpg").mkdir()
    return tmp_path


NAMES = ["a.png", "b.jpg", "c.jpg", "d.jpg", "e.jpg", "f.jpg", "g.png", "h.jpg"]


def look(folder: Path, names: list[str] = NAMES, *, max_pixels: int = 10_000) -> list[Finding]:
    return find_unreadable(names, [folder / name for name in names], cache=folder / "cache", max_pixels=max_pixels)


def reasons(findings: list[Finding]) -> dict[str, str]:
    return {finding.ids[0]: finding.evidence["reason"] for finding in findings}


def test_every_unreadable_file_is_told_with_its_reason(folder: Path) -> None:
    """Empty, no image, torn, missing, a folder: one finding each, in the order asked."""
    findings = look(folder)
    assert reasons(findings) == {
        "b.jpg": "empty file",
        "c.jpg": "not an image",
        "d.jpg": "truncated",
        "f.jpg": "No such file or directory",
        "h.jpg": "Is a directory",
    }
    assert [finding.ids for finding in findings] == [("b.jpg",), ("c.jpg",), ("d.jpg",), ("f.jpg",), ("h.jpg",)]
    first = findings[0]
    assert (first.kind, first.severity) == ("unreadable", "warning")
    assert first.cause == "the file is no readable image: empty file"
    assert first.remedy == "replace the file; until then it is left out of training"
    assert first.evidence["path"] == str(folder / "b.jpg")


def test_the_cache_answers_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second look decodes nothing and finds the same."""
    before = look(folder)
    monkeypatch.setattr(readable, "decode_image", None)
    assert look(folder) == before


def test_a_mended_file_is_seen(folder: Path) -> None:
    """The cache goes by content: a replaced file is looked at again, a renamed one keeps its answer."""
    look(folder)
    (folder / "b.jpg").write_bytes((folder / "e.jpg").read_bytes())
    (folder / "c.jpg").rename(folder / "f.jpg")
    assert reasons(look(folder)) == {
        "c.jpg": "No such file or directory",
        "d.jpg": "truncated",
        "f.jpg": "not an image",
        "h.jpg": "Is a directory",
    }


def test_another_limit_is_another_question(folder: Path) -> None:
    """What was refused for its size under one limit is decoded under another."""
    assert reasons(look(folder, ["e.jpg"], max_pixels=4095)) == {"e.jpg": "exceeds the limit of 0.004095 Mpx"}
    assert look(folder, ["e.jpg"], max_pixels=4096) == []


@pytest.mark.parametrize("reason", ["x" * 500, "é" * 100, "日" * 30, "short", "\U0001f600" * 17])
def test_long_reasons_are_cut_alike(reason: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first look tells what the second will: reasons are cut at a letter, whatever its bytes."""

    def refuse(*_: object, **__: object) -> None:
        raise ImageError(reason)

    monkeypatch.setattr(readable, "decode_image", refuse)
    first = reasons(look(folder, ["a.png"]))
    assert first == reasons(look(folder, ["a.png"]))
    assert reason.startswith(first["a.png"])
    assert 60 < len(first["a.png"].encode()) <= 64 or first["a.png"] == reason


def test_progress_counts_every_file_once(folder: Path) -> None:
    """However many files, and whatever is wrong with them, the counts told sum up to them."""
    names = NAMES * 40
    told: list[int] = []
    paths = [folder / name for name in names]
    findings = find_unreadable(names, paths, cache=folder / "cache", max_pixels=10_000, advance=told.append)
    assert sum(told) == len(names) > readable.CHUNK
    assert len(findings) == 5 * 40


def test_no_files_no_findings(folder: Path) -> None:
    """Nothing asked, nothing found."""
    assert look(folder, []) == []


def test_an_altered_cache_is_not_believed(folder: Path) -> None:
    """A byte changed in the cache is noticed, and the file decoded again."""
    before = look(folder)
    for rows in (folder / "cache").rglob("*.rows"):
        content = bytearray(rows.read_bytes())
        content[::7] = bytes(value ^ 1 for value in content[::7])
        rows.write_bytes(content)
    assert look(folder) == before


def test_a_cache_that_cannot_be_written_is_told(folder: Path) -> None:
    """A file where the cache should be is a clear error."""
    (folder / "cache").touch()
    with pytest.raises(CacheError, match="cannot write to the cache"):
        look(folder)
