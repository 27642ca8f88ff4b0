"""A backbone and the heads of one fold as one module: images in, logits of the joint classes out.

Shapes: B images, D features, C classes of one head, K joint classes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from finefold.data.labels import LabelSpace
from finefold.errors import WeightsError
from finefold.nn.backbones import IMAGES, POOLED, Backbone, Frozen
from finefold.nn.heads import JOINT, FoldHeads, LinearHead
from finefold.nn.ordinal import OrdinalLinear
from finefold.nn.weights import read_header, read_state, write_weights

HEADS, TUNED = "heads", "tuned"  # kinds of a fold's weights: heads on the backbone as it is, or parts of it trained too


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
        if self.power == 1:  # the general form has no gradient where a feature is 0
            return super().forward(features_BD)
        return super().forward(features_BD.sign() * features_BD.abs() ** self.power)


def _head(head: LinearHead, shares_C: Sequence[float] | None) -> nn.Module:
    return PoweredLinear(head) if shares_C is None else OrdinalLinear(len(head.weight_DC), torch.tensor(shares_C))


class JointLogits(nn.Module):
    """One head of the joint classes, or a head per attribute whose log-probabilities add up.

    Args:
        heads: what linear heads start from; of ordinal ones only the sizes count.
        space: what the classes are.
        ordinal: heads whose classes are in order -> shares of their classes among what trains.
    """

    codes_AK: Tensor

    def __init__(
        self, heads: FoldHeads, space: LabelSpace, ordinal: Mapping[str, Sequence[float]] | None = None
    ) -> None:
        super().__init__()
        is_joint = JOINT in heads.heads
        names = [JOINT] if is_joint else list(space.names)
        self.ordinal = dict(ordinal or {})
        made = {name: _head(heads.heads[name], self.ordinal.get(name)) for name in names}
        self.heads = nn.ModuleDict(made)
        codes = [np.arange(space.num_classes)] if is_joint else [space.attribute_codes()[name] for name in names]
        self.register_buffer("codes_AK", torch.from_numpy(np.stack(codes)))

    def task_logits(self, features_BD: Tensor) -> dict[str, Tensor]:
        """[B, D] -> logits [B, C] of each head."""
        return {name: head(features_BD) for name, head in self.heads.items()}

    def join(self, logits: Mapping[str, Tensor]) -> Tensor:
        """Logits [B, C] of each head -> log-probabilities [B, K] of the joint classes."""
        logs = [logits[name].float().log_softmax(1) for name in self.heads]
        return torch.stack([log_BC[:, codes_K] for log_BC, codes_K in zip(logs, self.codes_AK, strict=True)]).sum(0)

    def forward(self, features_BD: Tensor) -> Tensor:
        return self.join(self.task_logits(features_BD))


class Classifier(nn.Module):
    """The whole of one fold's model on normalised images [B, 3, H, W]."""

    def __init__(self, network: nn.Module, head: JointLogits) -> None:
        super().__init__()
        self.network = network
        self.head = head

    def forward(self, images_BCHW: Tensor) -> Tensor:
        logits_BK: Tensor = self.head(self.network(images_BCHW).flatten(1))
        return logits_BK

    @classmethod
    def read(cls, backbone: Backbone, fold_weights: Path, space: LabelSpace) -> "Classifier":
        """The model of one fold of a run.

        Args:
            backbone: the run's.
            fold_weights: the fold's weights.safetensors.
            space: what the classes are.

        Raises:
            WeightsError: the files are broken, or of another kind.
        """
        network = backbone.build_network().requires_grad_(False)
        header = read_header(fold_weights)
        if header.get("kind") == HEADS:
            return cls(network, JointLogits(FoldHeads.read(fold_weights), space)).eval()
        state = read_state(fold_weights)
        made = cls(network, JointLogits(_blank_heads(header, state), space, header.get("ordinal"))).eval()
        made.load_tuned(state, fold_weights)
        return made

    def tuned_state(self, names: frozenset[str]) -> dict[str, Tensor]:
        """What a fold changed: these parameters, the head, and the buffers of modules that hold any of them."""
        modules = {name.rpartition(".")[0] for name in names}
        return {
            key: value.detach().cpu().clone().contiguous()
            for key, value in self.state_dict().items()
            if key in names or key.startswith("head.heads.") or key.rpartition(".")[0] in modules
        }

    def write(self, path: Path, names: frozenset[str], header: Mapping[str, Any]) -> None:
        """Safetensors of `tuned_state`."""
        powers = {name: head.power for name, head in self.head.heads.items()}
        write_weights(
            path, self.tuned_state(names), {**header, "kind": TUNED, "heads": powers, "ordinal": self.head.ordinal}
        )

    def load_tuned(self, state: Mapping[str, Tensor], path: Path) -> None:
        """Takes over what `tuned_state` gave.

        Raises:
            WeightsError: a tensor of another model.
        """
        strange = self.load_state_dict(dict(state), strict=False).unexpected_keys
        if strange:
            raise WeightsError(f"{path} has tensors that the model lacks: {', '.join(strange[:3])}", "train it again")


def _blank_heads(header: Mapping[str, Any], state: Mapping[str, Tensor]) -> FoldHeads:
    """Heads of the right sizes; their values are loaded afterwards."""
    heads = {}
    ordinal = header.get("ordinal", {})
    for name, power in header["heads"].items():
        key = f"head.heads.{name}.score.weight" if name in ordinal else f"head.heads.{name}.weight"
        num_classes, num_features = state[key].shape
        heads[name] = LinearHead(
            np.zeros((num_features, num_classes), np.float32), np.zeros(num_classes, np.float32), power
        )
    return FoldHeads(heads)


class Tail(nn.Module):
    """What comes after the prefix: rows of the prefix cache in, logits of every head out.

    It shares the classifier's modules, so that a step on either is a step on both.

    Args:
        classifier: the whole.
        backbone: whose cut says where the rows come from.
    """

    def __init__(self, classifier: Classifier, backbone: Backbone) -> None:
        super().__init__()
        self.classifier = classifier
        self.has_maps = len(backbone.shape) == 3
        self.part: nn.Module = nn.Identity()
        if backbone.cut == IMAGES:
            self.part = Frozen(classifier.network, backbone.preprocessing)
        elif backbone.cut != POOLED:
            self.part = backbone.cut_network(classifier.network).tail

    def forward(self, rows: Tensor) -> dict[str, Tensor]:
        if rows.dtype == torch.float16:
            rows = rows.float()
        if self.has_maps and rows.dtype != torch.uint8:
            rows = rows.contiguous(memory_format=torch.channels_last)
        return self.classifier.head.task_logits(self.part(rows).flatten(1))

    def log_probs(self, rows: Tensor) -> Tensor:
        """Rows -> log-probabilities [B, K] of the joint classes."""
        return self.classifier.head.join(self(rows))
