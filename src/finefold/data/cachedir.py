"""Where cached work lies, what is there, and clearing it. Nothing else in finefold names this folder."""

import json
import os
import shutil
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finefold.errors import CacheError, UsageError

SECONDS_PER_DAY = 86_400


def cache_root() -> Path:
    """`FINEFOLD_CACHE`, or finefold's folder under the user's cache folder.

    Raises:
        UsageError: the folder is said with a `~` that means no home here, or there is no home.
    """
    chosen = os.environ.get("FINEFOLD_CACHE")
    try:
        if chosen:
            return Path(chosen).expanduser()
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "finefold"
    except RuntimeError as reason:
        raise UsageError(f"no folder for the cache: {reason}", "set FINEFOLD_CACHE to a folder") from reason


def write_about(folder: Path, about: Mapping[str, Any]) -> None:
    """Says in `folder` what it holds; the note's age is the last use.

    Raises:
        CacheError: the folder cannot be written.
    """
    unfinished = folder / f".about.{os.getpid()}.{threading.get_ident()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(json.dumps(dict(about), indent=1) + "\n", encoding="utf-8")
        unfinished.replace(folder / "about.json")
    except OSError as reason:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise cannot_write(folder, reason) from reason


def cannot_write(folder: Path, reason: OSError) -> CacheError:
    """The error for a full or read-only disk."""
    return CacheError(
        f"cannot write to the cache {folder}: {reason.strerror}",
        "free some space (`finefold cache --clear --older-than 7` clears what was not used for a week), "
        "or choose another place with FINEFOLD_CACHE. What was cached before is still valid",
    )


@dataclass(frozen=True)
class CacheEntry:
    """One kind of cached work: features of one model at one cut, decoding results, an exported model.

    Args:
        path: its folder.
        about: what it says of itself.
        num_bytes: on disk.
        used: when it was last opened, in seconds since 1970.
    """

    path: Path
    about: dict[str, Any]
    num_bytes: int
    used: float

    @property
    def age_days(self) -> float:
        """Days since it was last opened."""
        return (time.time() - self.used) / SECONDS_PER_DAY


def list_entries(root: Path) -> list[CacheEntry]:
    """Everything cached under `root`, least recently used first."""
    entries = []
    for note in root.glob("*/*/about.json"):
        try:
            about = json.loads(note.read_text(encoding="utf-8"))
            sizes = [file.stat().st_size for file in note.parent.iterdir()]
            entries.append(CacheEntry(note.parent, about, sum(sizes), note.stat().st_mtime))
        except (OSError, ValueError):  # being cleared or written by another process just now
            continue
    return sorted(entries, key=lambda entry: entry.used)


def select_to_clear(
    entries: list[CacheEntry], *, older_than_days: float | None, keep_bytes: int | None
) -> list[CacheEntry]:
    """The entries to remove: those older than an age, then the least recently used until the rest fits.

    With neither given, all of them.
    """
    if older_than_days is None and keep_bytes is None:
        return list(entries)
    chosen = [entry for entry in entries if older_than_days is not None and entry.age_days > older_than_days]
    kept = [entry for entry in entries if entry not in chosen]
    if keep_bytes is not None:
        while kept and sum(entry.num_bytes for entry in kept) > keep_bytes:
            chosen.append(kept.pop(0))
    return chosen


def remove_entries(entries: list[CacheEntry]) -> int:
    """Deletes entries; the bytes that were freed."""
    for entry in entries:
        shutil.rmtree(entry.path, ignore_errors=True)
    return sum(entry.num_bytes for entry in entries)
