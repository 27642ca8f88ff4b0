"""Batched L-BFGS: every problem gets its own minimum, whatever else is in the batch."""

import pytest
import torch
from torch import Tensor

from finefold.nn.lbfgs import minimise

P, X = 5, 12


class Quadratics:
    """P convex quadratics x'Ax/2 - b'x of rising condition; remembers which problems were asked for."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        turn_PXX = torch.linalg.qr(torch.randn(P, X, X, generator=generator, dtype=torch.float64))[0]
        spread_PX = torch.stack([torch.logspace(0, 0.6 * p, X, dtype=torch.float64) for p in range(P)])
        self.curved_PXX = turn_PXX @ torch.diag_embed(spread_PX) @ turn_PXX.mT
        self.linear_PX = torch.randn(P, X, generator=generator, dtype=torch.float64)
        self.calls: list[list[int]] = []

    def __call__(self, points_QX: Tensor, problems_Q: Tensor) -> tuple[Tensor, Tensor]:
        self.calls.append(problems_Q.tolist())
        pulled_QX = (self.curved_PXX[problems_Q] @ points_QX[:, :, None].double())[:, :, 0]
        linear_QX = self.linear_PX[problems_Q]
        loss_Q = (points_QX * (pulled_QX / 2 - linear_QX)).sum(dim=1)
        return loss_Q, (pulled_QX - linear_QX).float()

    @property
    def minima_PX(self) -> Tensor:
        return torch.linalg.solve(self.curved_PXX, self.linear_PX)


def as_it_is(vectors_QX: Tensor, _problems_Q: Tensor) -> Tensor:
    return vectors_QX


def solve(problems: Quadratics, numbers: list[int], **options) -> Tensor:
    options = {"max_steps": 200, "tolerance": 1e-10, "precondition": as_it_is} | options
    return minimise(problems, torch.zeros(len(numbers), X), torch.tensor(numbers), **options)


def test_every_problem_reaches_its_minimum():
    """Problems of very different curvature are all solved to float32's precision."""
    problems = Quadratics()
    found_PX = solve(problems, list(range(P)))
    assert torch.allclose(found_PX.double(), problems.minima_PX, atol=2e-3)


@pytest.mark.parametrize("number", range(P))
def test_a_problem_does_not_feel_its_neighbours(number):
    """Solved alone or in a batch, a problem ends at the same point."""
    together_PX, alone_PX = solve(Quadratics(), list(range(P))), solve(Quadratics(), [number])
    assert torch.allclose(together_PX[number], alone_PX[0], atol=1e-5)


def test_finished_problems_drop_out():
    """A problem that is done is not asked for again, and easy ones are done before hard ones."""
    problems = Quadratics()
    solve(problems, list(range(P)))
    last_asked = [max(call for call, asked in enumerate(problems.calls) if number in asked) for number in range(P)]
    assert last_asked[0] < last_asked[-1]
    assert len(problems.calls[-1]) < P


def test_numbers_name_the_problems():
    """The objective and the preconditioner are told the caller's numbers, in whatever order they come."""
    problems, told = Quadratics(), []

    def precondition(vectors_QX: Tensor, problems_Q: Tensor) -> Tensor:
        told.extend(problems_Q.tolist())
        return vectors_QX

    found_QX = solve(problems, [3, 1], precondition=precondition)
    assert set(told) == {1, 3}
    assert torch.allclose(found_QX.double(), problems.minima_PX[[3, 1]], atol=1e-3)


def test_the_inverse_hessian_as_preconditioner_leaves_nothing_to_do():
    """With the exact inverse Hessian the first step lands on the minimum, and one more at most confirms it."""
    problems, steps = Quadratics(), []
    inverse_PXX = torch.linalg.inv(problems.curved_PXX)

    def precondition(vectors_QX: Tensor, problems_Q: Tensor) -> Tensor:
        return (inverse_PXX[problems_Q] @ vectors_QX[:, :, None].double())[:, :, 0].float()

    found_PX = solve(problems, list(range(P)), precondition=precondition, tolerance=1e-6, advance=steps.append)
    assert len(steps) <= 2
    assert torch.allclose(found_PX.double(), problems.minima_PX, atol=1e-4)


def test_steps_are_bounded_and_told():
    """No more than `max_steps` are made, each is told, and every loss has fallen by then."""
    problems, steps = Quadratics(), []
    found_PX = solve(problems, list(range(P)), max_steps=3, advance=steps.append)
    assert steps == [1, 2, 3]
    losses_P, _ = problems(found_PX, torch.arange(P))
    assert (losses_P < 0).all()


def test_started_at_the_minimum_it_stays():
    """A start without a slope is returned as it is, at once."""
    problems = Quadratics()
    start_PX = problems.minima_PX.float()
    found_PX = minimise(problems, start_PX, torch.arange(P), precondition=as_it_is, max_steps=50, tolerance=1e-6)
    assert torch.allclose(found_PX, start_PX, atol=1e-5)
    assert len(problems.calls) <= 3
