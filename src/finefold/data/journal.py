"""Rows of probabilities on disk while they are made: a process killed at any moment leaves whole rows, in order.

A journal is a folder: `about.json` says what the rows are of, `probs` holds the rows, each K float64 numbers, and
`findings` a JSON line for every image that could not be read, written before its row. The next process of the same
kind goes on behind the last whole row.

Shapes: B rows at a time, K classes.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from finefold.data.findings import Finding
from finefold.data.predictions import SUM_TOLERANCE
from finefold.errors import SubmissionError

ROWS_AT_ONCE = 4096


@dataclass
class Journal:
    """The rows made so far.

    Args:
        folder: of the files.
        num_classes: K.
        num_rows: whole rows there are.
    """

    folder: Path
    num_classes: int
    num_rows: int = 0
    _probs: BinaryIO | None = field(default=None, repr=False)

    @classmethod
    def open(cls, folder: Path, about: Mapping[str, Any], num_classes: int) -> "Journal":
        """The journal in a folder, to go on with where it is of the same work, else an empty one.

        Args:
            folder: made where missing.
            about: plain JSON values that say what the rows are of.
            num_classes: K.

        Raises:
            SubmissionError: another process writes it, or the place refuses.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probs = (folder / "probs").open("ab+")
        except OSError as reason:
            raise _cannot_write(folder, reason) from reason
        try:
            fcntl.flock(probs, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as reason:
            probs.close()
            raise SubmissionError(
                f"another process is writing these answers ({folder})", "wait for it, or give another --out"
            ) from reason
        journal = cls(folder, num_classes, _probs=probs)
        try:
            journal._begin(about)
        except OSError as reason:
            probs.close()
            raise _cannot_write(folder, reason) from reason
        return journal

    def _begin(self, about: Mapping[str, Any]) -> None:
        assert self._probs is not None
        file, text = self.folder / "about.json", json.dumps(about, sort_keys=True)
        is_same = file.is_file() and file.read_text(encoding="utf-8") == text
        self.num_rows = self._whole_rows() if is_same else 0
        os.ftruncate(self._probs.fileno(), self.num_rows * self._row_bytes)
        if not is_same:
            file.unlink(missing_ok=True)
            (self.folder / "findings").unlink(missing_ok=True)
            file.write_text(text, encoding="utf-8")
            return
        kept = [line for line in self._finding_lines() if line["row"] < self.num_rows]
        (self.folder / "findings").write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")

    @property
    def started(self) -> float:
        """When the work began, in seconds since the epoch."""
        return (self.folder / "about.json").stat().st_mtime

    @property
    def _row_bytes(self) -> int:
        return 8 * self.num_classes

    def append(self, probs_BK: NDArray[np.float64], findings: Sequence[tuple[int, Finding]]) -> None:
        """Adds rows, and what was found about some of them.

        Args:
            probs_BK: rows sum to 1.
            findings: each with the place of its row among all.

        Raises:
            SubmissionError: the disk is full or refuses; the rows before stay.
        """
        assert self._probs is not None and probs_BK.shape[1] == self.num_classes
        try:
            if findings:
                with (self.folder / "findings").open("a", encoding="utf-8") as lines:
                    lines.writelines(json.dumps({"row": row, **one.to_dict()}) + "\n" for row, one in findings)
            self._probs.write(np.ascontiguousarray(probs_BK, np.float64).tobytes())
            self._probs.flush()
        except OSError as reason:
            raise _cannot_write(self.folder, reason) from reason
        self.num_rows += len(probs_BK)

    def parts(self, rows: int = ROWS_AT_ONCE) -> Iterator[NDArray[np.float64]]:
        """All rows, so many at a time."""
        with (self.folder / "probs").open("rb") as file:
            left = self.num_rows
            while left:
                count = min(rows, left)
                yield np.frombuffer(file.read(count * self._row_bytes)).reshape(count, self.num_classes)
                left -= count

    def findings(self) -> list[Finding]:
        """What was found about images that could not be read, in their order."""
        return [
            Finding(
                one["kind"], one["severity"], tuple(one["ids"]), one["evidence"], cause=one["cause"],
                remedy=one["remedy"],
            )
            for one in sorted(self._finding_lines(), key=lambda one: int(one["row"]))
        ]  # fmt: skip

    def close(self) -> None:
        """Lets another process go on."""
        if self._probs is not None:
            self._probs.close()
            self._probs = None

    def restart(self) -> None:
        """Drops all rows."""
        assert self._probs is not None
        os.ftruncate(self._probs.fileno(), 0)
        (self.folder / "findings").unlink(missing_ok=True)
        (self.folder / "about.json").touch()
        self.num_rows = 0

    def remove(self) -> None:
        """Deletes the journal: its rows are where they belong."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.close()

    def _whole_rows(self) -> int:
        """Rows from the start that sum to 1; a disk that lost its power may hold zeros behind them."""
        self.num_rows = (self.folder / "probs").stat().st_size // self._row_bytes
        whole = 0
        for probs_BK in self.parts():
            with np.errstate(invalid="ignore"):
                is_whole_B = abs(probs_BK.sum(axis=1) - 1) <= SUM_TOLERANCE
            if not is_whole_B.all():
                return whole + int(is_whole_B.argmin())
            whole += len(probs_BK)
        return whole

    def _finding_lines(self) -> list[dict[str, Any]]:
        file = self.folder / "findings"
        if not file.is_file():
            return []
        lines = []
        for text in file.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(text))
            except ValueError:  # torn: its row was not written either
                continue
        return lines


def _cannot_write(folder: Path, reason: OSError) -> SubmissionError:
    return SubmissionError(f"cannot write {folder}: {reason.strerror}", "free some space, or choose another place")
