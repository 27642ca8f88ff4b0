"""Large tables lie in files without a name, and are arrays like any other."""

from pathlib import Path

import numpy as np
import pytest

from finefold.data import tables
from finefold.data.tables import taken_rows, zero_rows
from finefold.errors import CacheError


@pytest.mark.parametrize("most", [1, 10**9])
def test_large_and_small_ones_are_alike(monkeypatch, tmp_path, most):
    """Zeros of the shape and type asked for, that can be filled, sliced and viewed; no file stays."""
    monkeypatch.setattr(tables, "LARGE_BYTES", most)
    kind = np.dtype([("mark", "u1"), ("value", "<f4", (3,))])
    rows = zero_rows((50,), kind, folder=tmp_path)
    assert type(rows) is np.ndarray and rows.shape == (50,) and not rows["value"].any()
    rows["value"][7] = [1, 2, 3]
    assert rows["value"].sum() == 6 and rows[7:8]["value"][0, 2] == 3
    plain = zero_rows((4, 6), np.uint8, folder=tmp_path)
    plain[2] = 255
    assert plain.view(np.int16).reshape(4, 3)[2].tolist() == [-1] * 3
    assert not list(tmp_path.iterdir())


def test_a_large_one_is_not_the_process_own_memory(tmp_path):
    """96 MB that were written to hardly raise the memory that only this process can give back."""
    before = own_memory_kb()
    rows = zero_rows((96, 2**20), np.uint8, folder=tmp_path)
    rows[:] = 7
    assert own_memory_kb() - before < 20_000
    assert (rows[::17, ::4099] == 7).all()


@pytest.mark.parametrize("most", [1, 10**9])
def test_rows_are_taken(monkeypatch, tmp_path, most):
    """Rows that follow each other are a part of the table, others a copy, whatever its size and type."""
    monkeypatch.setattr(tables, "LARGE_BYTES", most)
    monkeypatch.setattr(tables, "ROWS_AT_ONCE", 3)
    table = np.arange(60, dtype=np.float16).reshape(20, 3)
    part = taken_rows(table, np.arange(4, 9), folder=tmp_path)
    assert np.shares_memory(part, table) and np.array_equal(part, table[4:9])
    some = np.array([0, 1, 2, 5, 7, 11, 12, 19])
    copied = taken_rows(table, some, folder=tmp_path)
    assert not np.shares_memory(copied, table) and np.array_equal(copied, table[some]) and copied.dtype == np.float16
    assert taken_rows(table, np.empty(0, np.int64), folder=tmp_path).shape == (0, 3)


def test_where_nothing_can_be_written(monkeypatch, tmp_path):
    """A folder that is not there is an error of the cache that says what to do."""
    monkeypatch.setattr(tables, "LARGE_BYTES", 1)
    with pytest.raises(CacheError, match="cannot write to the cache"):
        zero_rows((10,), np.uint8, folder=tmp_path / "gone")


def own_memory_kb() -> int:
    file = Path("/proc/self/status")
    if not file.exists():
        pytest.skip("only Linux says how much memory is a process's own")
    status = file.read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("RssAnon")))
