"""A name -> a whole classifier, from timm or torchvision: built here, downloaded only where that was asked for."""

import os
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, cast

import torch
from torch import Tensor, nn

from finefold.errors import ModelError, WeightsError

TORCHVISION = "torchvision:"
TIMM = "timm:"
DEFAULT_INPUT = (3, 224, 224)
_EXAMPLE_SEED = 0


@dataclass(frozen=True)
class ModelName:
    """Whose model, and which.

    Args:
        library: "timm" or "torchvision".
        plain: its name there.
    """

    library: str
    plain: str

    def __str__(self) -> str:
        return self.plain if self.library == "timm" else TORCHVISION + self.plain


def find_name(name: str) -> ModelName:
    """The model that a name means: timm's where both libraries have one, unless `torchvision:` stands before it.

    Raises:
        WeightsError: neither library knows it; near names are suggested.
    """
    if not name.removeprefix(TORCHVISION).removeprefix(TIMM):
        raise WeightsError(f"`{name}` names no model", "write a name behind it, as in torchvision:resnet18 or resnet18")
    if name.startswith(TORCHVISION):
        plain = name.removeprefix(TORCHVISION)
        if plain not in torchvision_names():
            raise _unknown(name, [TORCHVISION + known for known in torchvision_names()])
        return ModelName("torchvision", plain)
    timm = timm_library()
    plain = name.removeprefix(TIMM)
    if timm.is_model(plain):
        return ModelName("timm", plain)
    if plain == name and name in torchvision_names():
        return ModelName("torchvision", name)
    raise _unknown(name, [*timm.list_models(), *torchvision_names()])


def torchvision_names() -> list[str]:
    """Names of torchvision's image classifiers."""
    from torchvision import models

    return cast(list[str], models.list_models(module=models))


def build_model(name: str, *, pretrained: bool = False, num_classes: int | None = None, channels: int = 3) -> nn.Module:
    """A whole classifier in evaluation mode, with random weights unless `pretrained`, which downloads.

    Args:
        name: a timm or torchvision name.
        pretrained: fetch the weights its makers published.
        num_classes: outputs of the classifier; its makers' number (mostly 1,000) by default; 0 leaves it out
            (timm only).
        channels: of the images (timm only).

    Raises:
        WeightsError: unknown name, or weights that cannot be downloaded.
        ModelError: the library cannot build it so; torchvision has neither other channels nor models without a head.
    """
    found = find_name(name)
    if found.library == "torchvision" and (channels != DEFAULT_INPUT[0] or num_classes == 0):
        what = "no head" if num_classes == 0 else f"{channels} channels"
        raise ModelError(f"{found} cannot be built with {what}", "timm's models can: give a timm name")
    sizes = {} if num_classes is None else {"num_classes": num_classes}
    try:
        if found.library == "timm":
            kinds = {} if channels == DEFAULT_INPUT[0] else {"in_chans": channels}
            model = timm_library().create_model(found.plain, pretrained=pretrained, **sizes, **kinds)
        else:
            model = _build_torchvision(found.plain, pretrained, sizes)
    except (OSError, RuntimeError, ValueError) as reason:
        if pretrained:
            raise not_downloaded(str(found), reason) from reason
        raise ModelError(f"{found} cannot be built: {reason}", "try another name") from reason
    return cast(nn.Module, model.eval())


def _build_torchvision(name: str, pretrained: bool, sizes: dict[str, int]) -> Any:
    from torchvision import models

    # googlenet and inception_v3 warn about, and take minutes for, an initialisation nobody looks at
    quiet = {"init_weights": False} if name in ("googlenet", "inception_v3") and not pretrained else {}
    weights = models.get_model_weights(name).DEFAULT if pretrained else None
    return models.get_model(name, weights=weights, **sizes, **quiet)


def check_module(model: object) -> None:
    """Refuses what is given for a model and is none, a name above all.

    Raises:
        ModelError: with how to build one.
    """
    if isinstance(model, nn.Module):
        return
    if isinstance(model, str):
        raise ModelError(f"'{model}' is a name and not a model", f"build it first: ff.build_model('{model}')")
    hint = "give a torch.nn.Module; ff.build_model(name) builds one"
    if isinstance(model, type) and issubclass(model, nn.Module):
        hint = f"make one of it: {model.__name__}()"
    raise ModelError(f"{_short(model)} is not a model", hint)


def _short(value: object) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"


def input_shape(model: nn.Module) -> tuple[int, int, int]:
    """Channels, height and width that a model says it wants; 3 x 224 x 224 where it says nothing."""
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d) and module.groups == 1]
    channels, height, width = DEFAULT_INPUT
    config = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None)
    if config and config.get("input_size"):
        channels, height, width = (int(size) for size in config["input_size"])
        taken = convolutions[0].in_channels if convolutions else channels
        is_folded = taken in (4 * channels, 16 * channels)  # pixels are folded into channels before they are convolved
        return (channels if is_folded else taken), height, width
    image_size = getattr(model, "image_size", None)  # torchvision's vision transformers
    if isinstance(image_size, int):
        height = width = image_size
    if type(model).__name__ == "Inception3":
        height = width = 299
    found = {module.in_channels for module in convolutions}  # whichever was defined first, a stem takes few channels
    return (channels if channels in found or not found else min(found)), height, width


def example_images(model: nn.Module, *, count: int = 1) -> Tensor:
    """[count, C, H, W] random numbers of the shape a model wants, the same every time."""
    rng = torch.Generator().manual_seed(_EXAMPLE_SEED)
    return torch.randn(count, *input_shape(model), generator=rng)


def timm_library() -> Any:
    """timm, with the hub client's reports home off."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    import timm

    return timm


def _unknown(name: str, known: list[str]) -> WeightsError:
    near = get_close_matches(name, sorted(set(known)), n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "give a timm name, or torchvision:<name>"
    return WeightsError(f"there is no model `{name}`", hint)


def not_downloaded(name: str, reason: Exception) -> WeightsError:
    """The error of a download that failed, whose hint says how to do without."""
    return WeightsError(
        f"the pretrained weights of {name} could not be downloaded: {str(reason).splitlines()[0][:160]}",
        "give `model.weights` a file that lies on this machine, or use the embedded tf_efficientnet_lite0",
    )
