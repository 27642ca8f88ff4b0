"""Many small convex problems at once by limited-memory BFGS.

Each problem has its own history and step length; problems that are done drop out of the batch, so
what is left gets cheaper.

References:
    Nocedal, Wright, Numerical Optimization, 2nd ed. 2006: algorithm 7.4 (two-loop recursion), with
    backtracking (algorithm 3.1) instead of a Wolfe search; a pair that breaks the curvature
    condition is left out of the history.

Shapes: P problems, Q of them still running, X parameters each, H pairs of history.
"""

from collections.abc import Callable
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
        tolerance: a problem is done when g'Mg / 2, the decrease that a Newton step with the estimate M promises,
            is at most this; in the loss's own unit.
        advance: told after each step.
    """
    solution_PX = start_PX.clone()
    running_Q, numbers_Q = torch.arange(len(start_PX)), problems_P
    point_QX = start_PX.clone()
    loss_Q, gradient_QX = objective(point_QX, numbers_Q)
    steps_HQX, changes_HQX = (torch.empty(0, *start_PX.shape) for _ in range(2))
    for step in range(max_steps):
        direction_QX = _direction(gradient_QX, steps_HQX, changes_HQX, partial(_swap, precondition, numbers_Q))
        moved_QX, new_loss_Q, new_gradient_QX, moved_Q = _search(
            objective, numbers_Q, point_QX, loss_Q, gradient_QX, direction_QX
        )
        steps_HQX = torch.cat([steps_HQX, (moved_QX - point_QX)[None]])[-HISTORY:]
        changes_HQX = torch.cat([changes_HQX, (new_gradient_QX - gradient_QX)[None]])[-HISTORY:]
        point_QX, loss_Q, gradient_QX = moved_QX, new_loss_Q, new_gradient_QX
        solution_PX[running_Q] = point_QX
        promise_Q = (gradient_QX * precondition(gradient_QX, numbers_Q)).sum(dim=1) / 2
        keep_Q = (promise_Q > tolerance) & moved_Q
        advance(step + 1)
        if not keep_Q.any():
            break
        if not keep_Q.all():
            running_Q, numbers_Q, point_QX, loss_Q, gradient_QX = (
                values[keep_Q] for values in (running_Q, numbers_Q, point_QX, loss_Q, gradient_QX)
            )
            steps_HQX, changes_HQX = steps_HQX[:, keep_Q], changes_HQX[:, keep_Q]
    return solution_PX


def _swap(precondition: Precondition, numbers_Q: Tensor, vectors_QX: Tensor) -> Tensor:
    return precondition(vectors_QX, numbers_Q)


def _direction(
    gradient_QX: Tensor, steps_HQX: Tensor, changes_HQX: Tensor, precondition: Callable[[Tensor], Tensor]
) -> Tensor:
    """Minus the inverse Hessian's estimate times the gradient; pairs without curvature weigh nothing."""
    if not len(steps_HQX):
        return -precondition(gradient_QX)
    direction_QX = -gradient_QX
    curvature_HQ = (steps_HQX * changes_HQX).sum(dim=2)
    floor_HQ = 1e-10 * steps_HQX.norm(dim=2) * changes_HQX.norm(dim=2)
    rho_HQ = torch.where(curvature_HQ > floor_HQ, 1 / curvature_HQ, torch.zeros_like(curvature_HQ))
    alphas = []
    for step_QX, change_QX, rho_Q in zip(steps_HQX.flip(0), changes_HQX.flip(0), rho_HQ.flip(0), strict=True):
        alpha_Q = rho_Q * (step_QX * direction_QX).sum(dim=1)
        direction_QX = direction_QX - alpha_Q[:, None] * change_QX
        alphas.append(alpha_Q)
    direction_QX = precondition(direction_QX)
    for step_QX, change_QX, rho_Q, alpha_Q in zip(steps_HQX, changes_HQX, rho_HQ, reversed(alphas), strict=True):
        beta_Q = rho_Q * (change_QX * direction_QX).sum(dim=1)
        direction_QX = direction_QX + (alpha_Q - beta_Q)[:, None] * step_QX
    return direction_QX


def _search(
    objective: Objective,
    numbers_Q: Tensor,
    point_QX: Tensor,
    loss_Q: Tensor,
    gradient_QX: Tensor,
    direction_QX: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Points, losses and gradients after a step that decreases each loss enough, and which problems moved."""
    slope_Q = (gradient_QX * direction_QX).sum(dim=1)
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
