"""What goes where when no key is the same: by names, structure, shape and order, and never by a silent guess."""

import copy
import json
import random
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.models._manipulate import adapt_input_conv
from torch import Tensor, nn

from finefold.errors import FinefoldWarning, WeightsError
from finefold.nn.catalogue import build_model
from finefold.nn.matching import lay_out
from finefold.nn.transplant import Match, match_weights

COUNTER = "num_batches_tracked"
TINY = ["test_resnet", "test_vit", "test_efficientnet", "test_convnext"]
State = dict[str, Tensor]
Truth = Mapping[str, str]
few = settings(deadline=None, max_examples=60)


def state_of(model: nn.Module) -> State:
    """The model's tensors, all of them told apart by their values."""
    rng = torch.Generator().manual_seed(0)
    return {
        key: torch.randn(value.shape, generator=rng) if value.is_floating_point() else value + 7
        for key, value in model.state_dict().items()
    }


def tiny(name: str, **options: object) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name, **options).eval()


def linear(inputs: int, outputs: int) -> nn.Linear:
    return nn.Linear(inputs, outputs, bias=False)


def net(**layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(layers))


def chain(*, stem: str = "stem", one: str = "one", two: str = "two", head: str = "head") -> nn.Sequential:
    """Two layers that only their names and order tell apart, between two that are unlike any other."""
    return net(**{stem: linear(3, 8), one: linear(8, 8), two: linear(8, 8), head: linear(8, 2)})


def mapping(match: Match) -> dict[str, tuple[str, ...]]:
    """Key of the model -> keys of the source, batch counters apart."""
    return {one.key: one.sources for one in match.layout.placed if not one.key.endswith(COUNTER)}


def told(truth: Truth) -> dict[str, tuple[str, ...]]:
    return {key: (source,) for key, source in truth.items() if not key.endswith(COUNTER)}


def assert_right(match: Match, truth: Truth) -> None:
    """Everything has its place, and nothing is in doubt."""
    assert mapping(match) == told(truth)
    assert match.layout.ambiguous == ()
    assert match.problems() == []


def assert_not_silently_wrong(match: Match, truth: Truth) -> None:
    """The mapping is right, or the user is told that it may not be."""
    if not match.problems():
        assert mapping(match) == told(truth)
    doubtful = {one.key for one in match.layout.ambiguous}
    if not match.layout.unplaced and not match.layout.misfits:
        assert {key for key, source in mapping(match).items() if source != (truth[key],)} <= doubtful


def renamed(state: State, rename: Callable[[str], str]) -> tuple[State, dict[str, str]]:
    """The state under other names in the same order, and model key -> that name."""
    names = {key: rename(key) for key in state}
    assert len(set(names.values())) == len(names)
    return {names[key]: value for key, value in state.items()}, names


def saved(state: State, folder: Path, suffix: str) -> Path:
    path = folder / f"w{suffix}"
    if suffix == ".safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(state, path)
    return path


# --- names ---


@pytest.mark.parametrize("prefix", ["module.", "model.", "backbone.", "module.model.", "model.backbone.encoder."])
@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_a_prefix_is_taken_off(name, prefix, tmp_path):
    """What a wrapper puts before every key, once or twice, does not matter, in either kind of file."""
    model = tiny(name)
    state, names = renamed(state_of(model), lambda key: prefix + key)
    assert_right(match_weights(state, model), names)
    assert_right(match_weights(saved(state, tmp_path, ".safetensors"), model), names)


def test_a_prefix_that_only_the_model_has_is_seen():
    """A model inside a wrapper takes the weights of the one without."""
    bare = tiny("test_resnet")
    wrapped = nn.ModuleDict({"backbone": nn.ModuleDict({"body": tiny("test_resnet")})})
    names = {f"backbone.body.{key}": key for key in bare.state_dict()}
    assert_right(match_weights(state_of(bare), wrapped), names)


def test_two_wrappers_of_other_names_are_seen_through():
    """`module.` on the one side and `backbone.` on the other: the names below agree, and say what goes where."""
    state, _ = renamed(state_of(tiny("test_resnet")), lambda key: f"module.{key}")
    wrapped = nn.ModuleDict({"backbone": tiny("test_resnet")})
    assert_right(match_weights(state, wrapped), {f"backbone.{key[7:]}": key for key in state})


def test_a_prefix_need_not_be_on_every_key():
    """A loss's own weight beside a wrapped model is left out, and said so; the model is matched by names."""
    model = tiny("test_resnet")
    state, names = renamed(state_of(model), lambda key: f"model.{key}")
    match = match_weights(state | {"loss.weight": torch.zeros(5)}, model)
    assert_right(match, names)
    assert list(match.layout.left_out) == ["loss.weight"]


@pytest.mark.parametrize("prefixes", [("student", "teacher"), ("model", "model_ema"), ("encoder_q", "encoder_k")])
def test_two_models_in_one_state_are_not_chosen_between_in_silence(prefixes):
    """A state with a student and a teacher has two equally good sources: it takes the user to say which."""
    model = chain()
    state = {f"{prefix}.{key}": value for prefix in prefixes for key, value in state_of(model).items()}
    match = match_weights(state, model)
    assert match.problems()
    assert all(one.rivals for one in match.layout.placed)
    with pytest.raises(WeightsError):
        match.state()


@pytest.mark.parametrize("name", TINY)
def test_names_without_meaning_in_order_are_matched_by_order(name, tmp_path):
    """k0, k1, k2 ... in the order of definition are laid in that order, in either kind of file."""
    model = tiny(name)
    for keep in (lambda _: True, lambda key: not key.endswith(COUNTER)):
        state = {key: value for key, value in state_of(model).items() if keep(key)}
        numbers = {key: f"k{number}" for number, key in enumerate(state)}
        state, names = renamed(state, numbers.__getitem__)
        for suffix in (".pth", ".safetensors"):
            match = match_weights(saved(state, tmp_path, suffix), model)
            assert_right(match, names)
            assert all(one.confidence < 1 for one in match.layout.placed if one.sources and COUNTER not in one.key)


@pytest.mark.parametrize("name", TINY)
def test_shuffled_keys_of_the_same_names_are_matched_by_name(name):
    """The order of the keys does not matter where their names are the model's."""
    model, state = tiny(name), state_of(tiny(name))
    keys = list(state)
    random.Random(0).shuffle(keys)
    assert_right(match_weights({key: state[key] for key in keys}, model), {key: key for key in state})


class Classic(nn.Module):
    """A small residual network."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.layer1 = nn.ModuleList(self.block() for _ in range(2))
        self.fc = nn.Linear(8, 5)

    def block(self) -> nn.Module:
        return nn.ModuleDict(
            OrderedDict(
                conv1=nn.Conv2d(8, 8, 3, padding=1, bias=False),
                bn1=nn.BatchNorm2d(8),
                conv2=nn.Conv2d(8, 8, 3, padding=1, bias=False),
                bn2=nn.BatchNorm2d(8),
            )
        )

    def forward(self, images_BCHW: Tensor) -> Tensor:
        x = self.bn1(self.conv1(images_BCHW)).relu()
        for block in self.layer1:
            x = x + block["bn2"](block["conv2"](block["bn1"](block["conv1"](x)).relu()))
        return self.fc(x.mean((2, 3)))


class Rewritten(nn.Module):
    """The same network by somebody else: other names, and everything defined from the end to the beginning."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Linear(8, 5)
        self.stages = nn.ModuleList(self.unit() for _ in range(2))
        self.stem = nn.ModuleDict(
            OrderedDict(normalization=nn.BatchNorm2d(8), convolution=nn.Conv2d(3, 8, 3, bias=False))
        )

    def unit(self) -> nn.Module:
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        for number in (2, 1):
            parts[f"normalization{number}"] = nn.BatchNorm2d(8)
            parts[f"convolution{number}"] = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        return nn.ModuleDict(parts)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        x = self.stem["normalization"](self.stem["convolution"](images_BCHW)).relu()
        for unit in self.stages:
            y = unit["normalization1"](unit["convolution1"](x)).relu()
            x = x + unit["normalization2"](unit["convolution2"](y))
        return self.classifier(x.mean((2, 3)))


def classic_names() -> dict[str, str]:
    """Key of Rewritten -> key of Classic."""
    found = {}
    for key in Rewritten().state_dict():
        name = key.replace("normalization", "bn").replace("convolution", "conv").replace("classifier", "fc")
        found[key] = name.replace("stages", "layer1").replace("stem.bn", "bn1").replace("stem.conv", "conv1")
    assert set(found.values()) == set(Classic().state_dict())
    return found


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_other_names_in_another_definition_order_are_matched(suffix, tmp_path):
    """The same network written again, with other names and defined backwards, is matched by kind, shape and name."""
    forth = saved(state_of(Classic()), tmp_path, suffix)
    assert_right(match_weights(forth, Rewritten()), classic_names())
    back = saved(state_of(Rewritten()), tmp_path, suffix)
    assert_right(match_weights(back, Classic()), {key: source for source, key in classic_names().items()})


def test_the_flow_of_data_needs_no_names():
    """Where both models run, neither names nor their order mean anything: the flow says, and it is proved."""
    torch.manual_seed(0)
    nonsense = Nonsense().eval()
    match = match_weights(Classic().eval(), nonsense)
    assert_right(match, dict(zip(nonsense.state_dict(), nonsense.meant, strict=True)))
    assert match.is_proved


def test_a_model_that_defines_its_stem_last_runs_too():
    """A model's images have as many channels as its stem takes, wherever in the definition that stands."""
    torch.manual_seed(0)
    match = match_weights(Classic().eval(), Rewritten().eval())
    assert_right(match, classic_names())
    assert match.is_proved


class Nonsense(nn.Module):
    """Classic once more, with names that mislead: each layer is called what another is called there."""

    LAYERS = ("conv1", "fc", "layer1.1.bn2", "layer1.0.conv2", "layer1.1.conv1", "bn1", "layer1.0.bn1")
    LAYERS += ("layer1.1.conv2", "layer1.0.bn2", "layer1.0.conv1", "layer1.1.bn1")

    def __init__(self) -> None:
        super().__init__()
        like, self.meant, self.place = Classic(), [], {}
        for number, path in enumerate(self.LAYERS):
            self.add_module(f"x{number}", like.get_submodule(path))
            self.meant += [f"{path}.{role}" for role in like.get_submodule(path).state_dict()]
            self.place[path] = f"x{number}"

    def forward(self, images_BCHW: Tensor) -> Tensor:
        def get(path: str) -> nn.Module:
            return self.get_submodule(self.place[path])

        x = get("bn1")(get("conv1")(images_BCHW)).relu()
        for block in ("layer1.0", "layer1.1"):
            y = get(f"{block}.bn1")(get(f"{block}.conv1")(x)).relu()
            x = x + get(f"{block}.bn2")(get(f"{block}.conv2")(y))
        return get("fc")(x.mean((2, 3)))


def test_names_win_over_position():
    """[conv2, conv1] against [conv1, conv2]: what is called the same is the same, whatever comes first."""
    model = net(stem=linear(3, 8), conv1=linear(8, 8), conv2=linear(8, 8), head=linear(8, 2))
    names = {"stem.weight": "a.stem", "conv1.weight": "a.conv1", "conv2.weight": "a.conv2", "head.weight": "a.head"}
    order = ["stem", "conv2", "conv1", "head"]
    shapes = {key.split(".")[0]: value.shape for key, value in model.state_dict().items()}
    for name in ("{}", "body.{}", "my_{}", "{}_layer"):
        state = {f"{name.format(one)}.weight": torch.randn(shapes[one]) for one in order}
        names = {f"{one}.weight": f"{name.format(one)}.weight" for one in order}
        assert_right(match_weights(state, model), names)


def test_words_for_the_same_thing_are_seen():
    """fc1 and linear1, norm and layernorm, embed and embedding: likeness of words is evidence where shapes are not."""
    model = net(query_norm=nn.LayerNorm(8), output_norm=nn.LayerNorm(8), embed=linear(8, 8), proj=linear(8, 8))
    names = {
        "query_norm": "layernorm_query",
        "output_norm": "layernorm_out",
        "embed": "embedding",
        "proj": "projection",
    }
    state = {
        f"{names[path]}.{role}": torch.randn(model.get_submodule(path).get_parameter(role).shape)
        for path, role in [
            ("proj", "weight"),
            ("output_norm", "weight"),
            ("output_norm", "bias"),
            ("embed", "weight"),
            ("query_norm", "weight"),
            ("query_norm", "bias"),
        ]
    }
    truth = {key: f"{names[key.rpartition('.')[0]]}.{key.rpartition('.')[2]}" for key in model.state_dict()}
    assert_right(match_weights(state, model), truth)


# --- the same names that mean something else ---


def test_numbers_that_begin_elsewhere_are_not_taken_for_names():
    """blocks.0-5 onto blocks.1-6: that five of six names are in both says nothing, for the sixth then has no place."""
    source = net(blocks=nn.Sequential(*[linear(8, 8) for _ in range(6)]), head=linear(8, 2))
    target = net(blocks=nn.Sequential(nn.Identity(), *[linear(8, 8) for _ in range(6)]), head=linear(8, 2))
    truth = {f"blocks.{number + 1}.weight": f"blocks.{number}.weight" for number in range(6)}
    assert_not_silently_wrong(match_weights(state_of(source), target), truth | {"head.weight": "head.weight"})


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_nfnet", "test_efficientnet", "test_convnext"])
def test_layers_counted_from_another_number_are_laid_in_order(name, suffix, tmp_path):
    """conv0, conv1 onto conv1, conv2, in any part of a network, in order or sorted: right, or told to be in doubt."""
    model = tiny(name)
    state, names = renamed(
        state_of(model), lambda key: re.sub(r"(?<=[a-z])\d+(?=\.)", lambda one: str(int(one[0]) + 1), key)
    )
    assert_not_silently_wrong(match_weights(saved(state, tmp_path, suffix), model), names)


def test_numbers_that_count_activations_too_are_not_taken_for_names():
    """0, 1, 2, 3, 4 onto 0, 2, 4, 6, 8: layers go in their order, not to where a number happens to be the same."""
    source = nn.Sequential(*[linear(8, 8) for _ in range(5)])
    target = nn.Sequential(*[layer for _ in range(5) for layer in (linear(8, 8), nn.ReLU())])
    truth = {f"{2 * number}.weight": f"{number}.weight" for number in range(5)}
    assert_not_silently_wrong(match_weights(state_of(source), target), truth)


def test_containers_drawn_otherwise_are_not_paired_for_their_content():
    """Two layers in a container here and two others there: the containers hold the same shapes and not the same."""

    def group(**layers: nn.Module) -> nn.ModuleDict:
        return nn.ModuleDict(OrderedDict(layers))

    a, b, c, d = (linear(8, 8) for _ in range(4))
    source = group(conv1=a, conv2=b, body=group(conv3=c, conv4=d))
    target = group(stem=group(conv1=a, conv2=b), conv3=c, conv4=d)
    truth = {"stem.conv1.weight": "conv1.weight", "stem.conv2.weight": "conv2.weight"}
    truth |= {"conv3.weight": "body.conv3.weight", "conv4.weight": "body.conv4.weight"}
    assert_not_silently_wrong(match_weights(state_of(source), target), truth)


def test_a_ring_of_likenesses_is_ambiguous():
    """Three names each like two of the others: going round by one place is as good, and so no guess is made."""
    model = nn.ModuleDict(OrderedDict((name, linear(8, 8)) for name in ("red_green", "green_blue", "blue_red")))
    state = {f"{name}.weight": torch.randn(8, 8) for name in ("red", "green", "blue")}
    match = match_weights(state, model)
    assert len(match.layout.ambiguous) == 3
    assert match.problems()


def test_order_that_is_seen_to_differ_is_no_evidence():
    """Where the layers that are unlike any other stand in another order, order says nothing of the rest."""
    model = net(a=linear(3, 8), b=linear(8, 8), c=linear(8, 8), d=linear(8, 5), e=linear(5, 4))
    shapes = {"q": (8, 3), "w": (8, 8), "x": (8, 8), "y": (4, 5), "z": (5, 8)}
    match = match_weights({f"{name}.weight": torch.randn(shape) for name, shape in shapes.items()}, model)
    assert {one.key for one in match.layout.ambiguous} == {"b.weight", "c.weight"}
    assert match.problems()


def test_neighbours_in_a_sorted_file_are_no_evidence(tmp_path):
    """A safetensors file sorts its keys: what stands beside what in it says nothing of the model."""
    truth = {
        "stem.weight": "aa.weight",
        "one.weight": "ac.weight",
        "two.weight": "ab.weight",
        "head.weight": "ad.weight",
    }
    state = {truth[key]: value for key, value in state_of(chain()).items()}
    match = match_weights(saved(state, tmp_path, ".safetensors"), chain())
    assert_not_silently_wrong(match, truth)


def test_a_layers_own_tensors_are_told_by_their_roles():
    """A batch norm's four vectors have one shape; they go by what they are, in whatever order the file has them."""
    model = net(conv=nn.Conv2d(3, 4, 3, bias=False), bn=nn.BatchNorm2d(4))
    roles = ["running_var", "bias", "running_mean", "weight"]
    state = {f"norm.{role}": torch.randn(4) for role in roles} | {"kernel.weight": torch.randn(4, 3, 3, 3)}
    truth = {f"bn.{role}": f"norm.{role}" for role in roles} | {"conv.weight": "kernel.weight"}
    assert_right(match_weights(state, model), truth)
    alone = {key: value for key, value in state.items() if key.startswith("norm")}
    assert_right(
        match_weights(alone, nn.ModuleDict({"bn": nn.BatchNorm2d(4)})), {f"bn.{one}": f"norm.{one}" for one in roles}
    )


# --- shapes ---


def test_trailing_ones_do_not_matter():
    """[O, I] and [O, I, 1, 1], [C] and [C, 1, 1] are the same tensors; values keep their order."""

    class Scaled(nn.Module):
        def __init__(self, is_flat: bool) -> None:
            super().__init__()
            ones = () if is_flat else (1, 1)
            self.stem = nn.Conv2d(3, 8, 3)
            self.gamma = nn.Parameter(torch.randn(8, *ones))
            self.up = nn.Linear(8, 16) if is_flat else nn.Conv2d(8, 16, 1)
            self.down = nn.Linear(16, 8) if is_flat else nn.Conv2d(16, 8, 1)

    for is_flat in (True, False):
        source, target = Scaled(is_flat), Scaled(not is_flat)
        state, names = renamed(state_of(source), lambda key: key.replace("up", "fc1").replace("down", "fc2"))
        match = match_weights(state, target)
        assert_right(match, names)
        laid = match.state()
        assert {key: laid[key].shape for key in laid} == {
            key: value.shape for key, value in target.state_dict().items()
        }
        assert all(torch.equal(laid[key].flatten(), state[names[key]].flatten()) for key in laid)
        assert {one.key: one.how for one in match.layout.placed if one.how != "same"} == dict.fromkeys(
            ("gamma", "up.weight", "down.weight"), "reshaped"
        )


def test_a_patch_projection_folded_otherwise_is_not_taken_as_it_is():
    """A linear layer on patches may have its channels last, as many do: without a proof that is a guess, and said."""
    model = net(proj=nn.Conv2d(3, 8, 4, 4), head=nn.Linear(8, 2))
    state = {"patch.weight": torch.randn(8, 48), "patch.bias": torch.randn(8)}
    match = match_weights(state | {"out.weight": torch.randn(2, 8), "out.bias": torch.randn(2)}, model)
    assert match.problems()


def test_a_linear_layer_on_a_flattened_map_is_folded():
    """VGG's first linear layer is a convolution elsewhere; its values keep their order."""
    model = net(conv=nn.Conv2d(3, 4, 3), fc1=nn.Conv2d(4, 6, 5), fc2=nn.Linear(6, 2))
    state = state_of(net(features=nn.Conv2d(3, 4, 3), lin1=nn.Linear(100, 6), lin2=nn.Linear(6, 2)))
    match = match_weights(state, model, accept=True)
    assert mapping(match)["fc1.weight"] == ("lin1.weight",)
    assert torch.equal(match.state()["fc1.weight"].flatten(), state["lin1.weight"].flatten())


def test_numbers_of_another_type_are_converted():
    """Half and double precision become the model's own type."""
    model = tiny("test_resnet")
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        state = {key: value.to(dtype) if value.is_floating_point() else value for key, value in state_of(model).items()}
        laid = match_weights(state, model).state()
        assert all(laid[key].dtype == value.dtype for key, value in model.state_dict().items())
        assert torch.equal(laid["fc.weight"], state["fc.weight"].float())


@pytest.mark.parametrize("dtype", [torch.int8, torch.complex64])
def test_numbers_that_are_none_of_the_models_are_refused(dtype):
    """Integers do not become weights, and complex weights are weights: what cannot be laid is never left in silence."""
    model = net(one=linear(4, 4), two=linear(4, 3))
    if dtype.is_complex:
        model.one.weight = nn.Parameter(torch.randn(4, 4, dtype=dtype))
    state = {"a.weight": torch.ones(4, 4).to(dtype), "b.weight": torch.randn(3, 4)}
    match = match_weights(state, model)
    assert match.problems() or mapping(match)["one.weight"] == ("a.weight",)


# --- heads ---


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("is_renamed", [False, True])
def test_a_head_of_another_size_is_left_out_and_said(name, is_renamed):
    """The source's 10 classes have no place in a model of 7: both heads are named with the reason, the rest matches."""
    source, target = tiny(name, num_classes=10), tiny(name, num_classes=7)
    numbers = {key: f"k{number}" if is_renamed else key for number, key in enumerate(source.state_dict())}
    state, names = renamed(state_of(source), numbers.__getitem__)
    match = match_weights(state, target)
    head = [key for key, value in target.state_dict().items() if value.shape[:1] == (7,)]
    assert len(head) == 2
    assert sorted(match.layout.missing) == sorted(match.layout.heads) == sorted(head)
    assert all(why.startswith("a head of another size") for why in match.layout.missing.values())
    left_out = {key: why for key, why in match.layout.left_out.items() if state[key].is_floating_point()}
    assert left_out == {names[key]: "a head of another size" for key in head}
    assert mapping(match) == told({key: one for key, one in names.items() if key not in head})
    assert match.problems() == []
    assert set(head).isdisjoint(match.state())
    before = target.get_parameter(head[0]).clone()
    match.load_into(target)
    assert torch.equal(target.get_parameter(head[0]), before)


def test_heads_of_other_sizes_are_proved_by_their_features():
    """Where the heads differ, what goes into them is compared."""
    source, target = tiny("test_efficientnet", num_classes=10), tiny("test_efficientnet", num_classes=7)
    match = match_weights(source, target)
    assert match.is_proved
    assert match.proof.compared == "features"
    assert match.proof.shape == (2, 256)


def test_a_source_without_a_head_fits_a_model_with_one():
    """Features' weights onto a classifier: its head is left as it is, and that is said."""
    source, target = tiny("test_resnet", num_classes=0), tiny("test_resnet", num_classes=7)
    match = match_weights(state_of(source), target)
    assert match.layout.missing == dict.fromkeys(("fc.weight", "fc.bias"), "the source has no head")
    assert match.problems() == []
    assert match_weights(source, target).is_proved


def test_a_classifier_fits_a_model_without_a_head():
    """A classifier's weights onto a backbone: its head is left out, and that is said."""
    source, target = tiny("test_resnet", num_classes=7), tiny("test_resnet", num_classes=0)
    match = match_weights(state_of(source), target)
    assert sorted(match.layout.left_out) == ["fc.bias", "fc.weight"]
    assert all("classifier" in why for why in match.layout.left_out.values())
    assert match.problems() == []
    proof = match_weights(source, target).proof
    assert proof is not None
    assert proof.compared == "features"
    assert proof.holds


# --- stems ---


@pytest.mark.parametrize("channels", [1, 2, 4, 5, 6])
@pytest.mark.parametrize("is_renamed", [False, True])
def test_a_stem_is_adapted_to_other_channels_as_timm_does(channels, is_renamed):
    """A 3-channel stem onto 1, 2, 4 ... channels gets timm's own values, and says so; the rest stays as it is."""
    target = tiny("test_convnext", in_chans=channels)
    rename = (lambda key: key.replace("stem", "first").replace("stages", "parts")) if is_renamed else str
    state, names = renamed(state_of(tiny("test_convnext")), rename)
    match = match_weights(state, target)
    assert_right(match, names)
    laid = match.state()
    expected = adapt_input_conv(channels, state[names["stem.0.weight"]])
    assert torch.allclose(laid["stem.0.weight"], expected)
    assert [one.key for one in match.layout.placed if one.how == "channels"] == ["stem.0.weight"]
    assert all(torch.equal(laid[key], state[names[key]]) for key in laid if key != "stem.0.weight")


def test_a_grey_stem_is_not_mistaken_for_a_depthwise_convolution():
    """With one channel a stem [32, 1, 3, 3] looks like the depthwise convolution behind it; each gets its own."""
    source, target = build_model("torchvision:mobilenet_v2"), build_model("mobilenetv2_100", channels=1)
    match = match_weights(state_of(source), target)
    found = mapping(match)
    assert found["conv_stem.weight"] == ("features.0.0.weight",)
    assert found["blocks.0.0.conv_dw.weight"] == ("features.1.conv.0.0.weight",)
    assert match.problems() == []


def test_a_grey_model_sees_what_a_colour_model_saw_in_grey():
    """On one channel, a model gives what its source gives for three equal channels; that is proved too."""
    match = match_weights(tiny("test_convnext"), tiny("test_convnext", in_chans=1))
    assert match.is_proved


def test_a_stem_of_one_pixel_is_adapted():
    """A stem whose kernel is 1 x 1 is a stem all the same."""
    model = net(conv=nn.Conv2d(4, 8, 1), out=nn.Conv2d(8, 2, 3))
    state = state_of(net(first=nn.Conv2d(3, 8, 1), last=nn.Conv2d(8, 2, 3)))
    match = match_weights(state, model)
    assert match.problems() == []
    assert torch.allclose(match.state()["conv.weight"], adapt_input_conv(4, state["first.weight"]))


def test_two_stems_of_known_names_are_adapted():
    """Two branches on the image, named alike on both sides: both are adapted, for the names say which is which."""

    def two(channels: int) -> nn.Module:
        return nn.ModuleDict(
            OrderedDict(a=nn.Conv2d(channels, 8, 3), b=nn.Conv2d(channels, 8, 3), head=nn.Linear(8, 2))
        )

    match = match_weights(state_of(two(3)), two(1))
    assert_right(match, {key: key for key in two(3).state_dict()})


# --- batch counters and other integers ---


def test_missing_batch_counters_are_set_to_zero():
    """A source older than `num_batches_tracked` fits, and the counters are 0."""
    model = tiny("test_resnet")
    state = {key: value for key, value in state_of(model).items() if not key.endswith(COUNTER)}
    match = match_weights(state, model)
    assert_right(match, {key: key for key in state})
    laid = match.state()
    counters = [key for key in model.state_dict() if key.endswith(COUNTER)]
    assert counters
    assert all(int(laid[key]) == 0 for key in counters)
    assert {one.how for one in match.layout.placed if one.key in counters} == {"new"}
    model.load_state_dict(laid, strict=True)


def test_batch_counters_come_along():
    """A counter goes where its batch norm goes, under another name too; one too many is no sign of another model."""
    state, names = renamed(
        state_of(tiny("test_resnet")), lambda key: key.replace("bn", "norm").replace("layer", "part")
    )
    match = match_weights(state, tiny("test_resnet"))
    laid = match.state()
    assert all(torch.equal(laid[key], state[one]) for key, one in names.items() if key.endswith(COUNTER))
    alone = match_weights(
        state_of(nn.ModuleDict({"norm": nn.BatchNorm2d(4)})), nn.ModuleDict({"bn": nn.BatchNorm2d(4)})
    )
    assert int(alone.state()[f"bn.{COUNTER}"]) == 7


def test_tables_of_integers_stay_the_models_own():
    """Index tables that a model makes itself need no source, and get one where it has the same."""

    class Windowed(nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.proj = nn.Linear(4, 4)
            self.register_buffer(name, torch.arange(6))

    state = state_of(Windowed("index"))
    assert torch.equal(match_weights(state, Windowed("index")).state()["index"], state["index"])
    match = match_weights(state, Windowed("table"))
    assert torch.equal(match.state()["table"], torch.arange(6))
    assert match.problems() == []


# --- query, key and value ---


def hugging_face(key: str) -> list[str]:
    """A key of timm's ViT -> what Hugging Face's ViT calls it; three where it splits query, key and value."""
    block = {
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "attn.proj": "attention.output.dense",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    }
    outside = {
        "cls_token": "embeddings.cls_token",
        "pos_embed": "embeddings.position_embeddings",
        "patch_embed.proj": "embeddings.patch_embeddings.projection",
        "norm": "layernorm",
    }
    path, _, role = key.rpartition(".")
    if key in outside:
        return [f"vit.{outside[key]}"]
    if path == "head":
        return [f"classifier.{role}"]
    if path in outside:
        return [f"vit.{outside[path]}.{role}"]
    _, number, rest = path.split(".", 2)
    layer = f"vit.encoder.layer.{number}"
    if rest == "attn.qkv":
        return [f"{layer}.attention.attention.{one}.{role}" for one in ("query", "key", "value")]
    return [f"{layer}.{block[rest]}.{role}"]


def hugging_face_state(state: State) -> State:
    """The state as Hugging Face's ViT has it, in the order in which that defines its layers."""
    found: State = {}
    for key, value in state.items():
        names = hugging_face(key)
        found |= dict(zip(names, value.chunk(3) if len(names) == 3 else [value], strict=True))
    parts = [
        "cls_token",
        "position",
        "patch",
        "attention.attention",
        "attention.output",
        "intermediate",
        "output.dense",
    ]
    parts += ["layernorm_before", "layernorm_after", "vit.layernorm", "classifier"]

    def rank(name: str) -> tuple[int, int, int]:
        layer = int(name.split(".")[3]) if "encoder" in name else 10**6 if "encoder" not in name else 0
        is_first, is_last = "embeddings" in name, name.startswith(("vit.layernorm", "classifier"))
        part = next(place for place, one in enumerate(parts) if one in name)
        return (0 if is_first else 2 if is_last else 1, layer, part)

    return {name: found[name].clone() for name in sorted(found, key=rank)}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_split_query_key_value_are_joined(suffix, tmp_path):
    """Hugging Face's ViT onto timm's: other names all over, another order, and three tensors made one, in order."""
    model = tiny("test_vit")
    state = state_of(model)
    theirs = hugging_face_state(state)
    match = match_weights(saved(theirs, tmp_path, suffix), model)
    truth = {key: tuple(hugging_face(key)) for key in state}
    if suffix == ".pth":
        assert match.problems() == []
        laid = match.state()
        assert all(torch.equal(laid[key], value) for key, value in state.items())
        assert {one.how for one in match.layout.placed if "qkv" in one.key} == {"joined"}
    doubtful = {one.key for one in match.layout.ambiguous}
    assert {key for key, names in mapping(match).items() if names != truth[key]} <= doubtful
    assert match.problems() or mapping(match) == truth


class Split(nn.Module):
    """Attention with a layer each for query, key and value, under one of the usual sets of names."""

    def __init__(self, names: tuple[str, str, str, str]) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.attention = nn.ModuleDict(OrderedDict((name, nn.Linear(8, 8)) for name in names))
        self.fc = nn.Linear(8, 3)


class Fused(nn.Module):
    """The same with one layer for the three."""

    def __init__(self) -> None:
        super().__init__()
        self.ln = nn.LayerNorm(8)
        self.attn = nn.ModuleDict(OrderedDict(qkv=nn.Linear(8, 24), proj=nn.Linear(8, 8)))
        self.head = nn.Linear(8, 3)


SETS = [
    ("q", "k", "v", "proj"),
    ("query", "key", "value", "dense"),
    ("q_proj", "k_proj", "v_proj", "out_proj"),
    ("to_q", "to_k", "to_v", "to_out"),
    ("wq", "wk", "wv", "wo"),
    ("k_proj", "v_proj", "q_proj", "out_proj"),
    ("value", "query", "key", "out"),
]


@pytest.mark.parametrize("names", SETS, ids="-".join)
def test_query_key_value_are_told_by_name_not_by_place(names):
    """Whatever the three are called and in whatever order they stand, they are joined and split as q, k and v."""
    by_letter = sorted(names[:3], key=lambda name: "qkv".index(name.removeprefix("to_").removeprefix("w")[0]))
    split = state_of(Split(names))
    match = match_weights(split, Fused())
    assert match.problems() == []
    laid = match.state()
    for role in ("weight", "bias"):
        assert torch.equal(laid[f"attn.qkv.{role}"], torch.cat([split[f"attention.{one}.{role}"] for one in by_letter]))
    fused = state_of(Fused())
    match = match_weights(fused, Split(names))
    assert match.problems() == []
    laid = match.state()
    for role in ("weight", "bias"):
        for place, one in enumerate(by_letter):
            assert torch.equal(laid[f"attention.{one}.{role}"], fused[f"attn.qkv.{role}"].chunk(3)[place])
    assert {one.how for one in match.layout.placed if one.sources[0].startswith("attn.qkv")} == {
        "part 1/3",
        "part 2/3",
        "part 3/3",
    }


def test_torchs_own_attention_is_joined_too():
    """nn.MultiheadAttention's `in_proj_weight` is the fused layer, whoever has it."""

    class Torch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.attention, self.fc = nn.LayerNorm(8), nn.MultiheadAttention(8, 2), nn.Linear(8, 3)

    state = state_of(Torch())
    laid = match_weights(state, Fused()).state()
    assert torch.equal(laid["attn.qkv.weight"], state["attention.in_proj_weight"])
    assert torch.equal(laid["attn.proj.bias"], state["attention.out_proj.bias"])
    laid = match_weights(state_of(Split(SETS[0])), Torch()).state()
    assert torch.equal(laid["attention.in_proj_bias"][8:16], state_of(Split(SETS[0]))["attention.k.bias"])


# --- ambiguity, and the user's word ---


def test_what_nothing_tells_apart_is_refused(tmp_path):
    """Two layers of one shape whose names and order tell nothing are shown with their rivals, and refused."""
    state, _ = renamed(
        state_of(chain()), lambda key: {"stem": "h", "one": "z", "two": "m", "head": "c"}[key[:-7]] + ".weight"
    )
    match = match_weights(saved(state, tmp_path, ".safetensors"), chain())
    rivals = {one.key: (one.sources, one.rivals) for one in match.layout.ambiguous}
    assert rivals.keys() == {"one.weight", "two.weight"}
    assert all({*sources, *others} == {"z.weight", "m.weight"} for sources, others in rivals.values())
    assert all(one.confidence <= 0.5 for one in match.layout.ambiguous)
    assert match.problems() == ["2 tensors could as well come from elsewhere"]
    with pytest.raises(WeightsError, match="could as well come from elsewhere") as caught:
        match.state()
    assert "--accept" in str(caught.value.hint)
    assert "--hints" in str(caught.value.hint)


def test_accepting_takes_the_best_guess(tmp_path):
    """`accept` takes one of the possible layouts, each tensor once, and still shows what was in doubt."""
    state, _ = renamed(
        state_of(chain()), lambda key: {"stem": "h", "one": "z", "two": "m", "head": "c"}[key[:-7]] + ".weight"
    )
    match = match_weights(saved(state, tmp_path, ".safetensors"), chain(), accept=True)
    assert match.problems() == []
    assert len(match.layout.ambiguous) == 2
    assert sorted(mapping(match).values()) == [("c.weight",), ("h.weight",), ("m.weight",), ("z.weight",)]
    assert match.state().keys() == chain().state_dict().keys()


@pytest.mark.parametrize("one", ["z", "m"])
def test_a_hint_settles_it(one, tmp_path):
    """A hint for one of two decides both, whichever it says, with the reason that it was said."""
    other = {"z": "m", "m": "z"}[one]
    state = {"c.weight": torch.randn(2, 8), "h.weight": torch.randn(8, 3)}
    state |= {"m.weight": torch.randn(8, 8), "z.weight": torch.randn(8, 8)}
    match = match_weights(saved(state, tmp_path, ".safetensors"), chain(), hints={"one.weight": f"{one}.weight"})
    truth = {"one.weight": f"{one}.weight", "two.weight": f"{other}.weight"}
    assert_right(match, truth | {"stem.weight": "h.weight", "head.weight": "c.weight"})
    assert next(placed for placed in match.layout.placed if placed.key == "one.weight").reason == "as the hint says"


def test_a_hint_is_stronger_than_a_name():
    """What the user says goes, also against equal names; what it took the place of goes where room is left."""
    state = state_of(chain())
    match = match_weights(state, chain(), hints={"one.weight": "two.weight"})
    assert mapping(match)["one.weight"] == ("two.weight",)
    assert match.problems() or mapping(match)["two.weight"] == ("one.weight",)


@pytest.mark.parametrize(
    ("hints", "message"),
    [
        ({"three.weight": "one.weight"}, r"a hint names `three.weight`, which the model does not have"),
        ({"one.weight": "three.weight"}, r"a hint names `three.weight`, which the source does not have"),
        ({"one.weight": "stem.weight"}, r"a hint lays `stem.weight` \[8, 3\] onto `one.weight` \[8, 8\]"),
    ],
)
def test_an_impossible_hint_is_refused(hints, message):
    """A hint that names what is not there, or what cannot fit, is an error that says which."""
    with pytest.raises(WeightsError, match=message):
        match_weights(state_of(chain()), chain(), hints=hints)


def test_a_hint_under_a_prefix_is_found():
    """A hint names keys as the file has them, wrapper and all."""
    state, names = renamed(state_of(chain()), lambda key: f"module.{key}")
    match = match_weights(state, chain(), hints={"one.weight": "module.one.weight"})
    assert_right(match, names)
    with pytest.raises(WeightsError, match=r"`nonsense.weight`, which the source does not have"):
        match_weights(state, chain(), hints={"one.weight": "nonsense.weight"})


def test_hints_that_contradict_each_other_are_refused():
    """One tensor of the source for two of the model is what the hints say, or an error; not half of them."""
    hints = {"one.weight": "two.weight", "two.weight": "two.weight"}
    try:
        match = match_weights(state_of(chain()), chain(), hints=hints)
    except WeightsError:
        return
    assert {key: mapping(match).get(key) for key in hints} == {key: (value,) for key, value in hints.items()}


def test_a_hint_is_followed_to_the_letter_or_refused():
    """A hint that lays a batch norm's bias onto a weight is done, or an error; not something else under its name."""
    model = net(conv=nn.Conv2d(3, 4, 3), bn=nn.BatchNorm2d(4))
    try:
        match = match_weights(state_of(model), model, hints={"bn.weight": "bn.bias"})
    except WeightsError:
        return
    assert mapping(match)["bn.weight"] == ("bn.bias",)


def test_hints_can_swap_layers():
    """Two hints that exchange two layers are both followed."""
    hints = {"one.weight": "two.weight", "two.weight": "one.weight"}
    assert_right(match_weights(state_of(chain()), chain(), hints=hints), {**{k: k for k in state_of(chain())}, **hints})


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_nonsense_names_in_any_order_are_refused(name, suffix, tmp_path):
    """Where names and order both say nothing, weights are refused, and never laid wrong without a word."""
    model = tiny(name)
    for seed in range(3):
        rng = random.Random(seed)
        units = list(dict.fromkeys(key.rpartition(".")[0] or key for key in state_of(model)))
        words = {unit: "".join(rng.choices("qwxyz", k=9)) for unit in units}
        rng.shuffle(units)
        names = {}
        for key in state_of(model):
            unit, _, role = key.rpartition(".")
            names[key] = f"{words[unit]}.{role}" if unit else words[key]
        ordered = sorted(state_of(model), key=lambda key: units.index(key.rpartition(".")[0] or key))
        state = {names[key]: state_of(model)[key] for key in ordered}
        match = match_weights(saved(state, tmp_path, suffix), model)
        assert match.problems()
        if suffix == ".safetensors":  # of a shuffled .pth file, some order may happen to look right
            assert_not_silently_wrong(match, names)


def test_a_proof_settles_ambiguity():
    """What names and order leave open, running both models decides: then nothing needs to be accepted."""
    torch.manual_seed(0)

    class Twice(nn.Module):
        def __init__(self, *names: str) -> None:
            super().__init__()
            self.names = names
            for name, (inputs, outputs) in zip(names, ((3, 8), (8, 8), (8, 8), (8, 2)), strict=True):
                self.add_module(name, nn.Linear(inputs, outputs))

        def forward(self, images_BCHW: Tensor) -> Tensor:
            x = images_BCHW.mean((2, 3))
            for name in self.names:
                x = self.get_submodule(name)(x).sin()
            return x

    match = match_weights(Twice("h", "z", "m", "c"), Twice("stem", "one", "two", "head"))
    assert match.is_proved
    assert mapping(match)["one.weight"] == ("z.weight",)
    assert match.problems() == []


def test_a_proof_says_nothing_of_what_did_not_run(tmp_path):
    """Layers that take no part in the output are in doubt however equal the outputs are."""

    class Idle(nn.Module):
        def __init__(self, body: str, one: str, two: str) -> None:
            super().__init__()
            self.body = body
            self.add_module(body, nn.Linear(3, 4))
            self.add_module(one, nn.Linear(5, 5))
            self.add_module(two, nn.Linear(5, 5))

        def forward(self, images_BCHW: Tensor) -> Tensor:
            return self.get_submodule(self.body)(images_BCHW.mean((2, 3)))

    torch.manual_seed(0)
    source, target = Idle("a", "q", "p"), Idle("b", "one", "two")
    match = match_weights(saved(source.state_dict(), tmp_path, ".safetensors"), target, source_model=source)
    assert match.is_proved
    assert {one.key for one in match.layout.ambiguous} == {"one.weight", "one.bias", "two.weight", "two.bias"}
    assert match.problems()


# --- what does not fit ---


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("torchvision:resnet34", "resnet18"),
        ("torchvision:resnet18", "resnet34"),
        ("resnet34", "resnet18"),
        ("resnet18", "resnet34"),
        ("torchvision:resnet50", "test_vit"),
        ("test_vit", "test_resnet"),
        ("test_resnet", "test_efficientnet"),
        ("torchvision:mobilenet_v3_large", "mobilenetv3_small_100"),
        ("torchvision:efficientnet_b1", "efficientnet_b0"),
    ],
)
def test_another_architecture_is_refused(source, target):
    """Weights of another model are refused with what has no source or no place, and nothing can be taken from them."""
    match = match_weights(state_of(build_model(source)), build_model(target))
    assert any("found no source" in one or "no place" in one for one in match.problems())
    with pytest.raises(WeightsError, match="the weights do not fit: "):
        match.state()
    model = build_model(target)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(WeightsError):
        match.load_into(model)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_a_missing_layer_is_told(place):
    """Weights without one of the model's layers are refused, and the layer is named."""
    state = state_of(chain())
    gone = list(state)[place]
    del state[gone]
    match = match_weights(state, chain())
    assert any(gone in problem for problem in match.problems()) or (place == 3 and match.layout.heads == (gone,))


@pytest.mark.parametrize("is_renamed", [False, True])
def test_a_layer_too_many_is_told(is_renamed):
    """A source with one layer more in a row of equals is another network, also where the layers stand at the root."""
    source = net(stem=linear(3, 8), one=linear(8, 8), two=linear(8, 8), three=linear(8, 8), head=linear(8, 2))
    state = state_of(source)
    if is_renamed:
        state, _ = renamed(state, lambda key: "q" + key)
    assert match_weights(state, chain()).problems()


def test_a_decoder_beside_it_is_left_out_and_said():
    """A part of its own that the model has not, such as a decoder, is left out with the reason."""
    source = nn.ModuleDict(OrderedDict(encoder=chain(), decoder=net(up=nn.Linear(2, 9), out=nn.Linear(9, 3))))
    match = match_weights(state_of(source), chain())
    assert_right(match, {key: f"encoder.{key}" for key in chain().state_dict()})
    assert sorted(match.layout.left_out) == sorted(f"decoder.{key}" for key in source["decoder"].state_dict())
    assert all(match.layout.left_out.values())


def test_a_shallower_transformer_is_another():
    """A vision transformer of more blocks does not fit one of fewer, with a head or without."""
    for options in ({}, {"num_classes": 0}):
        source, target = tiny("test_vit", **options), tiny("test_vit", depth=4, **options)
        assert match_weights(state_of(source), target).problems()


@pytest.mark.parametrize(
    ("source", "target"),
    [("seresnet18", "resnet18"), ("efficientnet_b0", "tf_efficientnet_lite0"), ("regnety_002", "regnetx_002")],
)
@pytest.mark.parametrize("num_classes", [None, 0])
def test_a_part_of_every_block_is_no_classifier(source, target, num_classes):
    """Squeeze and excitation that the model has not is another architecture, also for a model without a head."""
    match = match_weights(state_of(build_model(source)), build_model(target, num_classes=num_classes))
    assert any("no place" in problem for problem in match.problems())


def test_an_empty_state_fits_nothing():
    """No tensors are no weights."""
    assert match_weights({}, chain()).problems()


def test_a_match_that_found_nothing_is_refused(tmp_path):
    """Where the whole model would pass for a head of another size, nothing was found: a problem, and not loaded."""
    source = net(conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4), flat=nn.Flatten(), fc=nn.Linear(8, 2))
    target = nn.Linear(3, 3)
    match = match_weights(saved(state_of(source), tmp_path, ".pth"), target)
    assert match.layout.num_found == 0
    assert match.problems() == ["none of the model's 2 tensors found a source"]
    with pytest.raises(WeightsError, match="none of the model's 2 tensors"):
        match.load_into(target)


def test_weights_are_loaded_only_into_the_model_they_were_matched_to():
    """Loaded into another model than the one they were laid out for, weights are an error, not a silent nothing."""
    match = match_weights(state_of(chain()), chain())
    with pytest.raises((WeightsError, RuntimeError)):
        match.load_into(net(other=linear(3, 8)))


# --- files ---


@pytest.mark.parametrize("suffix", [".pth", ".pt"])
def test_checkpoints_of_trainers_are_read(suffix, tmp_path):
    """In checkpoints of Lightning, of data-parallel and of compiled models the state is found and matched."""
    model = tiny("test_resnet")
    for entry, prefix in (("state_dict", "model."), ("model", "module."), ("state_dict", "net._orig_mod.")):
        state, names = renamed(state_of(model), lambda key, prefix=prefix: prefix + key)
        checkpoint = {"epoch": 3, "global_step": 7, entry: state, "optimizer_states": [{"state": {}}], "lr": 0.1}
        torch.save(checkpoint, tmp_path / f"w{suffix}")
        assert_right(match_weights(tmp_path / f"w{suffix}", model), names)


def test_of_two_states_in_one_file_the_models_own_is_taken(tmp_path):
    """Beside an average of itself (`state_dict_ema`), a checkpoint's `state_dict` is the model."""
    model = tiny("test_resnet")
    state, names = renamed(state_of(model), lambda key: f"module.{key}")
    average = {key: value + 1 for key, value in state.items()}
    torch.save({"state_dict_ema": average, "state_dict": state, "epoch": 1}, tmp_path / "w.pth")
    with pytest.warns(FinefoldWarning, match="`state_dict` is read, and not `state_dict_ema`"):
        match = match_weights(tmp_path / "w.pth", model)
    assert_right(match, names)
    assert torch.equal(match.state()["fc.weight"], state["module.fc.weight"])


# --- the result ---


def test_matching_changes_neither_side():
    """Model, source and state are as they were, in values and in mode, proof and all."""
    source, target = tiny("test_resnet"), tiny("test_resnet", num_classes=5).train()
    before = [{key: value.clone() for key, value in one.state_dict().items()} for one in (source, target)]
    match = match_weights(source, target)
    match.state()
    assert match.is_proved
    for one, was in zip((source, target), before, strict=True):
        assert all(torch.equal(value, was[key]) for key, value in one.state_dict().items())
    assert target.training
    assert not source.training


def test_the_values_are_copies():
    """What comes out does not share memory with what went in."""
    state = state_of(chain())
    laid = match_weights(state, chain()).state()
    laid["one.weight"].zero_()
    assert float(state["one.weight"].abs().sum()) > 0


def test_every_tensor_is_told_once():
    """Of the model, a tensor is placed or missing; of the source, it is used or left out; each with a reason."""
    source, target = tiny("test_resnet", num_classes=10), tiny("test_resnet", num_classes=7)
    layout = match_weights(state_of(source), target).layout
    keys = [one.key for one in layout.placed] + list(layout.missing)
    assert sorted(keys) == sorted(target.state_dict())
    used = [key for one in layout.placed for key in one.sources] + list(layout.left_out)
    assert sorted(used) == sorted(source.state_dict())
    assert all(one.reason and 0 < one.confidence <= 1 for one in layout.placed)
    assert all(layout.missing.values())
    assert all(layout.left_out.values())


def test_a_match_is_plain_values():
    """`to_dict` can be written as JSON and says what was found, what was not, and the proof."""
    match = match_weights(tiny("test_resnet"), tiny("test_resnet"))
    said = json.loads(json.dumps(match.to_dict(), allow_nan=False))
    assert said["matched"] == len(tiny("test_resnet").state_dict())
    assert {one["key"] for one in said["tensors"]} == tiny("test_resnet").state_dict().keys()
    assert said["proof"]["holds"] is True
    assert said["problems"] == said["ambiguous"] == said["settings"] == []
    assert (said["missing"], said["left_out"], said["unproved_because"]) == ({}, {}, None)
    unproved = match_weights(state_of(chain()), chain()).to_dict()
    assert unproved["proof"] is None
    assert unproved["unproved_because"]


def test_a_refused_match_is_plain_values_too():
    """Also where the outputs are no numbers, `to_dict` is JSON without NaN or infinity."""
    source = copy.deepcopy(tiny("test_resnet"))
    with torch.no_grad():
        source.fc.bias.fill_(float("nan"))
    match = match_weights(source, tiny("test_resnet"))
    json.dumps(match.to_dict(), allow_nan=False)
    assert match.problems() or match.proof is None


# --- laws ---

LATIN, OTHER = "abcdefg", "tuvwxyz"  # words of these letters are never like each other


@st.composite
def networks(draw: st.DrawFn) -> nn.Module:
    """A nested network of small layers, many of one shape, with meaningless distinct names."""
    words = draw(st.lists(st.text(LATIN, min_size=2, max_size=4), min_size=24, max_size=24, unique=True))
    names = iter(words)

    def layer() -> nn.Module:
        size, more = draw(st.sampled_from([(4, 4), (4, 4), (4, 6), (6, 4)]))
        kind = draw(st.sampled_from(["linear", "linear", "conv", "bn", "ln"]))
        return {
            "linear": lambda: nn.Linear(size, more, bias=False),
            "conv": lambda: nn.Conv2d(size, more, 3),
            "bn": lambda: nn.BatchNorm2d(size),
            "ln": lambda: nn.LayerNorm(size),
        }[kind]()

    def group(depth: int) -> nn.Module:
        children: OrderedDict[str, nn.Module] = OrderedDict()
        for _ in range(draw(st.integers(1, 4))):
            is_leaf = depth == 0 or draw(st.booleans())
            made = layer() if is_leaf else group(depth - 1)
            name = next(names, None)
            if name is not None:
                children[name] = made
        return nn.Sequential(children)

    return group(draw(st.integers(0, 2)))


def words_of(state: State) -> list[str]:
    """Every name in the keys, roles apart."""
    return sorted({word for key in state for word in key.split(".")[:-1]})


def rename_words(state: State, words: Mapping[str, str]) -> tuple[State, dict[str, str]]:
    return renamed(state, lambda key: ".".join([*(words[one] for one in key.split(".")[:-1]), key.rpartition(".")[2]]))


def check_law(state: State, model: nn.Module, names: Truth, *, order_is_kept: bool = True) -> None:
    """Right, or told to be in doubt."""
    layout = lay_out(state, model, order_is_kept=order_is_kept)
    if layout.unplaced or layout.misfits:
        return
    doubtful = {one.key for one in layout.ambiguous}
    found = {one.key: one.sources for one in layout.placed if not one.key.endswith(COUNTER)}
    wrong = {key: sources for key, sources in found.items() if sources != (names[key],) and key not in doubtful}
    assert not wrong


@few
@given(networks(), st.data())
def test_any_names_in_order_are_never_laid_wrong_in_silence(model: nn.Module, data: st.DataObject) -> None:
    """Every name changed, the order kept: each tensor has its place, or is marked as ambiguous."""
    state = state_of(model)
    olds = words_of(state)
    news = data.draw(
        st.lists(st.text(OTHER, min_size=1, max_size=4), min_size=len(olds), max_size=len(olds), unique=True)
    )
    changed, names = rename_words(state, dict(zip(olds, news, strict=True)))
    check_law(changed, model, names)


@few
@given(networks(), st.data())
def test_any_order_of_the_same_names_is_laid_right(model: nn.Module, data: st.DataObject) -> None:
    """The same names in whatever order, under a prefix or not, are laid right, all of them."""
    state = state_of(model)
    keys = data.draw(st.permutations(list(state)))
    prefix = data.draw(st.sampled_from(["", "module.", "module.model."]))
    names = {key: prefix + key for key in state}
    layout = lay_out({names[key]: state[key] for key in keys}, model)
    assert not layout.ambiguous
    assert {one.key: one.sources for one in layout.placed if not one.key.endswith(COUNTER)} == told(names)


@few
@given(networks(), st.data())
def test_any_order_of_like_names_is_never_laid_wrong_in_silence(model: nn.Module, data: st.DataObject) -> None:
    """Every name a little longer, layers in whatever order: each tensor has its place, or is marked as ambiguous."""
    state = state_of(model)
    changed, names = rename_words(state, {word: f"{word}_layer" for word in words_of(state)})
    layers = data.draw(st.permutations(sorted({key.rpartition(".")[0] for key in changed})))
    keys = sorted(changed, key=lambda key: layers.index(key.rpartition(".")[0]))
    check_law({key: changed[key] for key in keys}, model, names)


@few
@given(networks(), st.data())
def test_any_names_in_a_sorted_file_are_never_laid_wrong_in_silence(model: nn.Module, data: st.DataObject) -> None:
    """Every name changed and the order lost: what nothing tells apart is marked, whatever stands beside it."""
    state = state_of(model)
    olds = words_of(state)
    news = data.draw(
        st.lists(st.text(OTHER, min_size=1, max_size=4), min_size=len(olds), max_size=len(olds), unique=True)
    )
    changed, names = rename_words(state, dict(zip(olds, news, strict=True)))
    check_law({key: changed[key] for key in sorted(changed)}, model, names, order_is_kept=False)


@few
@given(networks(), st.data())
def test_other_containers_are_never_laid_wrong_in_silence(model: nn.Module, data: st.DataObject) -> None:
    """Some containers taken away and others drawn around what is left: layers keep their names, and so their places."""
    state = state_of(model)
    gone = data.draw(st.sets(st.sampled_from([*words_of(state), ""])))
    around = data.draw(st.dictionaries(st.sampled_from([*words_of(state), ""]), st.text(OTHER, min_size=2, max_size=3)))

    def rename(key: str) -> str:
        *outer, layer, role = key.split(".")
        kept = [word for word in outer if word not in gone]
        return ".".join([*kept, *([around[layer]] if layer in around else []), layer, role])

    changed, names = renamed(state, rename)
    check_law(changed, model, names, order_is_kept=data.draw(st.booleans()))


@few
@given(networks(), st.data())
def test_numbers_in_place_of_names_are_never_laid_wrong_in_silence(model: nn.Module, data: st.DataObject) -> None:
    """Names become numbers that rise in order but not by one, as in a Sequential, kept in order or sorted."""
    state = state_of(model)
    numbers = {word: data.draw(st.integers(0, 3)) for word in words_of(state)}
    order = list(dict.fromkeys(word for key in state for word in key.split(".")[:-1]))
    words, last = {}, -1
    for word in order:
        last += 1 + numbers[word]
        words[word] = str(last)
    changed, names = rename_words(state, words)
    check_law(changed, model, names)
    check_law({key: changed[key] for key in sorted(changed)}, model, names, order_is_kept=False)


class Row(nn.Module):
    """Layers one after the other, under any names, defined in any order."""

    def __init__(self, sizes: list[int], names: list[str], order: list[int]) -> None:
        super().__init__()
        self.names = names
        for place in order:
            self.add_module(names[place], nn.Linear(sizes[place], sizes[place + 1]))

    def forward(self, images_BCHW: Tensor) -> Tensor:
        x = 20 * images_BCHW.mean((2, 3))
        for name in self.names:
            x = self.get_submodule(name)(x).sin()
        return x


@settings(deadline=None, max_examples=25)
@given(st.data())
def test_a_row_of_layers_is_always_matched_by_flow(data: st.DataObject) -> None:
    """Where both models run, any row of layers under any names in any order is laid right, and proved."""
    inner = data.draw(st.lists(st.sampled_from([4, 4, 6]), min_size=1, max_size=6))
    sizes = [3, *inner, 5]
    count = len(sizes) - 1
    rows = []
    for letters in (LATIN, OTHER):
        names = data.draw(
            st.lists(st.text(letters, min_size=2, max_size=3), min_size=count, max_size=count, unique=True)
        )
        torch.manual_seed(len(rows))
        rows.append(Row(sizes, [f"n_{name}" for name in names], data.draw(st.permutations(range(count)))).eval())
    match = match_weights(rows[0], rows[1])
    truth = {
        f"{own}.{role}": f"{theirs}.{role}"
        for theirs, own in zip(rows[0].names, rows[1].names, strict=True)
        for role in ("weight", "bias")
    }
    assert_right(match, truth)
    assert match.is_proved
