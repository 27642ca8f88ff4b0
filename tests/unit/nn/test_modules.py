"""Looking inside a module: what the tree counts, what the state tells, and that nothing is changed by looking."""

import hashlib
import json
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from finefold.errors import ModelError
from finefold.nn.catalogue import build_model
from finefold.nn.cutting import cut, find_cuts
from finefold.nn.modules import inspect_model, state_rows, state_tree, tensor_hash
from finefold.nn.transplant import match_weights


def classifier() -> nn.Sequential:
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 5),
    )


class Tied(nn.Module):
    """Two layers of one weight, and one layer under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(12, 12)
        self.leave = nn.Linear(12, 12, bias=False)
        self.leave.weight = self.enter.weight
        self.again = self.enter
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return self.leave(self.again(self.enter(images_BCHW.flatten(1)))) * self.scale.sum()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def images_BCHW() -> Tensor:
    return torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "build", [classifier, Tied, lambda: build_model("test_vit"), lambda: build_model("test_resnet")]
)
def test_every_module_has_a_row_that_counts_it(build):
    """Rows are named_modules() in its order; parameters, bytes and children are what the module itself says."""
    model = build()
    rows = inspect_model(model).modules
    assert [row.name for row in rows] == [name for name, _ in model.named_modules()]
    for row in rows:
        module = model.get_submodule(row.name)
        parameters, buffers = list(module.parameters()), list(module.buffers())
        assert row.kind == type(module).__name__
        assert row.parameters == row.trainable == sum(parameter.numel() for parameter in parameters)
        assert row.bytes == sum(tensor.numel() * tensor.element_size() for tensor in [*parameters, *buffers])
        assert row.num_children == len(list(module.children()))
        assert row.depth == len([part for part in row.name.split(".") if part])


def test_shared_parameters_count_once():
    """A weight that two layers hold, and a layer with two names, are counted once in the model and once in each."""
    seen = inspect_model(Tied())
    assert seen.module("").parameters == 12 * 12 + 12 + 3
    assert (seen.module("enter").parameters, seen.module("leave").parameters) == (12 * 12 + 12, 12 * 12)
    assert seen.to_dict()["parameters"] == 12 * 12 + 12 + 3


def test_freezing_shows_as_a_share():
    """The trainable share counts the values that require a gradient; it is 0 where there are no parameters."""
    model = classifier()
    model[0].requires_grad_(False)
    seen = inspect_model(model)
    frozen, free = 3 * 4 * 9 + 4 + 8, 4 * 5 + 5
    assert (seen.module("").trainable, seen.module("").parameters) == (free, frozen + free)
    assert seen.module("").trainable_share == pytest.approx(free / (frozen + free))
    assert [seen.module(name).trainable_share for name in ("0", "3", "1")] == [0.0, 1.0, 0.0]
    assert f"{free / (frozen + free):.0%} trainable" in str(seen).splitlines()[0]


def test_several_types_are_all_named():
    """Where parameters have several types, the row has them all; bytes follow them, buffers included."""
    model = nn.Sequential(nn.Linear(12, 4).bfloat16(), nn.Linear(4, 2).double(), nn.BatchNorm1d(2))
    seen = inspect_model(model)
    assert seen.module("").dtype == "bfloat16/float32/float64"
    assert [seen.module(name).dtype for name in ("0", "1", "2")] == ["bfloat16", "float64", "float32"]
    assert [seen.module(name).bytes for name in ("0", "1", "2")] == [2 * 52, 8 * 10, 4 * 4 + 4 * 4 + 8]
    assert inspect_model(nn.ReLU()).module("").dtype == ""


def test_rows_know_their_stage_and_cut():
    """A row names the stage that it opens and the cut that it ends at; other rows have neither."""
    model = build_model("test_resnet")
    seen = inspect_model(model)
    assert {row.name: row.stage for row in seen.modules if row.stage} == {
        stage.modules[0]: stage.name for stage in seen.stages
    }
    cuts = {row.name: row.cut for row in seen.modules if row.cut}
    assert cuts == {name: cut.name for cut in seen.chain.cuts for name in cut.modules}
    assert cuts["layer2"] == "layer2"
    assert "layer2.0.conv1" not in cuts


def test_a_module_that_is_not_there_is_told_with_near_names():
    """Asking for the row of an unknown module is an error that offers names like it, where there are any."""
    seen = inspect_model(build_model("test_resnet"))
    with pytest.raises(ModelError, match="there is no module `layer11`") as caught:
        seen.module("layer11")
    assert caught.value.hint.startswith("did you mean layer1 ")
    with pytest.raises(ModelError, match="there is no module `zzz`") as caught:
        seen.module("zzz")
    assert "`.modules` has them all" in caught.value.hint


@pytest.mark.parametrize("call", [inspect_model, find_cuts, lambda model: cut(model, 0), partial(match_weights, {})])
def test_a_name_in_place_of_a_model_is_told(call):
    """A name, a class and nothing are no models: the error says how to make one, whoever is asked."""
    for given, message, hint in (
        ("resnet18", "'resnet18' is a name and not a model", "build it first: ff.build_model('resnet18')"),
        (nn.ReLU, "the class ReLU is not a model", "make one of it: ReLU()"),
        (None, "a NoneType is not a model", "give a torch.nn.Module; ff.build_model(name) builds one"),
    ):
        with pytest.raises(ModelError) as caught:
            call(given)
        assert (caught.value.message, caught.value.hint) == (message, hint)


class Branches(nn.Module):
    """Decides by what is in a tensor."""

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x
        return -x


def test_what_cannot_be_followed_is_found_in_the_code():
    """Where a module branches on a tensor's values, the reason names the module, its class, its file and the line."""
    line = Branches.forward.__code__.co_firstlineno + 1
    reason = inspect_model(Branches()).chain.reason
    what = "cannot be followed: it branches on what is in a tensor, test_modules.py"
    assert reason == f"the code of Branches itself {what} line {line}"

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Branches()

        def forward(self, x: Tensor) -> Tensor:
            return self.inner.forward(x)

    assert inspect_model(Outer()).chain.reason == f"the code of `inner` (Branches) {what} line {line}"


@pytest.mark.parametrize(
    "model",
    [
        nn.Identity(),
        nn.Sequential(),
        nn.Linear(3, 4),
        nn.Embedding(3, 4),
        nn.LSTM(3, 4),
        nn.ParameterList([torch.ones(2)]),
    ],
    ids=lambda model: type(model).__name__,
)
def test_any_module_has_a_tree(model):
    """Modules that take no images, or cannot be called at all, still show tree and state, and why they have no cut."""
    seen = inspect_model(model, state=True)
    assert seen.modules[0].parameters == sum(parameter.numel() for parameter in model.parameters())
    assert [row.key for row in seen.state] == list(model.state_dict())
    assert (seen.chain.cuts, seen.stages) == ((), ())
    assert seen.chain.reason
    assert f"no cut points: {seen.chain.reason}" in str(seen)
    assert json.loads(json.dumps(seen.to_dict()))["no_cuts_because"] == seen.chain.reason


def test_running_what_cannot_run_is_an_error():
    """With `forward` or `gradients`, a model that fails on the images raises, with its own reason."""
    for options in ({"forward": True}, {"gradients": True}):
        with pytest.raises(ModelError, match=r"the model does not run on images \[\d, 3, 224, 224\]: mat1 and mat2"):
            inspect_model(nn.Linear(3, 4), **options)


def test_only_what_was_asked_for_is_done(images_BCHW):
    """Without flags nothing is measured; each flag adds its own part, to the value and to its JSON."""
    model = classifier()
    plain = inspect_model(model, images_BCHW)
    assert (plain.flow, plain.gradients, plain.state, plain.findings) == (None, None, None, ())
    assert not {"forward", "gradients", "state"} & plain.to_dict().keys()
    seen = inspect_model(model, images_BCHW, forward=True, gradients=True, state=True)
    assert (seen.flow.batch, seen.gradients.batch, len(seen.state)) == (3, 3, len(model.state_dict()))
    told = json.loads(json.dumps(seen.to_dict(), allow_nan=False))
    assert told["forward"]["rows"][0]["shape"] == [3, 5]
    assert [row["name"] for row in told["gradients"]["rows"]] == [name for name, _ in model.named_parameters()]
    assert [row["key"] for row in told["state"]] == list(model.state_dict())


def test_images_of_its_own_size_stand_in_where_none_are_given():
    """Without images, one random one of the model's own size is run forward, and two backward."""
    seen = inspect_model(build_model("test_resnet"), forward=True, gradients=True)
    assert (seen.flow.batch, seen.gradients.batch) == (1, 2)
    assert seen.flow.rows[0].shape == (1, 1000)


class Counts(nn.Module):
    """Counts its calls, whatever the mode."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(192, 5)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(self, images_BCHW: Tensor) -> Tensor:
        self.seen.add_(1)
        return self.fc(images_BCHW.flatten(1))


@pytest.mark.parametrize("build", [classifier, Counts], ids=lambda build: build.__name__)
@pytest.mark.parametrize("options", [{}, {"forward": True}, {"gradients": True}], ids=["plain", "forward", "gradients"])
def test_looking_changes_nothing(build, options, images_BCHW):
    """Parameters, buffers, gradients, modes, hooks and random numbers are as they were before."""
    model = build().train()
    list(model.modules())[1].eval()
    model(images_BCHW).sum().backward()
    modes = [module.training for module in model.modules()]
    hooks = [(len(one._forward_hooks), len(one._forward_pre_hooks)) for one in model.modules()]
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    grads = [parameter.grad.clone() for parameter in model.parameters()]
    before_BCHW, rng = images_BCHW.clone(), torch.get_rng_state()
    inspect_model(model, images_BCHW, **options, state=True)
    assert [module.training for module in model.modules()] == modes
    assert [(len(one._forward_hooks), len(one._forward_pre_hooks)) for one in model.modules()] == hooks
    assert all(torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items())
    assert all(torch.equal(one.grad, grad) for one, grad in zip(model.parameters(), grads, strict=True))
    assert torch.equal(images_BCHW, before_BCHW)
    assert torch.equal(torch.get_rng_state(), rng)


# --- state ------------------------------------------------------------------------------------------------------------

TENSORS = {
    "float32": torch.linspace(-1, 3, 12).view(3, 4),
    "float64": torch.linspace(-1, 3, 7, dtype=torch.float64),
    "bfloat16": torch.linspace(-1, 3, 12).bfloat16(),
    "float16": torch.linspace(-1, 3, 12).half(),
    "int64": torch.arange(7),
    "uint8": torch.arange(200, 250, dtype=torch.uint8),
    "bool": torch.tensor([True, False, False]),
}


@pytest.mark.parametrize("dtype", TENSORS)
def test_state_rows_tell_what_numpy_computes(dtype):
    """Mean and standard deviation (N in the denominator) are numpy's over all values, in double precision."""
    tensor = TENSORS[dtype]
    (row,) = state_rows({"key": tensor})
    values = tensor.double().numpy()
    assert (row.key, row.shape, row.dtype) == ("key", tuple(tensor.shape), dtype)
    assert row.mean == pytest.approx(np.mean(values), rel=1e-12)
    assert row.std == pytest.approx(np.std(values), rel=1e-12)


def test_state_rows_of_odd_tensors():
    """A scalar has its value for a mean; empty, complex and not finite tensors have none, and all have a hash."""
    odd = {
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 3),
        "nan": torch.tensor([1.0, torch.nan]),
        "infinite": torch.tensor([1.0, -torch.inf]),
        "complex": torch.ones(2, dtype=torch.complex64),
    }
    rows = state_rows(odd)
    assert [(row.key, row.mean, row.std) for row in rows] == [
        ("scalar", 3.5, 0.0),
        *((key, None, None) for key in ("empty", "nan", "infinite", "complex")),
    ]
    assert len({row.hash for row in rows}) == len(rows)
    assert all(len(row.hash) == 16 and int(row.hash, 16) >= 0 for row in rows)


def test_a_hash_tells_values_shape_and_type():
    """Equal tensors have equal hashes, however they lie in memory; another value, shape or type has another."""
    tensor = torch.arange(12, dtype=torch.float32).view(3, 4)
    digest = hashlib.sha256(f"{(3, 4)} torch.float32".encode() + tensor.numpy().tobytes()).hexdigest()[:16]
    assert tensor_hash(tensor) == digest
    same = [tensor.clone(), tensor.t().contiguous().t(), nn.Parameter(tensor), torch.cat([tensor, tensor])[:3]]
    assert {tensor_hash(one) for one in same} == {digest}
    changed = tensor.clone()
    changed[2, 3] = torch.nextafter(changed[2, 3], torch.tensor(torch.inf))
    others = [changed, tensor.view(4, 3), tensor.double(), tensor.int(), -tensor, tensor[:2]]
    assert len({digest, *map(tensor_hash, others)}) == 1 + len(others)


def test_a_state_that_holds_more_than_tensors_is_listed_all_the_same():
    """What a module keeps in its state besides tensors (get_extra_state) does not keep the tensors from view."""

    class Keeps(nn.Linear):
        def get_extra_state(self):
            return {"version": 1}

        def set_extra_state(self, state):
            raise NotImplementedError(state)

    rows = inspect_model(nn.Sequential(nn.Flatten(), Keeps(192, 5)), state=True).state
    assert [row.key for row in rows][:2] == ["1.weight", "1.bias"]


def test_the_tree_of_a_state_is_the_models():
    """Keys alone give the tree of the modules that hold tensors: names, depth, parameters and bytes as in the model."""
    model = build_model("test_efficientnet")
    told = {row.name: row for row in state_tree(model.state_dict())}
    own = {row.name: row for row in inspect_model(model).modules if row.bytes}
    assert told.keys() == own.keys()
    for name, row in told.items():
        assert (row.depth, row.parameters, row.bytes) == (own[name].depth, own[name].parameters, own[name].bytes), name
        assert row.trainable == 0


def test_kinds_are_read_off_the_tensors():
    """Leaves of a state's tree are named by what their tensors look like, inner nodes by nothing."""
    layers = {
        "conv": nn.Conv2d(3, 4, 3),
        "norm": nn.BatchNorm2d(4),
        "scale": nn.LayerNorm(4),
        "head": nn.ModuleDict({"fc": nn.Linear(4, 5)}),
    }
    kinds = {row.name: row.kind for row in state_tree(nn.ModuleDict(layers).state_dict())}
    assert kinds == {
        "": "",
        "conv": "convolution",
        "norm": "batch norm",
        "scale": "norm or scale",
        "head": "",
        "head.fc": "linear",
    }


def test_the_tree_of_a_state_whose_keys_lie_scattered_is_still_a_tree():
    """Whatever the order of the keys, a module's rows stand below its parent's, before the parent's next sibling."""
    ones = torch.ones(2)
    rows = state_tree({"a.x.weight": ones, "b.weight": ones, "a.y.weight": ones, "token": ones})
    assert [row.name for row in rows] == ["", "a", "a.x", "a.y", "b"]
    assert [row.parameters for row in rows] == [8, 4, 2, 2, 2]
    assert [row.num_children for row in rows] == [2, 2, 0, 0, 0]


def test_an_empty_state_has_a_root():
    """A state without tensors is a tree of its root alone."""
    (row,) = state_tree({})
    assert (row.name, row.parameters, row.bytes, row.num_children) == ("", 0, 0, 0)
