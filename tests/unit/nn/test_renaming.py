"""A state of other names under those of its model."""

from collections import OrderedDict

import pytest
import torch
from torch import nn

from finefold.errors import WeightsError
from finefold.nn.renaming import rename_onto
from finefold.nn.transplant import match_weights


def network(*names: str) -> nn.Sequential:
    """Four layers, the two in the middle of one shape."""
    torch.manual_seed(0)
    sizes = ((3, 8), (8, 8), (8, 8), (8, 2))
    layers = [(name, nn.Linear(*size, bias=False)) for name, size in zip(names, sizes, strict=True)]
    return nn.Sequential(OrderedDict([("pool", nn.AdaptiveAvgPool2d(1)), ("flat", nn.Flatten()), *layers]))


@pytest.fixture
def model() -> nn.Sequential:
    return network("stem", "one", "two", "head")


def state_of(*names: str) -> dict[str, torch.Tensor]:
    return {f"{name}.weight": layer.weight for name, layer in zip(names, list(network(*names))[2:], strict=True)}


def test_a_renamed_state_has_the_models_names(model):
    """Every tensor comes under the model's name, with its values, and knows what it was called."""
    renamed = rename_onto(state_of("l0", "l1", "l2", "l3"), model, order_is_kept=True)
    own = model.state_dict()
    assert renamed.state.keys() == own.keys()
    assert all(torch.equal(renamed.state[key], own[key]) for key in own)
    assert [renamed.name_before(key) for key in own] == ["l0.weight", "l1.weight", "l2.weight", "l3.weight"]
    assert renamed.hints({"a.weight": "l2.weight", "b.weight": "x"}) == {"a.weight": "two.weight", "b.weight": "x"}


def test_what_cannot_be_told_apart_is_refused_until_accepted(model):
    """Two layers of one shape whose names say nothing, in a sorted file: refused by name, or a guess."""
    state = state_of("q", "zz", "xx", "y")
    with pytest.raises(WeightsError, match=r"2 of its 4 tensors could be several of them: `one.weight`, `two.weight`"):
        rename_onto(state, model, order_is_kept=False)
    match = match_weights(state, network("a", "b", "c", "d"), source_model=model, accept=True)
    assert match.is_renamed
    assert {key for one in match.layout.placed for key in one.sources} == state.keys()


def test_another_models_weights_are_refused(model):
    """A layer that is missing, and one too many beside those that fit, are another model's: said which."""
    state = state_of("l0", "l1", "l2", "l3")
    with pytest.raises(WeightsError, match="not of the model that was said: 1 of its 4 tensors are not among them"):
        rename_onto({key: value for key, value in state.items() if key != "l2.weight"}, model, order_is_kept=True)
    with pytest.raises(WeightsError, match="not of the model that was said"):
        match_weights({"w": torch.ones(3)}, model, source_model=model)
