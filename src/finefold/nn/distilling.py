"""Learning from a teacher's probabilities besides labels.

Shapes: B rows of a batch, C classes of one head, K joint classes, S strata.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


def distilled(logits_BC: Tensor, teacher_BC: Tensor, temperature: float) -> Tensor:
    """Scalar T^2 times the mean divergence of softened probabilities from the teacher's; 0 where they are the same.

    Args:
        logits_BC: float32, the student's.
        teacher_BC: the teacher's probabilities, rows sum to 1.
        temperature: T, 1 or more: logits are divided by it, and of probabilities that is the power 1/T.

    References:
        Hinton, Vinyals, Dean, Distilling the knowledge in a neural network, arXiv 1503.02531, 2015, section 2; T^2
        keeps gradients as large as those of labels. Of probabilities instead of the teacher's logits, which an
        ensemble does not have.
    """
    logs_BC = teacher_BC.clamp_min(torch.finfo(torch.float32).tiny).log() / temperature
    target_BC = logs_BC.softmax(dim=1)
    gap_BC = logs_BC.log_softmax(dim=1) - (logits_BC / temperature).log_softmax(dim=1)
    return temperature**2 * (target_BC * gap_BC).sum(dim=1).mean()


@dataclass(frozen=True, eq=False)
class Taught:
    """What targets hold of a teacher, and how much it counts.

    Args:
        members: head -> [K, C], 1 where a joint class is of the head's class.
        weight: of the teacher in the loss; labels have the rest.
        temperature: see `distilled`.
    """

    members: Mapping[str, Tensor]
    weight: float
    temperature: float

    def split(self, targets_BX: Tensor) -> tuple[Tensor, Tensor]:
        """Targets with the teacher's probabilities behind them -> [B, S] and [B, K]."""
        num_classes = len(next(iter(self.members.values())))
        return targets_BX[:, :-num_classes], targets_BX[:, -num_classes:]

    def with_teacher(self, name: str, value: Tensor, logits_BC: Tensor, teacher_BK: Tensor) -> Tensor:
        """A head's loss on labels, and the teacher's share."""
        teacher_BC = teacher_BK @ self.members[name].to(teacher_BK.device)
        return (1 - self.weight) * value + self.weight * distilled(logits_BC, teacher_BC, self.temperature)
