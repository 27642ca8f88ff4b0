"""Optimisers give every group its rate and decay, and go on after a stop as if there had been none."""

import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from finefold.errors import RecipeError, RunError
from finefold.nn.optim import (
    RateGroup,
    clip_gradients,
    decays,
    list_optimisers,
    load_state_tensors,
    make_optimiser,
    set_rates,
    state_tensors,
)
from finefold.recipe.training import OptimRecipe

GROUPS = (
    RateGroup(("0.weight",), 1e-3, 0.1),
    RateGroup(("0.bias", "1.weight", "1.bias"), 1e-3, 0.0),
    RateGroup(("4.weight",), 1e-2, 0.1),
    RateGroup(("4.bias",), 1e-2, 0.0),
)


def small_net(layout=torch.contiguous_format):
    """A convolution, a norm and a linear layer, always the same."""
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)
    return nn.Sequential(*layers).to(memory_format=layout)


def made(net, name, **told):
    """An optimiser of all groups."""
    return make_optimiser(OptimRecipe(name=name, **told), GROUPS, dict(net.named_parameters()))


def take(net, optimiser, steps):
    """Optimiser steps on batches that depend on the step's number alone."""
    for step in steps:
        rng = torch.Generator().manual_seed(step)
        set_rates(optimiser, GROUPS, 1 / (step + 1))
        optimiser.zero_grad()
        images_BCHW, labels_B = torch.randn(5, 3, 4, 4, generator=rng), torch.randint(3, (5,), generator=rng)
        nn.functional.cross_entropy(net(images_BCHW), labels_B).backward()
        optimiser.step()


def assert_resumes(name, layout=torch.contiguous_format, **told):
    """Three steps, a stop, three more: bitwise what six are, weights and state alike."""
    net = small_net(layout)
    optimiser = made(net, name, **told)
    take(net, optimiser, range(3))
    stored = save(state_tensors(optimiser, GROUPS))
    resumed = small_net(layout)
    resumed.load_state_dict(net.state_dict())
    take(net, optimiser, range(3, 6))

    again = made(resumed, name, **told)
    load_state_tensors(again, GROUPS, dict(resumed.named_parameters()), load(stored))
    take(resumed, again, range(3, 6))
    for key, value in net.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key
    whole, parts = state_tensors(optimiser, GROUPS), state_tensors(again, GROUPS)
    assert whole.keys() == parts.keys()
    assert all(torch.equal(value, parts[key]) and value.dtype == parts[key].dtype for key, value in whole.items())


@pytest.mark.parametrize("name", list_optimisers())
def test_going_on_is_as_never_having_stopped(name):
    """Through a safetensors file and back, every optimiser goes on bitwise: numbers and group state included."""
    assert_resumes(name)


@pytest.mark.parametrize("name", ["adamw", "sgd", "lamb"])
def test_going_on_keeps_the_order_in_memory(name):
    """Fused kernels read state in memory's order: parameters that lie channels-last go on bitwise too."""
    assert_resumes(name, torch.channels_last)


def test_going_on_without_momentum():
    """Plain gradient descent has no state, and none is made up."""
    net = small_net()
    optimiser = made(net, "sgd", momentum=0)
    take(net, optimiser, range(2))
    assert state_tensors(optimiser, GROUPS) == {}
    assert_resumes("sgd", momentum=0)


@pytest.mark.parametrize("name", ["adamw", "sgd", "lion", "lamb"])
def test_groups_keep_their_rates_and_decays(name):
    """Each group of torch's has its group's parameters, decay, and base rate times the factor."""
    net = small_net()
    optimiser, parameters = made(net, name), dict(net.named_parameters())
    for factor in (1.0, 0.25):
        set_rates(optimiser, GROUPS, factor)
        for group, torchs in zip(GROUPS, optimiser.param_groups, strict=True):
            assert (torchs["lr"], torchs["weight_decay"]) == (group.lr * factor, group.weight_decay)
            assert all(one is parameters[name] for one, name in zip(torchs["params"], group.names, strict=True))


def test_decay_shrinks_only_where_it_is_asked_for():
    """Without gradients' pull, AdamW shrinks weights by rate times decay and leaves biases and norms alone."""
    net = small_net()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    made(net, "adamw").step()
    after = net.state_dict()
    assert torch.allclose(after["4.weight"], before["4.weight"] * (1 - 1e-2 * 0.1))
    assert torch.allclose(after["0.weight"], before["0.weight"] * (1 - 1e-3 * 0.1))
    assert all(torch.equal(after[name], before[name]) for name in ("0.bias", "1.weight", "1.bias", "4.bias"))


def test_state_is_a_copy_that_names_parameters():
    """Keys are parameter/state, plain numbers say so, and later steps do not change what was taken."""
    net = small_net()
    optimiser = made(net, "adamp")
    take(net, optimiser, range(1))
    taken = state_tensors(optimiser, GROUPS)
    assert {"4.bias/exp_avg", "4.bias/step:int"} <= set(taken) and taken["4.bias/step:int"].ndim == 0
    before = taken["4.bias/exp_avg"].clone()
    take(net, optimiser, range(1, 2))
    assert torch.equal(taken["4.bias/exp_avg"], before) and int(taken["4.bias/step:int"]) == 1


def test_numbers_come_back_as_numbers():
    """An int is an int again, and an optimiser's tensor without dimensions is a tensor."""
    for name, kind in (("adamp", int), ("adamw", torch.Tensor)):
        net = small_net()
        optimiser = made(net, name)
        take(net, optimiser, range(1))
        again = made(net, name)
        load_state_tensors(again, GROUPS, dict(net.named_parameters()), state_tensors(optimiser, GROUPS))
        assert type(again.state[net[4].bias]["step"]) is kind


def test_state_of_other_parameters_is_refused():
    """State of parameters that do not train here is an error that names them."""
    net = small_net()
    with pytest.raises(RunError, match=r"state of `9\.weight`, expected only"):
        load_state_tensors(made(net, "adamw"), GROUPS, dict(net.named_parameters()), {"9.weight/step": torch.ones(())})


@pytest.mark.parametrize(("name", "hint"), [("adamww", "adamw"), ("lionn", "lion"), ("zzzz", "known are adabelief")])
def test_an_unknown_optimiser_is_a_recipe_error(name, hint):
    """A name that no optimiser has is told with its neighbours, or with all names."""
    with pytest.raises(RecipeError, match=f"no optimiser `{name}`") as caught:
        made(small_net(), name)
    assert hint in caught.value.hint


@pytest.mark.parametrize("name", ["kron", "adahessian", "bnbadam8bit", "fusedadam"])
def test_optimisers_that_cannot_work_here_are_not_offered(name):
    """What cannot be resumed, needs second derivatives or a package of CUDA kernels is no choice."""
    with pytest.raises(RecipeError, match="no optimiser"):
        made(small_net(), name)


def test_numbers_that_an_optimiser_refuses_are_a_recipe_error():
    """timm's own complaint about a number is told as the recipe's mistake."""
    with pytest.raises(RecipeError, match="nesterov cannot be made: Nesterov momentum requires"):
        made(small_net(), "nesterov", momentum=0)


def test_clipping_scales_to_the_norm_and_tells_it():
    """Gradients are scaled to the asked norm and told as they were; 0, and norms that are none, only measure."""
    parameters = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))]

    def clipped(values, max_norm):
        parameters[0].grad, parameters[1].grad = torch.tensor(values[:2]), torch.tensor(values[2:])
        told = clip_gradients(iter(parameters), max_norm)
        return told, torch.cat([parameters[0].grad, parameters[1].grad])

    for max_norm, norm in ((0.0, 3.0), (5.0, 3.0), (1.0, 1.0)):
        told, grads = clipped([1.0, 2.0, 2.0], max_norm)
        assert told == pytest.approx(3) and float(grads.norm()) == pytest.approx(norm, rel=1e-5)
    told, grads = clipped([1.0, float("inf"), 2.0], 1.0)
    assert told == float("inf") and grads.tolist() == [1.0, float("inf"), 2.0]
    assert clip_gradients(parameters[2:], 1.0) == 0.0


@pytest.mark.parametrize(
    ("name", "module", "shape", "expected"),
    [
        ("conv.weight", nn.Conv2d(2, 2, 1), (2, 2, 1, 1), True),
        ("fc.bias", nn.Linear(2, 2), (2,), False),
        ("attn.q_bias", None, (2, 2), False),
        ("norm.weight", nn.LayerNorm((2, 2)), (2, 2), False),
        ("layer_scale.gamma", None, (4,), False),
        ("pos_embed", None, (1, 4, 2), False),
        ("other_embed", None, (1, 4, 2), True),
        ("temperature", None, (), False),
    ],
)
def test_norms_biases_and_named_parameters_do_not_decay(name, module, shape, expected):
    """Only matrices and kernels that nobody exempted decay."""
    assert decays(name, module, torch.zeros(shape), {"pos_embed", "cls_token"}) is expected
