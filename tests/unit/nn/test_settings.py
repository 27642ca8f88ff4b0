"""Hyperparameters: how they are told, kept in JSON, and given to a model."""

import json

import pytest
import torch
from torch import nn

from finefold.errors import ModelError
from finefold.nn.settings import SAME, Setting, apply_settings, compare_modules

EXAMPLES = [
    Setting("bn1", "eps", 0.001, 1e-05),
    Setting("conv", "padding", (1, 1), SAME),
    Setting("conv", "padding", "same", (0, 0)),
    Setting("act", "operation", ("LeakyReLU", 0.2), ("ReLU",), "bn1"),
    Setting("pool", "operation", ("MaxPool2d", (3, 3), (2, 2), (1, 1)), ("AvgPool2d", (2, 2)), "bn1"),
    Setting("act", "operation", None, ("ReLU",), "fc"),
    Setting("attn", "num_heads", 4, 2),
]


@pytest.mark.parametrize("setting", EXAMPLES, ids=str)
def test_a_setting_survives_json(setting):
    """Written as JSON and read back, a setting is the same value, tuples and all."""
    assert Setting.from_dict(json.loads(json.dumps(setting.to_dict()))) == setting


def test_a_setting_reads_as_a_sentence():
    """The module, after what, the hyperparameter, and both values."""
    assert str(EXAMPLES[0]) == "bn1: eps is 0.001 in the source, 1e-05 in the model"
    assert str(EXAMPLES[3]) == "act (after bn1): operation is LeakyReLU(0.2) in the source, ReLU() in the model"
    assert "none in the source" in str(EXAMPLES[5])


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.ModuleDict({"conv": nn.Conv2d(2, 2, 3, padding=1), "bn": nn.BatchNorm2d(2), "act": nn.ReLU()}).eval()


def test_modules_without_a_difference_have_no_settings():
    """A model differs in nothing from itself."""
    paths = {"conv": "conv", "bn": "bn"}
    assert compare_modules(model(), model(), paths) == []


@pytest.mark.parametrize(
    ("path", "name", "value"),
    [("bn", "eps", 0.1), ("conv", "stride", (2, 2)), ("conv", "dilation", (2, 2)), ("conv", "padding_mode", "reflect")],
)
def test_what_differs_is_found_and_can_be_set(path, name, value):
    """One hyperparameter changed is one setting, and set on the other model, no difference is left."""
    source, target = model(), model()
    setattr(source[path], name, value)
    paths = {"conv": "conv", "bn": "bn"}
    (found,) = compare_modules(source, target, paths)
    assert (found.module, found.name, found.source) == (path, name, value)
    apply_settings(target, [found])
    assert compare_modules(source, target, paths) == []
    images_BCHW = torch.randn(1, 2, 9, 9)
    assert torch.equal(source["conv"](images_BCHW), target["conv"](images_BCHW))


def test_padding_in_other_words_is_no_difference():
    """A padding of 1 on both sides is what keeping the size comes to for a 3 x 3 kernel of stride 1."""
    source, target = model(), model()
    source["conv"].padding = "same"
    assert compare_modules(source, target, {"conv": "conv"}) == []


@pytest.mark.parametrize("padding", [(0, 0), (2, 1), SAME])
def test_another_padding_keeps_everything_else(padding):
    """With another padding a convolution keeps weights, bias, stride, groups, mode, and whether it is frozen."""
    target = nn.ModuleDict({"conv": nn.Conv2d(4, 4, 3, 2, 1, groups=2, padding_mode="zeros")}).eval()
    target["conv"].weight.requires_grad_(False)
    before = target["conv"]
    apply_settings(target, [Setting("conv", "padding", padding, (1, 1))])
    after = target["conv"]
    assert after.weight is before.weight
    assert after.bias is before.bias
    assert (after.stride, after.groups, after.dilation) == (before.stride, before.groups, before.dilation)
    assert not after.weight.requires_grad
    assert not after.training
    images_BCHW = torch.randn(1, 4, 8, 8)
    padded_BCHW = nn.functional.pad(images_BCHW, (0, 1, 0, 1)) if padding == SAME else images_BCHW
    sizes = (0, 0) if padding == SAME else padding
    expected_BCHW = nn.functional.conv2d(padded_BCHW, after.weight, after.bias, 2, sizes, groups=2)
    assert torch.allclose(after(images_BCHW), expected_BCHW, atol=1e-6)


def test_a_padding_mode_survives_another_padding():
    """A convolution that pads by reflection does so with its new padding too."""
    target = nn.ModuleDict({"conv": nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect")}).eval()
    apply_settings(target, [Setting("conv", "padding", (2, 2), (1, 1))])
    images_BCHW = torch.randn(1, 1, 6, 6)
    padded_BCHW = nn.functional.pad(images_BCHW, (2, 2, 2, 2), mode="reflect")
    expected_BCHW = nn.functional.conv2d(padded_BCHW, target["conv"].weight, target["conv"].bias)
    assert torch.allclose(target["conv"](images_BCHW), expected_BCHW, atol=1e-6)


@pytest.mark.parametrize(
    ("source", "module"),
    [
        (("SiLU",), nn.SiLU()),
        (("LeakyReLU", 0.2), nn.LeakyReLU(0.2)),
        (("Hardtanh", 0.0, 6.0), nn.ReLU6()),
        (("ELU", 1.5), nn.ELU(1.5)),
        (("MaxPool2d", (2, 2), (2, 2), (0, 0), (1, 1), True), nn.MaxPool2d(2, 2, ceil_mode=True)),
        (("AvgPool2d", (3, 3), (2, 2), (1, 1), False, False), nn.AvgPool2d(3, 2, 1, count_include_pad=False)),
        (None, nn.Identity()),
    ],
    ids=str,
)
def test_an_operation_is_put_in_place(source, module):
    """The module that ran another operation is replaced by one that runs the source's."""
    target = model()
    apply_settings(target, [Setting("act", "operation", source, ("ReLU",), "bn")])
    images_BCHW = torch.randn(1, 2, 7, 7)
    assert torch.equal(target["act"](images_BCHW), module(images_BCHW))


def test_what_the_code_calls_itself_cannot_be_set():
    """A module that holds others or weights is never replaced: the error names the setting."""
    for path in ("", "conv"):
        target = model()
        with pytest.raises(ModelError, match=r"operation is SiLU\(\) in the source.*code calls it itself"):
            apply_settings(target, [Setting(path, "operation", ("SiLU",), ("ReLU",), "conv")])
        assert isinstance(target["act"], nn.ReLU)
