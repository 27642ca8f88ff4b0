"""Linear heads on features: one of K joint classes, or one per attribute whose product is the joint.

Shapes: N samples, D features, K joint classes, C classes of one head.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from finefold.data.labels import LabelSpace
from finefold.errors import WeightsError
from finefold.nn.weights import read_header, read_state, write_weights

JOINT = "joint"
ROWS_AT_ONCE = 4_096  # whose powers are taken together


@dataclass(frozen=True)
class LinearHead:
    """logits = sign(x) |x|^power @ weight + bias; standardisation is already folded into weight and bias.

    Args:
        weight_DC: float32.
        bias_C: float32.
        power: of every feature.
    """

    weight_DC: NDArray[np.float32]
    bias_C: NDArray[np.float32]
    power: float = 1.0

    def logits(self, features_ND: NDArray[Any]) -> NDArray[np.float64]:
        """[N, D] features -> [N, C] logits, summed in float64: the same in whatever company a row is."""
        return raise_features(features_ND, self.power).astype(np.float64) @ self.weight_DC + self.bias_C

    def probs(self, features_ND: NDArray[Any]) -> NDArray[np.float64]:
        """[N, D] features -> [N, C] probabilities."""
        return softmax(self.logits(features_ND))


@dataclass(frozen=True)
class FoldHeads:
    """The heads of one fold.

    Args:
        heads: `joint` alone, or one head per attribute of the label space.
    """

    heads: dict[str, LinearHead]

    def joint_probs(self, features_ND: NDArray[Any], space: LabelSpace) -> NDArray[np.float64]:
        """[N, D] features -> [N, K] probabilities of the joint classes."""
        if JOINT in self.heads:
            return self.heads[JOINT].probs(features_ND)
        return space.joint_probs([self.heads[name].probs(features_ND) for name in space.names])

    def write(self, path: Path, header: dict[str, Any]) -> None:
        """Safetensors with `header`, and with the names and powers of the heads."""
        state = {}
        for name, head in self.heads.items():
            state[f"{name}.weight"] = torch.from_numpy(head.weight_DC)
            state[f"{name}.bias"] = torch.from_numpy(head.bias_C)
        powers = {name: head.power for name, head in self.heads.items()}
        write_weights(path, state, {**header, "heads": powers})

    @classmethod
    def read(cls, path: Path) -> "FoldHeads":
        """The heads that `write` wrote."""
        header, state = read_header(path), read_state(path)
        try:
            heads = {
                name: LinearHead(state[f"{name}.weight"].numpy(), state[f"{name}.bias"].numpy(), power)
                for name, power in header["heads"].items()
            }
        except KeyError as reason:
            raise WeightsError(f"{path} lacks {reason}", "the run is broken: train it again") from reason
        return cls(heads)


def blank_heads(heads: FoldHeads) -> FoldHeads:
    """Heads of the same sizes that know nothing: every class is as likely."""
    blank = {
        name: LinearHead(np.zeros_like(head.weight_DC), np.zeros_like(head.bias_C), head.power)
        for name, head in heads.heads.items()
    }
    return FoldHeads(blank)


def raise_features(
    features_ND: NDArray[Any], power: float, *, out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """sign(x) |x|^power of every feature, in float32.

    A power below 1 evens out features that are mostly small and sometimes large, as pooled activations
    are, before a linear model sees them.

    Args:
        features_ND: any float type.
        power: 1 leaves them as they are.
        out: [N, D] where to put them.

    References:
        Perronnin, Sanchez, Mensink, Improving the Fisher kernel for large-scale image classification,
        ECCV 2010, section 3.2.
    """
    raised_ND = np.empty(features_ND.shape, np.float32) if out is None else out
    for start in range(0, len(features_ND), ROWS_AT_ONCE):  # what lies between is not to be there for all rows at once
        plain_BD = features_ND[start : start + ROWS_AT_ONCE].astype(np.float32)
        raised_BD = plain_BD if power == 1 else np.sign(plain_BD) * np.abs(plain_BD) ** np.float32(power)
        raised_ND[start : start + ROWS_AT_ONCE] = raised_BD
    return raised_ND


def softmax(logits_NC: NDArray[np.floating]) -> NDArray[np.float64]:
    """[N, C] logits -> [N, C] probabilities, in float64."""
    shifted_NC = logits_NC.astype(np.float64) - logits_NC.max(axis=1, keepdims=True)
    exp_NC = np.exp(shifted_NC)
    return np.asarray(exp_NC / exp_NC.sum(axis=1, keepdims=True))
