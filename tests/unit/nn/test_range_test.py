"""A learning rate range test: rates and the loss's answer to them."""

import numpy as np
import pytest

from finefold.nn.range_test import Ramp, has_exploded, smoothed, suggest_rate

RATES = np.geomspace(1e-6, 1, 100)


def losses_of(steepest=1e-3, noise=0.0, fall=0.5, seed=0):
    """A loss that falls around one rate and explodes towards 1."""
    x, rng = np.log10(RATES), np.random.default_rng(seed)
    valley = 0.7 - fall / (1 + np.exp(-4 * (x - np.log10(steepest)))) + np.exp(5 * (x + 0.4))
    return valley + noise * rng.standard_normal(len(RATES))


def test_a_ramp_grows_by_one_ratio():
    """From low to high in all steps, each the same times the one before."""
    ramp = Ramp(50, 1e-6, 10.0)
    factors = np.array([ramp.factor(step) for step in range(50)])
    assert factors[0] == pytest.approx(1e-6) and factors[-1] == pytest.approx(10)
    assert np.allclose(factors[1:] / factors[:-1], factors[1] / factors[0])


def test_smoothing_keeps_what_is_smooth():
    """A constant stays, a line stays but at its ends, and noise shrinks."""
    assert np.allclose(smoothed(np.full(30, 2.5)), 2.5)
    assert np.allclose(smoothed(np.arange(100.0))[25:75], np.arange(25, 75), atol=1e-3)
    noise = np.random.default_rng(0).standard_normal(100)
    assert smoothed(noise).std() < noise.std() / 2


@pytest.mark.parametrize("steepest", [1e-4, 1e-3, 1e-2])
@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_the_steepest_descent_is_suggested(steepest, noise):
    """The suggestion is the steepest rate, within a factor of four where batches are noisy."""
    found = suggest_rate(RATES.tolist(), losses_of(steepest, noise), 100)
    assert found is not None
    assert steepest / 4 < found < 4 * steepest


@pytest.mark.parametrize("seed", range(10))
def test_a_loss_that_never_falls_suggests_nothing(seed):
    """Noise around a level that ends in an explosion is no descent."""
    assert suggest_rate(RATES.tolist(), losses_of(noise=0.1, fall=0.0, seed=seed), 100) is None


def test_a_loss_that_falls_from_the_first_step_on_has_a_rate():
    """A descent that has begun at the lowest rate is no noise."""
    found = suggest_rate(RATES.tolist(), losses_of(1e-6, 0.02), 100)
    assert found is not None and found < 1e-4


def test_a_cliff_has_a_rate():
    """Where the loss falls at once, the rate is at the cliff, or a tenth of the one with the lowest loss."""
    losses_N = np.where(np.arange(100) < 80, 1.0, 0.5 + np.abs(np.arange(100) - 82) / 20)
    found = suggest_rate(RATES.tolist(), losses_N, 100)
    assert found is not None and RATES[75] / 10 <= found <= RATES[87]


def test_an_explosion_is_not_one_bad_batch():
    """Three losses in a row, four times the lowest, are an explosion; one is not, nor is a short test."""
    assert not has_exploded([1.0] * 20)
    assert not has_exploded([1.0] * 20 + [50.0])
    assert has_exploded([1.0] * 20 + [5.0, 6.0, 9.0])
    assert not has_exploded([9.0, 9.0, 9.0])
