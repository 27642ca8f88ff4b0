"""Rates are pure functions of the step that stay between 0 and the base rate."""

import math
from itertools import pairwise
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finefold.nn.schedules import make_schedule
from finefold.recipe.training import ScheduleRecipe

NAMES = get_args(ScheduleRecipe.model_fields["name"].annotation)
durations = st.one_of(
    st.integers(0, 100).map(lambda n: f"{n} percent"),
    st.integers(0, 400).map(lambda n: f"{n} steps"),
    st.integers(0, 9).map(lambda n: f"{n} epochs"),
)
shares = st.floats(0, 1)
recipes = st.builds(
    ScheduleRecipe,
    name=st.sampled_from(NAMES),
    warmup=durations,
    final=shares,
    gamma=st.floats(0.001, 1),
    every=durations,
    patience=st.integers(1, 4),
)
score_lists = st.lists(st.floats(0, 1), max_size=12)


def factors_of(recipe, num_steps, steps_per_epoch=10, scores=()):
    """Every step's factor."""
    schedule = make_schedule(recipe, num_steps=num_steps, steps_per_epoch=steps_per_epoch)
    return [schedule.factor(step, scores) for step in range(num_steps)]


@given(recipes, st.integers(1, 200), st.integers(1, 50), score_lists)
def test_factors_are_shares(recipe, num_steps, steps_per_epoch, scores):
    """Whatever the recipe and the phase's length, a factor is in 0..1, and the first is above 0."""
    factors = factors_of(recipe, num_steps, steps_per_epoch, scores)
    assert all(0 <= factor <= 1 for factor in factors)
    assert factors[0] > 0


@given(recipes, st.integers(1, 200))
def test_a_warm_up_rises_then_nothing_does(recipe, num_steps):
    """Factors rise strictly to the end of the warm-up and never afterwards."""
    schedule = make_schedule(recipe, num_steps=num_steps, steps_per_epoch=10)
    factors = factors_of(recipe, num_steps)
    rising, falling = factors[: schedule.warmup], factors[schedule.warmup :]
    assert all(low < high for low, high in pairwise(rising))
    assert all(high >= low - 1e-12 for high, low in pairwise(falling))


@given(recipes, st.integers(2, 200))
def test_schedules_that_end_end_at_final(recipe, num_steps):
    """Cosine, linear and one cycle are exactly at `final` in the last step, and stay there beyond it."""
    recipe = recipe.model_copy(update={"name": recipe.name if recipe.name in ("linear", "one_cycle") else "cosine"})
    schedule = make_schedule(recipe, num_steps=num_steps, steps_per_epoch=10)
    assert schedule.factor(num_steps - 1) == schedule.factor(num_steps + 5) == recipe.final


@given(recipes)
def test_a_phase_of_one_step_takes_it(recipe):
    """The only step of a phase is taken at the base rate."""
    assert factors_of(recipe, 1) == [1.0]


@given(recipes, st.integers(1, 100), score_lists)
def test_a_factor_depends_on_its_arguments_alone(recipe, num_steps, scores):
    """A factor is the same whatever was asked before; only plateau reads scores."""
    schedule = make_schedule(recipe, num_steps=num_steps, steps_per_epoch=10)
    forward = [schedule.factor(step, scores) for step in range(num_steps)]
    again = make_schedule(recipe, num_steps=num_steps, steps_per_epoch=10)
    assert forward == [again.factor(step, tuple(scores)) for step in reversed(range(num_steps))][::-1]
    if recipe.name != "plateau":
        assert forward == factors_of(recipe, num_steps)


def test_warm_up_is_of_the_phase_and_linear():
    """A warm-up of 10 percent of 40 steps takes fifths of the rate, and is then at the whole."""
    factors = factors_of(ScheduleRecipe(name="constant", warmup="10 percent"), 40)
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_one_cycle_rises_for_30_percent_whatever_the_warm_up():
    """One cycle peaks at 1 after 30 % of the phase, once."""
    for warmup in ("0 steps", "80 percent"):
        factors = factors_of(ScheduleRecipe(name="one_cycle", warmup=warmup), 100)
        assert [step for step, factor in enumerate(factors) if factor == 1.0] == [30]


def test_cosine_and_linear_are_halfway_in_the_middle():
    """Halfway through the fall both are midway between 1 and `final`."""
    for name in ("cosine", "linear"):
        factors = factors_of(ScheduleRecipe(name=name, warmup="0 steps", final=0.2), 101)
        assert factors[0] == 1 and factors[50] == pytest.approx(0.6)


def test_step_drops_at_once_and_exponential_smoothly():
    """Both are times gamma after `every`; in between, step stays and exponential falls."""
    told = {"warmup": "2 steps", "every": "4 steps", "gamma": 0.25}
    stairs = factors_of(ScheduleRecipe(name="step", **told), 11)[2:]
    smooth = factors_of(ScheduleRecipe(name="exponential", **told), 11)[2:]
    assert stairs == [1.0] * 4 + [0.25] * 4 + [0.0625]
    assert smooth == pytest.approx([0.25 ** (step / 4) for step in range(9)])


@pytest.mark.parametrize(
    ("scores", "drops"),
    [
        ([], 0),
        ([0.5, 0.4], 0),
        ([0.5, 0.5, 0.4], 1),
        ([0.5, 0.4, 0.4, 0.4], 1),
        ([0.5, 0.4, 0.4, 0.4, 0.4], 2),
        ([0.5, 0.4, 0.6, 0.6], 0),
        ([0.5, 0.4, 0.4, 0.6, 0.5], 1),
        ([0.5, math.nan, math.nan], 1),
    ],
)
def test_plateau_drops_when_the_best_is_old(scores, drops):
    """The rate drops each time the best score is 2 epochs old, then waits as long again; NaN is never better."""
    recipe = ScheduleRecipe(name="plateau", warmup="0 steps", gamma=0.5, patience=2)
    assert set(factors_of(recipe, 5, scores=scores)) == {0.5**drops}
