"""Losses: their formulas, their limits, and that nothing makes them infinite."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score
from torch.nn import functional as F

from finefold.errors import UsageError
from finefold.nn.losses import (
    class_balanced_weights,
    cross_entropy,
    focal,
    log_prior,
    logit_adjusted,
    make_loss,
    make_spread,
    of_known,
    power_weights,
    smooth,
    soft_f1,
)
from finefold.recipe.training import LossRecipe

COUNTS_C = np.array([50, 9, 1, 0])
TERMS = ["cross_entropy", "focal", "class_balanced", "logit_adjusted", "soft_f1"]
BALANCES = ["none", "loss", "sampler", "logit_adjust"]
PRIOR_C = torch.from_numpy(log_prior(COUNTS_C)).float()
WEIGHTS_C = torch.from_numpy(power_weights(COUNTS_C, 0.5)).float()
PER_ROW = {
    "cross_entropy": lambda x, t: cross_entropy(x, t, weights_C=WEIGHTS_C),
    "focal": lambda x, t: focal(x, t, gamma=2.0, weights_C=WEIGHTS_C),
    "focal of a low power": lambda x, t: focal(x, t, gamma=0.5),
    "focal of no power": lambda x, t: focal(x, t, gamma=0.0),
    "logit_adjusted": lambda x, t: logit_adjusted(x, t, log_prior_C=PRIOR_C, tau=1.0),
}

counts = st.lists(st.integers(0, 10**6), min_size=1, max_size=8).filter(any).map(np.array)


def batch(num_rows=16, *, hard=False, seed=0, dtype=torch.float32):
    """(logits, targets) of 4 classes."""
    rng = np.random.default_rng(seed)
    targets_BC = np.eye(4)[rng.integers(0, 4, num_rows)] if hard else rng.dirichlet(np.ones(4), num_rows)
    return torch.tensor(rng.normal(0, 2, (num_rows, 4)), dtype=dtype), torch.tensor(targets_BC, dtype=dtype)


def probs_of(logits_BC):
    exp_BC = np.exp(logits_BC.double().numpy())
    return exp_BC / exp_BC.sum(axis=1, keepdims=True)


# --- a loss per row ---------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(0, 1000), st.floats(0, 0.9), st.booleans())
def test_cross_entropy_is_torchs(seed, amount, hard):
    """Smoothed and weighted, cross-entropy is that of torch for probabilities."""
    logits_BC, targets_BC = batch(seed=seed, hard=hard)
    ours_B = cross_entropy(logits_BC, smooth(targets_BC, amount), weights_C=WEIGHTS_C)
    theirs_B = F.cross_entropy(logits_BC, targets_BC, WEIGHTS_C, reduction="none", label_smoothing=amount)
    torch.testing.assert_close(ours_B, theirs_B)


def test_cross_entropy_of_labels_is_torchs():
    """Of one-hot targets, cross-entropy is that of torch for labels."""
    logits_BC, targets_BC = batch(hard=True)
    theirs_B = F.cross_entropy(logits_BC, targets_BC.argmax(1), WEIGHTS_C, reduction="none")
    torch.testing.assert_close(cross_entropy(logits_BC, targets_BC, weights_C=WEIGHTS_C), theirs_B)


@settings(deadline=None)
@given(st.integers(0, 1000), st.floats(0, 5))
def test_focal_follows_its_formula(seed, gamma):
    """Focal is sum_c w_c t_c (1 - p_c)^gamma (-log p_c), computed by hand in float64."""
    logits_BC, targets_BC = batch(seed=seed)
    probs_BC = probs_of(logits_BC)
    by_hand_BC = targets_BC.numpy() * WEIGHTS_C.numpy() * (1 - probs_BC) ** gamma * -np.log(probs_BC)
    ours_B = focal(logits_BC, targets_BC, gamma=gamma, weights_C=WEIGHTS_C)
    assert ours_B.numpy() == pytest.approx(by_hand_BC.sum(axis=1), rel=1e-4, abs=1e-6)


def test_focal_of_no_power_is_cross_entropy():
    """With gamma 0, nothing weighs less."""
    torch.testing.assert_close(focal(*batch(), gamma=0.0), cross_entropy(*batch()))


@settings(deadline=None)
@given(st.integers(0, 1000), st.floats(0, 3))
def test_logit_adjustment_follows_its_formula(seed, tau):
    """Logit adjustment is -sum_c t_c log(p_c prior_c^tau / sum_k p_k prior_k^tau), computed by hand in float64."""
    logits_BC, targets_BC = batch(seed=seed)
    prior_C = np.array([50, 9, 1, 0.5]) / 60
    odds_BC = probs_of(logits_BC) * prior_C**tau
    by_hand_BC = targets_BC.numpy() * -np.log(odds_BC / odds_BC.sum(axis=1, keepdims=True))
    ours_B = logit_adjusted(logits_BC, targets_BC, log_prior_C=PRIOR_C, tau=tau)
    assert ours_B.numpy() == pytest.approx(by_hand_BC.sum(axis=1), rel=1e-4)


@pytest.mark.parametrize("name", PER_ROW)
@settings(deadline=None)
@given(seed=st.integers(0, 1000))
def test_permuting_rows_permutes_losses(name, seed):
    """A row's loss is its own: permuting rows permutes losses."""
    logits_BC, targets_BC = batch(seed=seed)
    order_B = np.random.default_rng(seed).permutation(16)
    loss_B = PER_ROW[name](logits_BC, targets_BC)
    assert loss_B.shape == (16,)
    torch.testing.assert_close(PER_ROW[name](logits_BC[order_B], targets_BC[order_B]), loss_B[order_B])


@pytest.mark.parametrize("name", [*PER_ROW, "soft_f1"])
@pytest.mark.parametrize("hard", [True, False])
def test_gradients_are_those_of_the_loss(name, hard):
    """Gradients agree with finite differences in float64."""
    logits_BC, targets_BC = batch(5, hard=hard, dtype=torch.float64)
    function = {**PER_ROW, "soft_f1": soft_f1}[name]
    assert torch.autograd.gradcheck(lambda x: function(x, targets_BC), logits_BC.requires_grad_())


@settings(deadline=None)
@given(st.floats(0, 0.99), st.integers(0, 1000))
def test_smoothed_rows_sum_to_one(amount, seed):
    """Smoothing moves a share of every target to all classes alike, and keeps rows' sums."""
    _, targets_BC = batch(seed=seed)
    smoothed_BC = smooth(targets_BC, amount)
    torch.testing.assert_close(smoothed_BC.sum(dim=1), torch.ones(16))
    torch.testing.assert_close(smoothed_BC, targets_BC + amount * (0.25 - targets_BC))


# --- soft F1 ----------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(0, 1000), st.integers(1, 12))
def test_soft_f1_of_certain_probs_is_sklearns(seed, num_rows):
    """Where probabilities are nearly 0 or 1, soft F1 is the macro F1 of the classes with targets."""
    logits_BC, targets_BC = batch(num_rows, hard=True, seed=seed)
    certain_BC = 100.0 * F.one_hot(logits_BC.argmax(1), 4)
    true_B = targets_BC.argmax(1).numpy()
    expected = f1_score(
        true_B, certain_BC.argmax(1).numpy(), labels=np.unique(true_B), average="macro", zero_division=0
    )
    assert 1 - soft_f1(certain_BC, targets_BC).item() == pytest.approx(expected, abs=1e-6)


def test_soft_f1_follows_its_formula():
    """Soft F1 is the mean of 2 sum p t / sum (p + t), computed by hand in float64."""
    logits_BC, targets_BC = batch()
    probs_BC, true_BC = probs_of(logits_BC), targets_BC.double().numpy()
    f1_C = 2 * (probs_BC * true_BC).sum(axis=0) / (probs_BC + true_BC).sum(axis=0)
    assert soft_f1(logits_BC, targets_BC).item() == pytest.approx(1 - f1_C.mean(), abs=1e-6)


def test_soft_f1_is_of_the_batch():
    """Soft F1 does not depend on the order of rows, and is 0 where all is right and 1 where all is wrong."""
    logits_BC, targets_BC = batch()
    torch.testing.assert_close(soft_f1(logits_BC.flip(0), targets_BC.flip(0)), soft_f1(logits_BC, targets_BC))
    right_BC = torch.eye(4)[:2]
    assert soft_f1(right_BC * 1e4, right_BC).item() == 0
    assert soft_f1(right_BC * -1e4, right_BC).item() == 1


# --- weights ----------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(counts, st.floats(0, 1), st.floats(0, 0.9999))
def test_weights_average_one_over_rows(counts_C, power, beta):
    """Over training rows weights average 1; a class without rows has none, a scarcer class never less."""
    for weights_C in (power_weights(counts_C, power), class_balanced_weights(counts_C, beta)):
        assert (weights_C * counts_C).sum() / counts_C.sum() == pytest.approx(1)
        assert np.array_equal(weights_C > 0, counts_C > 0)
        seen_C = weights_C[counts_C > 0][np.argsort(counts_C[counts_C > 0])]
        assert (np.diff(seen_C) <= 1e-9 * seen_C[:-1]).all()


def test_power_weights_go_from_rows_to_classes():
    """Power 0 weighs rows alike, power 1 classes, one half by the square root of their counts."""
    counts_C = np.array([90, 10])
    assert power_weights(counts_C, 0) == pytest.approx([1, 1])
    assert power_weights(counts_C, 1) * counts_C == pytest.approx([50, 50])
    half_C = power_weights(counts_C, 0.5)
    assert half_C[1] / half_C[0] == pytest.approx(3)


@settings(deadline=None)
@given(st.integers(1, 5000), st.integers(1, 5000), st.floats(0, 0.9999))
def test_effective_numbers_are_geometric_sums(first, second, beta):
    """Weights are as 1 / (1 + beta + ... + beta^(count - 1)), which is the effective number of rows."""
    weights_C = class_balanced_weights(np.array([first, second]), beta)
    effective_C = [np.sum(beta ** np.arange(count)) for count in (first, second)]
    assert weights_C[0] / weights_C[1] == pytest.approx(effective_C[1] / effective_C[0])


# --- the loss of a recipe ---------------------------------------------------------------------------------------------


def test_a_plain_recipe_is_torchs_mean():
    """Without a `[loss]` the loss is the mean cross-entropy."""
    logits_BC, targets_BC = batch()
    torch.testing.assert_close(make_loss(LossRecipe(), COUNTS_C)(logits_BC, targets_BC), F.cross_entropy(*batch()))


@pytest.mark.parametrize("balance", BALANCES)
def test_terms_are_summed_by_weight(balance):
    """A loss of many terms is the weighted sum of the losses of one."""
    weights = {name: 0.5 + place for place, name in enumerate(TERMS)}
    single = [
        make_loss(LossRecipe(terms={name: weight}, balance=balance), COUNTS_C)(*batch())
        for name, weight in weights.items()
    ]
    plain = [make_loss(LossRecipe(terms={name: 1.0}, balance=balance), COUNTS_C)(*batch()) for name in weights]
    torch.testing.assert_close(
        make_loss(LossRecipe(terms=weights, balance=balance), COUNTS_C)(*batch()), sum(single[1:], single[0])
    )
    torch.testing.assert_close(torch.stack(single), torch.stack(plain) * torch.tensor(list(weights.values())))


def test_balancing_the_loss_weighs_classes():
    """With balance = "loss", terms per row are weighed by count^-balance_power."""
    logits_BC, targets_BC = batch()
    weights_C = torch.from_numpy(power_weights(COUNTS_C, 0.7)).float()
    recipe = {"balance": "loss", "balance_power": 0.7, "focal_gamma": 1.5}
    for name, expected_B in {
        "cross_entropy": cross_entropy(logits_BC, targets_BC, weights_C=weights_C),
        "focal": focal(logits_BC, targets_BC, gamma=1.5, weights_C=weights_C),
        "logit_adjusted": logit_adjusted(logits_BC, targets_BC, log_prior_C=PRIOR_C, tau=1, weights_C=weights_C),
    }.items():
        loss = make_loss(LossRecipe(terms={name: 1.0}, **recipe), COUNTS_C)
        torch.testing.assert_close(loss(logits_BC, targets_BC), expected_B.mean())


@pytest.mark.parametrize("name", ["class_balanced", "soft_f1"])
def test_terms_that_balance_take_no_other_weights(name):
    """The class-balanced term and soft F1 are the same whether the loss is balanced or not."""
    plain, balanced = (make_loss(LossRecipe(terms={name: 1.0}, balance=b), COUNTS_C) for b in ("none", "loss"))
    assert torch.equal(plain(*batch()), balanced(*batch()))


def test_the_class_balanced_term_is_weighted_cross_entropy():
    """The class-balanced term weighs cross-entropy by effective numbers."""
    weights_C = torch.from_numpy(class_balanced_weights(COUNTS_C, 0.9)).float()
    loss = make_loss(LossRecipe(terms={"class_balanced": 1.0}, balanced_beta=0.9), COUNTS_C)
    torch.testing.assert_close(loss(*batch()), cross_entropy(*batch(), weights_C=weights_C).mean())


@pytest.mark.parametrize("name", TERMS)
def test_logits_are_adjusted_once(name):
    """With balance = "logit_adjust" every term sees adjusted logits, the one that adjusts by itself not twice."""
    logits_BC, targets_BC = batch()
    terms, tau = {name: 1.0}, 1.3
    adjusted = make_loss(LossRecipe(terms=terms, balance="logit_adjust", tau=tau), COUNTS_C)
    alone = make_loss(LossRecipe(terms=terms, tau=tau), COUNTS_C)
    expected = alone(logits_BC if name == "logit_adjusted" else logits_BC + tau * PRIOR_C, targets_BC)
    torch.testing.assert_close(adjusted(logits_BC, targets_BC), expected)


def test_smoothing_is_of_terms_per_row():
    """Terms per row see smoothed targets, soft F1 the plain ones, or absent classes would seem present."""
    logits_BC, targets_BC = batch(3, hard=True)
    smoothed = make_loss(LossRecipe(label_smoothing=0.2), COUNTS_C)(logits_BC, targets_BC)
    torch.testing.assert_close(smoothed, F.cross_entropy(logits_BC, targets_BC, label_smoothing=0.2))
    f1 = make_loss(LossRecipe(terms={"soft_f1": 1.0}, label_smoothing=0.2), COUNTS_C)(logits_BC, targets_BC)
    assert torch.equal(f1, soft_f1(logits_BC, targets_BC))


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("balance", BALANCES)
@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0, 2.0])
def test_nothing_is_infinite(name, balance, gamma):
    """Logits up to 1e4 either way, right or wrong, and a class without rows give finite losses and gradients."""
    recipe = LossRecipe(terms={name: 1.0}, balance=balance, focal_gamma=gamma, balance_power=1.0)
    for size in (0.0, 1.0, 15.0, 20.0, 90.0, 1e4):
        for amount in (0.0, 0.1):
            logits_BC = (size * torch.cat([torch.eye(4), -torch.eye(4), torch.ones(4, 4)])).requires_grad_()
            loss = make_loss(recipe.model_copy(update={"label_smoothing": amount}), COUNTS_C)
            value = loss(logits_BC, torch.eye(4).repeat(3, 1))
            value.backward()
            assert value.isfinite()
            assert logits_BC.grad is not None
            assert logits_BC.grad.isfinite().all()


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("balance", BALANCES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(name, balance, dtype):
    """Logits of half precision have the loss of the same numbers in float32."""
    loss = make_loss(LossRecipe(terms={name: 1.0}, balance=balance, label_smoothing=0.1), COUNTS_C)
    logits_BC, targets_BC = batch()
    narrow_BC = logits_BC.to(dtype)
    assert loss(narrow_BC, targets_BC).dtype == torch.float32
    assert torch.equal(loss(narrow_BC, targets_BC), loss(narrow_BC.float(), targets_BC))


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("balance", BALANCES)
def test_constants_follow_the_logits(name, balance):
    """A loss is computed where its logits are."""
    logits_BC, targets_BC = (tensor.to("meta") for tensor in batch())
    value = make_loss(LossRecipe(terms={name: 1.0}, balance=balance), COUNTS_C)(logits_BC, targets_BC)
    assert (value.device.type, value.shape) == ("meta", ())


# --- the user's own loss ----------------------------------------------------------------------------------------------


def test_a_users_loss_is_taken_as_it_is():
    """A function in place of a recipe is the loss, of logits in float32 and of the targets as they are."""
    logits_BC, targets_BC = batch()
    loss = make_loss(lambda x, t: ((x.softmax(1) - t) ** 2).mean(), COUNTS_C)
    narrow_BC = logits_BC.half().requires_grad_()
    value = loss(narrow_BC, targets_BC)
    value.backward()
    torch.testing.assert_close(value, F.mse_loss(narrow_BC.float().softmax(1), targets_BC))
    assert narrow_BC.grad is not None


@pytest.mark.parametrize(
    ("function", "got"),
    [(lambda x, t: (x - t).sum(1), r"a tensor of shape \[16\]"), (lambda x, t: (x - t).sum().item(), "float")],
)
def test_a_users_loss_that_is_no_scalar_is_told(function, got):
    """A user's loss per row, or one that is no tensor, is refused with what it gave."""
    with pytest.raises(UsageError, match=f"the loss gives {got}, not a scalar tensor"):
        make_loss(function, COUNTS_C)(*batch())


# --- where a part of the label is missing -----------------------------------------------------------------------------

POSSIBLE_PK = np.array([[True, True, False, False], [False, True, True, True]])


def partial_batch(seed):
    """Logits of 4 classes, and targets over them and two partial labels, a row each."""
    rng = np.random.default_rng(seed)
    chosen_B = rng.integers(0, 6, 8)
    return torch.tensor(rng.normal(0, 2, (8, 4)), requires_grad=True), torch.eye(6)[chosen_B].double(), chosen_B


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 1000), st.sampled_from(["none", "logit_adjust"]))
def test_cross_entropy_of_spread_targets_has_the_marginal_likelihoods_gradient(seed, balance):
    """The gradient is that of -log of the summed probability of the classes that a partial label may be."""
    recipe = LossRecipe(balance=balance)
    logits_BK, targets_BS, chosen_B = partial_batch(seed)
    spread = make_spread(recipe, POSSIBLE_PK, COUNTS_C)
    make_loss(recipe, COUNTS_C)(logits_BK, spread(logits_BK, targets_BS)).backward()
    mine, logits_BK.grad = logits_BK.grad, None
    offset_K = PRIOR_C if balance == "logit_adjust" else torch.zeros(4)
    log_probs_BK = torch.log_softmax(logits_BK + offset_K, dim=1)
    is_possible_BK = torch.from_numpy(np.vstack([np.eye(4, dtype=bool), POSSIBLE_PK])[chosen_B])
    (-log_probs_BK.masked_fill(~is_possible_BK, -torch.inf).logsumexp(dim=1)).mean().backward()
    torch.testing.assert_close(mine, logits_BK.grad, atol=1e-6, rtol=1e-5)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 1000), st.floats(0, 1))
def test_spread_targets_keep_what_is_sure(seed, kept):
    """Rows keep their sum, also where images are mixed; whole labels stay; nothing goes to a class that cannot be."""
    logits_BK, targets_BS, chosen_B = partial_batch(seed)
    spread = make_spread(LossRecipe(), POSSIBLE_PK, COUNTS_C)
    plain_BK = spread(logits_BK, targets_BS)
    whole_B = torch.from_numpy(chosen_B < 4)
    assert torch.equal(plain_BK[whole_B], targets_BS[whole_B][:, :4])
    assert (plain_BK[torch.from_numpy(chosen_B == 4)][:, 2:] == 0).all()
    mixed_BK = spread(logits_BK, kept * targets_BS + (1 - kept) * targets_BS.flip(0))
    torch.testing.assert_close(mixed_BK.sum(dim=1), torch.ones(8).double())
    assert not mixed_BK.requires_grad


def test_spreading_survives_logits_that_exclude_all():
    """Where the model gives the possible classes no probability at all, their targets are finite and sum to 1."""
    logits_BK = torch.tensor([[-1e4, -1e4 - 1, 1e4, 0.0]])
    spread_BK = make_spread(LossRecipe(), POSSIBLE_PK, COUNTS_C)(logits_BK, torch.eye(6)[[4]])
    torch.testing.assert_close(spread_BK, torch.tensor([[0.7310586, 0.2689414, 0, 0]]))


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("balance", BALANCES)
def test_rows_of_missing_class_leave_the_other_rows_gradients(name, balance):
    """A loss per row gives a known row the same gradient whoever else in the batch is known, and a missing one none."""
    loss = make_loss(LossRecipe(terms={name: 1.0}, balance=balance, label_smoothing=0.1), COUNTS_C)
    logits_BC, targets_BC = batch(hard=True)
    gradients = []
    for missing in ([3], [3, 4, 5, 9]):
        masked_BC = targets_BC.clone()
        masked_BC[missing] = 0
        given_BC = logits_BC.clone().requires_grad_()
        of_known(loss, given_BC, masked_BC, 0.8).backward()
        gradients.append(given_BC.grad)
        assert (given_BC.grad[missing] == 0).all()
    rest = [row for row in range(16) if row not in (3, 4, 5, 9)]
    if name != "soft_f1":  # which is of the batch
        torch.testing.assert_close(gradients[0][rest], gradients[1][rest])
    assert (gradients[1][rest] != 0).any()


def test_the_known_rows_mean_is_kept_in_expectation():
    """Over batches that together show every row once, the values average to the mean over the known rows."""
    logits_BC, targets_BC = batch(hard=True)
    targets_BC[::3] = 0
    loss, known_B = make_loss(LossRecipe(), COUNTS_C), targets_BC.any(dim=1)
    share = float(known_B.float().mean())
    parts = [
        of_known(loss, logits, targets, share)
        for logits, targets in zip(logits_BC.split(4), targets_BC.split(4), strict=True)
    ]
    torch.testing.assert_close(torch.stack(parts).mean(), loss(logits_BC[known_B], targets_BC[known_B]))


def test_a_batch_of_missing_classes_has_no_loss():
    """Where nobody's class is known the loss is 0, and so are its gradients."""
    logits_BC = batch()[0].requires_grad_()
    value = of_known(make_loss(LossRecipe(), COUNTS_C), logits_BC, torch.zeros(16, 4), 0.5)
    value.backward()
    assert value.item() == 0
    assert (logits_BC.grad == 0).all()


@pytest.mark.parametrize("name", TERMS)
def test_a_mixed_row_counts_by_its_known_part(name):
    """A row of which a quarter is known has a quarter of the loss per row; soft F1 counts it as a quarter of a row."""
    logits_BC, targets_BC = batch(hard=True)
    loss = make_loss(LossRecipe(terms={name: 1.0}, label_smoothing=0.1), COUNTS_C)
    if name != "soft_f1":
        torch.testing.assert_close(loss(logits_BC, 0.25 * targets_BC), 0.25 * loss(logits_BC, targets_BC))
        return
    four = [0, 0, 0, 0, *range(1, 16)]
    torch.testing.assert_close(
        loss(logits_BC[four], targets_BC[four] * torch.tensor([[0.25]] * 4 + [[1.0]] * 15)), loss(logits_BC, targets_BC)
    )
