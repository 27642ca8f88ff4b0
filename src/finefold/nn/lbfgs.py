"""Many small convex problems at once by limited-memory BFGS.

Each problem has its own history and step length; problems that are done drop out of the batch, so
what is left gets cheaper.

References:
    Nocedal, Wright, Numerical Optimization, 2nd ed. 2006: algorithm 7.4 (two-loop recursion), with
    backtracking (algorithm 3.1) instead of a Wolfe search; a pair that breaks the curvature
    condition is left out of the history.

Shapes: P problems, Q of them still running, X parameters each, H pairs of history.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

HISTORY = 10
SUFFICIENT = 1e-4  # of the decrease that the gradient promises (Armijo)
MAX_HALVINGS = 12

Objective = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
Precondition = Callable[[Tensor, Tensor], Tensor]


def minimise(
    objective: Objective,
    start_PX: Tensor,
    problems_P: Tensor,
    *,
    precondition: Precondition,
    max_steps: int,
    tolerance: float,
    advance: Callable[[int], None] = lambda _step: None,
) -> Tensor:
    """Minimisers [P, X] of P convex problems.

    Args:
        objective: (parameters [Q, X], problem numbers [Q]) -> (losses [Q], gradients [Q, X]).
        start_PX: where to start.
        problems_P: the problems' numbers, as `objective` knows them.
        precondition: (vectors [Q, X], problem numbers [Q]) -> vectors times a fixed positive definite estimate
            of the inverse Hessian, the better the fewer steps.
        max_steps: of the whole batch.
        tolerance: a problem is done when the decrease that a whole step promises, half the slope along it, is
            at most this; in the loss's own unit.
        advance: told after each step.
    """
    solution_PX = start_PX.clone()
    places_Q, numbers_Q, point_QX = torch.arange(len(start_PX)), problems_P, start_PX
    loss_Q, gradient_QX = objective(point_QX, numbers_Q)
    history = _History.empty()
    for step in range(max_steps):
        direction_QX = history.direction(gradient_QX, partial(_swap, precondition, numbers_Q))
        slope_Q = (gradient_QX * direction_QX).sum(dim=1)
        moved_QX, new_loss_Q, new_gradient_QX, moved_Q = _search(
            objective, numbers_Q, point_QX, loss_Q, direction_QX, slope_Q, gradient_QX
        )
        solution_PX[places_Q] = moved_QX
        advance(step + 1)
        keep_Q = (-slope_Q / 2 > tolerance) & moved_Q
        if not keep_Q.any():
            break
        history.add(moved_QX - point_QX, new_gradient_QX - gradient_QX)
        point_QX, loss_Q, gradient_QX = moved_QX, new_loss_Q, new_gradient_QX
        if not keep_Q.all():
            places_Q, numbers_Q, point_QX, loss_Q, gradient_QX = (
                values[keep_Q] for values in (places_Q, numbers_Q, point_QX, loss_Q, gradient_QX)
            )
            history.keep(keep_Q)
    return solution_PX


def _swap(precondition: Precondition, numbers_Q: Tensor, vectors_QX: Tensor) -> Tensor:
    return precondition(vectors_QX, numbers_Q)


@dataclass
class _History:
    """The last steps and the gradients' changes, newest last; all problems' pairs of one step together."""

    pairs: deque[tuple[Tensor, Tensor]]

    @classmethod
    def empty(cls) -> "_History":
        return cls(deque(maxlen=HISTORY))

    def add(self, step_QX: Tensor, change_QX: Tensor) -> None:
        self.pairs.append((step_QX, change_QX))

    def keep(self, keep_Q: Tensor) -> None:
        """Forgets the problems that are done."""
        self.pairs = deque(((step[keep_Q], change[keep_Q]) for step, change in self.pairs), maxlen=HISTORY)

    def direction(self, gradient_QX: Tensor, precondition: Callable[[Tensor], Tensor]) -> Tensor:
        """Minus the inverse Hessian's estimate times the gradient; pairs without curvature weigh nothing."""
        direction_QX = -gradient_QX
        weights = []
        for step_QX, change_QX in reversed(self.pairs):
            curvature_Q = (step_QX * change_QX).sum(dim=1)
            floor_Q = 1e-10 * step_QX.norm(dim=1) * change_QX.norm(dim=1)
            rho_Q = torch.where(curvature_Q > floor_Q, 1 / curvature_Q, torch.zeros_like(curvature_Q))
            alpha_Q = rho_Q * (step_QX * direction_QX).sum(dim=1)
            direction_QX = direction_QX - alpha_Q[:, None] * change_QX
            weights.append((rho_Q, alpha_Q))
        direction_QX = precondition(direction_QX)
        for (step_QX, change_QX), (rho_Q, alpha_Q) in zip(self.pairs, reversed(weights), strict=True):
            beta_Q = rho_Q * (change_QX * direction_QX).sum(dim=1)
            direction_QX = direction_QX + (alpha_Q - beta_Q)[:, None] * step_QX
        return direction_QX


def _search(
    objective: Objective,
    numbers_Q: Tensor,
    point_QX: Tensor,
    loss_Q: Tensor,
    direction_QX: Tensor,
    slope_Q: Tensor,
    gradient_QX: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Points, losses and gradients after a step that decreases each loss enough, and which problems moved."""
    size_Q = torch.ones(len(numbers_Q))
    new_QX, new_loss_Q, new_gradient_QX = point_QX.clone(), loss_Q.clone(), gradient_QX.clone()
    open_Q = torch.arange(len(numbers_Q))
    for _ in range(MAX_HALVINGS):
        trial = point_QX[open_Q] + size_Q[open_Q, None] * direction_QX[open_Q]
        trial_loss, trial_gradient = objective(trial, numbers_Q[open_Q])
        limit = loss_Q[open_Q] + SUFFICIENT * size_Q[open_Q] * slope_Q[open_Q]
        rounding = 1e-7 * loss_Q[open_Q].abs()  # near the minimum the decrease drowns in float32
        is_enough = trial_loss <= limit + rounding
        done = open_Q[is_enough]
        new_QX[done], new_loss_Q[done] = trial[is_enough], trial_loss[is_enough]
        new_gradient_QX[done] = trial_gradient[is_enough]
        open_Q = open_Q[~is_enough]
        if not len(open_Q):
            break
        size_Q[open_Q] *= 0.5
    moved_Q = torch.ones(len(numbers_Q), dtype=torch.bool)
    moved_Q[open_Q] = False
    return new_QX, new_loss_Q, new_gradient_QX, moved_Q
