"""Averages of weights: the mean that was asked for, and the same whether interrupted or not."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim.swa_utils import AveragedModel

from finefold.nn.averaging import ExponentialAverage, StochasticAverage, make_average
from finefold.recipe.training import TrainRecipe

AVERAGES = [lambda: ExponentialAverage(0.9), StochasticAverage]


def states(number: int, *, dtype: torch.dtype = torch.float32, seed: int = 0):
    """So many states of a layer and of a norm's counter."""
    generator = torch.Generator().manual_seed(seed)
    for step in range(number):
        yield {
            "weight": torch.randn(3, 2, generator=generator).to(dtype),
            "scale": torch.randn((), generator=generator).to(dtype),
            "num_batches_tracked": torch.tensor(10 * step),
        }


def averaged(average, given_states):
    for state in given_states:
        average.update(state)
    return average.values()


@pytest.mark.parametrize("make", AVERAGES)
@settings(deadline=None)
@given(before=st.integers(0, 6), after=st.integers(0, 6))
def test_resumed_equals_uninterrupted(make, before, after):
    """An average that was saved, loaded and went on is bitwise the one that was never interrupted."""
    whole, first, second = make(), make(), make()
    history = list(states(before + after + 1))
    for state in history[:before]:
        first.update(state)
    second.load(first.state())
    resumed, plain = averaged(second, history[before:]), averaged(whole, history)
    assert resumed.keys() == plain.keys()
    assert all(torch.equal(resumed[name], plain[name]) for name in plain)
    assert all(torch.equal(second.state()[name], value) for name, value in whole.state().items())


@settings(deadline=None)
@given(st.integers(1, 30))
def test_swa_is_the_plain_mean(number):
    """The stochastic average is the mean of all states, in numpy's float64 too."""
    values = averaged(StochasticAverage(), states(number))
    expected = np.mean([state["weight"].double().numpy() for state in states(number)], axis=0)
    assert values["weight"].numpy() == pytest.approx(expected, abs=1e-5)


def test_swa_is_torchs_own():
    """The stochastic average of a model is that of torch.optim.swa_utils."""
    torch.manual_seed(0)
    model, average = nn.Linear(4, 3), StochasticAverage()
    reference = AveragedModel(model)
    for _ in range(5):
        nn.init.normal_(model.weight)
        reference.update_parameters(model)
        average.update(model.state_dict())
    torch.testing.assert_close(average.values()["weight"], reference.module.weight.detach())


@settings(deadline=None)
@given(st.integers(1, 40), st.floats(0.01, 0.99))
def test_ema_follows_its_formula(number, decay):
    """Each state moves the average by 1 - min(decay, (1 + n) / (10 + n)), the first becoming it."""
    history = [state["weight"].double().numpy() for state in states(number)]
    expected = history[0]
    for count, weight in enumerate(history[1:], start=1):
        kept = min(decay, (1 + count) / (10 + count))
        expected = kept * expected + (1 - kept) * weight
    assert averaged(ExponentialAverage(decay), states(number))["weight"].numpy() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("make", AVERAGES)
def test_a_state_that_stays_is_its_average(make):
    """The average of one state taken in many times is bitwise that state."""
    state = next(states(1))
    values = averaged(make(), [state] * 20)
    assert all(torch.equal(values[name], state[name]) for name in state)


@pytest.mark.parametrize("make", AVERAGES)
def test_integers_are_the_latest(make):
    """Counters are not averaged, and keep their type."""
    counter = averaged(make(), states(4))["num_batches_tracked"]
    assert counter.dtype == torch.int64
    assert counter.item() == 30


@pytest.mark.parametrize("make", AVERAGES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_averaged_in_float32(make, dtype):
    """States of half precision have the average of the same numbers in float32."""
    narrow = averaged(make(), states(7, dtype=dtype))
    wide = averaged(make(), [{name: value.float() for name, value in s.items()} for s in states(7, dtype=dtype)])
    assert narrow["weight"].dtype == torch.float32
    assert torch.equal(narrow["weight"], wide["weight"])


@pytest.mark.parametrize("make", AVERAGES)
def test_nothing_is_shared(make):
    """Neither training on, nor writing into what was given out, changes an average; nor does it change the model."""
    model, average = nn.Linear(2, 2), make()
    with torch.no_grad():
        for fill in (1.0, 2.0):
            model.weight.fill_(fill)
            average.update(model.state_dict())
        expected = average.values()["weight"]
        for tensor in (model.weight, average.values()["weight"], *average.state().values()):
            tensor.fill_(7)
        assert torch.equal(average.values()["weight"], expected)
        saved, again = average.state(), make()
        again.load(saved)
        again.update(model.state_dict())
        assert torch.equal(saved["value.weight"], expected)
    assert (model.weight == 7).all()
    assert not average.values()["weight"].requires_grad


@pytest.mark.parametrize("make", AVERAGES)
def test_other_names_are_refused(make):
    """A state with a name more or less is not taken in."""
    average = make()
    average.update({"weight": torch.ones(2)})
    with pytest.raises(AssertionError):
        average.update({"weight": torch.ones(2), "bias": torch.ones(2)})


def test_a_recipe_chooses():
    """`average` is none, an exponential average of its decay, or a stochastic one."""
    assert make_average(TrainRecipe()) is None
    assert isinstance(make_average(TrainRecipe(average="swa")), StochasticAverage)
    made = make_average(TrainRecipe(average="ema", ema_decay=0.5))
    assert isinstance(made, ExponentialAverage)
    assert made.decay == 0.5
