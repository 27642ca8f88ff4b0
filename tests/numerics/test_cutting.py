"""Cutting: prefix and tail give what the whole model gives, at every cut point, whatever the model is made of."""

import random
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import pytest
import timm
import torch
import torchvision
from torch import Tensor, fx, nn
from torch.nn import functional as F

from finefold.errors import ModelError
from finefold.nn import cutting
from finefold.nn.catalogue import build_model, input_shape
from finefold.nn.cutting import Chain, Cut, cut, find_cuts

TOLERANCE = 1e-5  # of the largest value


def close(one: Tensor, other: Tensor, *, tolerance: float = TOLERANCE) -> bool:
    """Equal in shape and type, and to `tolerance` of the largest value; NaN and infinite values in the same places."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if not one.is_floating_point() and not one.is_complex():
        return torch.equal(one, other)
    largest = float(one[one.isfinite()].abs().max()) if bool(one.isfinite().any()) else 0.0
    return torch.allclose(one, other, rtol=0, atol=tolerance * largest, equal_nan=True)


def tensors(output: object) -> list[Tensor]:
    """The tensors of a model's output, in order."""
    if isinstance(output, Tensor):
        return [output]
    values = output.values() if isinstance(output, dict) else output if isinstance(output, list | tuple) else ()
    return [one for value in values for one in tensors(value)]


def same(one: object, other: object) -> bool:
    """Whether two outputs hold as many tensors, each close to the other's."""
    pairs = tensors(one), tensors(other)
    return len(pairs[0]) == len(pairs[1]) and all(map(close, *pairs))


def make_lively(model: nn.Module, images_BCHW: Tensor) -> None:
    """Random values where the makers start from constants, and batch norms that know their input.

    Otherwise a head of zeros or a layer scale of 1e-6 hides whatever goes wrong before it.
    """
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.numel() > 1 and bool((parameter == parameter.flatten()[0]).all()):
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=rng))
        norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.momentum = 1.0
        model.train()
        model(images_BCHW)
        model.eval()
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


# --- families ---------------------------------------------------------------------------------------------------------


def small_vit(**sizes: int) -> nn.Module:
    return timm.create_model("vit_tiny_patch16_224", img_size=64, depth=3, embed_dim=48, num_heads=3, **sizes)


def small_convnext() -> nn.Module:
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    return ConvNeXt([CNBlockConfig(16, 32, 1), CNBlockConfig(32, 48, 2), CNBlockConfig(48, None, 1)], 0.1)


def small_vgg() -> nn.Module:
    model = torchvision.models.VGG(torchvision.models.vgg.make_layers([8, "M", 16, "M", 16, "M"], batch_norm=True))
    model.avgpool = nn.AdaptiveAvgPool2d(2)
    model.classifier = nn.Sequential(nn.Linear(64, 32), nn.ReLU(True), nn.Dropout(), nn.Linear(32, 10))
    return model


def small_timm_vgg() -> nn.Module:
    return timm.models.vgg.VGG(cfg=[8, "M", 16, "M", 16, "M"], num_classes=10, mlp_ratio=0.01)


torchvision_swin = partial(
    torchvision.models.SwinTransformer, [4, 4], embed_dim=16, depths=[2, 2, 2], num_heads=[1, 2, 2], window_size=[4, 4]
)
torchvision_vit = partial(
    torchvision.models.VisionTransformer,
    image_size=64,
    patch_size=16,
    num_layers=3,
    num_heads=3,
    hidden_dim=48,
    mlp_dim=96,
)
torchvision_maxvit = partial(
    torchvision.models.MaxVit, (64, 64), 8, 4, [8, 16], [1, 2], head_dim=4, stochastic_depth_prob=0.1
)
torchvision_densenet = partial(
    torchvision.models.DenseNet, growth_rate=8, block_config=(2, 2, 2, 2), num_init_features=16
)

FAMILIES: dict[str, tuple[Callable[[], nn.Module], int, int]] = {  # model, pixels, at least so many cuts
    "resnet": (partial(timm.create_model, "resnet18"), 64, 14),
    "resnet torchvision": (torchvision.models.resnet18, 64, 14),
    "resnet with a deep stem": (partial(timm.create_model, "test_resnet"), 64, 14),
    "efficientnet": (partial(timm.create_model, "test_efficientnet"), 64, 20),
    "efficientnet lite": (partial(timm.create_model, "tf_efficientnet_lite0"), 64, 20),
    "efficientnet torchvision": (torchvision.models.efficientnet_b0, 64, 15),
    "mobilenet v2": (partial(timm.create_model, "mobilenetv2_050"), 64, 20),
    "mobilenet v2 torchvision": (partial(torchvision.models.mobilenet_v2, width_mult=0.35), 64, 20),
    "mobilenet v3": (partial(timm.create_model, "mobilenetv3_small_050"), 64, 20),
    "mobilenet v3 torchvision": (partial(torchvision.models.mobilenet_v3_small, width_mult=0.5), 64, 15),
    "convnext": (partial(timm.create_model, "test_convnext"), 64, 15),
    "convnext torchvision": (small_convnext, 64, 12),
    "regnet": (partial(timm.create_model, "regnety_002"), 64, 15),
    "regnet torchvision": (torchvision.models.regnet_y_400mf, 64, 15),
    "densenet": (partial(timm.create_model, "densenet121", block_config=(2, 2, 2, 2), growth_rate=8), 64, 12),
    "densenet torchvision": (torchvision_densenet, 64, 12),
    "vit": (small_vit, 64, 10),
    "vit with a mean in place of a class token": (partial(small_vit, global_pool="avg", class_token=False), 64, 10),
    "deit, distilled": (
        partial(timm.create_model, "deit_tiny_distilled_patch16_224", img_size=64, depth=2, embed_dim=48),
        64,
        5,
    ),
    "vit torchvision": (torchvision_vit, 64, 8),
    "swin": (
        partial(
            timm.create_model,
            "swin_tiny_patch4_window7_224",
            img_size=64,
            window_size=4,
            embed_dim=16,
            depths=(2, 2, 2),
            num_heads=(1, 2, 2),
        ),
        64,
        8,
    ),
    "swin torchvision": (torchvision_swin, 64, 8),
    "vgg": (small_timm_vgg, 64, 10),
    "vgg torchvision": (small_vgg, 64, 10),
    "maxvit": (partial(timm.create_model, "test_maxvit", img_size=64), 64, 8),
    "maxvit torchvision": (torchvision_maxvit, 64, 8),
    "mlp-mixer": (
        partial(timm.models.MlpMixer, num_classes=10, img_size=64, patch_size=16, num_blocks=3, embed_dim=48),
        64,
        6,
    ),
    "shufflenet torchvision": (torchvision.models.shufflenet_v2_x0_5, 64, 20),
    "inception": (partial(timm.create_model, "inception_v3"), 96, 15),
    "nfnet": (partial(timm.create_model, "test_nfnet"), 64, 10),
    "squeezenet torchvision": (torchvision.models.squeezenet1_1, 64, 10),
}


@dataclass(frozen=True)
class Family:
    """One model, what it gives for two images, and both parts at each of its cut points."""

    model: nn.Module
    images_BCHW: Tensor
    output_BK: Tensor
    chain: Chain
    cuts: list[Cut]
    min_cuts: int


@contextmanager
def known(chain: Chain):
    """Within the block, cut() takes the chain that find_cuts() gave before, for finding it takes longest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cutting, "find_cuts", lambda _model, *, example: chain)  # noqa: ARG005
        yield


SLOW = {  # deep for what they are small in; their sisters of the other library, or the next in size, are always cut
    *("efficientnet torchvision", "mobilenet v2", "mobilenet v3", "regnet torchvision", "maxvit", "inception", "nfnet"),
    *("resnet with a deep stem", "efficientnet lite", "mobilenet v3 torchvision", "convnext torchvision"),
    *("densenet torchvision", "swin torchvision", "vgg torchvision", "maxvit torchvision"),
}
assert FAMILIES.keys() >= SLOW


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in FAMILIES],
)
def family(request) -> Family:
    build, size_px, min_cuts = FAMILIES[request.param]
    torch.manual_seed(0)
    model = build().eval()
    images_BCHW = torch.randn(8, 3, size_px, size_px)
    make_lively(model, images_BCHW)
    example_BCHW, images_BCHW = images_BCHW[:1], images_BCHW[1:3]
    chain = find_cuts(model, example=example_BCHW)
    with torch.no_grad(), known(chain):
        cuts = [cut(model, number, example=example_BCHW) for number in range(len(chain.cuts))]
        return Family(model, images_BCHW, model(images_BCHW), chain, cuts, min_cuts)


def test_every_cut_of_every_family_gives_what_the_whole_gives(family):
    """At every cut point, tail(prefix(images)) is model(images); the tail leaves the crossing tensor as it was."""
    assert family.chain.reason is None
    assert len(family.cuts) >= family.min_cuts
    first_K, second_K = family.output_BK
    assert float((first_K - second_K).abs().max()) > 1e-3 * float(family.output_BK.abs().max())  # it is no constant
    for made in family.cuts:
        with torch.no_grad():
            crossing = made.prefix(family.images_BCHW)
            before = crossing.clone()
            assert close(made.tail(crossing), family.output_BK), made.at.name
            assert torch.equal(crossing, before), made.at.name
        assert (len(family.images_BCHW), *made.at.shape) == tuple(crossing.shape), made.at.name


def test_the_parts_share_the_models_own_parameters(family):
    """Every parameter of the model is in prefix or tail, as the very object, under its own name, and none is added."""
    own = dict(family.model.named_parameters())
    for made in family.cuts:
        parts = [dict(part.named_parameters()) for part in (made.prefix, made.tail)]
        for part in parts:
            assert all(own[name] is parameter for name, parameter in part.items()), made.at.name
        assert {*parts[0], *parts[1]} == set(own), made.at.name
        assert not parts[0].keys() & parts[1].keys(), made.at.name


def test_gradients_are_those_of_the_whole(family):
    """Backward through tail, then prefix, gives each parameter the gradient that backward through the model gives."""
    weights_BK = torch.randn(family.output_BK.shape, generator=torch.Generator().manual_seed(2))
    own = dict(family.model.named_parameters())
    whole = torch.autograd.grad((family.model(family.images_BCHW) * weights_BK).sum(), [*own.values()])
    expected = dict(zip(own, whole, strict=True))
    for made in family.cuts[1 :: max(1, len(family.cuts) // 2)]:
        crossing = made.prefix(family.images_BCHW)
        below = crossing.detach().requires_grad_()
        tail, prefix = dict(made.tail.named_parameters()), dict(made.prefix.named_parameters())
        loss = (made.tail(below) * weights_BK).sum()
        below_grad, *grads = torch.autograd.grad(loss, [below, *tail.values()])
        grads += torch.autograd.grad(crossing, [*prefix.values()], below_grad)
        for name, grad in zip([*tail, *prefix], grads, strict=True):
            assert close(expected[name], grad, tolerance=1e-4), f"{name}, cut at {made.at.name}"


def test_the_cuts_of_a_family_have_names_of_their_own(family):
    """Cut points have distinct names in the order of the data's flow, and each name or module there finds its cut."""
    names = [point.name for point in family.chain.cuts]
    assert len(set(names)) == len(names)
    assert [point.index for point in family.chain.cuts] == sorted({point.index for point in family.chain.cuts})
    own = dict(family.model.named_modules())
    for number, point in enumerate(family.chain.cuts):
        assert family.chain.point(number) is point
        assert all(family.chain.point(name) is point for name in {point.name, *point.modules})
        assert all(name in own for name in point.modules)


@pytest.mark.parametrize("name", ["torchvision:googlenet", "torchvision:inception_v3"])
def test_a_model_that_does_something_else_in_training_is_not_cut(name):
    """Where the forward itself depends on the mode (auxiliary heads), there is no cut, and a reason."""
    model = build_model(name)
    chain = find_cuts(model, example=torch.randn(1, 3, 96, 96))
    assert (chain.cuts, chain.reason) == ((), "its own code does something else in training than in evaluation")
    with pytest.raises(ModelError, match="this model cannot be cut: its own code does something else in training"):
        cut(model, 0, example=torch.randn(1, 3, 96, 96))


@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (partial(build_model, "test_vit"), (3, 160, 160)),
        (partial(build_model, "test_resnet", channels=1), (1, 160, 160)),
        (partial(build_model, "torchvision:inception_v3"), (3, 299, 299)),
        (torchvision_vit, (3, 64, 64)),
        (partial(nn.Sequential, nn.Conv2d(2, 4, 3), nn.ReLU()), (2, 224, 224)),
        (partial(build_model, "tresnet_m"), (3, 224, 224)),  # folds pixels into channels before it convolves
    ],
)
def test_the_example_has_the_shape_that_a_model_wants(build, shape):
    """Images for a model have the size that it says and the channels that it was built for."""
    assert input_shape(build()) == shape


# --- modules of a user ------------------------------------------------------------------------------------------------


def conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


class Net(nn.Module):
    """stem -> middle() -> last -> mean -> logits; the variants below differ in `middle`."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 4)
        self.body = conv(4, 4)
        self.last = conv(4, 4)
        self.fc = nn.Linear(4, 5)

    def middle(self, maps_BCHW: Tensor) -> Tensor:
        return self.body(maps_BCHW)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return self.fc(self.last(self.middle(self.stem(images_BCHW))).mean((2, 3)))


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.one, self.two = conv(channels, channels), conv(channels, channels)

    def forward(self, maps_BCHW: Tensor) -> Tensor:
        return maps_BCHW + self.two(F.relu(self.one(maps_BCHW)))


class WithSkip(Net):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = conv(4, 4), conv(4, 4)

    def middle(self, maps_BCHW):
        maps_BCHW = self.body(maps_BCHW)
        return maps_BCHW + self.two(self.one(maps_BCHW))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.down, self.deep = conv(3, 4), conv(4, 8), conv(8, 8)
        self.up, self.leave = nn.Upsample(scale_factor=2), conv(12, 2)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        shallow_BCHW = self.enter(images_BCHW)
        deep_BCHW = self.deep(self.down(F.max_pool2d(shallow_BCHW, 2)))
        return self.leave(torch.cat([self.up(deep_BCHW), shallow_BCHW], 1))


@pytest.fixture
def images_BCHW() -> Tensor:
    return torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(3))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def names(chain: Chain) -> list[str]:
    return [point.name for point in chain.cuts]


def test_a_plain_sequence_can_be_cut_after_every_layer(images_BCHW):
    """Each layer of an nn.Sequential is a cut point, with the shape that it gives for one image."""
    model = nn.Sequential(conv(3, 4), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(256, 5))
    chain = find_cuts(model, example=images_BCHW)
    assert names(chain) == ["0", "1", "2", "3", "4", "5"]
    assert [point.shape for point in chain.cuts] == [(4, 16, 16)] * 3 + [(4, 8, 8), (256,), (5,)]


def test_a_skip_connection_is_not_cut(images_BCHW):
    """There are cuts before and after a skip, none inside, and asking for one inside says why not."""
    chain = find_cuts(WithSkip(), example=images_BCHW)
    assert names(chain) == ["stem", "body", "add", "last", "mean", "fc"]
    for inside in ("one", "two"):
        with pytest.raises(ModelError, match=f"more than one tensor crosses after `{inside}`"):
            chain.point(inside)


def test_a_skip_inside_a_block_stays_inside(images_BCHW):
    """A block with a skip of its own is a link: it ends at a cut, and what it is made of does not."""
    model = nn.Sequential(conv(3, 4), nn.Sequential(Residual(4), Residual(4)), nn.Flatten(), nn.Linear(1024, 5))
    chain = find_cuts(model, example=images_BCHW)
    assert names(chain) == ["0", "1.0", "1", "2", "3"]
    assert chain.point("1.1") is chain.point("1")


def test_a_long_skip_is_cut_nowhere_across(images_BCHW):
    """A U-Net is cut before its skip begins and after it ends."""
    model = UNet()
    chain = find_cuts(model, example=images_BCHW)
    assert names(chain) == ["enter", "cat", "leave"]
    whole = model(images_BCHW)
    for name in names(chain):
        made = cut(model, name, example=images_BCHW)
        assert torch.equal(made.tail(made.prefix(images_BCHW)), whole)


def test_code_that_looks_into_tensors_is_told(images_BCHW):
    """Where forward() decides by what is in a tensor, there is no cut: find_cuts says why, cut() raises it."""

    class Decides(Net):
        def middle(self, maps_BCHW):
            return self.body(maps_BCHW) if maps_BCHW.mean() > 0 else maps_BCHW

    model = Decides()
    chain = find_cuts(model, example=images_BCHW)
    assert chain.cuts == ()
    assert "itself cannot be followed: it branches on what is in a tensor, test_cutting.py line " in chain.reason
    with pytest.raises(ModelError, match=r"this model cannot be cut: the code of \w+ itself cannot be followed"):
        cut(model, "stem", example=images_BCHW)


def test_a_part_that_looks_into_tensors_is_a_link(images_BCHW):
    """Code that cannot be followed inside a part leaves that part whole, and the cuts around it."""

    class Decides(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = conv(4, 4), conv(4, 4)

        def forward(self, maps_BCHW):
            return self.one(maps_BCHW) if maps_BCHW.mean() > 0 else self.two(maps_BCHW)

    chain = find_cuts(nn.Sequential(conv(3, 4), Decides(), conv(4, 4)), example=images_BCHW)
    assert names(chain) == ["0", "1", "2"]


def test_a_model_that_cannot_run_is_told(images_BCHW):
    """A model that fails on the example has no cut; the reason is its own error."""
    chain = find_cuts(nn.Sequential(conv(5, 4), conv(4, 4)), example=images_BCHW)
    assert chain.cuts == ()
    assert chain.reason.startswith("the model does not run on images [1, 3, 16, 16]: ")
    assert "to have 5 channels" in chain.reason


def test_what_gives_several_tensors_is_no_cut(images_BCHW):
    """Where a part gives a list or a tuple, one tensor does not cross: cuts lie before it and where it is joined."""

    class Branches(nn.Module):
        def __init__(self, kind: type) -> None:
            super().__init__()
            self.one, self.two, self.kind = conv(4, 4), conv(4, 4), kind

        def forward(self, maps_BCHW):
            return self.kind([self.one(maps_BCHW), self.two(maps_BCHW)])

    class Joins(Net):
        def __init__(self, kind: type) -> None:
            super().__init__()
            self.branches = Branches(kind)

        def middle(self, maps_BCHW):
            one_BCHW, two_BCHW = self.branches(self.body(maps_BCHW))
            return one_BCHW * two_BCHW

    for kind in (list, tuple):
        assert names(find_cuts(Joins(kind), example=images_BCHW)) == ["stem", "body", "mul", "last", "mean", "fc"]


def test_a_layer_that_works_in_place_does_not_reach_the_crossing_tensor(images_BCHW):
    """A cut right before an in-place ReLU gives the values before it, and the tail never writes into them."""
    model = nn.Sequential(conv(3, 4), nn.BatchNorm2d(4), nn.ReLU(inplace=True), conv(4, 2)).eval()
    made = cut(model, "1", example=images_BCHW)
    with torch.no_grad():
        crossing_BCHW = made.prefix(images_BCHW)
        assert torch.equal(crossing_BCHW, model[1](model[0](images_BCHW)))
        first = made.tail(crossing_BCHW)
        assert float(crossing_BCHW.min()) < 0
        assert torch.equal(made.tail(crossing_BCHW), first)
        assert torch.equal(model(images_BCHW), first)


def test_looking_and_cutting_leave_the_model_as_it_was(images_BCHW):
    """Modes (a frozen submodule's too), tensors, gradients, attributes and random numbers are untouched."""
    model = nn.Sequential(conv(3, 4), nn.BatchNorm2d(4), nn.Dropout(), conv(4, 4), nn.BatchNorm2d(4)).train()
    model[1].eval().requires_grad_(False)
    modes = [module.training for module in model.modules()]
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    attributes = [set(vars(module)) for module in model.modules()]
    rng = torch.get_rng_state()
    find_cuts(model, example=images_BCHW)
    made = cut(model, 1, example=images_BCHW)
    assert [module.training for module in model.modules()] == modes == [True, True, False, True, True, True]
    assert (made.prefix.training, made.tail.training) == (True, True)
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert [set(vars(module)) for module in model.modules()] == attributes
    assert torch.equal(torch.get_rng_state(), rng)


def test_modes_of_the_parts_reach_the_shared_modules(images_BCHW):
    """train() and eval() of a part turn the model's own modules behind it, and no others."""
    model = nn.Sequential(conv(3, 4), nn.BatchNorm2d(4), conv(4, 4), nn.BatchNorm2d(4)).eval()
    made = cut(model, "1", example=images_BCHW)
    made.tail.train()
    assert [module.training for module in model] == [False, False, True, True]
    made.prefix.train()
    made.tail.eval()
    assert [module.training for module in model] == [True, True, False, False]


def test_a_step_of_training_through_the_parts_trains_the_model(images_BCHW):
    """In training mode, running statistics and an optimiser's step through the parts are those of the whole model."""
    images_BCHW = images_BCHW.expand(4, -1, -1, -1) + torch.randn(4, 3, 16, 16)

    def train(through_parts: bool) -> dict[str, Tensor]:
        torch.manual_seed(0)
        model = nn.Sequential(conv(3, 4), nn.BatchNorm2d(4), nn.ReLU(True), conv(4, 4), nn.BatchNorm2d(4), nn.Dropout())
        parts: tuple[nn.Module, ...] = (model,)
        if through_parts:
            made = cut(model, "1", example=images_BCHW)
            parts = (made.prefix, made.tail)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for _ in range(3):
            optimizer.zero_grad()
            maps_BCHW = images_BCHW
            for part in parts:
                maps_BCHW = part.train()(maps_BCHW)
            maps_BCHW.square().mean().backward()
            optimizer.step()
        return model.state_dict()

    whole, parts = train(False), train(True)
    assert all(torch.allclose(whole[key], parts[key], atol=1e-6) for key in whole)


def test_outputs_that_are_not_finite_are_still_compared(images_BCHW):
    """A model that gives NaN and infinity can be cut: the parts give them in the same places."""

    class Broken(Net):
        def middle(self, maps_BCHW):
            return self.body(maps_BCHW).log()

        def forward(self, images_BCHW):
            maps_BCHW = self.last(self.middle(self.stem(images_BCHW)))
            return torch.cat([maps_BCHW.flatten(1), 1 / torch.zeros_like(maps_BCHW[:, 0, 0])], 1)

    model = Broken()
    made = cut(model, "stem", example=images_BCHW)
    whole = model(images_BCHW)
    assert whole.isnan().any()
    assert whole.isinf().any()
    assert torch.equal(made.tail(made.prefix(images_BCHW)).nan_to_num(), whole.nan_to_num())


def test_a_cut_that_is_not_there_offers_the_nearest(images_BCHW):
    """A misspelt name is an error with names like it, one like no other with some, a number with the range."""
    model = WithSkip()
    with pytest.raises(ModelError, match="there is no cut `bodi`") as caught:
        cut(model, "bodi", example=images_BCHW)
    assert caught.value.hint == "cut points near it: body; `finefold inspect` shows all"
    with pytest.raises(ModelError, match="there is no cut `###`") as caught:
        cut(model, "###", example=images_BCHW)
    assert caught.value.hint == "cut points near it: stem, body, mean, fc; `finefold inspect` shows all"
    for number in (6, 99, -7):
        with pytest.raises(ModelError, match=f"there is no cut number {number}") as caught:
            cut(model, number, example=images_BCHW)
        assert caught.value.hint == "choose one from 0 to 5"


def test_numbers_count_from_either_end(images_BCHW):
    """Cut 0 is the first, -1 the last, as Python counts."""
    model = Net()
    assert [cut(model, number, example=images_BCHW).at.name for number in (0, 1, -2, -1)] == [
        "stem",
        "body",
        "mean",
        "fc",
    ]


# --- code that does what a tracer may miss ----------------------------------------------------------------------------


class FreshConstant(Net):
    def middle(self, maps_BCHW):
        return self.body(maps_BCHW) * torch.tensor(2.0)


class PlainTensor(Net):
    def __init__(self):
        super().__init__()
        self.scale = torch.tensor(2.0)

    def middle(self, maps_BCHW):
        return self.body(maps_BCHW) * self.scale


class Buffer(Net):
    def __init__(self):
        super().__init__()
        self.register_buffer("scale_C11", torch.rand(4, 1, 1))

    def middle(self, maps_BCHW):
        return self.body(maps_BCHW) * self.scale_C11


class BufferArithmetic(Buffer):
    def middle(self, maps_BCHW):
        return self.body(maps_BCHW) * (self.scale_C11 * 255)


class AsksForTensor(Net):
    def middle(self, maps_BCHW):
        return self.body(maps_BCHW * 2 if isinstance(maps_BCHW, Tensor) else maps_BCHW)


class AsksForBatch(Net):
    def middle(self, maps_BCHW):
        return self.body(maps_BCHW * 2 if isinstance(maps_BCHW, Tensor) and len(maps_BCHW) > 1 else maps_BCHW)


class AsksForSize(Net):
    def middle(self, maps_BCHW):
        height = maps_BCHW.shape[2]
        return self.body(maps_BCHW * 2 if isinstance(height, int) and height > 16 else maps_BCHW)


class TakesLists(Net):
    def forward(self, images_BCHW):
        return super().forward(images_BCHW if isinstance(images_BCHW, Tensor) else torch.stack(images_BCHW))


class PassesLists(nn.Module):
    """Parts that take a tensor or a list, and give a list (timm's SelecSLS)."""

    class Part(nn.Module):
        def __init__(self, inputs: int) -> None:
            super().__init__()
            self.conv = conv(inputs, 4)

        def forward(self, maps):
            maps = maps if isinstance(maps, list) else [maps]
            return [self.conv(maps[0]), maps[-1]]

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.Sequential(self.Part(3), self.Part(4), self.Part(4))

    def forward(self, images_BCHW):
        maps, skip = self.parts(images_BCHW)
        return maps.mean((2, 3)) * skip.mean()


class SwallowsErrors(Net):
    def middle(self, maps_BCHW):
        try:
            if maps_BCHW.abs().mean() > 0:
                maps_BCHW = maps_BCHW * 2
        except Exception:
            pass
        return self.body(maps_BCHW)


class KeepsSkip(Net):
    def middle(self, maps_BCHW):
        self.skip = maps_BCHW
        return self.body(maps_BCHW)

    def forward(self, images_BCHW):
        return self.fc((self.last(self.middle(self.stem(images_BCHW))) + self.skip).mean((2, 3)))


class HandsOnBehindTheBack(nn.Module):
    """An encoder that keeps a tensor in itself, from where the decoder takes it."""

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.kept = conv(3, 4), []

        def forward(self, images_BCHW):
            maps_BCHW = self.conv(images_BCHW)
            self.kept[:] = [maps_BCHW]
            return maps_BCHW

    class Decoder(nn.Module):
        def __init__(self, kept: list[Tensor]) -> None:
            super().__init__()
            self.conv, self.kept = conv(4, 4), kept

        def forward(self, maps_BCHW):
            return self.conv(maps_BCHW) + self.kept[0].mean((2, 3), keepdim=True)

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.deep = self.Encoder(), conv(4, 4)
        self.decoder = self.Decoder(self.encoder.kept)

    def forward(self, images_BCHW):
        return self.decoder(self.deep(self.encoder(images_BCHW)))


class HandsOnInABuffer(Net):
    def __init__(self):
        super().__init__()
        self.register_buffer("kept_C11", torch.zeros(4, 1, 1))

    def forward(self, images_BCHW):
        maps_BCHW = self.stem(images_BCHW)
        self.kept_C11.copy_(maps_BCHW.mean((0, 2, 3))[:, None, None])
        return self.fc((self.last(self.body(maps_BCHW)) + self.kept_C11).mean((2, 3)))


class MakesOnce(Net):
    def __init__(self):
        super().__init__()
        self.ramp = None

    def middle(self, maps_BCHW):
        if self.ramp is None:
            self.ramp = torch.linspace(0, 1, maps_BCHW.shape[1])[:, None, None]
        return self.body(maps_BCHW) + self.ramp


class MakesOncePerSize(Net):
    def __init__(self):
        super().__init__()
        self.ramps = {}

    def middle(self, maps_BCHW):
        width = maps_BCHW.shape[3]
        if width not in self.ramps:
            self.ramps[width] = torch.linspace(0, 1, width)
        return self.body(maps_BCHW) + self.ramps[width]


class NormalisesInPlace(Net):
    def forward(self, images_BCHW):
        return super().forward(images_BCHW.mul_(2.0).sub_(0.5))


class WorksInPlace(Net):
    def middle(self, maps_BCHW):
        F.relu_(maps_BCHW)
        flat = self.body(maps_BCHW)
        flat.flatten(1).mul_(2.0)
        return flat


class MasksClasses(Net):
    def forward(self, images_BCHW):
        logits_BK = super().forward(images_BCHW * 2 if isinstance(images_BCHW, Tensor) else images_BCHW)
        return torch.cat([logits_BK, torch.full_like(logits_BK, -torch.inf)], 1)


class GivesTinyNumbers(Net):
    def forward(self, images_BCHW):
        return 1e-6 * super().forward(images_BCHW * 2 if isinstance(images_BCHW, Tensor) else images_BCHW)


class GivesMask(Net):
    def forward(self, images_BCHW):
        logits_BK = super().forward(images_BCHW)
        return {"logits": logits_BK, "mask": logits_BK > 0, "name": "masked", "nothing": None}


class GivesClasses(Net):
    def forward(self, images_BCHW):
        return super().forward(images_BCHW).argmax(1)


class GivesComplex(Net):
    def forward(self, images_BCHW):
        return torch.fft.fft(super().forward(images_BCHW))


class GivesMoreThanTheTrace(Net):
    def forward(self, images_BCHW):
        logits_BK = super().forward(images_BCHW)
        return (logits_BK, logits_BK) if isinstance(images_BCHW, Tensor) else logits_BK


class Noisy(Net):
    def middle(self, maps_BCHW):
        return self.body(maps_BCHW) + torch.randn_like(maps_BCHW)


class NoisyByConstant(Net):
    def middle(self, maps_BCHW):
        return self.body(maps_BCHW) + torch.randn(1)


class UsesOneModuleTwice(Net):
    def middle(self, maps_BCHW):
        return self.body(F.relu(self.body(maps_BCHW)))


class UsesOneSequenceTwice(Net):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Sequential(conv(4, 4), nn.BatchNorm2d(4)), nn.Sequential(conv(4, 4), nn.ReLU(True))
        )

    def middle(self, maps_BCHW):
        return self.body(self.body(maps_BCHW))


class NamesLikeFunctions(Net):
    """Modules that are called as torch's functions are, which it uses as well."""

    def __init__(self):
        super().__init__()
        self.relu, self.flatten, self.mean = nn.ReLU(), nn.Flatten(2), nn.AdaptiveAvgPool1d(1)

    def forward(self, images_BCHW):
        maps_BCHW = self.last(F.relu(self.body(self.relu(self.stem(images_BCHW)))))
        return self.fc(torch.flatten(self.mean(self.flatten(maps_BCHW)), 1))


class OwnParameter(Net):
    def __init__(self):
        super().__init__()
        self.scale_C11 = nn.Parameter(torch.rand(4, 1, 1))

    def middle(self, maps_BCHW):
        return self.body(maps_BCHW) * self.scale_C11.sigmoid()


class UnpacksShapes(Net):
    def middle(self, maps_BCHW):
        batch, channels, height, width = maps_BCHW.shape
        rows_BNC = maps_BCHW.view(batch, channels, height * width).transpose(1, 2)
        return self.body(rows_BNC.transpose(1, 2).reshape(batch, channels, height, width))


class CallsOtherwise(Net):
    def forward(self, images_BCHW, scale=None, *, times=1):
        logits_BK = super().forward(images_BCHW)
        return (logits_BK if scale is None else logits_BK * scale) * times


class Wraps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = WithSkip()

    def forward(self, images_BCHW):
        return self.model(images_BCHW)


def hooked() -> nn.Module:
    model = Net()
    model.register_forward_pre_hook(lambda _, inputs: (inputs[0] * 2,))
    model.body.register_forward_hook(lambda _, __, output: output * 3)
    model.register_forward_hook(lambda _, __, output: output + 1)
    return model


def parametrised() -> nn.Module:
    model = Net()
    torch.nn.utils.parametrizations.weight_norm(model.body)
    torch.nn.utils.parametrizations.spectral_norm(model.last)
    return model


HARD = (
    Net,
    WithSkip,
    UNet,
    FreshConstant,
    PlainTensor,
    Buffer,
    BufferArithmetic,
    AsksForTensor,
    AsksForBatch,
    AsksForSize,
    TakesLists,
    PassesLists,
    SwallowsErrors,
    KeepsSkip,
    HandsOnBehindTheBack,
    HandsOnInABuffer,
    MakesOnce,
    MakesOncePerSize,
    NormalisesInPlace,
    WorksInPlace,
    MasksClasses,
    GivesTinyNumbers,
    GivesMask,
    GivesClasses,
    GivesComplex,
    GivesMoreThanTheTrace,
    Noisy,
    NoisyByConstant,
    UsesOneModuleTwice,
    UsesOneSequenceTwice,
    NamesLikeFunctions,
    OwnParameter,
    UnpacksShapes,
    CallsOtherwise,
    Wraps,
    hooked,
    parametrised,
)
CUTTABLE = (
    PlainTensor,
    Buffer,
    WorksInPlace,
    GivesClasses,
    UsesOneModuleTwice,
    UsesOneSequenceTwice,
    OwnParameter,
    UnpacksShapes,
    CallsOtherwise,
    hooked,
    parametrised,
)
hard_models = pytest.mark.parametrize("build", HARD, ids=lambda build: build.__name__)


@hard_models
def test_no_code_leads_to_parts_that_give_something_else(build, images_BCHW):
    """Parts give what the whole gives, on more images, larger ones, and with others in between; or there is no cut."""
    model = build().eval()
    chain = find_cuts(model, example=images_BCHW.clone())
    others = [torch.randn(3, 3, 16, 16), torch.randn(2, 3, 24, 24)]
    for point in chain.cuts:
        try:
            with known(chain):
                made = cut(model, chain.cuts.index(point), example=images_BCHW.clone())
        except ModelError:
            continue
        for other_BCHW in others:
            with torch.no_grad():
                torch.manual_seed(1)
                whole = model(other_BCHW.clone())
                torch.manual_seed(1)
                crossing = made.prefix(other_BCHW.clone())
                made.prefix(torch.randn_like(other_BCHW))
                assert same(made.tail(crossing), whole), f"cut at {point.name}, images {list(other_BCHW.shape)}"


@hard_models
def test_what_is_listed_as_a_cut_can_be_made(build, images_BCHW):
    """find_cuts raises nothing, and cut() makes each of the cuts that it lists; else it lists none and says why."""
    model = build().eval()
    chain = find_cuts(model, example=images_BCHW.clone())
    assert (chain.reason is None) == bool(chain.cuts)
    if build is HandsOnBehindTheBack:  # what passes inside a module's own list is seen when the cut is made
        with pytest.raises(ModelError, match="prefix and tail do not give what the model gives"):
            cut(model, "encoder", example=images_BCHW.clone())
        return
    for point in chain.cuts:
        with known(chain):
            assert cut(model, chain.cuts.index(point), example=images_BCHW.clone()).at == point


@hard_models
def test_looking_for_cuts_leaves_no_trace(build, images_BCHW):
    """After find_cuts, the example is as it was and nothing of the tracer's is left inside the model."""
    model = build().eval()
    example_BCHW = images_BCHW.clone()
    find_cuts(model, example=example_BCHW)
    assert torch.equal(example_BCHW, images_BCHW)
    for name, module in model.named_modules():
        for attribute, value in vars(module).items():
            inside = [value, *(value if isinstance(value, list | tuple | dict) else ())]
            inside += value.values() if isinstance(value, dict) else []
            assert not any(isinstance(one, fx.Proxy) for one in inside), f"{name}.{attribute}"


@pytest.mark.parametrize("build", CUTTABLE, ids=lambda build: build.__name__)
def test_ordinary_code_is_cut_in_several_places(build, images_BCHW):
    """Buffers, plain tensors, shared modules, hooks, keyword arguments, in-place layers: all of it can be cut."""
    chain = find_cuts(build().eval(), example=images_BCHW)
    assert chain.reason is None
    assert len(chain.cuts) > 3


def test_a_wrapper_hides_no_cuts(images_BCHW):
    """A module that only calls another is cut where the other is."""
    inside = find_cuts(WithSkip(), example=images_BCHW)
    wrapped = find_cuts(Wraps(), example=images_BCHW)
    assert [point.shape for point in wrapped.cuts] == [point.shape for point in inside.cuts]


@hard_models
def test_cuts_have_names_of_their_own(build, images_BCHW):
    """No two cuts of a model have one name, so that each can be asked for."""
    chain = find_cuts(build().eval(), example=images_BCHW)
    assert len(set(names(chain))) == len(chain.cuts)
    assert [chain.point(name) for name in names(chain)] == list(chain.cuts)


class Reverse(torch.autograd.Function):
    @staticmethod
    def forward(_ctx, maps_BCHW):
        return maps_BCHW.view_as(maps_BCHW)

    @staticmethod
    def backward(_ctx, grad_BCHW):
        return -grad_BCHW


class ReversesGradients(Net):
    def middle(self, maps_BCHW):
        return self.body(Reverse.apply(maps_BCHW))


class WithoutGradients(Net):
    def middle(self, maps_BCHW):
        with torch.no_grad():
            return self.body(maps_BCHW)


class Detaches(Net):
    def middle(self, maps_BCHW):
        return self.body(maps_BCHW.detach())


@pytest.mark.parametrize(
    "build", [Net, Detaches, WithoutGradients, ReversesGradients], ids=lambda build: build.__name__
)
def test_gradients_that_the_code_changes_are_changed_in_the_parts(build, images_BCHW):
    """detach(), no_grad() and a backward of one's own work in the parts as in the whole; or there is no cut."""
    model = build().eval()
    chain = find_cuts(model, example=images_BCHW)

    def gradients(logits_BK: Tensor) -> list[Tensor | None]:
        return list(torch.autograd.grad(logits_BK.square().sum(), [*model.parameters()], allow_unused=True))

    whole = gradients(model(images_BCHW))
    for point in chain.cuts:
        try:
            made = cut(model, point.name, example=images_BCHW)
        except ModelError:
            continue
        for one, other in zip(whole, gradients(made.tail(made.prefix(images_BCHW))), strict=True):
            assert (one is None) == (other is None), point.name
            assert one is None or torch.allclose(one, other, atol=1e-6), point.name


def test_code_that_rolls_dice_in_training_is_not_taken_for_a_chain(images_BCHW):
    """A block that is left out by chance in training is left out as often in the parts; or there is no cut."""

    class Drops(Net):
        def middle(self, maps_BCHW):
            return maps_BCHW if self.training and random.random() < 0.3 else self.body(maps_BCHW)

    for seed in range(4):  # the trace itself is made by chance, so look more than once
        random.seed(seed)
        model = Drops()
        chain = find_cuts(model, example=images_BCHW)
        if chain.reason is not None:
            continue
        made = cut(model, "stem", example=images_BCHW)
        for part in (model, made.prefix, made.tail):
            part.train()
        for draw in range(10):
            random.seed(draw)
            whole = model(images_BCHW).detach()
            random.seed(draw)
            assert close(made.tail(made.prefix(images_BCHW)).detach(), whole)


def test_the_parts_follow_the_model_to_another_precision(images_BCHW):
    """Buffers are shared as parameters are: after model.bfloat16() the parts still give what the model gives."""
    model = Buffer().eval()
    made = cut(model, "stem", example=images_BCHW)
    model.bfloat16()
    with torch.no_grad():
        whole = model(images_BCHW.bfloat16())
        assert torch.equal(made.tail(made.prefix(images_BCHW.bfloat16())), whole)


@pytest.mark.parametrize("build", [Buffer, BufferArithmetic, OwnParameter], ids=lambda build: build.__name__)
def test_the_parts_follow_weights_that_are_loaded_later(build, images_BCHW):
    """load_state_dict() on the model reaches its parts, for nothing in them is a copy; or there is no cut."""
    model, other = build().eval(), build().eval()
    if find_cuts(model, example=images_BCHW).reason is not None:
        return
    made = cut(model, "body", example=images_BCHW)
    model.load_state_dict(other.state_dict())
    with torch.no_grad():
        assert torch.equal(made.tail(made.prefix(images_BCHW)), other(images_BCHW))


class AsksForLargeBatch(Net):
    def middle(self, maps_BCHW):
        return self.body(maps_BCHW * 2 if isinstance(maps_BCHW, Tensor) and len(maps_BCHW) > 4 else maps_BCHW)


class AsksForSmallSize(Net):
    def middle(self, maps_BCHW):
        height = maps_BCHW.shape[2]
        return self.body(maps_BCHW * 2 if isinstance(height, int) and height < 8 else maps_BCHW)


@pytest.mark.parametrize("build", [AsksForLargeBatch, AsksForSmallSize], ids=lambda build: build.__name__)
def test_code_that_decides_by_batch_or_size_never_tried_is_not_cut_there(build, images_BCHW):
    """Batches and sizes that find_cuts does not try: parts give what the whole gives, or there is no cut."""
    model = build().eval()
    chain = find_cuts(model, example=images_BCHW)
    for point in chain.cuts:
        made = cut(model, point.name, example=images_BCHW)
        for other_BCHW in (torch.randn(8, 3, 16, 16), torch.randn(2, 3, 6, 6)):
            with torch.no_grad():
                assert same(made.tail(made.prefix(other_BCHW)), model(other_BCHW)), point.name


def test_code_that_asks_for_a_tensor_is_cut(images_BCHW):
    """isinstance(x, Tensor) is true while the code is followed, as it is when it runs."""
    assert len(find_cuts(TakesLists().eval(), example=images_BCHW).cuts) > 3


def test_a_layer_that_is_seldom_left_out_in_training_is_seen(images_BCHW):
    """Code that draws a number is told, however seldom the number changes what it does."""

    class SeldomDrops(Net):
        def middle(self, maps_BCHW):
            return maps_BCHW if self.training and random.random() < 1e-6 else self.body(maps_BCHW)

    chain = find_cuts(SeldomDrops(), example=images_BCHW)
    assert chain.reason == "its own code draws random numbers"


def test_a_helper_that_is_no_module_keeps_no_stand_in(images_BCHW):
    """Code that keeps its last maps in an object of its own: nothing of the tracer's is left there."""

    class Memory:
        last: object = None

    class Remembers(Net):
        def __init__(self):
            super().__init__()
            self.memory = Memory()

        def middle(self, maps_BCHW):
            self.memory.last = maps_BCHW
            return self.body(maps_BCHW)

    model = Remembers().eval()
    find_cuts(model, example=images_BCHW)
    assert not isinstance(model.memory.last, fx.Proxy)


def test_a_model_made_in_inference_mode_is_looked_at(images_BCHW):
    """Parameters that keep no count of writes are no reason to fail."""
    with torch.inference_mode():
        model = Net().eval()
    with torch.no_grad():
        assert len(find_cuts(model, example=images_BCHW).cuts) > 3


def test_an_output_in_a_dataclass_is_compared(images_BCHW):
    """The tensors of a dataclass are found; an output without any tensor is told."""

    @dataclass
    class Answer:
        logits_BK: Tensor

    class GivesDataclass(Net):
        def forward(self, images_BCHW):
            return Answer(super().forward(images_BCHW))

    class GivesNothing(Net):
        def forward(self, images_BCHW):
            super().forward(images_BCHW)
            return "done"

    chain = find_cuts(GivesDataclass().eval(), example=images_BCHW)
    assert chain.reason is None or "Answer" not in chain.reason
    assert "no tensor is found" in str(find_cuts(GivesNothing().eval(), example=images_BCHW).reason)


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224"])
def test_a_chain_told_gives_the_same_parts(name):
    """With what an earlier search opened, a model of the same kind is cut at the same places, into the same parts."""
    model, again = build_model(name).eval(), build_model(name).eval()
    again.load_state_dict(model.state_dict())
    images_BCHW = torch.randn(1, *input_shape(model), generator=torch.Generator().manual_seed(0))
    chain = find_cuts(model, example=images_BCHW)
    point = chain.cuts[len(chain.cuts) // 2]
    searched = cut(model, point.name, example=images_BCHW)
    told = cut(again, point.name, example=images_BCHW, opened=sorted(chain.opened))
    assert told.at == searched.at == point
    with torch.no_grad():
        assert torch.equal(told.tail(told.prefix(images_BCHW)), searched.tail(searched.prefix(images_BCHW)))


def test_a_chain_told_of_another_model_is_an_error(images_BCHW):
    """Where the cut is not there any more, the nearest are named, as without."""
    with pytest.raises(ModelError, match="there is no cut `blocks"):
        cut(Net().eval(), "blocks.3", example=images_BCHW, opened=["blocks"])
