"""The prefix cache: every image once, whatever happens in between."""

import errno
import json
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from finefold.data import store
from finefold.errors import CacheError, EngineError
from finefold.nn import features
from finefold.nn.backbones import EMBEDDED_BACKBONE, find_backbone
from finefold.nn.copies import Copy
from finefold.nn.engines import BATCH, Choice
from finefold.nn.features import PrefixCache
from finefold.nn.loaders import ImageRows
from finefold.steps.init import init
from finefold.steps.split import split
from offline.processes import finish, run_finefold, start

TORCH = Choice("torch", "fp32", "test")
MAX_PIXELS = 10**8


@pytest.fixture
def files(shapes) -> list[Path]:
    return sorted(shapes.rglob("*.png"))


@pytest.fixture
def cold(tmp_path, monkeypatch) -> PrefixCache:
    """A cache with nothing in it but the backbone."""
    backbone = find_backbone(EMBEDDED_BACKBONE, "embedded")
    monkeypatch.setenv("FINEFOLD_CACHE", str(tmp_path / "cache"))
    return PrefixCache(backbone, TORCH, MAX_PIXELS)


def compute(cache: PrefixCache, files: list[Path]) -> features.Features:
    return cache.compute([file.name for file in files], files)


def test_a_warm_pass_computes_nothing(cold, files, monkeypatch):
    """Asked again, every row comes from the cache, bitwise the same, and no engine is started."""
    first = compute(cold, files)
    monkeypatch.setattr(features, "make_engine", lambda *_: pytest.fail("an engine was started"))
    second = compute(cold, list(reversed(files)))
    assert (first.num_computed, second.num_computed) == (len(files), 0)
    assert np.array_equal(second.rows_ND[::-1], first.rows_ND)
    assert first.is_readable_N.all()
    assert not first.findings


def test_only_new_images_are_computed(cold, files):
    """Images that were added since, and none else, go through the network; a copy under another name is no news."""
    first = compute(cold, files[:20])
    copy = cold.open().folder / "copy.png"
    shutil.copy(files[0], copy)
    second = compute(cold, [*files, copy])
    assert (first.num_computed, second.num_computed) == (20, len(files) - 20)
    assert np.array_equal(second.rows_ND[:20], first.rows_ND)
    assert np.array_equal(second.rows_ND[-1], first.rows_ND[0])


def test_every_image_is_told_once(cold, files):
    """Progress adds up to the number of images, cold and warm."""
    for _ in range(2):
        told: list[int] = []
        cold.compute([file.name for file in files], files, advance=told.append)
        assert sum(told) == len(files)


def test_an_altered_row_is_noticed_and_computed_again(cold, files):
    """A row whose bytes changed on disk is not believed: it is computed again, to the same value, and then found."""
    first = compute(cold, files)
    (rows,) = cold.open().folder.glob("*.rows")
    torn = bytearray(rows.read_bytes())
    torn[5000] ^= 0xFF
    rows.write_bytes(bytes(torn))
    again = compute(cold, files)
    assert again.num_computed == 1
    assert np.allclose(again.rows_ND, first.rows_ND, rtol=1e-3, atol=1e-6)  # a batch of one rounds otherwise
    assert compute(cold, files).num_computed == 0


@pytest.mark.parametrize("suffix", ["rows", "index"])
def test_a_torn_file_costs_only_what_is_torn(cold, files, suffix):
    """Rows or index cut off in the middle: what is whole is reused, the rest computed again to the same values."""
    first = compute(cold, files)
    (file,) = cold.open().folder.glob(f"*.{suffix}")
    os.truncate(file, file.stat().st_size * 5 // 8 + 3)
    again = compute(cold, files)
    assert again.num_computed == len(files) - len(files) * 5 // 8
    assert np.allclose(again.rows_ND, first.rows_ND, rtol=1e-3, atol=1e-6)
    assert compute(cold, files).num_computed == 0


def test_unreadable_images_become_findings(cold, files, tmp_path):
    """A file that is empty, cut off, no image or missing has a finding with the reason, and zeros for features."""
    bad = {"empty.png": b"", "cut.png": files[0].read_bytes()[:200], "text.jpg": b"hello"}
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
    paths = [files[0], *(tmp_path / name for name in bad), tmp_path / "gone.png", files[1]]
    found = compute(cold, paths)
    assert found.is_readable_N.tolist() == [True, False, False, False, False, True]
    assert not found.rows_ND[1:5].any()
    assert [(finding.kind, finding.ids[0], finding.evidence["reason"]) for finding in found.findings] == [
        ("unreadable", "empty.png", "empty file"),
        ("unreadable", "cut.png", "truncated"),
        ("unreadable", "text.jpg", "not an image"),
        ("unreadable", "gone.png", "No such file or directory"),
    ]
    assert np.array_equal(found.rows_ND[[0, 5]], compute(cold, files[:2]).rows_ND)


def test_no_images_are_no_work(cold):
    """Features of nothing are an empty table."""
    found = compute(cold, [])
    assert found.rows_ND.shape == (0, 1280)


def test_a_full_disk_is_a_clear_error_that_leaves_the_cache_valid(cold, files, monkeypatch):
    """Where the disk fills up, the error says what to do; what was cached before is reused once there is space."""
    kept = compute(cold, files[:BATCH])
    real_write, written = os.write, 0

    def write(handle: int, data: memoryview) -> int:
        nonlocal written
        if written > 50_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written += len(data[:30_000])
        return real_write(handle, data[:30_000])

    with monkeypatch.context() as patch:
        patch.setattr(store.os, "write", write)
        with pytest.raises(CacheError, match=r"cannot write to the cache .*: No space left on device") as caught:
            compute(cold, files)
    assert "FINEFOLD_CACHE" in str(caught.value.hint)
    assert "still valid" in str(caught.value.hint)
    after = compute(cold, files)
    assert 0 < after.num_computed <= len(files) - BATCH
    assert np.array_equal(after.rows_ND[:BATCH], kept.rows_ND)
    assert compute(cold, files).num_computed == 0


def test_a_cache_that_cannot_be_made_is_told(cold, files, tmp_path):
    """A cache folder that cannot be made, because a file stands in its way, is an error in words."""
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(CacheError, match="cannot write to the cache"):
        compute(cold, files)


def test_features_that_are_not_finite_are_refused(files, tmp_path):
    """Weights that overflow make an error that names the model, never a cached row."""
    from torchvision.models import resnet18

    torch.manual_seed(0)
    state = {name: value * 1e6 for name, value in resnet18(weights=None).state_dict().items()}
    torch.save(state, tmp_path / "wild.pth")
    backbone = find_backbone("torchvision:resnet18", str(tmp_path / "wild.pth"), size_px=32)
    cache = PrefixCache(backbone, TORCH, MAX_PIXELS)
    with pytest.raises(EngineError, match="torchvision:resnet18 gives features that are not finite"):
        compute(cache, files[:4])
    assert len(cache.open()) == 0


@pytest.fixture
def described(shapes, tmp_path) -> Path:
    """A folder with a data.toml and its split, ready to train."""
    split(init(shapes, out=tmp_path / "data.toml").data, folds=3)
    return tmp_path


TRAIN = ["-m", "finefold", "train", "data.toml", "--set", "model.engine=torch", "--set", "model.precision=fp32"]
TRAIN += ["--set", "probe.strengths=[100.0]"]


def rows_in(cache: Path) -> int:
    return sum(file.stat().st_size // 20 for file in cache.glob("features/*/*.index"))


@pytest.mark.slow  # a process is started and killed again and again; torn files are tested always
def test_killed_in_the_middle_it_goes_on_and_ends_the_same(described):
    """`kill -9` during the feature pass: the same command reuses what was cached and ends in the same ledger."""
    plain = finish(start(*TRAIN, "--out", "plain", cwd=described, FINEFOLD_CACHE="cache-1"))
    assert "features: 48 images" in plain.stderr
    killed = start(*TRAIN, "--out", "killed", cwd=described, FINEFOLD_CACHE="cache-2", FINEFOLD_THREADS="1")
    while not rows_in(described / "cache-2") and killed.poll() is None:
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    finish(killed, code=-signal.SIGKILL)
    survived = rows_in(described / "cache-2")
    assert 0 < survived < 48
    assert not (described / "killed" / "manifest.json").exists()
    told = run_finefold("evaluate", "killed", cwd=described, code=1).stderr
    assert "is not a finished run" in told
    assert "run the same command again" in told
    finish(start(*TRAIN, "--out", "killed", cwd=described, FINEFOLD_CACHE="cache-2"))
    manifest = json.loads((described / "killed" / "manifest.json").read_text())
    assert manifest["features"] == {"images": 48, "computed": 48 - survived}
    for name in ("oof.parquet", "fold-1/weights.safetensors", "scores.json"):
        assert (described / "killed" / name).read_bytes() == (described / "plain" / name).read_bytes()
    assert not (described / "killed" / "unfinished.json").exists()


@pytest.mark.slow  # two processes start engines side by side
def test_two_processes_fill_the_cache_at_once(described):
    """Two runs that start together on an empty cache both finish, say the same, and leave every row readable."""
    both = [
        start(*TRAIN, "--out", f"run-{n}", cwd=described, FINEFOLD_CACHE="both", FINEFOLD_THREADS="1") for n in "12"
    ]
    for process in both:
        finish(process)
    first, second = (pl.read_parquet(described / f"run-{n}" / "oof.parquet") for n in "12")
    assert first.equals(second)
    warm = finish(start(*TRAIN, "--out", "run-3", cwd=described, FINEFOLD_CACHE="both"))
    assert "features: 48 images" in warm.stderr
    manifest = json.loads((described / "run-3" / "manifest.json").read_text())
    assert manifest["features"]["computed"] == 0


def test_copies_are_cached_beside_views(cold, files):
    """Only images that are to have a copy get one; it is computed once, and is what an empty prefix would show."""
    copy = Copy(1, "medium", ("plain", "hflip"), 0)
    wanted_N = np.arange(len(files)) < 5
    names = [file.name for file in files]
    first = cold.fill(names, files, copies={copy: wanted_N})
    assert first.num_computed == len(files) + 5
    assert cold.fill(names, files, copies={copy: wanted_N}).num_computed == 0
    assert cold.open(copy).contains(first.hashes).tolist() == wanted_N.tolist()
    images = ImageRows(files, cold.backbone.preprocessing, MAX_PIXELS).read(np.arange(5), copy)
    rows, _ = cold.open(copy).read(first.hashes[:5])
    assert np.array_equal(rows, cold.forward(images))
    assert not np.array_equal(rows, cold.open().read(first.hashes[:5])[0])
