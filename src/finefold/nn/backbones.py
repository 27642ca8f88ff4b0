"""A name -> a pretrained network without its classifier, and the preprocessing it was trained with.

Shapes: B images, H x W pixels, D features.
"""

import hashlib
import json
import os
import shutil
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from finefold.data.cachedir import cache_root, write_about
from finefold.data.machine import versions
from finefold.data.preprocessing import Fit, Interpolation, Preprocessing
from finefold.errors import WeightsError
from finefold.nn.weights import (
    State,
    embedded_file,
    file_hash,
    lay_onto,
    read_header,
    read_state,
    state_hash,
    whole_or_nothing,
    write_weights,
)

EMBEDDED_BACKBONE = "tf_efficientnet_lite0"
TORCHVISION = "torchvision:"


class Frozen(nn.Module):
    """uint8 images as they come -> features: mean and std, then the network, nothing trainable."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(preprocessing.std).view(1, 3, 1, 1))

    def forward(self, images_BHWC: Tensor) -> Tensor:
        images_BCHW = images_BHWC.permute(0, 3, 1, 2).float()
        return cast(Tensor, self.network((images_BCHW - self.mean) / self.std).flatten(1))


@dataclass(frozen=True)
class Backbone:
    """A frozen feature extractor, kept as one file; the network is built only when something asks for it.

    Args:
        file: safetensors whose header holds the other fields.
        name: a timm name, or `torchvision:<name>`.
        preprocessing: what makes an image its input.
        weights_hash: over the network's tensors.
        num_features: D.
    """

    file: Path
    name: str
    preprocessing: Preprocessing
    weights_hash: str
    num_features: int

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
        return cls(file, header["name"], preprocessing, header["weights_hash"], header["num_features"])

    def copy_to(self, file: Path) -> None:
        """Puts the backbone into `file`, so that a run needs no cache."""
        with whole_or_nothing(file) as unfinished:
            shutil.copyfile(self.file, unfinished)

    def build(self) -> Frozen:
        """The network: uint8 [B, H, W, 3] -> float [B, D], in evaluation mode, nothing trainable."""
        network, _ = _build(self.name, pretrained=False)
        lay_onto(network, read_state(self.file), where=str(self.file))
        return Frozen(network, self.preprocessing).eval().requires_grad_(False)


def find_backbone(
    name: str,
    weights: str,
    *,
    size_px: int | None = None,
    crop_fraction: float | None = None,
    fit: Fit | None = None,
) -> Backbone:
    """The backbone called `name` with its weights, in finefold's own form in the cache; made where missing.

    Args:
        name: a timm name, or `torchvision:<name>`.
        weights: "embedded", "pretrained" (the only value that uses the network), or a file.
        size_px, crop_fraction, fit: departures from the backbone's own preprocessing.

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
    folder = cache_root() / "backbones" / hashlib.sha256(json.dumps(address).encode()).hexdigest()[:16]
    file = folder / "backbone.safetensors"
    if not file.is_file():
        network, preprocessing = _load(name, source, is_embedded=weights == "embedded")
        preprocessing = replace(
            preprocessing,
            height_px=size_px or preprocessing.height_px,
            width_px=size_px or preprocessing.width_px,
            crop_fraction=crop_fraction or preprocessing.crop_fraction,
            fit=fit or preprocessing.fit,
        )
        _write(file, name, network, preprocessing)
    write_about(folder, {"kind": "backbones", "what": f"{name}, {weights} weights"})
    return Backbone.read(file)


def _load(name: str, source: Path | None, *, is_embedded: bool) -> tuple[nn.Module, Preprocessing]:
    network, preprocessing = _build(name, pretrained=source is None)
    if source is not None:
        lay_onto(network, _without_classifier(read_state(source)), where=str(source))
    if is_embedded:  # the package's (x - 127) / 128
        preprocessing = replace(preprocessing, mean=(127.0, 127.0, 127.0), std=(128.0, 128.0, 128.0))
    return network, preprocessing


def _write(file: Path, name: str, network: nn.Module, preprocessing: Preprocessing) -> None:
    module = Frozen(network, preprocessing).eval()
    blank = torch.zeros(1, preprocessing.height_px, preprocessing.width_px, 3, dtype=torch.uint8)
    with torch.inference_mode():
        num_features = int(module(blank).shape[1])
    header = {
        "kind": "backbone",
        "name": name,
        "preprocessing": preprocessing.to_dict(),
        "weights_hash": state_hash(network.state_dict()),
        "num_features": num_features,
    }
    write_weights(file, network.state_dict(), header)


def _without_classifier(state: State) -> State:
    """The backbone has no place for a classifier, whatever it is called."""
    return {key: value for key, value in state.items() if not key.startswith(("classifier.", "fc.", "head.fc."))}


def _build(name: str, *, pretrained: bool) -> tuple[nn.Module, Preprocessing]:
    return _build_torchvision(name, pretrained) if name.startswith(TORCHVISION) else _build_timm(name, pretrained)


def _build_timm(name: str, pretrained: bool) -> tuple[nn.Module, Preprocessing]:
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    import timm

    if not timm.is_model(name):
        raise _unknown(name, timm.list_models())
    try:
        network = timm.create_model(name, pretrained=pretrained, num_classes=0)
    except (OSError, RuntimeError) as reason:
        raise _not_downloaded(name, reason) from reason
    config = timm.data.resolve_data_config({}, model=network)
    height, width = config["input_size"][1:]
    preprocessing = Preprocessing(
        height,
        width,
        crop_fraction=float(config["crop_pct"]),
        fit="squash" if config.get("crop_mode") == "squash" else "crop",
        interpolation=_interpolation(str(config["interpolation"])),
        mean=_bytes_scale(config["mean"]),
        std=_bytes_scale(config["std"]),
    )
    return network, preprocessing


def _build_torchvision(name: str, pretrained: bool) -> tuple[nn.Module, Preprocessing]:
    from torchvision import models

    known = models.list_models(module=models)
    plain = name.removeprefix(TORCHVISION)
    if plain not in known:
        raise _unknown(name, [TORCHVISION + model for model in known])
    best = models.get_model_weights(plain).DEFAULT
    try:
        network = models.get_model(plain, weights=best if pretrained else None)
    except (OSError, RuntimeError) as reason:
        raise _not_downloaded(name, reason) from reason
    for classifier in ("fc", "classifier", "heads", "head"):
        if hasattr(network, classifier):
            setattr(network, classifier, nn.Identity())
            break
    transforms: Any = best.transforms()
    crop, resize = transforms.crop_size[0], transforms.resize_size[0]
    interpolation = _interpolation(transforms.interpolation.value)
    mean, std = _bytes_scale(transforms.mean), _bytes_scale(transforms.std)
    return network, Preprocessing(crop, crop, crop / resize, "crop", interpolation, mean, std)


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


def _unknown(name: str, known: list[str]) -> WeightsError:
    near = get_close_matches(name, known, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "give a timm name, or torchvision:<name>"
    return WeightsError(f"there is no backbone `{name}`", hint)


def _not_downloaded(name: str, reason: Exception) -> WeightsError:
    return WeightsError(
        f"the pretrained weights of {name} could not be downloaded: {str(reason).splitlines()[0][:160]}",
        "give `model.weights` a file that lies on this machine, or use the embedded tf_efficientnet_lite0",
    )
