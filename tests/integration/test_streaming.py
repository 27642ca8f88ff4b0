"""Answers for many images: memory that stays flat, rows that appear once, kills that cost nothing."""

import json
import os
import signal
import time
from pathlib import Path

import cv2
import numpy as np
import polars as pl
import pytest

from finefold.nn import streaming
from finefold.steps.predict import predict, write_answers
from finefold.steps.run import open_run
from offline.processes import finish, start

PEAK = """
import sys
from finefold.cli.main import main
code = main(sys.argv[1:])
# not getrusage: that holds the peak of the process that started this one as well
print(code, next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def draw(folder: Path, count: int) -> Path:
    """So many different small pictures."""
    folder.mkdir()
    rng = np.random.default_rng(count)
    canvas = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
    for number in range(count):
        canvas[:4, :8] = rng.integers(0, 256, (4, 8, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{number}.png"), canvas)
    return folder


def test_both_ways_answer_alike(job, tmp_path, monkeypatch):
    """Rows that pass the cache by give the answers that cached rows give, broken images included."""
    folder = draw(tmp_path / "images", 50)
    (folder / "17.png").write_bytes(b"no image")
    run = open_run(job.run)
    kept = predict(run, folder)
    monkeypatch.setattr(streaming, "CACHED_IMAGES", 10)
    monkeypatch.setattr(streaming, "BATCHES_AT_ONCE", 2)
    passed = predict(run, folder)
    assert passed.predictions.ids == kept.predictions.ids
    np.testing.assert_allclose(passed.predictions.probs_NK, kept.predictions.probs_NK, atol=1e-5)
    assert passed.findings == kept.findings
    assert [finding.ids for finding in passed.findings] == [("17.png",)]
    np.testing.assert_allclose(passed.predictions.probs_NK[17], run.train_shares_K)


def test_the_queue_is_bounded(job, tmp_path, monkeypatch):
    """Threads do not run ahead of the folds' models by more than a few batches."""
    folder = draw(tmp_path / "images", 400)
    monkeypatch.setattr(streaming, "CACHED_IMAGES", 10)
    monkeypatch.setattr(streaming, "BATCHES_AT_ONCE", 1)
    loaded: list[int] = []
    before = streaming._load
    monkeypatch.setattr(streaming, "_load", lambda *facts: (loaded.append(1), before(*facts))[1])
    run = open_run(job.run)
    parts = streaming.stream_probs(
        streaming.FoldEnsemble.read(run.backbone, [run.fold_weights(0)], run.space),
        [f"{number}.png" for number in range(400)],
        [folder / f"{number}.png" for number in range(400)],
        choice=streaming.Choice(run.manifest["engine"]["name"], run.manifest["engine"]["precision"], ""),
        max_pixels=10**8,
        fallback_K=run.train_shares_K,
    )
    first = next(parts)
    time.sleep(0.5)
    assert len(first.probs_BK) == 16
    assert len(loaded) <= 2 * streaming.num_threads() + 2 < 400 / 16
    parts.close()


@pytest.mark.slow  # three processes, one of them as slow as it is meant to be
def test_a_killed_process_is_gone_on_with(job, tmp_path):
    """After kill -9 the same command goes on: every row once, in order, as in a run that nobody killed."""
    folder = draw(tmp_path / "images", 300)
    whole, out = tmp_path / "whole.csv", tmp_path / "answers.csv"
    slow = "import finefold.nn.streaming as s; s.CACHED_IMAGES = 10; s.BATCHES_AT_ONCE = 1;"
    slow += " from finefold.cli.main import run; run()"
    finish(start("-c", slow, "predict", job.run, folder, "--out", whole, cwd=tmp_path))
    rows = tmp_path / ".answers.csv.unfinished" / "probs"
    process = start("-c", slow, "predict", job.run, folder, "--out", out, cwd=tmp_path)
    while not (rows.exists() and rows.stat().st_size) and process.poll() is None:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not out.exists()
    done = finish(start("-c", slow, "predict", job.run, folder, "--out", out, cwd=tmp_path))
    assert "answers that an earlier run left unfinished" in done.stderr
    first, second = pl.read_csv(whole), pl.read_csv(out)
    assert second["id"].to_list() == [f"{number}.png" for number in range(300)]
    assert first["id"].equals(second["id"])
    np.testing.assert_allclose(first["prob"].to_numpy(), second["prob"].to_numpy(), atol=1e-5)
    assert not rows.exists()
    sides = [json.loads(file.with_suffix(".json").read_text()) for file in (whole, out)]
    assert sides[0]["shares"].keys() == sides[1]["shares"].keys()
    assert sides[1]["images"] == 300


def test_a_template_is_filled_in_its_own_order_after_a_stop(job, tmp_path, monkeypatch):
    """An error in the middle leaves the first rows; going on gives the file that was wanted."""
    import finefold.steps.probabilities as step

    run = open_run(job.run)
    real = step.stream_probs

    def stops(*facts, **named):
        for part in real(*facts, **named):
            yield part
            raise KeyboardInterrupt

    monkeypatch.setattr(streaming, "IMAGES_AT_ONCE", 8)
    monkeypatch.setattr(step, "stream_probs", stops)
    with pytest.raises(KeyboardInterrupt):
        write_answers(run, out=tmp_path / "answers.csv")
    assert (tmp_path / ".answers.csv.unfinished" / "probs").stat().st_size == 8 * 8 * 18
    monkeypatch.setattr(step, "stream_probs", real)
    write_answers(run, out=tmp_path / "answers.csv")
    assert (tmp_path / "answers.csv").read_bytes() == job.submission.read_bytes()


def test_changed_images_are_predicted_anew(job, tmp_path, monkeypatch):
    """Rows of an unfinished run are dropped where one of their images was written since."""
    import finefold.steps.predict as step

    folder = draw(tmp_path / "images", 20)
    run = open_run(job.run)
    real = step._write
    monkeypatch.setattr(step, "_write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_answers(run, folder, out=tmp_path / "answers.csv")
    monkeypatch.setattr(step, "_write", real)
    future = time.time() + 10
    (folder / "3.png").write_bytes((folder / "4.png").read_bytes())
    os.utime(folder / "3.png", (future, future))
    write_answers(run, folder, out=tmp_path / "answers.csv")
    found = pl.read_csv(tmp_path / "answers.csv")
    assert found["prob"][3] == pytest.approx(found["prob"][4])


def test_few_images_cost_no_more_than_their_work(job, tmp_path):
    """A second answer for the same few images writes the same file, and leaves nothing else behind."""
    folder = draw(tmp_path / "images", 3)
    for _ in range(2):
        write_answers(open_run(job.run), folder, out=tmp_path / "answers.csv")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["answers.csv", "answers.json", "images"]


@pytest.mark.slow
def test_memory_is_flat(job, tmp_path):
    """Thirty times the images take no more than a few dozen megabytes more at the peak."""
    peaks = []
    for count in (300, 9000):
        folder = draw(tmp_path / f"images-{count}", count)
        source = "import finefold.nn.streaming as s; s.CACHED_IMAGES = 10\n" + PEAK
        done = finish(start("-c", source, "predict", job.run, folder, "--out", f"{count}.csv", cwd=tmp_path))
        code, kilobytes = done.stdout.split()[-2:]
        assert code == "0"
        peaks.append(int(kilobytes) / 1000)
        assert pl.read_csv(tmp_path / f"{count}.csv").height == count
    assert peaks[1] - peaks[0] < 60, peaks
