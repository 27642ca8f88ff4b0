"""Stages: the few large parts between stem and head, whatever the family."""

from collections.abc import Callable
from functools import partial

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from finefold.nn.catalogue import build_model
from finefold.nn.cutting import Chain, cut, find_cuts
from finefold.nn.stages import Stage, find_stages


def sequence() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()),
        *(nn.MaxPool2d(2), nn.Conv2d(4, 8, 3, padding=1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)),
    )


small_vit = partial(timm.create_model, "vit_tiny_patch16_224", img_size=64, embed_dim=24, num_heads=3)
small_swin = partial(
    timm.create_model,
    "swin_tiny_patch4_window7_224",
    img_size=64,
    window_size=2,
    embed_dim=16,
    num_heads=(1, 2, 2, 4),
)
torchvision_swin = partial(
    torchvision.models.SwinTransformer,
    [4, 4],
    embed_dim=16,
    depths=[2, 2, 2, 2],
    num_heads=[1, 2, 2, 4],
    window_size=[2, 2],
)
torchvision_vit = partial(
    torchvision.models.VisionTransformer,
    image_size=64,
    patch_size=16,
    num_layers=5,
    num_heads=3,
    hidden_dim=24,
    mlp_dim=48,
)

STAGES: dict[str, tuple[Callable[[], nn.Module], list[str]]] = {
    "resnet18": (
        partial(build_model, "resnet18"),
        ["stem", "layer1", "layer2", "layer3", "layer4", "head"],
    ),
    "resnet18 torchvision": (
        partial(build_model, "torchvision:resnet18"),
        ["stem", "layer1", "layer2", "layer3", "layer4", "head"],
    ),
    "tf_efficientnet_lite0": (
        partial(build_model, "tf_efficientnet_lite0"),
        ["stem", *(f"blocks.{number}" for number in range(7)), "head"],
    ),
    "vit, 12 blocks": (small_vit, ["stem", *(f"blocks.{number}" for number in range(12)), "head"]),
    "vit torchvision": (
        torchvision_vit,
        ["stem", *(f"encoder.layers.encoder_layer_{number}" for number in range(5)), "head"],
    ),
    "mobilenet_v2 torchvision": (
        partial(build_model, "torchvision:mobilenet_v2"),
        [
            *("stem", "features.1", "features.2-3", "features.4-6", "features.7-10", "features.11-13"),
            *("features.14-16", "features.17", "head"),
        ],
    ),
    "convnext": (
        partial(build_model, "convnext_atto"),
        ["stem", "stages.0", "stages.1", "stages.2", "stages.3", "head"],
    ),
    "convnext torchvision": (
        partial(build_model, "torchvision:convnext_tiny"),
        ["stem", "features.1", "features.2-3", "features.4-5", "features.6-7", "head"],
    ),
    "densenet121": (
        partial(build_model, "densenet121"),
        [
            *("stem", "features.denseblock1", "features.transition1-denseblock2"),
            *("features.transition2-denseblock3", "features.transition3-denseblock4", "head"),
        ],
    ),
    "densenet121 torchvision": (
        partial(build_model, "torchvision:densenet121"),
        [
            *("stem", "features.denseblock1", "features.transition1-denseblock2"),
            *("features.transition2-denseblock3", "features.transition3-denseblock4", "head"),
        ],
    ),
    "swin": (small_swin, ["stem", "layers.0", "layers.1", "layers.2", "layers.3", "head"]),
    "swin torchvision": (
        torchvision_swin,
        ["stem", "features.1", "features.2-3", "features.4-5", "features.6-7", "head"],
    ),
    "a plain sequence": (sequence, ["0-2", "3-5", "6", "head"]),
}


def look(model: nn.Module, size_px: int = 64) -> tuple[Chain, tuple[Stage, ...]]:
    chain = find_cuts(model, example=torch.zeros(1, 3, size_px, size_px))
    return chain, find_stages(model, chain)


@pytest.fixture(scope="module", params=STAGES)
def seen(request) -> tuple[nn.Module, Chain, tuple[Stage, ...], list[str]]:
    """A model in evaluation mode, its chain, its stages, and the names these should have."""
    torch.manual_seed(0)
    build, names = STAGES[request.param]
    model = build().eval()
    return model, *look(model), names


def holds(outer: str, link: str) -> bool:
    return link == outer or link.startswith(f"{outer}.")


def test_each_family_has_the_stages_that_one_knows(seen):
    """Stages are those that a paper's table has, with stem and head around them."""
    _, _, stages, names = seen
    assert [stage.name for stage in stages] == names


def test_the_modules_of_the_stages_are_all_links_in_order(seen):
    """Every link of the chain is in exactly one module of exactly one stage, in the order in which data flows."""
    _, chain, stages, _ = seen
    modules = [path for stage in stages for path in stage.modules]
    assert len(set(modules)) == len(modules)
    places = []
    for link in chain.links:
        owners = [number for number, path in enumerate(modules) if holds(path, link)]
        assert len(owners) == 1, link
        places += owners
    assert places == sorted(places)
    assert set(places) == set(range(len(modules)))


def test_each_stage_ends_at_a_cut_of_its_shape(seen):
    """A stage's `cut` is a cut point, with the stage's shape, further on than the stage before; the head has none."""
    _, chain, stages, _ = seen
    body = [stage for stage in stages if stage.name != "head"]
    points = [chain.point(stage.cut) for stage in body]
    assert [point.shape for point in points] == [stage.shape for stage in body]
    assert [point.index for point in points] == sorted({point.index for point in points})
    assert [(stage.cut, stage.shape) for stage in stages if stage.name == "head"] == [(None, None)]


def test_the_cut_of_a_stage_leaves_the_stages_before_it_in_the_prefix(seen):
    """Cut at the end of a middle stage, the prefix has the parameters of the stages up to it, the tail all others."""
    model, _, stages, _ = seen
    number = len(stages) // 2
    made = cut(model, stages[number].cut, example=torch.zeros(1, 3, 64, 64))
    before = [path for stage in stages[: number + 1] for path in stage.modules]
    after = [path for stage in stages[number + 1 :] for path in stage.modules]
    of_modules = {name for name, _ in model.named_parameters() if any(holds(path, name) for path in [*before, *after])}
    in_prefix = {name for name, _ in made.prefix.named_parameters()} & of_modules
    in_tail = {name for name, _ in made.tail.named_parameters()} & of_modules
    assert in_prefix == {name for name in of_modules if any(holds(path, name) for path in before)}
    assert in_tail == of_modules - in_prefix


def test_a_model_that_cannot_be_cut_has_no_stages():
    """Without a cut point there is no stage."""

    class Decides(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = sequence(), sequence()

        def forward(self, images_BCHW: Tensor) -> Tensor:
            return self.one(images_BCHW) if images_BCHW.sum() > 0 else self.two(images_BCHW)

    chain, stages = look(Decides())
    assert chain.reason is not None
    assert stages == ()


def test_blocks_of_one_shape_are_stages_of_their_own():
    """Where all large parts have one shape, as a transformer's blocks do, each is a stage."""
    blocks = [nn.TransformerEncoderLayer(12, 2, 24, batch_first=True) for _ in range(4)]
    _, stages = look(nn.Sequential(nn.Flatten(2), nn.Linear(256, 12), *blocks, nn.Flatten(), nn.Linear(36, 5)), 16)
    assert [(stage.name, stage.modules) for stage in stages] == [
        ("stem", ("0", "1")),
        *((str(number), (str(number),)) for number in range(2, 6)),
        ("head", ("6", "7")),
    ]


def test_a_downsampling_layer_belongs_to_the_stage_that_it_opens():
    """A small part between two large ones is counted to the second."""

    def block(channels: int) -> nn.Module:
        return nn.Sequential(*(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(3)))

    layers = [nn.Conv2d(3, 4, 2, 2), block(4), nn.Conv2d(4, 6, 2, 2), block(6), nn.Conv2d(6, 8, 2, 2), block(8)]
    _, stages = look(nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 5)))
    assert [stage.modules for stage in stages] == [("0",), ("1",), ("2", "3"), ("4", "5"), ("6", "7")]
    assert [stage.name for stage in stages] == ["stem", "1", "2-3", "4-5", "head"]


class Headed(nn.Module):
    """A network that ends in features, called by a module with heads of its own, as a run's classifier is."""

    def __init__(self, network: nn.Module, num_features: int) -> None:
        super().__init__()
        self.network = network
        self.heads = nn.ModuleList([nn.Linear(num_features, 3), nn.Linear(num_features, 2)])

    def forward(self, images_BCHW: Tensor) -> Tensor:
        features_BD = self.network(images_BCHW).flatten(1)
        return torch.cat([head(features_BD) for head in self.heads], 1)


class Plain(nn.Module):
    """Convolutions called one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Conv2d(3, 4, 3, 2), nn.Conv2d(4, 4, 3, 2), nn.Conv2d(4, 8, 3, 2)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return self.three(self.two(self.one(images_BCHW).relu()).relu()).mean((2, 3))


@pytest.mark.parametrize(
    ("build", "num_features", "names"),
    [
        (partial(build_model, "resnet18", num_classes=0), 512, [f"network.layer{number}" for number in (1, 2, 3, 4)]),
        (partial(small_vit, num_classes=0), 24, [f"network.blocks.{n}" for n in range(12)]),
        (Plain, 8, ["network.one", "network.two", "network.three"]),
    ],
)
def test_a_network_called_by_another_module_keeps_its_stages(build, num_features, names):
    """Stages are those of the network inside, though what it gives to the heads around it is a vector."""
    _, stages = look(Headed(build(), num_features).eval())
    assert [stage.name for stage in stages if stage.name != "stem"] == [*names, "head"]
