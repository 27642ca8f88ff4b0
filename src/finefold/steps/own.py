"""What a user brings from Python in place of what a recipe names: a network, a loss, an augmentation, boxes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from finefold.data.preprocessing import Preprocessing
from finefold.errors import UsageError
from finefold.nn.losses import Loss
from finefold.nn.weights import state_hash


@dataclass(frozen=True)
class Own:
    """Parts of one's own; what is None is the recipe's. Folds, ledger, resume and reports are as with built-in parts.

    With a network, loss or augmentation of your own folds train in this process, one after the other, for these
    cannot be sent to others.

    Args:
        network: normalised images [B, 3, H, W] -> features [B, D]; its weights are where training starts.
        preprocessing: what makes an image its input; needed with `network`.
        loss: (logits [B, C], targets [B, C] whose rows sum to 1) -> a scalar.
        augment: (image uint8 [H, W, 3]) -> such an image, an albumentations Compose or a torchvision v2 transform.
        boxes: (image uint8 [H, W, 3], upright) -> (left, top, right, bottom) in pixels of what is to be looked at, or
            None. Asked once for every image, before anything is computed.
    """

    network: nn.Module | None = None
    preprocessing: Preprocessing | None = None
    loss: Loss | None = None
    augment: Any = None
    boxes: Callable[[NDArray[np.uint8]], Any] | None = None

    def __post_init__(self) -> None:
        if (self.network is None) != (self.preprocessing is None):
            raise UsageError(
                "a network of your own needs its preprocessing, and only such a network does",
                "write Own(network=..., preprocessing=finefold.Preprocessing(224, 224, ...))",
            )

    @property
    def is_empty(self) -> bool:
        """Whether folds train with nothing of one's own: what boxes gave is a table by then."""
        return self.network is None and self.loss is None and self.augment is None

    @property
    def about(self) -> Mapping[str, str]:
        """What is here, as far as it can be told: a run resumes only with the same."""
        told = {"loss": _name(self.loss), "augment": _name(self.augment), "boxes": _name(self.boxes)}
        if self.network is not None:
            state = {name: tensor.detach() for name, tensor in self.network.state_dict().items()}
            told["network"] = f"{_name(self.network)} {state_hash(state)}"
        return {key: value for key, value in told.items() if value}


def _name(part: Any) -> str:
    """What a callable is called; a class's name where it is an object."""
    return "" if part is None else str(getattr(part, "__qualname__", type(part).__qualname__))


NOTHING = Own()
