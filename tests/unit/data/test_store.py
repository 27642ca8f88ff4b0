"""The content store: what was written is read or recomputed, never wrong, whatever happens to writers and files."""

import os
import random
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finefold.data import store as store_module
from finefold.data.images import content_hash
from finefold.data.store import ContentStore
from finefold.errors import CacheError

WIDTH = 5
RECORD_BYTES = 20


def name_of(number: int) -> bytes:
    return content_hash(str(number).encode())


def row_of(number: int, version: int = 0) -> np.ndarray[Any, Any]:
    return np.arange(WIDTH, dtype=np.float32) + number * 10 + version * 1000


def opened(folder: Path) -> ContentStore:
    return ContentStore.open(folder, (WIDTH,), np.float32, about={"kind": "test"})


def fill(folder: Path, *numbers: int, version: int = 0) -> None:
    """One writer's segment with these rows."""
    store = opened(folder)
    store.append([name_of(number) for number in numbers], np.stack([row_of(number, version) for number in numbers]))
    store.close()


def found(folder: Path, *numbers: int) -> dict[int, list[float]]:
    """What a new reader finds."""
    rows, is_found_N = opened(folder).read([name_of(number) for number in numbers])
    assert not rows[~is_found_N].any()
    return {number: row.tolist() for number, row, is_found in zip(numbers, rows, is_found_N, strict=True) if is_found}


def expected(*numbers: int, version: int = 0) -> dict[int, list[float]]:
    return {number: row_of(number, version).tolist() for number in numbers}


def only(folder: Path, suffix: str) -> Path:
    (path,) = folder.glob(f"*{suffix}")
    return path


def run_python(code: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


# -------------------------------------------------------------------------------------------- reading back


def test_a_new_store_is_empty(tmp_path: Path) -> None:
    """Nothing is found, nothing asked gives nothing, and the folder says what it is for."""
    store = opened(tmp_path / "a" / "b")
    assert len(store) == 0
    assert not store.contains([name_of(0)]).any()
    rows, is_found_N = store.read([])
    assert (rows.shape, is_found_N.shape) == ((0, WIDTH), (0,))
    assert (tmp_path / "a" / "b" / "about.json").is_file()
    assert found(tmp_path / "a" / "b", 1, 2) == {}


def test_rows_are_read_as_they_were_written(tmp_path: Path) -> None:
    """Rows come in the order asked for, zero where absent; the writer itself sees them after a refresh."""
    store = opened(tmp_path)
    store.append([name_of(1), name_of(2)], np.stack([row_of(1), row_of(2)]))
    assert not store.contains([name_of(1)]).any()
    store.refresh()
    rows, is_found_N = store.read([name_of(2), name_of(9), name_of(1), name_of(2)])
    assert is_found_N.tolist() == [True, False, True, True]
    np.testing.assert_array_equal(rows, [row_of(2), np.zeros(WIDTH), row_of(1), row_of(2)])
    assert len(store) == 2
    store.close()
    store.close()
    assert found(tmp_path, 1, 2, 9) == expected(1, 2)


@pytest.mark.parametrize(
    ("shape", "dtype"), [((), np.float64), ((3,), np.uint8), ((2, 3, 4), np.float16), ((1,), np.int32)]
)
def test_rows_of_any_shape(shape: tuple[int, ...], dtype: Any, tmp_path: Path) -> None:
    """Shape and type are the store's; rows of another memory layout or type are written as its own."""
    rows = np.asfortranarray(np.random.default_rng(0).integers(0, 100, (4, *shape)))
    store = ContentStore.open(tmp_path, shape, dtype, about={})
    store.append([name_of(number) for number in range(4)], rows)
    store.refresh()
    read, is_found_N = store.read([name_of(number) for number in (3, 1)])
    assert is_found_N.all()
    assert read.dtype == dtype
    np.testing.assert_array_equal(read, rows[[3, 1]])


def test_the_newest_row_wins(tmp_path: Path) -> None:
    """Of several rows of a content, in one segment or several, the last one written is read."""
    fill(tmp_path, 1, 2)
    fill(tmp_path, 1, version=1)
    assert found(tmp_path, 1, 2) == expected(1, version=1) | expected(2)
    store = opened(tmp_path)
    store.append([name_of(1), name_of(1)], np.stack([row_of(1, 2), row_of(1, 3)]))
    store.close()
    assert found(tmp_path, 1) == expected(1, version=3)


def test_what_a_reader_holds_survives_clearing(tmp_path: Path) -> None:
    """A cleared folder is empty for new readers, and harmless for those that had it open."""
    fill(tmp_path / "cache", 1)
    store = opened(tmp_path / "cache")
    shutil.rmtree(tmp_path / "cache")
    assert store.read([name_of(1)])[1].all()
    store.refresh()
    assert not store.read([name_of(1)])[1].any()
    assert found(tmp_path / "cache", 1) == {}


# ------------------------------------------------------------------------------------- torn and altered files


@pytest.mark.parametrize("suffix", [".rows", ".index"])
def test_a_torn_tail_loses_its_rows_only(suffix: str, tmp_path: Path) -> None:
    """Cut anywhere, a file gives the rows that are whole, and the rest is found again once rewritten."""
    fill(tmp_path / "whole", 1, 2, 3)
    size = only(tmp_path / "whole", suffix).stat().st_size
    step = size // 3
    for length in range(size):
        folder = tmp_path / str(length)
        shutil.copytree(tmp_path / "whole", folder)
        os.truncate(only(folder, suffix), length)
        assert found(folder, 1, 2, 3) == expected(*range(1, 1 + length // step)), length
    fill(folder, 2, 3)
    assert found(folder, 1, 2, 3) == expected(1, 2, 3)


@pytest.mark.parametrize("suffix", [".rows", ".index"])
def test_a_missing_half_is_no_segment(suffix: str, tmp_path: Path) -> None:
    """Rows without an index, or an index without rows, are passed over."""
    fill(tmp_path, 1)
    only(tmp_path, suffix).unlink()
    assert found(tmp_path, 1) == {}
    fill(tmp_path, 2)
    assert found(tmp_path, 1, 2) == expected(2)


@pytest.mark.parametrize("suffix", [".rows", ".index"])
def test_an_altered_byte_is_noticed(suffix: str, tmp_path: Path) -> None:
    """Whichever byte changes, at most its own row is lost, none is wrong, and a rewritten one is found."""
    fill(tmp_path, 1, 2, 3)
    path = only(tmp_path, suffix)
    content = path.read_bytes()
    row_bytes = len(content) // 3
    num_lost = 0
    for place in range(len(content)):
        altered = bytearray(content)
        altered[place] ^= 1 << place % 8
        path.write_bytes(altered)
        hit = 1 + place // row_bytes
        others = [number for number in (1, 2, 3) if number != hit]
        got = found(tmp_path, 1, 2, 3)
        assert got in (expected(*others), expected(1, 2, 3)), place
        num_lost += hit not in got
    assert num_lost == (len(content) if suffix == ".rows" else 3 * 12)  # half a record's hash is kept for people
    fill(tmp_path, hit)
    assert found(tmp_path, 1, 2, 3) == expected(1, 2, 3)


def test_two_rows_in_each_others_place_are_noticed(tmp_path: Path) -> None:
    """The checksum covers the content's name: a right row under another name is not believed."""
    fill(tmp_path, 1, 2)
    path = only(tmp_path, ".rows")
    content = path.read_bytes()
    path.write_bytes(content[len(content) // 2 :] + content[: len(content) // 2])
    assert found(tmp_path, 1, 2) == {}


def test_foreign_files_are_passed_over(tmp_path: Path) -> None:
    """Files that are nobody's segment do no harm."""
    fill(tmp_path, 1)
    (tmp_path / "x.index").write_bytes(b"not an index, but long enough for two records")
    (tmp_path / "y.index").write_bytes(b"")
    (tmp_path / "z.index").write_bytes(b"a" * 40)
    (tmp_path / "z.rows").write_bytes(b"b" * 400)
    assert found(tmp_path, 1, 2) == expected(1)


def test_another_shape_finds_nothing(tmp_path: Path) -> None:
    """A folder opened with another shape by mistake gives no rows instead of wrong ones."""
    fill(tmp_path, *range(6))
    store = ContentStore.open(tmp_path, (WIDTH + 1,), np.float32, about={})
    assert not store.read([name_of(number) for number in range(6)])[1].any()


# ------------------------------------------------------------------------------------------- several at once


def test_threads_share_a_writer(tmp_path: Path) -> None:
    """Threads that append and read through refreshes lose nothing, read nothing wrong, and write one segment."""
    store = opened(tmp_path)
    wrong: list[int] = []

    def work(first: int) -> None:
        for number in range(first, first + 50):
            store.append([name_of(number)], row_of(number)[None])
            store.refresh()
            rows, is_found_N = store.read([name_of(first), name_of(number)])
            if not is_found_N.all() or rows[1].tolist() != row_of(number).tolist():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(first,)) for first in (0, 100, 200, 300)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store.close()
    assert wrong == []
    numbers = [number for first in (0, 100, 200, 300) for number in range(first, first + 50)]
    assert found(tmp_path, *numbers) == expected(*numbers)
    assert only(tmp_path, ".rows")


def test_two_writers_at_once(tmp_path: Path) -> None:
    """Two stores of one process write segments of their own, overlapping contents as well."""
    first, second = opened(tmp_path), opened(tmp_path)
    for number in range(0, 20, 2):
        first.append([name_of(number), name_of(number + 1)], np.stack([row_of(number), row_of(number + 1)]))
        second.append([name_of(number + 1), name_of(number + 2)], np.stack([row_of(number + 1), row_of(number + 2)]))
    first.close()
    second.close()
    assert found(tmp_path, *range(21)) == expected(*range(21))
    assert len(list(tmp_path.glob("*.index"))) == 2


WRITER = """
import sys, numpy as np
from pathlib import Path
from finefold.data.images import content_hash
from finefold.data.store import ContentStore

folder, first, last, width, batch = Path(sys.argv[1]), *map(int, sys.argv[2:])
store = ContentStore.open(folder, (width,), np.float32, about={"kind": "test"})
for start in range(first, last, batch):
    numbers = range(start, min(start + batch, last))
    rows = np.stack([np.arange(width, dtype=np.float32) + number * 10 for number in numbers])
    store.append([content_hash(str(number).encode()) for number in numbers], rows)
    print(start, flush=True)
store.close()
"""


def test_two_processes_at_once(tmp_path: Path) -> None:
    """Processes that fill one store with overlapping contents leave it whole."""
    processes = [run_python(WRITER, tmp_path, first, first + 300, WIDTH, 7) for first in (0, 200)]
    for process in processes:
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said
    assert found(tmp_path, *range(500)) == expected(*range(500))


@pytest.mark.parametrize("width", [WIDTH, 200_000])
def test_a_killed_writer_loses_at_most_its_batch(width: int, tmp_path: Path) -> None:
    """kill -9 at any moment: every finished batch is found, no row is wrong, and the next writer goes on."""
    rng = random.Random(width)
    batch, last = 4, 4_000_000
    names = [name_of(number) for number in range(400)]
    base = np.arange(width, dtype=np.float32)
    num_done = 0
    for _ in range(4):
        process = run_python(WRITER, tmp_path, num_done, last, width, batch)
        assert process.stdout is not None
        for _ in range(rng.randint(1, 8)):
            process.stdout.readline()
        threading.Event().wait(rng.random() * 0.003)
        process.kill()
        told = [int(line) for line in process.stdout.read().split()]
        process.wait()
        process.stdout.close()
        assert process.stderr is not None
        process.stderr.close()
        store = ContentStore.open(tmp_path, (width,), np.float32, about={})
        asked = list(range(num_done, min(len(names), num_done + 80)))
        rows, is_found_N = store.read([names[number] for number in asked])
        num_found = int(is_found_N.sum())
        assert is_found_N[:num_found].all()
        for number, row in zip(asked[:num_found], rows, strict=False):
            np.testing.assert_array_equal(row, base + number * 10)
        if told:
            assert num_done + num_found >= min(told[-1] + batch, asked[-1] + 1)
        assert num_found > 0
        num_done += num_found


# ------------------------------------------------------------------------------------------------ a full disk


LIMITED = """
import resource, sys, numpy as np
from pathlib import Path
from finefold.data.images import content_hash
from finefold.data.store import ContentStore
from finefold.errors import CacheError

folder, width, limit = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
store = ContentStore.open(folder, (width,), np.uint8, about={})
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

def append(*numbers):
    rows = np.array([[number] * width for number in numbers], np.uint8)
    store.append([content_hash(str(number).encode()) for number in numbers], rows)

append(1, 2, 3)
for _ in range(2):
    try:
        append(*range(10, 60))
    except CacheError as error:
        print(error.message)
        print(error.hint)
append(4)
store.refresh()
print(store.read([content_hash(str(number).encode()) for number in (1, 2, 3, 4)])[1].tolist())
"""


@pytest.mark.parametrize("width", [1, 64])
def test_a_full_disk_is_told_and_leaves_the_store_valid(width: int, tmp_path: Path) -> None:
    """Where rows or index cannot grow: a clear error, the batch undone, everything before and after it valid."""
    process = run_python(LIMITED, tmp_path, width, 300)
    said, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    message = f"cannot write to the cache {tmp_path}: File too large"
    hint = (
        "free some space (`finefold cache --clear --older-than 7` clears what was not used for a week), "
        "or choose another place with FINEFOLD_CACHE. What was cached before is still valid"
    )
    assert said.split("\n") == [message, hint, message, hint, "[True, True, True, True]", ""]
    assert only(tmp_path, ".rows").stat().st_size == 4 * width
    assert only(tmp_path, ".index").stat().st_size == 4 * RECORD_BYTES
    rows, is_found_N = ContentStore.open(tmp_path, (width,), np.uint8, about={}).read([name_of(4), name_of(10)])
    assert is_found_N.tolist() == [True, False]
    assert rows[0].tolist() == [4] * width


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, OSError(28, "No space left on device")])
def test_a_batch_that_is_interrupted_is_undone(error: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted between rows and index, the next batch is still in step."""
    store = opened(tmp_path)
    store.append([name_of(1)], row_of(1)[None])
    write_all, calls = store_module._write_all, []

    def fail_second(handle: int, data: bytes) -> None:
        calls.append(handle)
        if len(calls) == 2:
            write_all(handle, data[:7])
            raise error
        write_all(handle, data)

    monkeypatch.setattr(store_module, "_write_all", fail_second)
    with pytest.raises(CacheError if isinstance(error, OSError) else error):
        store.append([name_of(2)], row_of(2)[None])
    store.append([name_of(3)], row_of(3)[None])
    store.close()
    assert found(tmp_path, 1, 2, 3) == expected(1, 3)


def test_a_place_that_is_no_folder_is_told(tmp_path: Path) -> None:
    """A file where the store should be, or a folder cleared before the first row, is a clear error."""
    (tmp_path / "file").touch()
    with pytest.raises(CacheError) as caught:
        opened(tmp_path / "file" / "x")
    assert caught.value.message == f"cannot write to the cache {tmp_path / 'file' / 'x'}: Not a directory"
    store = opened(tmp_path / "cache")
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(CacheError, match="No such file or directory"):
        store.append([name_of(1)], row_of(1)[None])


def test_rows_of_another_shape_are_our_mistake(tmp_path: Path) -> None:
    """Rows that do not fit the store are an assertion, for no user can cause them."""
    with pytest.raises(AssertionError):
        opened(tmp_path).append([name_of(1)], np.zeros((1, WIDTH + 1), np.float32))
