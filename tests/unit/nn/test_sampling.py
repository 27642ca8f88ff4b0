"""Which rows an epoch shows: each once unless something else is asked, and then exactly that."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finefold.nn.sampling import class_counts, epoch_rows

NOTHING = {"balance": "none", "balance_power": 0.5, "at_most": 0, "quota": 0.0}


@st.composite
def tables(draw):
    """(row numbers, labels, groups) of up to 60 rows of up to 4 classes, some without rows, and 5 groups."""
    num_rows = draw(st.integers(1, 60))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    labels_N = rng.choice(4, num_rows, p=rng.dirichlet([0.5] * 4))
    return rng.permutation(1000)[:num_rows], labels_N, rng.integers(0, 5, num_rows)


def shown(table, seed=0, **asked):
    return epoch_rows(*table, **{**NOTHING, **asked}, rng=np.random.default_rng(seed))


def labels_of(table, rows_E):
    rows_N, labels_N, _ = table
    label_of = dict(zip(rows_N.tolist(), labels_N.tolist(), strict=True))
    return np.array([label_of[row] for row in rows_E.tolist()])


settings_of_sampling = st.fixed_dictionaries(
    {
        "balance": st.sampled_from(["none", "loss", "sampler", "logit_adjust"]),
        "balance_power": st.floats(0, 1),
        "at_most": st.integers(0, 5),
        "quota": st.floats(0, 1),
    }
)


@settings(deadline=None)
@given(tables(), st.sampled_from(["none", "loss", "logit_adjust"]), st.integers(0, 100))
def test_every_row_once_when_nothing_is_asked(table, balance, seed):
    """Without a sampler, thinning or quota an epoch is a permutation of the rows."""
    assert sorted(shown(table, seed, balance=balance)) == sorted(table[0])


@settings(deadline=None)
@given(tables(), settings_of_sampling, st.integers(0, 100))
def test_the_same_generator_shows_the_same(table, asked, seed):
    """An epoch follows from its generator, whatever is asked."""
    assert np.array_equal(shown(table, seed, **asked), shown(table, seed, **asked))


@settings(deadline=None)
@given(tables(), settings_of_sampling, st.integers(0, 100))
def test_every_epoch_is_as_long(table, asked, seed):
    """How many rows are shown does not depend on the generator, and all of them are among the given."""
    rows_E = shown(table, seed, **asked)
    assert len(rows_E) == len(shown(table, seed + 1, **asked))
    assert set(rows_E.tolist()) <= set(table[0].tolist())


@settings(deadline=None)
@given(tables(), st.integers(1, 6), st.integers(0, 100))
def test_thinning_takes_what_it_may_and_no_more(table, at_most, seed):
    """Of each group and class, min(at_most, how many there are) different rows are shown."""
    rows_N, labels_N, groups_N = table
    is_shown_N = np.isin(rows_N, rows_E := shown(table, seed, at_most=at_most))
    assert len(set(rows_E.tolist())) == len(rows_E)
    for group, label in set(zip(groups_N.tolist(), labels_N.tolist(), strict=True)):
        in_cell_N = (groups_N == group) & (labels_N == label)
        assert is_shown_N[in_cell_N].sum() == min(at_most, in_cell_N.sum())


@settings(deadline=None)
@given(tables(), settings_of_sampling, st.integers(0, 100))
def test_thinning_holds_for_whatever_follows(table, asked, seed):
    """Drawing and repeating never show more than `at_most` different rows of one group and class."""
    rows_N, labels_N, groups_N = table
    is_shown_N = np.isin(rows_N, shown(table, seed, **asked))
    cells_E = np.unique(np.stack([groups_N, labels_N])[:, is_shown_N], axis=1, return_counts=True)[1]
    assert asked["at_most"] == 0 or cells_E.max() <= asked["at_most"]


def test_thinning_is_drawn_anew():
    """Every row of a thinned cell has its turn, about equally often."""
    table = np.arange(10), np.zeros(10, dtype=int), np.array(["ann"] * 10)
    rng = np.random.default_rng(0)
    rows = np.concatenate([epoch_rows(*table, **{**NOTHING, "at_most": 3}, rng=rng) for _ in range(2000)])
    assert np.bincount(rows, minlength=10) == pytest.approx(600, rel=0.15)


@settings(deadline=None)
@given(tables(), settings_of_sampling, st.integers(0, 100))
def test_quota_is_reached(table, asked, seed):
    """Every class that has rows gets quota times the rows that thinning left, whatever the sampler draws."""
    rows_E = shown(table, seed, **asked)
    num_left = len(shown(table, seed, at_most=asked["at_most"]))
    counts_C = np.bincount(labels_of(table, rows_E), minlength=4)[np.unique(table[1])]
    assert counts_C.min() >= asked["quota"] * num_left - 1e-6


def test_quota_repeats_no_more_than_needed():
    """A scarce class gets exactly its quota, each of its rows at least once; the others stay as they are."""
    table = np.arange(30), np.array([0] * 20 + [1] * 8 + [2] * 2), np.zeros(30, dtype=int)
    rows_E = shown(table, quota=0.1)
    assert np.bincount(labels_of(table, rows_E)).tolist() == [20, 8, 3]
    assert set(rows_E.tolist()) == set(range(30))


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_the_sampler_draws_classes_by_a_power_of_their_counts(power):
    """Classes are drawn in proportion to count^(1 - power), and rows of one class alike."""
    counts_C = np.array([400, 90, 10])
    labels_N = np.repeat(np.arange(3), counts_C)
    table = np.arange(500), labels_N, np.zeros(500, dtype=int)
    rows = np.concatenate([shown(table, seed, balance="sampler", balance_power=power) for seed in range(200)])
    assert len(rows) == 200 * 500
    expected_C = counts_C ** (1 - power) / (counts_C ** (1 - power)).sum()
    assert np.bincount(labels_N[rows]) / len(rows) == pytest.approx(expected_C, rel=0.05)
    scarce = np.bincount(rows, minlength=500)[490:]
    assert scarce == pytest.approx(scarce.mean(), rel=0.3)


def test_a_quota_takes_nothing_from_a_sampler():
    """With a quota, classes above it are still drawn as often as the sampler would."""
    labels_N = np.repeat(np.arange(3), [400, 90, 10])
    table = np.arange(500), labels_N, np.zeros(500, dtype=int)
    asked = {"balance": "sampler", "balance_power": 0.0, "quota": 0.1}
    rows = np.concatenate([shown(table, seed, **asked) for seed in range(200)])
    assert np.bincount(labels_N[rows]) / 200 == pytest.approx([400, 90, 50], rel=0.02)


def test_no_rows_show_nothing():
    """An epoch of no rows is empty, whatever is asked."""
    nothing = np.empty(0, dtype=np.int64)
    for balance in ("none", "sampler"):
        asked = {"balance": balance, "balance_power": 1.0, "at_most": 2, "quota": 0.5}
        assert len(shown((nothing, nothing, nothing), **asked)) == 0


def test_classes_without_rows_are_counted():
    """Counts are of every class, those without rows too."""
    assert class_counts(np.array([2, 0, 2]), 4).tolist() == [1, 0, 2, 0]
