"""steps.choosing: what trains where the recipe leaves it open."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from finefold.data.labels import Attribute, LabelSpace
from finefold.data.predictions import Predictions
from finefold.data.samples import SampleTable
from finefold.metrics.intervals import Score
from finefold.recipe.loader import load_recipe
from finefold.steps.choosing import Measured, decide, mean_over_groups, measure, trial_recipe

CLEAR, UNCLEAR = Score(0.1, 0.05, 0.15, 50), Score(0.1, -0.02, 0.2, 50)


def measured(*, median: float, explained: float, gain: Score) -> Measured:
    """Numbers of a set of 3 classes."""
    return Measured(median, 10, 3, explained, 0.7, 0.4, gain)


@pytest.mark.parametrize(
    ("median", "explained", "gain", "trained"),
    [
        (20, 0.8, UNCLEAR, ["head"]),
        (5000, 0.1, UNCLEAR, ["head"]),
        (20, 0.8, CLEAR, ["head", "last:3"]),
        (5000, 0.8, CLEAR, ["head", "last:3"]),
        (20, 0.1, CLEAR, ["head", "last:3"]),
        (5000, 0.1, CLEAR, ["head", "all"]),
    ],
)
def test_the_textbooks_cases(median, explained, gain, trained):
    """Only what clearly pays trains; everything only where images are many and far from what the weights know."""
    chosen = decide(load_recipe("auto"), measured(median=median, explained=explained, gain=gain))
    assert [phase.trainable for phase in chosen.recipe.phase] == trained
    assert not chosen.recipe.choose
    assert len(chosen.lines) == 3


def test_the_lines_hold_the_numbers():
    """The three lines say images per class, how near the world is, and what a stage gave."""
    lines = decide(load_recipe("auto"), measured(median=20, explained=0.8, gain=CLEAR)).lines
    assert "20 images at the median and 10 in the scarcest: few" in lines[0]
    assert "accuracy 0.700 (always the largest class: 0.400) and explains 80%" in lines[1]
    assert "near to what the weights have seen" in lines[1]
    assert "changes log loss by -0.100 [-0.150, -0.050]: it pays, so last:3 train" in lines[2]


def test_the_recipes_own_settings_stay():
    """What a user set beside the phases is kept by the choice."""
    recipe = load_recipe("auto", ["train.batch_size=16", "seed=3"])
    chosen = decide(recipe, measured(median=5000, explained=0.1, gain=CLEAR)).recipe
    assert (chosen.train.batch_size, chosen.seed) == (16, 3)


def test_the_trial_is_one_stage_under_plain_cross_entropy():
    """The trial's log loss is comparable with the probe's: no smoothing, no balance; rates are the recipe's."""
    recipe = load_recipe("auto", ["loss.label_smoothing=0.2"])
    tried = trial_recipe(recipe)
    assert [phase.trainable for phase in tried.phase] == ["head", "last:1"]
    assert (tried.loss.label_smoothing, tried.loss.balance, tried.choose) == (0.0, "none", False)
    assert tried.phase[1].lr == recipe.phase[1].lr


def table(groups: list[str], labels: list[int]) -> SampleTable:
    """Samples of two classes."""
    space = LabelSpace((Attribute("kind", ("a", "b"), "kind", (("a",), ("b",))),))
    ids = [f"s{number}" for number in range(len(labels))]
    frame = pl.DataFrame({"id": ids, "path": ids, "group": groups, "source": ["x"] * len(ids)}).with_columns(
        pl.Series("label", labels, dtype=pl.Int32),
        pl.Series("train_label", labels, dtype=pl.Int32),
        pl.Series("kind", ["ab"[label] for label in labels]),
    )
    return SampleTable(frame, space, Path())


def test_measuring_compares_the_same_rows():
    """The gain is the mean difference of log losses on the rows of the trial, whatever their order."""
    samples = table(["g0", "g1", "g2", "g3"], [0, 1, 0, 1])
    probe = Predictions(tuple(samples.ids), np.array([[0.6, 0.4], [0.4, 0.6], [0.5, 0.5], [0.5, 0.5]]), ("a", "b"))
    tried = Predictions(("s3", "s0"), np.array([[0.1, 0.9], [0.9, 0.1]]), ("a", "b"))
    found = measure(probe, tried, samples)
    assert found.gain.value == pytest.approx(np.mean([np.log(0.9 / 0.5), np.log(0.9 / 0.6)]))
    assert found.gain.n == 2
    losses = -np.log([0.6, 0.6, 0.5, 0.5])
    assert found.explained == pytest.approx(1 - losses.mean() / np.log(2))
    assert (found.median, found.least, found.chance) == (2, 2, 0.5)


def test_measuring_leaves_out_samples_of_unknown_class():
    """Samples that lack an attribute's value change none of the numbers."""
    names, rows = ("a", "b"), np.array([[0.6, 0.4], [0.4, 0.6], [0.5, 0.5], [0.9, 0.1], [0.2, 0.8]])
    whole, gappy = table(["g0", "g1", "g2"], [0, 1, 0]), table(["g0", "g1", "g2", "g3", "g4"], [0, 1, 0, 0, 1])
    unknown = pl.Series([False, False, False, True, True])
    blank = {name: pl.when(unknown).then(None).otherwise(pl.col(name)) for name in ("label", "train_label", "kind")}
    gappy = replace(gappy, frame=gappy.frame.with_columns(**blank))
    tried = Predictions(("s3", "s0"), np.array([[0.3, 0.7], [0.9, 0.1]]), names)
    found = measure(Predictions(tuple(gappy.ids), rows, names), tried, gappy)
    expected = measure(
        Predictions(tuple(whole.ids), rows[:3], names), Predictions(("s0",), tried.probs_NK[1:], names), whole
    )
    assert found == expected


def test_an_interval_is_over_groups():
    """Rows of one group count as one draw: with a single group there is no spread to see."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=60)
    alone = mean_over_groups(values, np.arange(60))
    together = mean_over_groups(values, np.zeros(60))
    assert alone.high - alone.low > 0.2
    assert [together.low, together.high] == pytest.approx([values.mean()] * 2)
