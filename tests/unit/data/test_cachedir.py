"""Where cached work lies, what is there, and what clearing takes."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from finefold.data.cachedir import (
    SECONDS_PER_DAY,
    CacheEntry,
    cache_root,
    list_entries,
    remove_entries,
    select_to_clear,
    write_about,
)
from finefold.data.machine import num_threads, processor_name, versions
from finefold.errors import CacheError, UsageError


def entry(root: Path, name: str, *, num_bytes: int = 100, days: float = 0.0) -> Path:
    """A cached kind of work, last used some days ago."""
    folder = root / "features" / name
    write_about(folder, {"kind": "features", "what": name})
    about_bytes = (folder / "about.json").stat().st_size
    (folder / "x.rows").write_bytes(bytes(num_bytes - about_bytes))
    used = time.time() - days * SECONDS_PER_DAY
    os.utime(folder / "about.json", (used, used))
    return folder


def names(entries: list[CacheEntry]) -> list[str]:
    return [entry.path.name for entry in entries]


# ---------------------------------------------------------------------------------------------------- where


def test_the_place_is_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    """FINEFOLD_CACHE first, then the user's cache folder, then ~/.cache; `~` is understood."""
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("FINEFOLD_CACHE", "~/fast")
    assert cache_root() == Path("/home/someone/fast")
    monkeypatch.setenv("FINEFOLD_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache/me")
    assert cache_root() == Path("/var/cache/me/finefold")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert cache_root() == Path("/home/someone/.cache/finefold")


def test_a_home_that_does_not_exist_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """`~nobody`, or no home at all, is an error that says which variable to set."""
    monkeypatch.setenv("FINEFOLD_CACHE", "~no-such-user/x")
    with pytest.raises(UsageError, match="no folder for the cache: ") as caught:
        cache_root()
    assert caught.value.hint == "set FINEFOLD_CACHE to a folder"


# --------------------------------------------------------------------------------------------- what is there


def test_nothing_is_cached_where_nothing_is(tmp_path: Path) -> None:
    """A missing or empty folder has no entries."""
    assert list_entries(tmp_path / "none") == list_entries(tmp_path) == []


def test_entries_are_told_least_recently_used_first(tmp_path: Path) -> None:
    """Each entry has its note, its size with the note's, and its age in days."""
    for name, days in (("new", 0), ("old", 9), ("middle", 2.5)):
        entry(tmp_path, name, num_bytes=500, days=days)
    entries = list_entries(tmp_path)
    assert names(entries) == ["old", "middle", "new"]
    assert entries[0].about == {"kind": "features", "what": "old"}
    assert entries[0].num_bytes == 500
    assert entries[1].age_days == pytest.approx(2.5, abs=0.1)


def test_what_is_no_entry_is_passed_over(tmp_path: Path) -> None:
    """Folders without a note, or with a torn one, and loose files do no harm."""
    entry(tmp_path, "good")
    (tmp_path / "features" / "torn").mkdir()
    (tmp_path / "features" / "torn" / "about.json").write_text('{"kind": ')
    (tmp_path / "features" / "bare").mkdir()
    (tmp_path / "features" / "about.json").write_text("{}")
    (tmp_path / "file").touch()
    assert names(list_entries(tmp_path)) == ["good"]


def test_a_note_is_whole_and_its_age_is_the_last_use(tmp_path: Path) -> None:
    """Writing the note again makes the entry the newest, in a file that is never half."""
    folder = entry(tmp_path, "a", days=5)
    write_about(folder, {"kind": "features", "what": "größe"})
    assert json.loads((folder / "about.json").read_text(encoding="utf-8"))["what"] == "größe"
    assert list_entries(tmp_path)[0].age_days < 0.1
    assert sorted(path.name for path in folder.iterdir()) == ["about.json", "x.rows"]


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    """A file in the folder's place is a CacheError that says what helps."""
    (tmp_path / "file").touch()
    with pytest.raises(CacheError) as caught:
        write_about(tmp_path / "file", {})
    assert caught.value.message == f"cannot write to the cache {tmp_path / 'file'}: File exists"
    assert caught.value.hint is not None
    assert "FINEFOLD_CACHE" in caught.value.hint


FULL = """
import resource, sys
from pathlib import Path
from finefold.data.cachedir import write_about
from finefold.errors import CacheError

resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
try:
    write_about(Path(sys.argv[1]), {"kind": "x" * 100})
except CacheError as error:
    print(error.message)
"""


def test_a_full_disk_leaves_the_old_note(tmp_path: Path) -> None:
    """A note that does not fit is an error; the one before stays, and no scrap is left."""
    folder = entry(tmp_path, "a")
    before = (folder / "about.json").read_bytes()
    said = subprocess.run([sys.executable, "-c", FULL, folder], capture_output=True, text=True, check=True).stdout
    assert said == f"cannot write to the cache {folder}: File too large\n"
    assert (folder / "about.json").read_bytes() == before
    assert sorted(path.name for path in folder.iterdir()) == ["about.json", "x.rows"]


# -------------------------------------------------------------------------------------------------- clearing


@pytest.fixture
def entries(tmp_path: Path) -> list[CacheEntry]:
    """Four entries of 100 to 400 bytes, used 8, 6, 4 and 2 days ago."""
    for number in range(1, 5):
        entry(tmp_path, str(number), num_bytes=100 * number, days=10 - 2 * number)
    return list_entries(tmp_path)


@pytest.mark.parametrize(
    ("older_than_days", "keep_bytes", "chosen"),
    [
        (None, None, ["1", "2", "3", "4"]),
        (5, None, ["1", "2"]),
        (0, None, ["1", "2", "3", "4"]),
        (30, None, []),
        (None, 1000, []),
        (None, 999, ["1"]),
        (None, 700, ["1", "2"]),
        (None, 0, ["1", "2", "3", "4"]),
        (7, 500, ["1", "2", "3"]),
        (30, 700, ["1", "2"]),
    ],
)
def test_clearing_takes_the_old_then_the_least_used(
    older_than_days: float | None, keep_bytes: int | None, chosen: list[str], entries: list[CacheEntry]
) -> None:
    """By age, then from the least recently used until the rest fits; everything where nothing is said."""
    assert names(select_to_clear(entries, older_than_days=older_than_days, keep_bytes=keep_bytes)) == chosen


def test_removed_entries_are_gone(entries: list[CacheEntry], tmp_path: Path) -> None:
    """What was chosen is deleted, its bytes are told, the rest stays; twice is no error."""
    assert remove_entries(entries[:2]) == 300
    assert names(list_entries(tmp_path)) == ["3", "4"]
    remove_entries(entries[:2])
    assert names(list_entries(tmp_path)) == ["3", "4"]


# -------------------------------------------------------------------------------------------------- machine


def test_the_number_of_threads_can_be_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """FINEFOLD_THREADS is taken where it is a whole number above 0, and refused otherwise."""
    monkeypatch.setenv("FINEFOLD_THREADS", "3")
    assert num_threads() == 3
    monkeypatch.delenv("FINEFOLD_THREADS")
    assert num_threads() >= 1
    for wrong in ("0", "-1", "two", "1.5", " ", "²"):
        monkeypatch.setenv("FINEFOLD_THREADS", wrong)
        with pytest.raises(UsageError) as caught:
            num_threads()
        assert caught.value.message == f"FINEFOLD_THREADS is `{wrong}`"
        assert caught.value.hint == "set it to a whole number above 0, or unset it"


def test_the_machine_is_told() -> None:
    """A processor and the versions of what can change a number; what is not installed is `absent`."""
    assert processor_name()
    told = versions()
    assert told["python"].startswith("3.")
    assert told["numpy"]
    assert all(isinstance(text, str) and text for text in told.values())
