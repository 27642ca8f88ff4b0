"""A head for classes in order (age bands, grades): one score and a threshold between each two neighbours.

Shapes: B rows, D features, C classes in order.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_SMALLEST_STEP = 1e-3  # thresholds stay this far apart, so that no class has probability 0


class OrdinalLinear(nn.Module):
    """Cumulative logits: P(class > c) = sigmoid(score - threshold_c), thresholds in order by construction.

    It starts knowing nothing of the features, each class as likely as its share. Weights: a [1, D] score and [C-1]
    thresholds: the first, and the softplus of the steps to the next ones.

    Args:
        num_features: D.
        shares_C: of the classes among what trains, each at least 0.

    References:
        McCullagh, Regression models for ordinal data, Journal of the Royal Statistical Society B 42(2), 1980, eq. 2.1.
    """

    power = 1.0

    def __init__(self, num_features: int, shares_C: Tensor) -> None:
        super().__init__()
        self.score = nn.Linear(num_features, 1, bias=False)
        nn.init.zeros_(self.score.weight)
        smoothed_C = (shares_C.double() + 1e-3) / (shares_C.double() + 1e-3).sum()
        thresholds = smoothed_C.cumsum(0)[:-1].logit().float()
        steps = (thresholds.diff() - _SMALLEST_STEP).clamp_min(1e-4)
        self.first = nn.Parameter(thresholds[:1].clone())
        self.steps = nn.Parameter(steps + torch.log(-torch.expm1(-steps)))  # the inverse of softplus

    @property
    def thresholds(self) -> Tensor:
        """[C-1] in order."""
        return torch.cat([self.first, self.first + (F.softplus(self.steps) + _SMALLEST_STEP).cumsum(0)])

    def forward(self, features_BD: Tensor) -> Tensor:
        """[B, D] -> [B, C] log-probabilities, which softmax leaves as they are."""
        distances_BT = self.thresholds - self.score(features_BD).float()
        below_BT, above_BT = F.logsigmoid(distances_BT), F.logsigmoid(-distances_BT)
        # sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)), in logarithms; 1 - exp(-x) is written as
        # 2 t / (1 + t) with t = tanh(x / 2), which keeps small x and, unlike expm1, is to be had in ONNX
        halves_BT = torch.tanh((distances_BT[:, 1:] - distances_BT[:, :-1]) / 2)
        gaps = torch.log(2 * halves_BT / (1 + halves_BT))
        between = below_BT[:, 1:] + above_BT[:, :-1] + gaps
        return torch.cat([below_BT[:, :1], between, above_BT[:, -1:]], dim=1)
