"""Keys as units: what belongs to one layer, which part it plays there, and what its name says."""

import pytest
import torch
from torch import nn

from finefold.nn.units import (
    find_units,
    is_grouped,
    name_likeness,
    natural_order,
    plain_shape,
    words_and_numbers,
    wrapper_prefix,
)


def units_of(model: nn.Module):
    state = model.state_dict()
    return find_units(state, state)


def test_a_layer_is_one_unit_with_its_roles():
    """Weight, bias and statistics of one layer are one unit; batch counters and index tables are none."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2, bias=False))
    model.register_buffer("index", torch.arange(3))
    assert [(unit.path, sorted(unit.keys), unit.order) for unit in units_of(model)] == [
        ("0", ["bias", "weight"], 0),
        ("1", ["bias", "running_mean", "running_var", "weight"], 1),
        ("2", ["only"], 2),
    ]


def test_a_label_says_nothing_of_names_and_trailing_ones():
    """Two layers with the same roles and shapes have one label, whatever they are called and however folded."""
    one, other = units_of(nn.ModuleDict({"a": nn.Linear(4, 8)})), units_of(nn.ModuleDict({"b": nn.Conv2d(4, 8, 1)}))
    assert one[0].label == other[0].label
    assert one[0].label != units_of(nn.ModuleDict({"a": nn.Linear(8, 4)}))[0].label
    assert one[0].label != units_of(nn.ModuleDict({"a": nn.Linear(4, 8, bias=False)}))[0].label


def test_tensorflows_names_of_roles_are_known():
    """gamma, beta, moving_mean and moving_variance are a batch norm; a gamma alone is a layer's scale."""
    names = ("gamma", "beta", "moving_mean", "moving_variance")
    state = {f"bn.{name}": torch.ones(4) for name in names} | {"block.gamma": torch.ones(4, 1, 1)}
    norm, scale = find_units(state, state)
    assert norm.label == units_of(nn.ModuleDict({"bn": nn.BatchNorm2d(4)}))[0].label
    assert norm.keys["running_var"] == ("bn.moving_variance",)
    assert (scale.path, dict(scale.shapes)) == ("block.gamma", {"only": (4,)})


@pytest.mark.parametrize(
    "names",
    [
        ("q", "k", "v"),
        ("query", "key", "value"),
        ("q_proj", "k_proj", "v_proj"),
        ("to_q", "to_k", "to_v"),
        ("wq", "wk", "wv"),
        ("w_q", "w_k", "w_v"),
        ("q_lin", "k_lin", "v_lin"),
        ("v", "q", "k"),
    ],
    ids="-".join,
)
def test_query_key_and_value_are_one_unit(names):
    """Three layers of one parent that are a query, a key and a value are as one, in that order, whatever theirs is."""
    split = units_of(nn.ModuleDict({"attn": nn.ModuleDict({name: nn.Linear(4, 4) for name in names})}))
    fused = units_of(nn.ModuleDict({"attn": nn.ModuleDict({"qkv": nn.Linear(4, 12)})}))
    assert [unit.label for unit in split] == [unit.label for unit in fused]
    assert split[0].num_pieces == 3
    assert fused[0].num_pieces == 1
    letters = [
        key.split(".")[1].removeprefix("to_").removeprefix("w").lstrip("_")[0] for key in split[0].keys["weight"]
    ]
    assert letters == ["q", "k", "v"]


def test_what_only_looks_like_query_key_and_value_is_not_fused():
    """Two of three, three of unlike shapes, or names that merely begin so, stay layers of their own."""
    for names, sizes in (
        (("q", "k"), (4, 4)),
        (("q", "k", "v"), (4, 4, 8)),
        (("quality", "kind", "volume"), (4, 4, 4)),
    ):
        layers = {name: nn.Linear(4, size) for name, size in zip(names, sizes, strict=True)}
        assert [unit.path for unit in units_of(nn.ModuleDict(layers))] == list(names)


@pytest.mark.parametrize(
    ("shape", "plain"),
    [
        ((8, 4, 1, 1), (8, 4)),
        ((8, 1, 1), (8,)),
        ((1,), (1,)),
        ((), ()),
        ((1, 1, 1), (1,)),
        ((8, 1, 3, 3), (8, 1, 3, 3)),
        ((1, 8), (1, 8)),
    ],
)
def test_trailing_ones_are_dropped(shape, plain):
    """Ones at the end go, ones before stay, and a shape never becomes empty by it."""
    assert plain_shape(shape) == plain


@pytest.mark.parametrize(
    ("keys", "prefix"),
    [
        (["module.a.weight", "module.b.weight"], "module."),
        (["module.model.a.weight", "module.model.b.weight"], "module.model."),
        (["a.weight", "b.weight"], ""),
        ([], ""),
        (["weight", "bias"], ""),
        (["model.a.weight"] * 1 + [f"model.b{n}.weight" for n in range(20)] + ["loss.weight"], "model."),
        (["student.a.weight", "teacher.a.weight"], ""),
        (["features.0.weight", "classifier.0.weight"], ""),
    ],
)
def test_a_wrapper_is_what_every_key_is_in(keys, prefix):
    """What every key begins with is a wrapper's; what only some do is the model's own."""
    assert wrapper_prefix(keys) == prefix


def test_a_layers_name_is_no_wrapper():
    """A single layer's own name stays, for without it weight and bias would belong to nothing."""
    assert wrapper_prefix(["bn.weight", "bn.bias"]) == ""
    assert wrapper_prefix(["module.bn.weight", "module.bn.bias"]) == "module."


def test_an_encoder_with_a_stem_beside_it_is_no_wrapper():
    """torchvision's ViT has nearly everything below `encoder.`, and it is no wrapper: the rest is the model's too."""
    from torchvision.models import VisionTransformer

    model = VisionTransformer(image_size=32, patch_size=16, num_layers=12, num_heads=2, hidden_dim=8, mlp_dim=8)
    assert wrapper_prefix(model.state_dict()) == ""


def test_grouped_is_what_stays_together():
    """Keys are grouped if no part is left and come back to; one layer's own tensors may stand apart."""
    assert is_grouped(["a.0.weight", "a.0.bias", "a.1.weight", "b.weight"])
    assert not is_grouped(["a.0.weight", "b.weight", "a.1.weight"])
    assert not is_grouped(["a.0.x.weight", "a.1.x.weight", "a.0.y.weight"])
    assert is_grouped(["a.q.weight", "a.k.weight", "a.q.bias", "a.k.bias", "b.weight"])
    assert is_grouped([])
    assert is_grouped(["c", "a", "b"])


def test_names_are_read_as_words_and_numbers():
    """Words are split at dots, underscores, digits and capitals; numbers stand apart."""
    assert words_and_numbers("layer1.0.conv2") == (("layer", "conv"), (1, 0, 2))
    assert words_and_numbers("MBconv.attnLayer_norm") == words_and_numbers("mbconv.attn.layer.norm")
    assert words_and_numbers("") == ((), ())


def test_likeness_knows_the_same_the_like_and_the_other():
    """Equal words are 1, none in common 0, beginnings and spellings between; both ways the same."""
    assert name_likeness("layer1.conv2", "layer3.conv1") == 1
    assert name_likeness("norm", "fc") == name_likeness("", "fc") == 0
    assert 0.8 < name_likeness("embed", "embedding") < 1
    assert name_likeness("layernorm_before", "layernorm_after") < 1
    for one, other in (("norm1", "layernorm"), ("attn.qkv", "attention.query"), ("downsample.0", "shortcut")):
        assert name_likeness(one, other) == name_likeness(other, one)


def test_numbers_in_names_count_as_numbers():
    """b10 comes after b9."""
    assert natural_order(["b10", "b9", "a", "b1"]) == [3, 2, 0, 1]
