"""A name -> a pretrained network without its classifier, and the preprocessing it was trained with.

Shapes: B images, H x W pixels, D features.
"""

import hashlib
import json
import shutil
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from finefold.data.cachedir import cache_root, write_about
from finefold.data.machine import versions
from finefold.data.preprocessing import Fit, Interpolation, Preprocessing
from finefold.errors import WeightsError
from finefold.nn.catalogue import build_model, find_name, timm_library
from finefold.nn.comparing import does_not_run
from finefold.nn.cutting import Cut, cut
from finefold.nn.finding import EMBEDDED_BACKBONE, embedded_file
from finefold.nn.identify import identify_model
from finefold.nn.settings import Setting, apply_settings
from finefold.nn.units import COUNTER
from finefold.nn.weights import (
    file_hash,
    load_values,
    read_header,
    read_state,
    state_hash,
    whole_or_nothing,
    write_weights,
)

POOLED = "pooled"  # the whole network, up to its pooled features
OWN = "own:"  # begins the name of a user's own module
IMAGES = "images"  # nothing of it: the images as they go in


class Frozen(nn.Module):
    """uint8 images as they come -> mean and std applied, then the network or the first part of it, nothing trainable.

    The whole network's features come as [B, D], a part's as the maps that they are.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, preprocessing: Preprocessing, *, is_part: bool = False) -> None:
        super().__init__()
        self.network = network
        self.is_part = is_part
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(preprocessing.std).view(1, 3, 1, 1))

    def forward(self, images_BHWC: Tensor) -> Tensor:
        found = cast(Tensor, self.network(self.normalised(images_BHWC)))
        return found if self.is_part else found.flatten(1)

    def normalised(self, images_BHWC: Tensor) -> Tensor:
        """uint8 [B, H, W, 3] -> float32 [B, 3, H, W], what the network itself takes."""
        images_BCHW = images_BHWC.permute(0, 3, 1, 2).float()
        return (images_BCHW - self.mean) / self.std


@dataclass(frozen=True)
class Backbone:
    """A frozen feature extractor, kept as one file; the network is built only when something asks for it.

    Args:
        file: safetensors whose header holds the other fields.
        name: a timm name, or `torchvision:<name>`.
        preprocessing: what makes an image its input.
        weights_hash: over the network's tensors.
        num_features: D.
        cut: how far it is run: POOLED, IMAGES, or a cut point's name.
        shape: of what that gives for one image.
        own: the user's module, where the name is of no library; its weights are the file's.
        opened: what `find_cuts` opened of it, where that was asked before; cutting it is quicker then.
    """

    file: Path
    name: str
    preprocessing: Preprocessing
    weights_hash: str
    num_features: int
    cut: str = POOLED
    shape: tuple[int, ...] = ()
    own: nn.Module | None = field(default=None, compare=False, repr=False)
    opened: frozenset[str] | None = field(default=None, compare=False, repr=False)

    def until(self, at: str, shape: tuple[int, ...]) -> "Backbone":
        """The same network, run only so far.

        Args:
            at: POOLED, IMAGES, or a cut point's name.
            shape: of what is there for one image.
        """
        return replace(self, cut=at, shape=shape)

    @classmethod
    def read(cls, file: Path) -> "Backbone":
        """The backbone in `file`, by its header alone.

        Raises:
            WeightsError: no such file, or not a backbone.
        """
        header = read_header(file)
        if header.get("kind") != "backbone":
            raise WeightsError(f"{file} holds no backbone", "give the backbone.safetensors of a run")
        preprocessing = Preprocessing.from_dict(header["preprocessing"])
        num_features = header["num_features"]
        return cls(file, header["name"], preprocessing, header["weights_hash"], num_features, shape=(num_features,))

    def copy_to(self, file: Path) -> None:
        """Puts the backbone into `file`, so that a run needs no cache."""
        with whole_or_nothing(file) as unfinished:
            shutil.copyfile(self.file, unfinished)

    def build(self) -> Frozen:
        """The network: uint8 [B, H, W, 3] -> float [B, D], in evaluation mode, nothing trainable; or its first part."""
        network = self.build_network()
        if self.cut == POOLED:
            return Frozen(network, self.preprocessing).eval().requires_grad_(False)
        prefix = nn.Identity() if self.cut == IMAGES else self.cut_network(network).prefix
        return Frozen(prefix, self.preprocessing, is_part=True).eval().requires_grad_(False)

    def cut_network(self, network: nn.Module) -> Cut:
        """The network, which `build_network` gave, in two parts at this backbone's cut."""
        return cut(network, self.cut, example=self.example(), opened=self.opened)

    def example(self) -> Tensor:
        """[1, 3, H, W] random numbers of the size that this backbone sees."""
        rng = torch.Generator().manual_seed(0)
        return torch.randn(1, 3, self.preprocessing.height_px, self.preprocessing.width_px, generator=rng)

    def build_network(self) -> nn.Module:
        """The whole network with its weights, on normalised images [B, 3, H, W].

        Raises:
            WeightsError: it is a user's own, and was not given.
        """
        if self.own is not None:
            copy = deepcopy(self.own).eval()
            load_values(copy, read_state(self.file))
            return copy
        if self.name.startswith(OWN):
            raise WeightsError(
                f"the backbone `{self.name.removeprefix(OWN)}` is a module of your own",
                "give it from Python: finefold.open_run(RUN, network=...), or model=... where it was a whole model",
            )
        network, _ = build_body(self.name, pretrained=False)
        apply_settings(network, [Setting.from_dict(values) for values in read_header(self.file).get("settings", [])])
        load_values(network, read_state(self.file))
        return network


def find_backbone(
    name: str,
    weights: str,
    *,
    size_px: int | None = None,
    crop_fraction: float | None = None,
    fit: Fit | None = None,
    centre: tuple[int, int] | None = None,
    grey: bool = False,
    clahe: float = 0.0,
) -> Backbone:
    """The backbone called `name` with its weights, in finefold's own form in the cache; made where missing.

    Args:
        name: a timm name, or `torchvision:<name>`.
        weights: "embedded", "pretrained" (the only value that uses the network), or a file.
        size_px, crop_fraction, fit: departures from the backbone's own preprocessing.
        centre, grey, clahe: what its preprocessing does besides, see `Preprocessing`.

    Raises:
        WeightsError: unknown name, missing weights, or weights that do not fit.
    """
    source = (
        None if weights == "pretrained" else embedded_file() if weights == "embedded" else Path(weights).expanduser()
    )
    if weights == "embedded" and name != EMBEDDED_BACKBONE:
        raise WeightsError(f"the embedded weights are {EMBEDDED_BACKBONE}'s, not {name}'s", "give a weights file")
    origin = "pretrained" if source is None else file_hash(source)
    address = [name, origin, weights == "embedded", size_px, crop_fraction, fit, versions()["timm"]]
    if (centre, grey, clahe) != (None, False, 0.0):  # else what was cached before there was a choice stays valid
        address += [centre, grey, clahe]
    folder = cache_root() / "backbones" / hashlib.sha256(json.dumps(address).encode()).hexdigest()[:16]
    file = folder / "backbone.safetensors"
    if not file.is_file():
        network, preprocessing, settings = _load(name, source, is_embedded=weights == "embedded")
        preprocessing = replace(
            preprocessing,
            height_px=size_px or preprocessing.height_px,
            width_px=size_px or preprocessing.width_px,
            crop_fraction=crop_fraction or preprocessing.crop_fraction,
            fit=fit or preprocessing.fit,
            centre=centre,
            grey=grey,
            clahe=clahe,
        )
        _write(file, name, network, preprocessing, settings)
    write_about(folder, {"kind": "backbones", "what": f"{name}, {weights} weights"})
    return Backbone.read(file)


def own_backbone(network: nn.Module, preprocessing: Preprocessing) -> Backbone:
    """A user's own module as a backbone, kept in the cache like any other.

    Args:
        network: normalised images [B, 3, H, W] -> features [B, D] (or maps, which are flattened).
        preprocessing: what makes an image its input; mean and std are applied for it.

    Raises:
        ModelError: it does not run on images of that size.
    """
    state = {name: tensor.detach() for name, tensor in network.state_dict().items()}
    name = f"{OWN}{type(network).__name__}-{state_hash(state)[:8]}"
    address = [name, str(network), preprocessing.hash, torch.__version__]
    folder = cache_root() / "backbones" / hashlib.sha256(json.dumps(address).encode()).hexdigest()[:16]
    file = folder / "backbone.safetensors"
    if not file.is_file():
        blank = torch.zeros(1, 3, preprocessing.height_px, preprocessing.width_px)
        try:
            with torch.inference_mode():
                deepcopy(network).eval()(blank)
        except Exception as reason:
            raise does_not_run(blank, reason) from reason
        _write(file, name, network, preprocessing, ())
    write_about(folder, {"kind": "backbones", "what": f"{type(network).__name__}, your own"})
    return replace(Backbone.read(file), own=network)


def _load(name: str, source: Path | None, *, is_embedded: bool) -> tuple[nn.Module, Preprocessing, tuple[Setting, ...]]:
    """The network with its weights, and the hyperparameters that came with them."""
    from finefold.nn.transplant import match_weights  # with scipy.optimize, for weights that are not laid out yet

    network, preprocessing = build_body(name, pretrained=source is None)
    if source is None:
        return network, preprocessing, ()
    state = read_state(source)
    has_names = all(key in state for key in network.state_dict() if not key.endswith(COUNTER))
    found = None if is_embedded or has_names else identify_model(state, name)
    match = match_weights(source, network, source_model=found.model if found else None)
    try:
        match.load_into(network)
    except WeightsError as reason:
        raise WeightsError(
            f"{source} does not fit {name}: {'; '.join(match.problems())}",
            f"`finefold weights match {source} {name}` shows what goes where; "
            "or use weights of the same architecture, or another `model.backbone`",
        ) from reason
    if is_embedded:  # the package's (x - 127) / 128
        preprocessing = replace(preprocessing, mean=(127.0, 127.0, 127.0), std=(128.0, 128.0, 128.0))
    return network, preprocessing, match.settings


def _write(
    file: Path, name: str, network: nn.Module, preprocessing: Preprocessing, settings: tuple[Setting, ...]
) -> None:
    module = Frozen(deepcopy(network), preprocessing).eval()
    blank = torch.zeros(1, preprocessing.height_px, preprocessing.width_px, 3, dtype=torch.uint8)
    with torch.inference_mode():
        num_features = int(module(blank).shape[1])
    plain = [setting.to_dict() for setting in settings]
    weights_hash = state_hash(network.state_dict())
    if plain:  # the same tensors with another eps are another network
        weights_hash = hashlib.sha256(f"{weights_hash} {json.dumps(plain)}".encode()).hexdigest()[:16]
    header = {
        "kind": "backbone",
        "name": name,
        "preprocessing": preprocessing.to_dict(),
        "weights_hash": weights_hash,
        "num_features": num_features,
        "settings": plain,
    }
    write_weights(file, network.state_dict(), header)


def own_preprocessing(name: str, network: nn.Module) -> Preprocessing:
    """What the makers of a model say its input is.

    Args:
        name: a timm or torchvision name.
        network: the model of that name, or its backbone.
    """
    found = find_name(name)
    return _timm_preprocessing(network) if found.library == "timm" else _torchvision_preprocessing(found.plain)


def build_body(name: str, *, pretrained: bool) -> tuple[nn.Module, Preprocessing]:
    """The network called `name` without its classifier, on normalised images [B, 3, H, W], and what its input is.

    Args:
        name: a timm name, or `torchvision:<name>`.
        pretrained: download its makers' weights; random ones otherwise.

    Raises:
        ModelError: no such model, or it cannot be built.
    """
    found = find_name(name)
    if found.library == "timm":
        network = build_model(name, pretrained=pretrained, num_classes=0)
        return network, own_preprocessing(name, network)
    network = build_model(name, pretrained=pretrained)
    for classifier in ("fc", "classifier", "heads", "head"):
        if hasattr(network, classifier):
            setattr(network, classifier, nn.Identity())
            network.num_classes = 0  # type: ignore[assignment]
            break
    return network, own_preprocessing(name, network)


def _timm_preprocessing(network: nn.Module) -> Preprocessing:
    config = timm_library().data.resolve_data_config({}, model=network)
    height, width = config["input_size"][1:]
    return Preprocessing(
        height,
        width,
        crop_fraction=float(config["crop_pct"]),
        fit="squash" if config.get("crop_mode") == "squash" else "crop",
        interpolation=_interpolation(str(config["interpolation"])),
        mean=_bytes_scale(config["mean"]),
        std=_bytes_scale(config["std"]),
    )


def _torchvision_preprocessing(name: str) -> Preprocessing:
    from torchvision import models

    transforms: Any = models.get_model_weights(name).DEFAULT.transforms()
    crop, resize = transforms.crop_size[0], transforms.resize_size[0]
    interpolation = _interpolation(transforms.interpolation.value)
    mean, std = _bytes_scale(transforms.mean), _bytes_scale(transforms.std)
    return Preprocessing(crop, crop, crop / resize, "crop", interpolation, mean, std)


def _bytes_scale(values: Any) -> tuple[float, float, float]:
    red, green, blue = (round(float(value) * 255, 6) for value in values)
    return red, green, blue


def _interpolation(name: str) -> Interpolation:
    known: dict[str, Literal["nearest", "bilinear", "bicubic", "lanczos"]] = {
        "nearest": "nearest",
        "bilinear": "bilinear",
        "bicubic": "bicubic",
        "lanczos": "lanczos",
    }
    return known.get(name, "bicubic")
