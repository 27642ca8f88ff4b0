"""The head for classes in order."""

import pytest
import torch
from torch.nn import functional as F

from finefold.nn.ordinal import OrdinalLinear


@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0])
def test_log_probabilities_are_those_of_cumulative_logits(scale):
    """Differences of sigmoids at the thresholds, computed by hand in float64; every row sums to 1."""
    torch.manual_seed(0)
    head = OrdinalLinear(4, torch.tensor([0.5, 0.3, 0.2]))
    head.score.weight.data.normal_().mul_(scale)
    features_BD = torch.randn(50, 4)
    found_BC = head(features_BD).double()
    above_BT = torch.sigmoid(head.score(features_BD).double() - head.thresholds.double())
    by_hand_BC = torch.stack([1 - above_BT[:, 0], above_BT[:, 0] - above_BT[:, 1], above_BT[:, 1]], dim=1)
    assert torch.allclose(found_BC.exp(), by_hand_BC, atol=1e-6)
    assert torch.allclose(found_BC.logsumexp(1), torch.zeros(50, dtype=torch.float64), atol=1e-5)


def test_it_starts_with_the_shares_of_the_classes():
    """Before it has seen anything, each class is as likely as its share."""
    shares_C = torch.tensor([0.1, 0.6, 0.25, 0.05])
    assert torch.allclose(OrdinalLinear(3, shares_C)(torch.randn(2, 3)).exp(), shares_C.expand(2, -1), atol=5e-3)


def test_a_class_without_samples_stays_finite():
    """A share of 0 gives a small probability, not a logarithm of nothing, and gradients are finite."""
    head = OrdinalLinear(3, torch.tensor([0.5, 0.0, 0.5]))
    loss = F.cross_entropy(head(torch.randn(8, 3) * 100), torch.tensor([0, 1, 2, 0, 1, 2, 0, 1]))
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(parameter.grad).all() for parameter in head.parameters())


def test_thresholds_stay_in_order():
    """Whatever training does to its parameters, the thresholds go up."""
    head = OrdinalLinear(2, torch.ones(5) / 5)
    head.steps.data.fill_(-50)
    assert (head.thresholds.diff() > 0).all()


def test_it_learns_an_order():
    """Classes that follow a number are told apart, and what is taken for another is taken for a neighbour."""
    torch.manual_seed(0)
    features_BD = torch.rand(400, 1) * 4
    labels_B = features_BD[:, 0].long()
    head = OrdinalLinear(1, torch.bincount(labels_B) / 400)
    optimiser = torch.optim.Adam(head.parameters(), 0.1)
    for _ in range(300):
        optimiser.zero_grad()
        F.cross_entropy(head(features_BD), labels_B).backward()
        optimiser.step()
    wrong_B = (head(features_BD).argmax(1) - labels_B).abs()
    assert (wrong_B == 0).float().mean() > 0.95
    assert wrong_B.max() <= 1
