"""Durations: how long a phase, a warm-up, a patience lasts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finefold.recipe.durations import Duration


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("12 epochs", 120),
        ("1 epoch", 10),
        ("0.5 epochs", 5),
        ("500 steps", 500),
        ("1 step", 1),
        ("30 percent", 60),
        ("30%", 60),
        (" 2epochs ", 20),
        ("0 steps", 0),
    ],
)
def test_a_duration_is_steps(text, steps):
    """Epochs, steps and shares of a whole of 200 steps, with 10 steps an epoch."""
    assert Duration.parse(text).to_steps(steps_per_epoch=10, whole=200) == steps


@pytest.mark.parametrize(
    "text", ["", "epochs", "12", "-1 epochs", "1.5 steps", "101 percent", "1e3 steps", "two epochs"]
)
def test_what_is_no_duration_is_refused(text):
    """No unit, no number, less than nothing, parts of steps, more than the whole: a ValueError."""
    with pytest.raises(ValueError):
        Duration.parse(text)


def test_a_percentage_needs_a_whole():
    """Percent of nothing is an error, not a number."""
    with pytest.raises(ValueError, match="needs a whole"):
        Duration.parse("5 percent").to_steps(steps_per_epoch=10)


@given(st.integers(0, 10_000), st.sampled_from(["epochs", "steps"]))
def test_a_duration_reads_back(value, unit):
    """What a duration prints says the same duration."""
    duration = Duration(float(value), unit)
    assert Duration.parse(str(duration)) == duration
