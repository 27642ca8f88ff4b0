"""A forecast of a training: what is left, how jobs share workers, and how it is said."""

from types import SimpleNamespace

import pytest
import torch

from finefold.nn.weights import write_weights
from finefold.runs.folder import RunFolder
from finefold.steps import expecting
from finefold.steps.expecting import Expected, Pace, as_time, makespan, mean_pace, steps_left


def test_jobs_share_workers_in_turn():
    """Five equal jobs, two at a time, take three rounds; one worker takes them one after the other."""
    assert makespan([10.0] * 5, 2) == 30
    assert makespan([10.0] * 5, 1) == 50
    assert makespan([10.0] * 2, 8) == 10
    assert makespan([4.0, 1.0, 1.0, 1.0], 2) == 4
    assert makespan([], 2) == 0


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0.2, "1 s"), (42, "42 s"), (89, "89 s"), (100, "1.7 min"), (840, "14 min"), (6000, "1.7 h"), (90_000, "25 h")],
)
def test_times_have_two_digits(seconds, told):
    """Seconds, minutes and hours are told to the precision that a forecast has."""
    assert as_time(seconds) == told


def test_a_forecast_says_what_is_left():
    """A fresh run is expected, a resumed one has so many folds left; a cached prefix is not spoken of."""
    fresh = Expected(prefix=72, training=840, jobs_left=5, jobs=5, at_once=2, is_resumed=False)
    assert str(fresh) == "expected: prefix 72 s, training 14 min (5 folds, 2 at a time)"
    resumed = Expected(prefix=0, training=480, jobs_left=3, jobs=5, at_once=2, is_resumed=True)
    assert str(resumed) == "left: training 8.0 min (3 of 5 folds, 2 at a time)"
    assert resumed.to_dict() == {"prefix": 0, "training": 480}


def test_the_pace_of_several_workers_is_their_mean():
    """Each worker counts alike."""
    assert mean_pace([Pace(1.0, 0.1), Pace(3.0, 0.3)]) == Pace(2.0, 0.2)


@pytest.fixture
def training(tmp_path, monkeypatch):
    """A fold with a phase of 10 and one of 20 steps after a probe, 5 steps an epoch."""
    monkeypatch.setattr(expecting, "phase_lengths", lambda *_: iter([(1, 10, 5), (2, 20, 5)]))
    return SimpleNamespace(folder=RunFolder(tmp_path))


def test_all_steps_are_left_of_a_fold_not_begun(training):
    """Without a checkpoint every phase is ahead."""
    assert steps_left(training, 0) == [(1, 10, 5), (2, 20, 5)]


@pytest.mark.parametrize(
    ("phase", "step", "left"),
    [(0, 0, [(1, 10, 5), (2, 20, 5)]), (1, 4, [(1, 6, 5), (2, 20, 5)]), (2, 0, [(2, 20, 5)]), (2, 19, [(2, 1, 5)])],
)
def test_a_checkpoint_says_how_far_a_fold_is(phase, step, left, training):
    """Phases before the checkpoint's are over, and its own is as far as its step."""
    header = {"kind": "checkpoint", "phase": phase, "step": step}
    write_weights(training.folder.fold_checkpoint(0), {"x": torch.zeros(1)}, header)
    assert steps_left(training, 0) == left


def test_nothing_is_left_of_a_fold_that_is_done(training):
    """A fold whose predictions are there takes no more steps."""
    training.folder.fold(0).mkdir()
    training.folder.fold_valid(0).touch()
    assert steps_left(training, 0) == []
