"""Weights laid onto another model give what they gave before: checked here by running both, not by finefold's proof."""

import copy
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finefold.data.synthetic import portrait_batch
from finefold.errors import FinefoldError, WeightsError
from finefold.nn.catalogue import build_model
from finefold.nn.finding import embedded_file
from finefold.nn.identify import identify_model
from finefold.nn.settings import Setting
from finefold.nn.transplant import Match, match_weights
from finefold.nn.weights import read_state

TOLERANCE = 1e-4
COUNTER = "num_batches_tracked"
LITE0 = "tf_efficientnet_lite0"


def pair(source: str, target: str, *, size_px: int = 128, slow: bool = False):
    name = f"{source}->{target}"
    return pytest.param((source, target, size_px), id=name, marks=[pytest.mark.slow] if slow else [])


PAIRS = [
    pair("torchvision:resnet18", "resnet18"),
    pair("torchvision:mobilenet_v2", "mobilenetv2_100"),
    pair("torchvision:mobilenet_v3_large", "mobilenetv3_large_100"),
    pair("torchvision:efficientnet_b0", "efficientnet_b0"),
    pair("torchvision:mnasnet1_0", "mnasnet_100"),
    pair("torchvision:convnext_tiny", "convnext_tiny"),
    pair("torchvision:vit_b_16", "vit_base_patch16_224", size_px=224, slow=True),  # always: a small one, below
    pair("torchvision:regnet_y_400mf", "regnety_004"),
    pair("torchvision:mobilenet_v3_small", "mobilenetv3_small_100"),
    pair("regnety_004", "torchvision:regnet_y_400mf"),
    pair("mobilenetv3_small_100", "torchvision:mobilenet_v3_small"),
    pair("torchvision:efficientnet_v2_s", "tf_efficientnetv2_s", slow=True),
    pair("torchvision:densenet121", "densenet121", slow=True),
    pair("torchvision:inception_v3", "inception_v3", size_px=160, slow=True),
    pair("torchvision:swin_t", "swin_tiny_patch4_window7_224", size_px=224, slow=True),
    pair("torchvision:vgg11_bn", "vgg11_bn", slow=True),
    pair("torchvision:resnext50_32x4d", "resnext50_32x4d", slow=True),
    pair("torchvision:efficientnet_v2_s", "efficientnetv2_s", slow=True),
    pair("torchvision:efficientnet_b1", "tf_efficientnet_b1", slow=True),
    pair("convnext_tiny", "torchvision:convnext_tiny", slow=True),
    pair("resnet18", "torchvision:resnet18", slow=True),
    pair("mobilenetv2_100", "torchvision:mobilenet_v2", slow=True),
    pair("mnasnet_100", "torchvision:mnasnet1_0", slow=True),
    pair("vit_base_patch16_224", "torchvision:vit_b_16", size_px=224, slow=True),
    pair("swin_tiny_patch4_window7_224", "torchvision:swin_t", size_px=224, slow=True),
    pair("tf_efficientnetv2_s", "torchvision:efficientnet_v2_s", slow=True),
]


def enliven(model: nn.Module, images_BCHW: Tensor) -> nn.Module:
    """Random values for every tensor that is constant, then batch norm statistics of these images, disturbed."""
    torch.manual_seed(1)
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point() and tensor.numel() and bool((tensor == tensor.flatten()[0]).all()):
                level = float(tensor.flatten()[0])
                tensor.copy_((level if level > 0.01 else 0.0) + 0.2 * torch.randn(tensor.shape))
        model.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.train()
            norm.momentum = None
        model(images_BCHW)
        for norm in norms:
            norm.momentum = 0.1
            norm.running_mean.add_(0.1 * torch.randn(norm.running_mean.shape) * norm.running_var.sqrt())
            norm.running_var.mul_(0.8 + 0.4 * torch.rand(norm.running_var.shape))
    return model.eval()


def run(model: nn.Module, images_BCHW: Tensor) -> Tensor:
    with torch.inference_mode():
        return model.eval()(images_BCHW)


def difference(one_BK: Tensor, other_BK: Tensor) -> float:
    """Largest difference relative to the largest value; infinite where they are no numbers."""
    value = float((one_BK - other_BK).abs().max() / other_BK.abs().max())
    return value if value == value else float("inf")


def mapping(match: Match) -> dict[str, tuple[str, ...]]:
    """Key of the model -> keys of the source, batch counters apart."""
    return {one.key: one.sources for one in match.layout.placed if not one.key.endswith(COUNTER)}


@dataclass
class Case:
    """A source with lively weights in two files, and what it gives for some images."""

    source: str
    target: str
    files: dict[str, Path]
    images_BCHW: Tensor
    expected_BK: Tensor

    @functools.cached_property
    def proved(self) -> Match:
        """The match of the .pth file, whose model is told by its keys."""
        return self.match(".pth")

    def match(self, suffix: str) -> Match:
        state = read_state(self.files[suffix])
        if self.source.startswith("torchvision:"):
            found = identify_model(state, self.target)
        else:  # of timm's models several may have the same keys: it takes the user to say which
            found = identify_model(state, self.source, is_likely=True)
        assert found is not None
        return match_weights(self.files[suffix], build_model(self.target), source_model=found.model)


@pytest.fixture(scope="module", params=PAIRS)
def case(request, tmp_path_factory) -> Iterator[Case]:
    source, target, size_px = request.param
    torch.manual_seed(0)
    images_BCHW = torch.randn(4, 3, size_px, size_px)
    model = enliven(build_model(source), images_BCHW)
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    folder = tmp_path_factory.mktemp("weights")
    files = {".pth": folder / "w.pth", ".safetensors": folder / "w.safetensors"}
    torch.save(state, files[".pth"])
    safetensors.torch.save_file(state, files[".safetensors"])
    yield Case(source, target, files, images_BCHW, run(model, images_BCHW))
    for file in files.values():
        file.unlink()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_transplant_gives_the_same_outputs(case, suffix):
    """Laid onto the other library's model, its settings applied, weights give the source's outputs to 1e-4."""
    assert difference(case.expected_BK[1:], case.expected_BK[:-1]) > 0.01  # the images matter
    match = case.proved if suffix == ".pth" else case.match(suffix)
    assert match.problems() == []
    assert match.is_proved
    model = build_model(case.target)
    assert difference(run(model, case.images_BCHW), case.expected_BK) > 100 * TOLERANCE
    match.load_into(model)
    assert difference(run(model, case.images_BCHW), case.expected_BK) <= TOLERANCE


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_structure_alone_never_says_otherwise_in_silence(case, suffix):
    """Without the source's model, every tensor is laid where the proof says, or marked; of a sorted file, some are."""
    match = match_weights(case.files[suffix], build_model(case.target))
    right = mapping(case.proved)
    doubtful = {one.key for one in match.layout.ambiguous}
    found = mapping(match)
    assert found.keys() == right.keys()
    assert {key for key in right if found[key] != right[key]} <= doubtful
    if suffix == ".pth":  # names and order together tell everything apart
        assert not doubtful
        assert [problem for problem in match.problems() if "folded otherwise" not in problem] == []


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_small_vision_transformer_gives_the_same_outputs(suffix, tmp_path):
    """torchvision's ViT onto timm's and back, at a size that is quick to run, by flow and by structure alone."""
    from timm.models import VisionTransformer
    from torchvision import models

    torch.manual_seed(0)
    images_BCHW = torch.randn(4, 3, 32, 32)
    sizes = {"image_size": 32, "patch_size": 8, "num_layers": 3, "num_heads": 2, "hidden_dim": 32, "mlp_dim": 64}
    theirs = models.VisionTransformer(**sizes, num_classes=11)
    sizes = {"img_size": 32, "patch_size": 8, "depth": 3, "num_heads": 2, "embed_dim": 32, "mlp_ratio": 2}
    own = VisionTransformer(**sizes, num_classes=11)
    own.default_cfg = {"input_size": (3, 32, 32)}
    for source, target in ((theirs, own), (own, theirs)):
        source, target = enliven(copy.deepcopy(source), images_BCHW), copy.deepcopy(target)
        file = tmp_path / f"{type(source).__module__}{suffix}"
        state = source.state_dict()
        torch.save(state, file) if suffix == ".pth" else safetensors.torch.save_file(state, file)
        match = match_weights(file, target, source_model=copy.deepcopy(source))
        assert match.is_proved
        alone = match_weights(file, target)
        assert alone.problems() == []
        assert mapping(alone) == mapping(match)
        match.load_into(target)
        assert difference(run(target, images_BCHW), run(source, images_BCHW)) <= TOLERANCE


def test_mobilenet_v3_needs_its_eps_and_nothing_else():
    """torchvision's MobileNetV3 has a batch norm eps of 0.001, timm's 1e-5: said for each, and only that."""
    source, target = build_model("torchvision:mobilenet_v3_small"), build_model("mobilenetv3_small_100")
    match = match_weights(source, target)
    assert {(one.name, one.source, one.target) for one in match.settings} == {("eps", 0.001, 1e-5)}
    norms = {name for name, module in target.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert {one.module for one in match.settings} == norms
    assert match.proof.difference_as_is > TOLERANCE >= match.proof.difference


@pytest.mark.slow  # a large pair; paddings of small ones are tested always
def test_efficientnet_v2_needs_its_padding_and_nothing_else():
    """TensorFlow pads the strided convolutions of EfficientNetV2 at the end only: said for those five, and no other."""
    target = build_model("tf_efficientnetv2_s")
    match = match_weights(build_model("torchvision:efficientnet_v2_s"), target)
    strided = {name for name, one in target.named_modules() if isinstance(one, nn.Conv2d) and one.stride == (2, 2)}
    assert {one.module for one in match.settings} == strided
    assert {(one.name, one.source, one.target) for one in match.settings} == {("padding", (1, 1), "same")}
    assert match.proof.difference_as_is > TOLERANCE >= match.proof.difference


def replaced(model: nn.Module, old: type[nn.Module], make: Callable[[], nn.Module]) -> nn.Module:
    """A copy with other modules in place of those of one type."""
    made = copy.deepcopy(model)
    for module in list(made.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, old):
                setattr(module, name, make())
    return made


@pytest.fixture(scope="module")
def images_BCHW() -> Tensor:
    return torch.randn(4, 3, 160, 160, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def resnet(images_BCHW) -> nn.Module:
    torch.manual_seed(0)
    return enliven(timm.create_model("test_resnet"), images_BCHW)


@pytest.fixture(scope="module")
def vit(images_BCHW) -> nn.Module:
    torch.manual_seed(0)
    return enliven(timm.create_model("test_vit"), images_BCHW)


def check_settings(source: nn.Module, target: nn.Module, images_BCHW: Tensor) -> tuple[Setting, ...]:
    """The settings that a match of the two names, after seeing that they make the outputs equal."""
    match = match_weights(source, target)
    fresh = copy.deepcopy(target)
    assert match.problems() == []
    match.load_into(fresh)
    expected_BK = run(source, images_BCHW)
    assert difference(run(fresh, images_BCHW), expected_BK) <= TOLERANCE
    unset = copy.deepcopy(target)
    unset.load_state_dict(match.state(), strict=False)
    assert difference(run(unset, images_BCHW), expected_BK) > TOLERANCE
    assert match.proof.difference_as_is > TOLERANCE
    return match.settings


ACTIVATIONS = {
    "SiLU": nn.SiLU,
    "GELU": nn.GELU,
    "GELU tanh": lambda: nn.GELU(approximate="tanh"),
    "LeakyReLU": lambda: nn.LeakyReLU(0.2),
    "Hardswish": nn.Hardswish,
    "ELU": nn.ELU,
    "Mish": nn.Mish,
    "Tanh": nn.Tanh,
    "SELU": nn.SELU,
    "CELU": lambda: nn.CELU(2.0),
    "Softplus": nn.Softplus,
    "Identity": nn.Identity,
}


@pytest.mark.parametrize("name", ["SiLU", "GELU", "GELU tanh", "LeakyReLU", "Hardswish", "ELU", "Mish", "Tanh"])
def test_the_activation_is_named(name, resnet, images_BCHW):
    """Where another activation was trained with, each is named with what it is, and set, the outputs are equal."""
    source = replaced(resnet, nn.ReLU, ACTIVATIONS[name])
    found = check_settings(source, resnet, images_BCHW)
    places = {path for path, module in resnet.named_modules() if isinstance(module, nn.ReLU)}
    assert {one.module for one in found} == places
    assert {(one.name, one.source[0], one.target[0]) for one in found} == {("operation", name.split()[0], "ReLU")}


@pytest.mark.parametrize("name", ["SELU", "CELU", "Softplus", "Identity"])
def test_an_activation_is_named_right_or_the_weights_are_refused(name, resnet, images_BCHW):
    """Whatever the source's activation is, nothing false is said of it, and other outputs are never accepted."""
    source = replaced(resnet, nn.ReLU, ACTIVATIONS[name])
    match = match_weights(source, resnet)
    if name != "Identity":
        assert all(one.source is not None for one in match.settings), [str(one) for one in match.settings]
    if match.problems():
        return
    fresh = copy.deepcopy(resnet)
    match.load_into(fresh)
    assert difference(run(fresh, images_BCHW), run(source, images_BCHW)) <= TOLERANCE


def test_two_kinds_of_gelu_are_told_apart(resnet, images_BCHW):
    """GELU and its tanh approximation are two activations: the difference is named and can be set."""
    exact = replaced(resnet, nn.ReLU, nn.GELU)
    rough = replaced(resnet, nn.ReLU, lambda: nn.GELU(approximate="tanh"))
    for source, target in ((exact, rough), (rough, exact)):
        assert {one.name for one in check_settings(source, target, images_BCHW)} == {"operation"}


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.MaxPool2d(3, 2, 1, ceil_mode=True),
        lambda: nn.MaxPool2d(3, 2, 0),
        lambda: nn.MaxPool2d(2, 2),
        lambda: nn.AvgPool2d(3, 2, 1),
        lambda: nn.AvgPool2d(3, 2, 1, count_include_pad=False),
    ],
    ids=["ceil", "padding", "kernel", "average", "average of the inside"],
)
def test_the_pooling_is_named(make, resnet, images_BCHW):
    """Where the stem pools otherwise, that pool and nothing else is named."""
    (found,) = check_settings(replaced(resnet, nn.MaxPool2d, make), resnet, images_BCHW)
    assert (found.module, found.name, found.source[0]) == ("maxpool", "operation", type(make()).__name__)


def changed(model: nn.Module, path: str, **values: object) -> nn.Module:
    """A copy with other attributes on one module."""
    made = copy.deepcopy(model)
    for name, value in values.items():
        assert getattr(made.get_submodule(path), name) != value
        setattr(made.get_submodule(path), name, value)
    return made


@pytest.mark.parametrize(
    ("path", "name", "value"),
    [
        ("layer1.0.bn1", "eps", 0.1),
        ("conv1.0", "padding", (0, 2)),
        ("layer1.0.conv1", "padding_mode", "reflect"),
        ("conv1.3", "stride", (2, 1)),
        ("fc", None, None),
    ],
)
def test_a_layers_hyperparameter_is_named(path, name, value, resnet, images_BCHW):
    """One layer's eps, padding, padding mode or stride that differs is named, and nothing else is."""
    if name is None:
        assert match_weights(copy.deepcopy(resnet), resnet).settings == ()
        return
    (found,) = check_settings(changed(resnet, path, **{name: value}), resnet, images_BCHW)
    assert (found.module, found.name, found.source) == (path, name, value)


def test_padding_and_its_mode_go_together(resnet, images_BCHW):
    """A convolution that pads by reflection still does so after its padding was set to the source's."""
    target, source = copy.deepcopy(resnet), copy.deepcopy(resnet)
    for model, padding in ((target, (1, 1)), (source, (0, 2))):
        old = model.conv1[0]
        options = {"stride": old.stride, "padding": padding, "padding_mode": "reflect", "bias": False}
        model.conv1[0] = nn.Conv2d(old.in_channels, old.out_channels, old.kernel_size, **options)
        model.conv1[0].weight = old.weight
    (found,) = check_settings(source, target, images_BCHW)
    assert (found.module, found.name, found.source) == ("conv1.0", "padding", (0, 2))


def test_a_transformers_hyperparameters_are_named(vit, images_BCHW):
    """Layer norm's eps and the number of attention's heads, which no tensor's shape tells, are named."""
    source = changed(vit, "blocks.1.norm1", eps=0.5)
    source = changed(source, "blocks.2.attn", num_heads=4, head_dim=16, scale=16**-0.5)
    found = {(one.module, one.name): one.source for one in check_settings(source, vit, images_BCHW)}
    assert found == {("blocks.1.norm1", "eps"): 0.5, ("blocks.2.attn", "num_heads"): 4}


class InCode(nn.Module):
    """A network whose activation no module holds."""

    def __init__(self, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.one, self.two, self.fc = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 2)
        self.activation = activation

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return self.fc(self.activation(self.two(self.activation(self.one(images_BCHW)))).mean((2, 3)))


def test_what_the_models_code_says_is_named_and_refused():
    """An activation that only the model's code can change is named, and weights that need another are no match."""
    torch.manual_seed(0)
    match = match_weights(InCode(torch.relu), InCode(F.silu))
    assert {(one.source[0], one.target[0]) for one in match.settings} == {("ReLU", "SiLU")}
    assert "code calls it itself" in match.unproved or any("different" in problem for problem in match.problems())
    assert match.problems()
    with pytest.raises(WeightsError):
        match.state()
    with pytest.raises(FinefoldError):
        match.load_into(InCode(F.silu))


def wrong_swaps(model: nn.Module, count: int) -> list[dict[str, str]]:
    """Hints that lay two layers of one shape onto each other's place."""
    found = []
    layers = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d | nn.LayerNorm)
    ]
    for place, (name, module) in enumerate(layers):
        for other_name, other in layers[place + 1 :]:
            if {k: v.shape for k, v in module.state_dict().items()} == {
                k: v.shape for k, v in other.state_dict().items()
            }:
                found.append({f"{name}.weight": f"{other_name}.weight", f"{other_name}.weight": f"{name}.weight"})
                break
    return found[:: max(1, len(found) // count)]


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_efficientnet", "test_convnext", "test_mambaout"])
def test_the_proof_fails_for_every_wrong_place(name):
    """Two layers of one shape in each other's place are refused by the proof, wherever they stand, freshly made."""
    torch.manual_seed(0)
    source, target = timm.create_model(name).eval(), timm.create_model(name).eval()
    swaps = wrong_swaps(source, 12)
    assert swaps
    for hints in swaps:
        match = match_weights(source, target, hints=hints)
        assert not match.is_proved, f"{hints} passed with {match.proof}"
        assert match.problems(), f"{hints} passed: {match.unproved}"


class Residual(nn.Module):
    """A sum of branches, each with a gain."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.stem, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1)) for _ in range(3)
        )
        with torch.no_grad():
            for block in self.blocks:
                block[3].weight.mul_(gain)
                block[3].bias.mul_(gain)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        x = self.stem(images_BCHW)
        for block in self.blocks:
            x = x + block(x)
        return self.fc(x.mean((2, 3)))


@pytest.mark.parametrize("gain", [1.0, 1e-6])
def test_a_wrong_place_is_not_hidden_by_small_weights(gain):
    """The proof holds of the structure: what is in the wrong place is refused also where its weights are tiny."""
    torch.manual_seed(0)
    source, target = Residual(gain), Residual(gain)
    assert match_weights(source, target).is_proved
    swapped = {"blocks.0.0.weight": "blocks.1.0.weight", "blocks.1.0.weight": "blocks.0.0.weight"}
    match = match_weights(source, target, hints=swapped)
    assert not match.is_proved
    assert match.problems()


def lite0(state: dict[str, Tensor], images_BCHW: Tensor, seen: list[tuple[str, Tensor]] | None = None) -> Tensor:
    """EfficientNet-Lite0 written from its paper's table and TensorFlow's padding, on the package's own names.

    Args:
        state: the package's tensors.
        images_BCHW: normalised.
        seen: gets what goes into each batch norm, by its name.
    """

    def conv(x: Tensor, name: str, stride: int = 1, groups: int = 1) -> Tensor:
        weight = state[f"{name}.weight"]
        size, kernel = x.shape[-1], weight.shape[-1]
        missing = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        ends = (missing // 2, missing - missing // 2) * 2
        return F.conv2d(F.pad(x, ends), weight, stride=stride, groups=groups)

    def norm(x: Tensor, name: str) -> Tensor:
        if seen is not None:
            seen.append((name, x))
        mean, var, weight, bias = (
            state[f"{name}.{role}"].view(1, -1, 1, 1) for role in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-3).sqrt() * weight + bias

    x = norm(conv(images_BCHW, "_conv_stem", 2), "_bn0").clamp(0, 6)
    place = 0
    for repeats, first_stride in ((1, 1), (2, 2), (2, 2), (3, 2), (3, 1), (4, 2), (1, 1)):
        for repeat in range(repeats):
            name, before = f"_blocks.{place}", x
            if f"{name}._expand_conv.weight" in state:
                x = norm(conv(x, f"{name}._expand_conv"), f"{name}._bn0").clamp(0, 6)
            stride = first_stride if repeat == 0 else 1
            x = norm(conv(x, f"{name}._depthwise_conv", stride, x.shape[1]), f"{name}._bn1").clamp(0, 6)
            x = norm(conv(x, f"{name}._project_conv"), f"{name}._bn2")
            x = x + before if repeat else x
            place += 1
    x = norm(conv(x, "_conv_head"), "_bn1").clamp(0, 6)
    return x.mean((2, 3)) @ state["_fc.weight"].T + state["_fc.bias"]


@pytest.fixture(scope="module")
def portraits_BCHW() -> Tensor:
    images = torch.stack([torch.from_numpy(image) for image in portrait_batch(6, size_px=(224, 224))])
    return (images.permute(0, 3, 1, 2).float() - 127) / 128


@pytest.fixture(scope="module")
def embedded() -> Match:
    return match_weights(embedded_file(), build_model(LITE0))


def test_the_embedded_weights_compute_efficientnet_lite0(embedded, portraits_BCHW):
    """On timm's model the embedded weights give what their own architecture, written out here, gives for portraits."""
    model = build_model(LITE0)
    embedded.load_into(model)
    expected_BK = lite0(read_state(embedded_file()), portraits_BCHW)
    assert difference(expected_BK[1:], expected_BK[:-1]) > 0.01
    assert difference(run(model, portraits_BCHW), expected_BK) <= TOLERANCE
    assert embedded.settings == ()
    assert embedded.problems() == []


def hand_made_names() -> dict[str, str]:
    """timm's names of EfficientNet-Lite0 -> the package's, told by reading both."""
    layers = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1", "classifier": "_fc"}
    place = 0
    for stage, repeats in enumerate((1, 2, 2, 3, 3, 4, 1)):
        for repeat in range(repeats):
            own, theirs = f"blocks.{stage}.{repeat}", f"_blocks.{place}"
            if stage == 0:
                parts = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
            else:
                parts = {"conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv"}
                parts |= {"bn2": "_bn1", "conv_pwl": "_project_conv", "bn3": "_bn2"}
            layers |= {f"{own}.{one}": f"{theirs}.{other}" for one, other in parts.items()}
            place += 1
    return layers


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("channels", [3, 1])
def test_the_embedded_names_are_those_a_reader_would_choose(suffix, channels, tmp_path):
    """Every tensor of the embedded weights lies where names read by a person say, sorted or not."""
    file = embedded_file()
    if suffix == ".safetensors":
        file = tmp_path / "lite0.safetensors"
        state = {key: tensor.contiguous() for key, tensor in read_state(embedded_file()).items()}
        safetensors.torch.save_file(state, file)
    match = match_weights(file, build_model(LITE0, channels=channels))
    layers = hand_made_names()
    parts = {key: key.rpartition(".") for key in build_model(LITE0).state_dict()}
    assert {one.key: one.sources for one in match.layout.placed} == {
        key: (f"{layers[path]}.{role}",) for key, (path, _, role) in parts.items()
    }
    assert not match.layout.ambiguous
    assert match.problems() == []


def test_the_embedded_statistics_are_those_of_what_flows(embedded, portraits_BCHW):
    """Portraits flow through batch norms as their statistics say, and better so than with two layers swapped."""
    state = read_state(embedded_file())

    def misfit(tensors: dict[str, Tensor]) -> float:
        seen: list[tuple[str, Tensor]] = []
        lite0(tensors, portraits_BCHW, seen)
        errors = [
            (x.mean((0, 2, 3)) - tensors[f"{name}.running_mean"]) / (tensors[f"{name}.running_var"] + 1e-3).sqrt()
            for name, x in seen
        ]
        return float(torch.stack([error.abs().mean() for error in errors]).mean())

    laid = embedded.state()
    layers = [(own, theirs) for own, theirs in hand_made_names().items() if own != "classifier"]
    found = {f"{theirs}.{role}": laid[f"{own}.{role}"] for own, theirs in layers for role in roles(laid, own)}
    right = misfit(state | found)
    for one, other in (("_blocks.6", "_blocks.7"), ("_blocks.9", "_blocks.10"), ("_blocks.12", "_blocks.13")):
        swapped = dict(state)
        for key in state:
            if key.startswith((f"{one}._expand_conv", f"{one}._bn0")):
                twin = key.replace(one, other)
                swapped[key], swapped[twin] = state[twin], state[key]
        assert misfit(swapped) > 1.05 * right


def roles(state: dict[str, Tensor], layer: str) -> list[str]:
    return [key.rpartition(".")[2] for key in state if key.rpartition(".")[0] == layer]


def test_a_backbone_of_foreign_weights_computes_the_same(tmp_path, images_BCHW):
    """`find_backbone` on another library's file keeps its settings: the features are the source's own, once reread."""
    from finefold.nn.backbones import find_backbone

    source = enliven(build_model("torchvision:mobilenet_v3_small"), images_BCHW)
    torch.save(source.state_dict(), tmp_path / "small.pth")
    backbone = find_backbone("mobilenetv3_small_100", str(tmp_path / "small.pth"), size_px=160)
    module = backbone.build()
    raw_BHWC = torch.randint(0, 256, (3, 160, 160, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    source.classifier[-1] = nn.Identity()
    expected_BD = run(source, (raw_BHWC.permute(0, 3, 1, 2).float() - module.mean) / module.std)
    assert difference(run(module, raw_BHWC), expected_BD) <= TOLERANCE


def test_a_file_that_two_models_have_the_keys_of_is_not_proved_for_the_wrong_one(images_BCHW, tmp_path):
    """timm's efficientnet_b0 and tf_efficientnet_b0 have the same keys and pad otherwise: none is taken in silence."""
    source, target = enliven(build_model("tf_efficientnet_b0"), images_BCHW), build_model("torchvision:efficientnet_b0")
    torch.save(source.state_dict(), tmp_path / "w.pth")
    found = identify_model(read_state(tmp_path / "w.pth"), "torchvision:efficientnet_b0")
    match = match_weights(tmp_path / "w.pth", target, source_model=found.model if found else None)
    if match.is_proved:
        match.load_into(target)
        assert difference(run(target, images_BCHW), run(source, images_BCHW)) <= TOLERANCE


def test_a_backbone_of_another_architecture_is_refused(tmp_path):
    """EfficientNet-B0's weights are not EfficientNet-Lite0's, though Lite0 has no tensor that B0 has not."""
    from finefold.nn.backbones import find_backbone

    torch.save(build_model("efficientnet_b0").state_dict(), tmp_path / "b0.pth")
    with pytest.raises(WeightsError, match=r"b0.pth does not fit tf_efficientnet_lite0"):
        find_backbone(LITE0, str(tmp_path / "b0.pth"))


def test_errors_are_finefolds_own():
    """A model that is not the file's is an error with a reason, never a crash in torch."""
    state = build_model("torchvision:resnet18").state_dict()
    for wrong in ("torchvision:resnet34", "torchvision:vgg11", "torchvision:mobilenet_v3_small"):
        with pytest.raises(FinefoldError):
            match_weights(dict(state), build_model("resnet18"), source_model=build_model(wrong)).load_into(
                build_model("resnet18")
            )
