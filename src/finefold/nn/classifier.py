"""A backbone and the linear heads of one fold as one module: images in, logits of the joint classes out.

Shapes: B images, D features, C classes of one head, K joint classes.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from finefold.data.labels import LabelSpace
from finefold.nn.backbones import Backbone
from finefold.nn.heads import JOINT, FoldHeads, LinearHead


class PoweredLinear(nn.Linear):
    """sign(x) |x|^power, then a linear layer: a fold's head as a module."""

    def __init__(self, head: LinearHead) -> None:
        num_features, num_classes = head.weight_DC.shape
        super().__init__(num_features, num_classes)
        self.power = head.power
        with torch.no_grad():
            self.weight.copy_(torch.from_numpy(np.ascontiguousarray(head.weight_DC.T)))
            self.bias.copy_(torch.from_numpy(head.bias_C))

    def forward(self, features_BD: Tensor) -> Tensor:
        return super().forward(features_BD.sign() * features_BD.abs() ** self.power)


class JointLogits(nn.Module):
    """One head of the joint classes, or a head per attribute whose log-probabilities add up."""

    codes_AK: Tensor

    def __init__(self, heads: FoldHeads, space: LabelSpace) -> None:
        super().__init__()
        is_joint = JOINT in heads.heads
        names = [JOINT] if is_joint else list(space.names)
        self.heads = nn.ModuleDict({name: PoweredLinear(heads.heads[name]) for name in names})
        codes = [np.arange(space.num_classes)] if is_joint else [space.attribute_codes()[name] for name in names]
        self.register_buffer("codes_AK", torch.from_numpy(np.stack(codes)))

    def forward(self, features_BD: Tensor) -> Tensor:
        logs = [head(features_BD).log_softmax(1) for head in self.heads.values()]
        return torch.stack([log_BC[:, codes_K] for log_BC, codes_K in zip(logs, self.codes_AK, strict=True)]).sum(0)


class Classifier(nn.Module):
    """The whole of one fold's model on normalised images [B, 3, H, W]; the backbone is frozen."""

    def __init__(self, network: nn.Module, head: JointLogits) -> None:
        super().__init__()
        self.network = network
        self.head = head

    def forward(self, images_BCHW: Tensor) -> Tensor:
        logits_BK: Tensor = self.head(self.network(images_BCHW).flatten(1))
        return logits_BK

    @classmethod
    def read(cls, backbone: Path, fold_weights: Path, space: LabelSpace) -> "Classifier":
        """The model of one fold of a run.

        Args:
            backbone: the run's backbone.safetensors.
            fold_weights: the fold's weights.safetensors.
            space: what the classes are.
        """
        network = Backbone.read(backbone).build().network
        return cls(network, JointLogits(FoldHeads.read(fold_weights), space)).eval()
