"""A whole model taken apart: its last linear layer is the head, and anything else is told."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from finefold.errors import ModelError, WeightsError
from finefold.nn.whole import TakenHead, take_apart, without_head

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def convolution() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Named(nn.Module):
    """Two linear layers of one size, the second of which is the head, and dropout before it."""

    def __init__(self) -> None:
        super().__init__()
        self.body = convolution()
        self.neck = nn.Linear(4, 4)
        self.drop = nn.Dropout(0.5)
        self.tops = nn.ModuleDict({"main": nn.Linear(4, 4, bias=False)})

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return self.tops["main"](self.drop(self.neck(self.body(images_BCHW)).relu()))


@pytest.mark.parametrize(
    ("model", "path"), [(Named(), "tops.main"), (nn.Sequential(convolution(), nn.Linear(4, 3)), "1")]
)
def test_features_and_head_give_what_the_model_gives(model, path):
    """The parts together are the model, which is left as it was."""
    whole = take_apart(model, IMAGES)
    assert whole.path == path
    with torch.no_grad():
        features_BD, logits_BK = whole.network(IMAGES), model.eval()(IMAGES)
    assert features_BD.shape == (2, 4)
    assert np.allclose(whole.head.logits(features_BD.numpy()), logits_BK.numpy(), atol=1e-5)
    assert isinstance(model.get_submodule(path), nn.Linear)
    assert isinstance(whole.network.get_submodule(path), TakenHead)


class Twice(Named):
    """Its head is called a second time, on other features."""

    def forward(self, images_BCHW: Tensor) -> Tensor:
        top = self.tops["main"]
        return top(top(self.body(images_BCHW)))


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (nn.Sequential(convolution(), nn.Linear(4, 3), nn.Softmax(1)), "does not end in an nn.Linear"),
        (nn.Sequential(nn.Conv2d(3, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()), "does not end in an nn.Linear"),
        (nn.Conv2d(3, 5, 1), r"gives \[2, 5, 8, 8\], expected logits \[2, K\]"),
        (nn.Sequential(nn.Flatten(), nn.Linear(7, 3)), "does not run on images"),
        (Twice(), "without its last layer `tops.main`"),
    ],
)
def test_other_ends_are_told(model, told):
    """What is no linear layer at the end, or does not run, is an error that says what is supported."""
    with pytest.raises(ModelError, match=told) as error:
        take_apart(model, IMAGES)
    assert error.value.hint


def test_a_model_without_that_layer_is_told():
    """A run's model is known by the place of its head."""
    with pytest.raises(WeightsError, match="has no `fc`"):
        without_head(Named(), "fc")
