"""What feeds what in a model, seen by running it: names, order of definition and style of code leave no trace."""

from collections import Counter

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finefold.errors import ModelError
from finefold.nn.dataflow import DataFlow, _colour, flow_colours, state_tensors, watch_flow

NOTHING: frozenset[str] = frozenset()


@pytest.fixture
def images_BCHW() -> Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 1, bias=False)


def keys(*names: str) -> frozenset[str]:
    return frozenset(names)


# --- what feeds what --------------------------------------------------------------------------------------------------


def test_a_sequence_is_followed_in_order(images_BCHW):
    """Each key is fed by those of the layer before it, and by none of its own layer's; the last make the output."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(256, 5))
    flow = watch_flow(model, images_BCHW)
    norm = keys("1.weight", "1.bias", "1.running_mean", "1.running_var")
    assert flow.before == {
        "0.weight": NOTHING,
        "0.bias": NOTHING,
        **dict.fromkeys(norm, keys("0.weight", "0.bias")),
        "4.weight": norm,
        "4.bias": norm,
    }
    assert flow.order[:2] == ("0.weight", "0.bias")
    assert set(flow.order[2:6]) == norm
    assert set(flow.order) == set(flow.before)
    assert flow.output == keys("4.weight", "4.bias")


def test_the_order_is_that_of_use(images_BCHW):
    """Layers are told in the order in which data reaches them, whatever the order of their definition."""

    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last, self.first, self.unused, self.second = conv(4, 5), conv(3, 4), conv(4, 4), conv(4, 4)

        def forward(self, images_BCHW: Tensor) -> Tensor:
            return self.last(self.second(self.first(images_BCHW)))

    flow = watch_flow(Backwards(), images_BCHW)
    assert flow.order == ("first.weight", "second.weight", "last.weight")
    assert "unused.weight" not in flow.before


def test_a_skip_feeds_what_comes_after_it_twice(images_BCHW):
    """What follows a residual sum is fed by both of its sides."""

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.body, self.head = conv(3, 4), conv(4, 4), conv(4, 5)

        def forward(self, images_BCHW: Tensor) -> Tensor:
            maps_BCHW = self.stem(images_BCHW)
            return self.head(maps_BCHW + F.relu(self.body(maps_BCHW)))

    assert watch_flow(Residual(), images_BCHW).before == {
        "stem.weight": NOTHING,
        "body.weight": keys("stem.weight"),
        "head.weight": keys("stem.weight", "body.weight"),
    }


def test_branches_do_not_feed_each_other(images_BCHW):
    """Two branches of one stem are each fed by it alone; what joins them by both; two outputs by what made each."""

    class Branches(nn.Module):
        def __init__(self, joined: bool) -> None:
            super().__init__()
            self.stem, self.one, self.two, self.joined = conv(3, 4), conv(4, 4), conv(4, 4), joined
            self.join = conv(8, 5)

        def forward(self, images_BCHW: Tensor) -> Tensor | tuple[Tensor, Tensor]:
            maps_BCHW = self.stem(images_BCHW)
            both = (self.one(maps_BCHW), self.two(maps_BCHW))
            return self.join(torch.cat(both, 1)) if self.joined else both

    branches = {"stem.weight": NOTHING, "one.weight": keys("stem.weight"), "two.weight": keys("stem.weight")}
    flow = watch_flow(Branches(joined=True), images_BCHW)
    assert flow.before == {**branches, "join.weight": keys("one.weight", "two.weight")}
    assert flow.output == keys("join.weight")
    flow = watch_flow(Branches(joined=False), images_BCHW)
    assert flow.before == branches
    assert flow.output == keys("one.weight", "two.weight")


def test_a_layer_that_is_used_twice_is_fed_from_both_places(images_BCHW):
    """A shared layer has the keys before each of its uses, and not itself."""

    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.twice, self.between = conv(3, 4), conv(4, 4), conv(4, 4)

        def forward(self, images_BCHW: Tensor) -> Tensor:
            return self.twice(self.between(self.twice(self.twice(self.stem(images_BCHW)))))

    flow = watch_flow(Shared(), images_BCHW)
    assert flow.order == ("stem.weight", "twice.weight", "between.weight")
    assert flow.before["twice.weight"] == keys("stem.weight", "between.weight")
    assert flow.before["between.weight"] == keys("twice.weight")


def test_one_tensor_under_two_names_stands_for_both(images_BCHW):
    """Where two layers hold one weight, both of its keys are in the flow, at both places."""
    model = nn.Sequential(conv(3, 3), nn.ReLU(), conv(3, 3))
    model[2].weight = model[0].weight
    flow = watch_flow(model, images_BCHW)
    assert set(flow.order) == {"0.weight", "2.weight"}
    assert flow.output == keys("0.weight", "2.weight")


def test_a_parameter_that_is_added_stands_where_it_is_added(images_BCHW):
    """A class token, a table of positions, a scale: each is fed by what it is joined to, by way of what made it."""

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(4))
            self.token = nn.Parameter(torch.ones(1, 1, 4))
            self.places = nn.Parameter(torch.ones(1, 65, 4))
            self.patches, self.head = conv(3, 4), nn.Linear(4, 5, bias=False)

        def forward(self, images_BCHW: Tensor) -> Tensor:
            rows_BND = self.patches(images_BCHW).flatten(2).transpose(1, 2)
            rows_BND = torch.cat([self.token.expand(len(rows_BND), -1, -1), rows_BND], 1)
            return self.head((rows_BND + self.places) * torch.exp(self.scale))

    assert watch_flow(Tokens(), images_BCHW).before == {
        "patches.weight": NOTHING,
        "token": keys("patches.weight"),
        "places": keys("token"),
        "scale": keys("places"),
        "head.weight": keys("scale"),
    }


def test_what_is_written_into_a_part_of_a_tensor_reaches_the_rest(images_BCHW):
    """A parameter that is added in place, to a tensor or to a slice of it, feeds what comes next."""

    class Writes(nn.Module):
        def __init__(self, sliced: bool) -> None:
            super().__init__()
            self.stem, self.head, self.token, self.sliced = conv(3, 4), conv(4, 5), nn.Parameter(torch.ones(1)), sliced

        def forward(self, images_BCHW: Tensor) -> Tensor:
            maps_BCHW = self.stem(images_BCHW)
            (maps_BCHW[:, :2] if self.sliced else maps_BCHW).add_(self.token)
            return self.head(maps_BCHW)

    assert watch_flow(Writes(sliced=False), images_BCHW).before["head.weight"] == keys("token")
    assert "token" in watch_flow(Writes(sliced=True), images_BCHW).before["head.weight"]


def test_attention_is_fed_in_its_parts(images_BCHW):
    """torch's own attention is seen as projections in and out, not as one fused step."""

    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.attention = nn.LayerNorm(8), nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, images_BCHW: Tensor) -> Tensor:
            rows_BND = self.norm(images_BCHW.flatten(1, 2))
            return rows_BND + self.attention(rows_BND, rows_BND, rows_BND)[0]

    flow = watch_flow(Attends(), images_BCHW)
    inside, outside = keys("attention.in_proj_weight", "attention.in_proj_bias"), keys("norm.weight", "norm.bias")
    after = keys("attention.out_proj.weight", "attention.out_proj.bias")
    assert NOTHING.union(*(flow.before[key] for key in inside)) - inside == outside
    assert all(NOTHING < flow.before[key] <= inside for key in after)
    assert flow.output == after | outside
    assert torch.backends.mha.get_fastpath_enabled()


def test_tensors_in_dicts_and_lists_are_followed(images_BCHW):
    """What a model gives in containers, and what passes between its parts in them, is followed too."""

    class Gives(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.one, self.two = conv(3, 4), conv(4, 4), conv(4, 4)

        def forward(self, images_BCHW: Tensor) -> dict[str, object]:
            maps = {"x": [self.stem(images_BCHW)]}
            return {"one": self.one(maps["x"][0]), "rest": [self.two(maps["x"][0]), None, 3]}

    flow = watch_flow(Gives(), images_BCHW)
    assert flow.before["two.weight"] == keys("stem.weight")
    assert flow.output == keys("one.weight", "two.weight")


def test_a_model_without_state_has_an_empty_flow(images_BCHW):
    """Where there are no tensors to watch, nothing feeds anything, and operations are told all the same."""
    flow = watch_flow(nn.Sequential(nn.ReLU(), nn.Flatten()), images_BCHW)
    assert (dict(flow.before), flow.order, flow.output) == ({}, (), NOTHING)
    assert [str(one) for one in flow.operations] == ["ReLU"]


def test_watching_leaves_the_model_as_it_was(images_BCHW):
    """Modes, tensors, hooks and torch's attention are restored, after a failure too."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(256, 5)).train()
    model[1].eval()
    modes, before = [one.training for one in model.modules()], {k: v.clone() for k, v in model.state_dict().items()}
    watch_flow(model, images_BCHW)
    with pytest.raises(ModelError, match=r"the model does not run on images \[2, 2, 8, 8\]"):
        watch_flow(model, images_BCHW[:, :2])
    assert [one.training for one in model.modules()] == modes
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert not any(one._forward_hooks or one._forward_pre_hooks for one in model.modules())
    assert torch.backends.mha.get_fastpath_enabled()


# --- operations without parameters ------------------------------------------------------------------------------------


def operations(*layers: nn.Module) -> list[str]:
    """What is told of some layers after a convolution."""
    flow = watch_flow(nn.Sequential(nn.Conv2d(3, 4, 1), *layers), torch.ones(1, 3, 32, 32))
    return [str(one) for one in flow.operations]


@pytest.mark.parametrize(
    ("layer", "told"),
    [
        (nn.ReLU(), "ReLU"),
        (nn.ReLU6(), "ReLU6"),
        (nn.Hardtanh(0, 6), "ReLU6"),
        (nn.Hardtanh(-2, 2), "Hardtanh(-2, 2)"),
        (nn.SiLU(), "SiLU"),
        (nn.GELU(), "GELU"),
        (nn.Hardswish(), "Hardswish"),
        (nn.Hardsigmoid(), "Hardsigmoid"),
        (nn.Sigmoid(), "Sigmoid"),
        (nn.Tanh(), "Tanh"),
        (nn.Mish(), "Mish"),
    ],
    ids=str,
)
def test_activations_are_told_by_name(layer, told):
    """An activation is told by the name that torch's module of it has."""
    assert operations(layer) == [told]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (nn.GELU(), nn.GELU(approximate="tanh")),
        (nn.ReLU(), nn.ReLU6()),
        (nn.LeakyReLU(0.1), nn.LeakyReLU(0.2)),
        (nn.ELU(1.0), nn.ELU(0.5)),
        (nn.SiLU(), nn.Hardswish()),
        (nn.Softplus(), nn.Softplus(beta=2)),
        (nn.MaxPool2d(2), nn.MaxPool2d(3)),
        (nn.MaxPool2d(3, 2), nn.MaxPool2d(3, 2, 1)),
        (nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(3, 2, 1, ceil_mode=True)),
        (nn.MaxPool2d(2), nn.AvgPool2d(2)),
        (nn.AvgPool2d(2), nn.AvgPool2d(2, ceil_mode=True)),
        (nn.AvgPool2d(3, 2, 1), nn.AvgPool2d(3, 2, 1, count_include_pad=False)),
    ],
    ids=str,
)
def test_what_computes_something_else_is_told_apart(one, other):
    """Layers of different arguments have different texts; the same layer has the same."""
    assert operations(one) != operations(other)
    assert operations(one) == operations(one)
    assert len(operations(one)) == len(operations(other)) == 1


@pytest.mark.parametrize(
    ("layer", "function"),
    [
        (nn.ReLU(inplace=True), torch.relu),
        (nn.ReLU6(inplace=True), F.relu6),
        (nn.SiLU(inplace=True), F.silu),
        (nn.GELU("none"), F.gelu),
        (nn.GELU("tanh"), lambda maps: F.gelu(maps, approximate="tanh")),
        (nn.LeakyReLU(0.2), lambda maps: F.leaky_relu(maps, negative_slope=0.2)),
        (nn.MaxPool2d(2), lambda maps: F.max_pool2d(maps, (2, 2), stride=(2, 2))),
        (nn.MaxPool2d(3, 2, 1), lambda maps: F.max_pool2d(maps, 3, 2, padding=(1, 1))),
        (nn.AvgPool2d(2), lambda maps: F.avg_pool2d(maps, (2, 2))),
    ],
    ids=lambda one: str(one) if isinstance(one, nn.Module) else "",
)
def test_a_module_and_a_function_that_compute_the_same_are_told_alike(layer, function):
    """Numbers or pairs, module or function, in place or not: the text is the same."""

    class Calls(nn.Module):
        def forward(self, maps_BCHW: Tensor) -> Tensor:
            return function(maps_BCHW)

    assert operations(layer) == operations(Calls())


def test_an_operation_says_after_what_and_where(images_BCHW):
    """Each operation has the keys whose results it works on and the innermost module that ran it, in order."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.act = conv(4, 4), nn.SiLU()

        def forward(self, maps_BCHW: Tensor) -> Tensor:
            return F.relu(maps_BCHW + self.act(self.conv(maps_BCHW)))

    flow = watch_flow(nn.Sequential(conv(3, 4), Block()), images_BCHW)
    assert [(one.name, one.after, one.where) for one in flow.operations] == [
        ("SiLU", keys("1.conv.weight"), "1.act"),
        ("ReLU", keys("0.weight", "1.conv.weight"), "1"),
    ]


def test_what_is_computed_of_parameters_alone_is_no_operation(images_BCHW):
    """A sigmoid of a parameter is part of the parameter; only what data passes through is told."""

    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.gate = conv(3, 4), nn.Parameter(torch.zeros(1))

        def forward(self, images_BCHW: Tensor) -> Tensor:
            return self.conv(images_BCHW) * torch.sigmoid(self.gate)

    assert watch_flow(Gated(), images_BCHW).operations == ()


# --- places in the flow -----------------------------------------------------------------------------------------------


def colours(model: nn.Module, images_BCHW: Tensor) -> dict[str, tuple[int, int]]:
    """The pair of numbers of each key; a key's label is its shape."""
    flow = watch_flow(model, images_BCHW)
    labels = {key: tuple(tensor.shape) for key, tensor in state_tensors(model).items() if key in flow.before}
    return flow_colours(flow, labels, {key: key for key in labels})


class Written(nn.Module):
    """Two blocks with a skip, in modules."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2, self.act = conv(4, 4), conv(4, 4), nn.ReLU(inplace=True)

        def forward(self, maps_BCHW: Tensor) -> Tensor:
            return self.act(maps_BCHW + self.conv2(self.act(self.conv1(maps_BCHW))))

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.blocks, self.head = conv(3, 4), nn.Sequential(self.Block(), self.Block()), nn.Linear(4, 5)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(images_BCHW)).mean((2, 3)))


class Rewritten(nn.Module):
    """The same with other names, defined in another order, in functions, and with a 1 x 1 kernel as a product."""

    def __init__(self) -> None:
        super().__init__()
        self.fc_bias = nn.Parameter(torch.zeros(5))
        for name in ("d", "b", "c", "a"):
            self.register_parameter(name, nn.Parameter(torch.ones(4, 4, 1, 1)))
        self.classifier = nn.Parameter(torch.ones(5, 4))
        self.entry = nn.ModuleList([conv(3, 4)])

    def forward(self, images_BCHW: Tensor) -> Tensor:
        maps_BCHW = self.entry[0](images_BCHW)
        for one, two in ((self.a, self.b), (self.c, self.d)):
            maps_BCHW = torch.relu(F.conv2d(torch.relu(F.conv2d(maps_BCHW, one)), two) + maps_BCHW)
        return F.linear(F.adaptive_avg_pool2d(maps_BCHW, 1).flatten(1), self.classifier, self.fc_bias)


SAME = {
    "stem.weight": "entry.0.weight",
    "blocks.0.conv1.weight": "a",
    "blocks.0.conv2.weight": "b",
    "blocks.1.conv1.weight": "c",
    "blocks.1.conv2.weight": "d",
    "head.weight": "classifier",
    "head.bias": "fc_bias",
}


def test_the_same_network_has_the_same_colours_however_it_is_written(images_BCHW):
    """Each tensor has the numbers of its counterpart in a network of other names, order and style."""
    one, other = colours(Written(), images_BCHW), colours(Rewritten(), images_BCHW)
    assert {SAME[key]: pair for key, pair in one.items()} == other


def test_places_in_one_flow_are_told_apart(images_BCHW):
    """Blocks that look alike have different numbers, for they stand at different places; running twice changes none."""
    one = colours(Written(), images_BCHW)
    weights = [pair for key, pair in one.items() if key != "head.bias"]
    assert len(set(weights)) == len(weights)
    assert colours(Written(), images_BCHW) == one


def test_twins_cannot_be_told_apart(images_BCHW):
    """Two branches that look alike and are added have equal numbers: nothing in the flow tells which is which."""

    class Twins(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.one, self.two, self.head = conv(3, 4), conv(4, 4), conv(4, 4), conv(4, 5)

        def forward(self, images_BCHW: Tensor) -> Tensor:
            maps_BCHW = self.stem(images_BCHW)
            return self.head(self.one(maps_BCHW) + self.two(maps_BCHW))

    found = colours(Twins(), images_BCHW)
    assert found["one.weight"] == found["two.weight"]
    assert Counter(found.values()).most_common(1)[0][1] == 2


class WithoutSkip(Written):
    def forward(self, images_BCHW: Tensor) -> Tensor:
        maps_BCHW = self.stem(images_BCHW)
        for block in self.blocks:
            maps_BCHW = block.conv2(block.conv1(maps_BCHW))
        return self.head(maps_BCHW.mean((2, 3)))


class OtherOrder(Written):
    def forward(self, images_BCHW: Tensor) -> Tensor:
        maps_BCHW = self.stem(images_BCHW)
        for block in self.blocks:
            maps_BCHW = block.conv1(maps_BCHW) + block.conv2(maps_BCHW)
        return self.head(maps_BCHW.mean((2, 3)))


class OneBlockMore(Written):
    def __init__(self) -> None:
        super().__init__()
        self.blocks.append(self.Block())


@pytest.mark.parametrize("build", [WithoutSkip, OtherOrder, OneBlockMore], ids=lambda build: build.__name__)
def test_another_network_has_other_colours(build, images_BCHW):
    """Without the skip, with parallel branches, or with a block more, the tensors stand at other places."""
    one, other = colours(Written(), images_BCHW), colours(build(), images_BCHW)
    shared = one.keys() & other.keys()
    assert len(shared) == len(one)
    assert not [key for key in shared if key.startswith("blocks") and one[key] == other[key]]


def test_a_number_tells_what_lies_before_and_one_what_lies_behind(images_BCHW):
    """Another head changes what lies behind each tensor, not what lies before; another stem the other way round."""

    def net(stem: nn.Module, head: nn.Module) -> nn.Module:
        return nn.Sequential(stem, nn.ReLU(), conv(4, 6), nn.ReLU(), head)

    plain = colours(net(conv(3, 4), conv(6, 5)), images_BCHW)["2.weight"]
    headed = colours(net(conv(3, 4), conv(6, 9)), images_BCHW)["2.weight"]
    stemmed = colours(net(nn.Conv2d(3, 4, 3, bias=False), conv(6, 5)), images_BCHW)["2.weight"]
    assert (headed[0] == plain[0], headed[1] == plain[1]) == (True, False)
    assert (stemmed[0] == plain[0], stemmed[1] == plain[1]) == (False, True)


def test_a_ring_ends():
    """A shared layer makes a ring in the graph; colouring it ends all the same, and gives every unit a pair."""
    flow = DataFlow({"a": keys("b"), "b": keys("a"), "c": keys("b")}, ("a", "b", "c"), (), keys("c"))
    found = flow_colours(flow, {"a": 1, "b": 1, "c": 2}, {"a": "a", "b": "b", "c": "c"})
    assert found.keys() == {"a", "b", "c"}
    assert all(len(pair) == 2 for pair in found.values())


@pytest.mark.parametrize("seed", range(5))
def test_colours_do_not_depend_on_names_or_their_order(seed):
    """In a dense network, where many ways lead to a layer, renaming and reordering its layers changes no number."""
    depth = 12
    shuffled = torch.randperm(depth, generator=torch.Generator().manual_seed(seed)).tolist()
    found = []
    for places in (list(range(depth)), shuffled):
        before = {f"u{places[n]}": keys(*(f"u{places[m]}" for m in range(n))) for n in range(depth)}
        before = {key: before[key] for key in sorted(before)}
        flow = DataFlow(before, tuple(before), (), keys(f"u{places[-1]}"))
        pairs = flow_colours(flow, dict.fromkeys(before, "layer"), {key: key for key in before})
        found.append([pairs[f"u{place}"] for place in places])
    assert found[0] == found[1]
    assert len(set(found[0])) == depth


def test_colours_of_a_part_do_not_depend_on_what_stands_beside_it():
    """The same chain gets the same numbers alone and beside a longer one that takes more rounds to tell apart."""
    short = {"a0": set(), "a1": {"a0"}, "a2": {"a1"}}
    long = {f"b{number}": {f"b{number - 1}"} if number else set() for number in range(9)}
    labels = {"a0": "stem", "a1": "body", "a2": "head"} | dict.fromkeys(long, "link")
    alone, beside = _colour(short, {node: labels[node] for node in short}), _colour(short | long, labels)
    assert {node: beside[node] for node in short} == {node: alone[node] for node in short}
    assert len(set(beside.values())) == len(beside)
