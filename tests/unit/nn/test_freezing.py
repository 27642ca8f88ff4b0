"""The freeze plan: what trains, at which rates, and where the frozen prefix ends."""

import json

import pytest
import torch
from torch import nn

from finefold.errors import RecipeError
from finefold.nn.backbones import IMAGES, POOLED
from finefold.nn.catalogue import build_model
from finefold.nn.cutting import cut, find_cuts
from finefold.nn.freezing import FreezePlan, make_plan, plan_rows
from finefold.recipe.schema import Recipe

MODELS = [
    "test_resnet",
    "test_efficientnet",
    "vit_tiny_patch16_224",
    "test_convnext",
    "regnetx_002",
    "torchvision:mobilenet_v2",
]


def body(name: str) -> nn.Module:
    network = build_model(name)
    for last in ("fc", "classifier", "head"):
        if isinstance(getattr(network, last, None), nn.Linear | nn.Sequential):
            setattr(network, last, nn.Identity())
    return network.eval()


def plan_of(network: nn.Module, *phases: dict, fits=lambda _: True, **tables) -> FreezePlan:
    recipe = Recipe.model_validate({"phase": list(phases), **tables})
    return make_plan(recipe, network, nn.Linear(8, 3), find_cuts(network), fits=fits)


PROBE = {"trainable": "head", "until": "probe"}


def tuned(trainable, **more) -> dict:
    return {"trainable": trainable, "until": "1 epoch", **more}


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_is_of_one_layer(name):
    """Head and stages share out all parameters: each is in exactly one, and `all` trains every one."""
    network = body(name)
    plan = plan_of(network, tuned("all"))
    shared = [parameter for layer in plan.layers for parameter in layer.parameters]
    own = {f"network.{key}" for key, _ in network.named_parameters()} | {"head.weight", "head.bias"}
    assert len(shared) == len(set(shared))
    assert set(shared) == own == plan.phases[0].trainable


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("trainable", ["last:1", "last:2", "all", "norms", "head"])
def test_the_prefix_holds_nothing_that_trains(name, trainable):
    """Where the prefix ends, nothing before trains: it may be computed once. The head alone needs pooled features."""
    network = body(name)
    phase = plan_of(network, tuned(trainable)).phases[0]
    if trainable == "head":
        assert phase.cut == POOLED
    elif phase.cut != IMAGES:
        prefix = cut(network, phase.cut).prefix
        trained = {
            id(network.get_parameter(one.removeprefix("network."))) for one in phase.trainable if "head." not in one[:5]
        }
        assert not trained & {id(parameter) for parameter in prefix.parameters()}
    if trainable == "last:1":
        assert phase.cut not in (IMAGES, POOLED)


@pytest.mark.parametrize("name", MODELS)
def test_more_stages_train_more_and_leave_less_before_them(name):
    """last:N+1 trains all that last:N trains and more, after a prefix that ends no later."""
    network = body(name)
    chain = [point.name for point in find_cuts(network).cuts]
    first, second = (plan_of(network, tuned(f"last:{count}")).phases[0] for count in (1, 2))
    assert first.trainable < second.trainable
    assert chain.index(second.cut) < chain.index(first.cut)


def test_rates_decay_from_the_head_to_the_stem():
    """The head has the phase's rate, the last stage that times the decay, each stage before it once more."""
    network = body("test_resnet")
    plan = plan_of(network, tuned("all", lr=1e-2, layer_decay=0.5))
    rates = {row.stage: row.lr for row in plan_rows(plan)}
    assert [rates[layer.name] for layer in plan.layers] == [1e-2 * 0.5**layer.depth for layer in plan.layers]
    assert [layer.depth for layer in plan.layers] == list(range(len(plan.layers)))


def test_norms_and_biases_do_not_decay():
    """Weight decay is of matrices and kernels alone."""
    network = body("test_resnet")
    plan = plan_of(network, tuned("all"), optim={"weight_decay": 0.3})
    for group in plan.phases[0].groups:
        for name in group.names:
            root = network if name.startswith("network.") else nn.Linear(8, 3)
            parameter = root.get_parameter(name.partition(".")[2])
            assert group.weight_decay == (0.3 if parameter.ndim > 1 else 0.0), name


def test_patterns_name_modules_and_parameters():
    """A pattern is matched by a parameter's name and by those of the modules around it; the head trains along."""
    network = body("test_resnet")
    some = plan_of(network, tuned(["layer4", "layer3.*.conv1.weight"])).phases[0].trainable
    expected = {f"network.{key}" for key, _ in network.named_parameters() if key.startswith("layer4.")}
    expected |= {
        f"network.{key}" for key, _ in network.named_parameters() if key.startswith("layer3.") and "conv1.w" in key
    }
    assert some == expected | {"head.weight", "head.bias"}


@pytest.mark.parametrize(
    ("trainable", "message"),
    [
        (["layr4"], "`layr4` matches nothing in the model; did you mean layer4"),
        ("lst:2", "did you mean last:1"),
        ("last:9", "the model has 4 stages after its stem; write last:1 to last:4, or all"),
        ("last:0", "write last:1 to last:4"),
        (["act1"], "`act1` has no parameters, so nothing trains"),
    ],
)
def test_what_the_model_lacks_is_told(trainable, message):
    """Unknown patterns, too many stages, modules without parameters: an error with what to write instead."""
    with pytest.raises(RecipeError) as told:
        plan_of(body("test_resnet"), PROBE, tuned(trainable))
    assert told.value.message.startswith("phase 2: ")
    assert message in told.value.message


def test_all_phases_mistakes_come_at_once():
    """Two wrong phases are two lines of one error."""
    with pytest.raises(RecipeError) as told:
        plan_of(body("test_resnet"), tuned(["x1"]), tuned(["x2"]))
    assert "phase 1: `x1`" in told.value.message
    assert "phase 2: `x2`" in told.value.message


def test_a_later_phase_starts_from_what_an_earlier_one_trained():
    """Once a stage was trained, no later phase may take it for frozen: its folds differ there."""
    plan = plan_of(body("test_resnet"), PROBE, tuned("last:2"), tuned("head"))
    assert plan.phases[2].trainable == {"head.weight", "head.bias"}
    assert plan.phases[2].cut == plan.phases[1].cut == plan.cut
    assert plan.phases[0].cut == POOLED


def test_cuts_that_do_not_fit_are_passed_over():
    """Where a cut's rows may not be cached, an earlier one is taken, and where none may, the images."""
    network = body("test_resnet")
    names = [point.name for point in find_cuts(network).cuts]
    first = plan_of(network, tuned("last:1")).cut
    second = plan_of(network, tuned("last:1"), fits=lambda point: point.name != first).cut
    assert names.index(second) == names.index(first) - 1
    assert plan_of(network, tuned("last:1"), fits=lambda _: False).cut == IMAGES


def test_running_norms_are_those_that_train():
    """batch_norm = "running" is of the trained stages' batch norms; frozen ones keep their statistics."""
    network = body("test_resnet")
    frozen, running = (plan_of(network, tuned("last:1", batch_norm=how)).phases[0] for how in ("frozen", "running"))
    assert frozen.running == ()
    assert running.running
    assert all(name.startswith("layer4.") for name in running.running)


def test_a_model_that_cannot_be_cut_trains_from_the_images():
    """Without cuts there is no prefix, and the network is one stage."""

    class Looks(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3)

        def forward(self, images_BCHW):
            return self.conv(images_BCHW).mean((2, 3)) * (2 if images_BCHW.mean() > 0 else 1)

    network = Looks()
    assert find_cuts(network, example=torch.randn(1, 3, 16, 16)).reason
    plan = make_plan(
        Recipe.model_validate({"phase": [tuned("all")]}),
        network,
        nn.Linear(8, 3),
        find_cuts(network, example=torch.randn(1, 3, 16, 16)),
        fits=lambda _: True,
    )
    assert plan.cut == IMAGES
    assert [layer.name for layer in plan.layers] == ["head", "network"]


@pytest.mark.parametrize("name", ["test_resnet", "vit_tiny_patch16_224"])
def test_a_plan_reads_back(name):
    """What a run stores of its plan is the plan."""
    plan = plan_of(body(name), PROBE, tuned("last:1", batch_norm="running"), tuned("all", layer_decay=0.7))
    assert FreezePlan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan
