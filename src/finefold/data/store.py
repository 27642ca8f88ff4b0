"""Rows of one fixed shape, addressed by the content they were computed from, on disk, append-only.

A store is a folder of segments, each written by one process: `<name>.rows` holds raw rows, `<name>.index`
a 20-byte record per row: the content's 16-byte hash and a CRC-32 over hash and row. Rows are written
before their index records, so a process killed at any moment leaves at most rows nobody knows of.
No locks: processes write segments of their own, and two that compute the same row do no harm.
"""

import os
import threading
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from finefold.data.cachedir import cannot_write, write_about
from finefold.data.tables import zero_rows

_RECORD = np.dtype([("key", "<u8"), ("rest", "<u8"), ("crc", "<u4")])


@dataclass(frozen=True)
class _Segment:
    rows: NDArray[Any]
    records: NDArray[Any]


@dataclass(frozen=True)
class _Index:
    """Where every known row is; replaced as a whole, so that threads never see half of a new one."""

    segments: tuple[_Segment, ...] = ()
    keys: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))  # sorted
    where: NDArray[np.int64] = field(default_factory=lambda: np.empty((0, 2), np.int64))  # segment, row

    def locate(self, hashes: Sequence[bytes]) -> NDArray[np.int64]:
        """[N] positions in the sorted keys, -1 where absent."""
        parts = np.frombuffer(b"".join(hashes), np.dtype("<u8")).reshape(-1, 2)
        if not len(self.keys) or not len(parts):
            return np.full(len(parts), -1)
        last = np.searchsorted(self.keys, parts[:, 0], side="right") - 1
        return np.where(self.keys[last] == parts[:, 0], last, -1)


@dataclass
class ContentStore:
    """A folder of rows addressed by 16-byte content hashes. Safe for threads and for several processes.

    Args:
        folder: made where missing.
        shape: of one row.
        dtype: of one row.
    """

    folder: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    _index: _Index = field(default_factory=_Index)
    _writer: "_Writer | None" = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def open(cls, folder: Path, shape: Sequence[int], dtype: DTypeLike, *, about: Mapping[str, Any]) -> "ContentStore":
        """The store in `folder`, with all rows that any process has finished writing.

        Args:
            folder: made where missing.
            shape: of one row.
            dtype: of one row.
            about: what the rows are, written beside them for a person who looks; its age is the last use.
        """
        write_about(folder, about)
        store = cls(folder, tuple(shape), np.dtype(dtype))
        store.refresh()
        return store

    @property
    def row_bytes(self) -> int:
        """Bytes of one row on disk, without its index record."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def __len__(self) -> int:
        return len(self._index.keys)

    def refresh(self) -> None:
        """Looks for rows written since: by other processes, or by this one."""
        with self._lock:  # else an older look may end after a newer one
            self._index = self._read_index()

    def _read_index(self) -> _Index:
        names = sorted(path.stem for path in self.folder.glob("*.index"))
        segments = tuple(segment for name in names if (segment := self._open_segment(name)) is not None)
        if not segments:
            return _Index()
        keys = np.concatenate([segment.records["key"] for segment in segments])
        where = [
            np.stack([np.full(len(segment.records), number), np.arange(len(segment.records))], axis=1)
            for number, segment in enumerate(segments)
        ]
        order = np.argsort(keys, kind="stable")  # among equal keys the newest segment comes last
        return _Index(segments, keys[order], np.concatenate(where)[order])

    def _open_segment(self, name: str) -> _Segment | None:
        try:
            index = np.fromfile(self.folder / f"{name}.index", np.uint8)
            num_rows = min(
                len(index) // _RECORD.itemsize,
                (self.folder / f"{name}.rows").stat().st_size // self.row_bytes,
            )
            if not num_rows:
                return None
            rows = np.memmap(self.folder / f"{name}.rows", np.uint8, "r", shape=(num_rows, self.row_bytes))
        except FileNotFoundError:  # cleared meanwhile
            return None
        return _Segment(rows, index[: num_rows * _RECORD.itemsize].view(_RECORD))

    def contains(self, hashes: Sequence[bytes]) -> NDArray[np.bool_]:
        """[N]: which contents have a row, going by the index alone."""
        return self._index.locate(hashes) >= 0

    def read(self, hashes: Sequence[bytes]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Rows of contents.

        Returns:
            [N, *shape] rows, zero where not found, and [N] whether each was found. A row whose
            checksum does not hold (torn or altered) counts as not found.
        """
        rows = zero_rows((len(hashes), self.row_bytes), np.uint8, folder=self.folder)
        is_found_N = np.zeros(len(hashes), bool)
        index = self._index
        for position, (wanted, place) in enumerate(zip(hashes, index.locate(hashes).tolist(), strict=True)):
            if place < 0:
                continue
            number, row = index.where[place].tolist()
            segment = index.segments[number]
            stored = segment.rows[row]
            if int(segment.records["crc"][row]) == zlib.crc32(stored, zlib.crc32(wanted)):
                rows[position] = stored
                is_found_N[position] = True
        return rows.view(self.dtype).reshape(len(hashes), *self.shape), is_found_N

    def append(self, hashes: Sequence[bytes], rows: NDArray[Any]) -> None:
        """Adds [N, *shape] rows for N contents. They are found after `refresh`, and by later processes at once.

        Raises:
            CacheError: the disk is full or refuses; what was stored before stays valid.
        """
        assert rows.shape == (len(hashes), *self.shape), f"rows {rows.shape} for {len(hashes)} x {self.shape}"
        data = np.ascontiguousarray(rows, self.dtype).view(np.uint8).reshape(len(hashes), self.row_bytes)
        records = np.zeros(len(hashes), _RECORD)
        parts = np.frombuffer(b"".join(hashes), np.dtype("<u8")).reshape(-1, 2)
        records["key"], records["rest"] = parts[:, 0], parts[:, 1]
        records["crc"] = [zlib.crc32(row.data, zlib.crc32(key)) for key, row in zip(hashes, data, strict=True)]
        with self._lock:
            if self._writer is None:
                self._writer = _Writer.open(self.folder)
            self._writer.append(data.tobytes(), records.tobytes())

    def close(self) -> None:
        """Closes the segment this process was writing."""
        with self._lock:
            if self._writer is not None:
                self._writer.close()
                self._writer = None


@dataclass
class _Writer:
    """One process's own segment."""

    path: Path
    rows: int
    index: int
    num_bytes: tuple[int, int] = (0, 0)

    @classmethod
    def open(cls, folder: Path) -> "_Writer":
        name = f"{time.time_ns():020d}-{os.getpid()}-{os.urandom(3).hex()}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND
        try:
            rows = os.open(folder / f"{name}.rows", flags, 0o644)
            return cls(folder / name, rows, os.open(folder / f"{name}.index", flags, 0o644))
        except OSError as reason:
            raise cannot_write(folder, reason) from reason

    def append(self, rows: bytes, records: bytes) -> None:
        try:
            _write_all(self.rows, rows)
            _write_all(self.index, records)
        except BaseException as reason:  # an interrupt too must not leave rows that no record counts
            for handle, size in zip((self.rows, self.index), self.num_bytes, strict=True):
                os.truncate(handle, size)  # shrinking needs no space
            if isinstance(reason, OSError):
                raise cannot_write(self.path.parent, reason) from reason
            raise
        self.num_bytes = (self.num_bytes[0] + len(rows), self.num_bytes[1] + len(records))

    def close(self) -> None:
        os.close(self.rows)
        os.close(self.index)


def _write_all(handle: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]
