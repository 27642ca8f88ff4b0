"""What a user brings from Python in place of what a recipe names: a network or whole model, a loss, an augmentation."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from finefold.data.labels import LabelSpace
from finefold.data.preprocessing import Preprocessing
from finefold.errors import UsageError
from finefold.nn.losses import Loss
from finefold.nn.weights import state_hash
from finefold.nn.whole import Whole, take_apart
from finefold.recipe.schema import Recipe


@dataclass(frozen=True)
class Own:
    """Parts of one's own; what is None is the recipe's. Folds, ledger, resume and reports are as with built-in parts.

    They run in this process, one fold after the other, for they cannot be sent to others.

    Args:
        network: normalised images [B, 3, H, W] -> features [B, D]; its weights are where training starts.
        preprocessing: what makes an image its input; needed with `network` or `model`.
        loss: (logits [B, C], targets [B, C] whose rows sum to 1) -> a scalar. It sees no row whose class is missing;
            where such images are mixed with others, rows sum to the share that is known.
        augment: (image uint8 [H, W, 3]) -> such an image, an albumentations Compose or a torchvision v2 transform.
        model: in place of `network`, a whole model: normalised images [B, 3, H, W] -> logits [B, K] of the data's
            classes in their order, given by its last nn.Linear. That layer is the head: training starts from its
            weights, or fits it anew where the first phase is a probe.
    """

    network: nn.Module | None = None
    preprocessing: Preprocessing | None = None
    loss: Loss | None = None
    augment: Any = None
    model: nn.Module | None = None

    def __post_init__(self) -> None:
        if self.network is not None and self.model is not None:
            raise UsageError(
                "Own has both a network, which gives features, and a whole model, which gives logits",
                "give one of them: Own(network=...) or Own(model=...)",
            )
        if (self.network is None and self.model is None) != (self.preprocessing is None):
            raise UsageError(
                "a network or model of your own needs its preprocessing, and only such a one does",
                "write Own(network=..., preprocessing=finefold.Preprocessing(224, 224, ...))",
            )

    @cached_property
    def whole(self) -> Whole | None:
        """The whole model taken apart; None where there is none.

        Raises:
            ModelError: it does not run, or does not end in a linear layer.
        """
        if self.model is None or self.preprocessing is None:
            return None
        rng = torch.Generator().manual_seed(0)
        height_px, width_px = self.preprocessing.height_px, self.preprocessing.width_px
        return take_apart(self.model, torch.randn(2, 3, height_px, width_px, generator=rng))

    @property
    def body(self) -> nn.Module | None:
        """What gives features: the network, or the model without its last layer."""
        return self.network if self.whole is None else self.whole.network

    def check_fits(self, space: LabelSpace, recipe: Recipe) -> None:
        """That a whole model answers for these classes.

        Raises:
            UsageError: it gives another number of logits, or the recipe asks for heads of another kind.
        """
        if self.whole is None:
            return
        count = len(self.whole.head.bias_C)
        if recipe.model.heads != "joint":
            raise UsageError(
                f'a whole model has one head, and the recipe says model.heads = "{recipe.model.heads}"',
                'set model.heads = "joint", or give the part before its last layer: Own(network=...)',
            )
        if count != space.num_classes:
            raise UsageError(
                f"your model gives {count} outputs, and the data has {space.num_classes} classes: "
                f"{', '.join(space.class_names)}",
                f"make its last layer `{self.whole.path}` nn.Linear({len(self.whole.head.weight_DC)}, "
                f"{space.num_classes})",
            )

    @property
    def is_empty(self) -> bool:
        """Whether nothing of one's own is here."""
        return self.network is None and self.model is None and self.loss is None and self.augment is None

    @property
    def about(self) -> Mapping[str, str]:
        """What is here, as far as it can be told: a run resumes only with the same."""
        told = {"loss": _name(self.loss), "augment": _name(self.augment)}
        for what, module in (("network", self.network), ("model", self.model)):
            if module is not None:
                state = {name: tensor.detach() for name, tensor in module.state_dict().items()}
                told[what] = f"{_name(module)} {state_hash(state)}"
        if self.whole is not None:
            told["head"] = self.whole.path
        return {key: value for key, value in told.items() if value}


def _name(part: Any) -> str:
    """What a callable is called; a class's name where it is an object."""
    return "" if part is None else str(getattr(part, "__qualname__", type(part).__qualname__))


NOTHING = Own()
