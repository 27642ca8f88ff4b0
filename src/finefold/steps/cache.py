"""`finefold cache`: what is cached, and clearing it."""

from dataclasses import dataclass
from pathlib import Path

from finefold.data.cachedir import CacheEntry, cache_root, list_entries, remove_entries, select_to_clear


@dataclass(frozen=True)
class CacheState:
    """The cache as it is now.

    Args:
        root: its folder.
        entries: what is there, least recently used first.
        freed_bytes: what clearing freed.
    """

    root: Path
    entries: tuple[CacheEntry, ...]
    freed_bytes: int = 0

    @property
    def num_bytes(self) -> int:
        """Bytes in all."""
        return sum(entry.num_bytes for entry in self.entries)


def look() -> CacheState:
    """What is cached."""
    return CacheState(cache_root(), tuple(list_entries(cache_root())))


def clear(*, older_than_days: float | None = None, keep_bytes: int | None = None) -> CacheState:
    """Clears what was not used for some days, then the least recently used until the rest fits; all by default."""
    chosen = select_to_clear(list(look().entries), older_than_days=older_than_days, keep_bytes=keep_bytes)
    freed = remove_entries(chosen)
    return CacheState(cache_root(), look().entries, freed)
