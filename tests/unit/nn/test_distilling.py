"""nn.distilling: learning from a teacher's probabilities."""

import numpy as np
import pytest
import torch

from finefold.nn.distilling import Taught, distilled


def test_a_student_that_says_the_same_has_nothing_to_learn():
    """The loss and its slope are 0 where the student's probabilities are the teacher's, at any temperature."""
    logits_BC = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    for temperature in (1.0, 3.0):
        loss = distilled(logits_BC, logits_BC.detach().softmax(dim=1), temperature)
        loss.backward()
        assert float(loss.detach()) == pytest.approx(0, abs=1e-5)
        assert float(logits_BC.grad.abs().max()) < 1e-5


def test_it_is_the_divergence_from_the_teacher():
    """At temperature 1 it is the Kullback-Leibler divergence; a teacher that is certain gives a finite one."""
    logits_BC = torch.tensor([[0.0, 1.0], [2.0, -1.0]])
    teacher_BC = torch.tensor([[0.2, 0.8], [1.0, 0.0]])
    own = torch.softmax(logits_BC, dim=1).numpy()
    expected = np.mean([0.2 * np.log(0.2 / own[0, 0]) + 0.8 * np.log(0.8 / own[0, 1]), np.log(1 / own[1, 0])])
    assert float(distilled(logits_BC, teacher_BC, 1.0)) == pytest.approx(expected, abs=1e-5)
    assert torch.isfinite(distilled(logits_BC, teacher_BC, 4.0))


def test_a_weight_of_zero_leaves_the_loss_alone():
    """Targets are split from the teacher's part, whose share of the loss is its weight."""
    taught = Taught({"mask": torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])}, 0.0, 2.0)
    targets_BS, teacher_BK = taught.split(torch.tensor([[1.0, 0.0, 0.5, 0.2, 0.3]]))
    assert targets_BS.tolist() == [[1.0, 0.0]]
    value, logits_BC = torch.tensor(0.7), torch.tensor([[0.0, 1.0]])
    assert float(taught.with_teacher("mask", value, logits_BC, teacher_BK)) == pytest.approx(0.7)
    alone = Taught(taught.members, 1.0, 2.0).with_teacher("mask", value, logits_BC, teacher_BK)
    assert float(alone) == pytest.approx(float(distilled(logits_BC, torch.tensor([[0.7, 0.3]]), 2.0)))
