"""Whether weights mean the same on another model: both models run on the same images with the same values."""

from collections.abc import Mapping
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from finefold.errors import ModelError
from finefold.nn.adapting import lay_values
from finefold.nn.catalogue import input_shape
from finefold.nn.comparing import output_tensors, training_kept
from finefold.nn.cutting import on_device
from finefold.nn.dataflow import watch_flow
from finefold.nn.layout import CLASSIFIER_REASON, HEAD_REASON, Layout
from finefold.nn.settings import Setting, apply_settings, compare_modules, compare_operations
from finefold.nn.units import holds_weights
from finefold.nn.weights import State

TOLERANCE = 1e-5  # of outputs, relative to the largest; right matches differ by 1e-6 at most
_TINY = 1e-2  # a tensor with no larger value is made anew for the proof
_LIVELY = (
    1e-4  # outputs for two images must differ by this much, relative to the largest, or equal outputs prove nothing
)


@dataclass(frozen=True)
class Proof:
    """Both models run on the same input, with the same values in every matched tensor.

    Args:
        difference: largest difference of the outputs, relative to the largest output.
        difference_as_is: the same before the settings were applied.
        compared: "outputs", or "features" where the heads differ.
        shape: of what was compared.
        idle: tensors of the model that take no part in its output, of which the proof says nothing.
    """

    difference: float
    difference_as_is: float
    compared: str
    shape: tuple[int, ...]
    idle: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether the outputs are equal, once the settings are applied."""
        return self.difference <= TOLERANCE

    def __str__(self) -> str:
        before = ""
        if self.difference_as_is != self.difference:
            before = f" ({self.difference_as_is:.2g} before the settings are applied)"
        return (
            f"proof: both models run on the same input; {self.compared} {list(self.shape)} differ by "
            f"{self.difference:.2g} of the largest{before}: {'equal' if self.holds else 'NOT equal'}"
        )


def find_settings(source_model: nn.Module, model: nn.Module, layout: Layout) -> tuple[Setting, ...]:
    images, source_images = _inputs(source_model, model)
    keys = {source: one.key for one in layout.placed for source in one.sources}
    paths = {one.key.rpartition(".")[0]: one.sources[0].rpartition(".")[0] for one in layout.placed if one.sources}
    modules = compare_modules(source_model, model, {**paths, **_parents(paths)})
    ours, theirs = watch_flow(model, images), watch_flow(source_model, source_images)
    return (*modules, *compare_operations(theirs, ours, keys))


def _parents(paths: Mapping[str, str]) -> dict[str, str]:
    """The modules right above matched layers, which hold settings such as the number of attention's heads."""
    found = {}
    for path, source_path in paths.items():
        if path.endswith((".qkv", ".proj", ".q")) and "." in source_path:
            parent = source_path if source_path.endswith("attention") else source_path.rpartition(".")[0]
            found[path.rpartition(".")[0]] = parent
    return found


def _inputs(source_model: nn.Module, model: nn.Module) -> tuple[Tensor, Tensor]:
    """Two random images for the target, and the same for the source.

    Raises:
        ModelError: the two take another number of channels, and not as grey and colour.
    """
    channels, height, width = input_shape(model)
    source_channels, source_height, source_width = input_shape(source_model)
    size = (min(height, source_height), min(width, source_width))
    images = torch.randn(2, channels, *size, generator=torch.Generator().manual_seed(0))
    if channels == source_channels:
        return images, images
    if channels == 1:
        return images, images.repeat(1, source_channels, 1, 1)
    raise ModelError(
        f"the models take {source_channels} and {channels} channels: no image is the same to both", "compare by eye"
    )


def prove(
    source_model: nn.Module, state: State, model: nn.Module, layout: Layout, settings: tuple[Setting, ...]
) -> Proof:
    """Runs both models with the same values, none of them constant, before and after the settings are applied."""
    images, source_images = _inputs(source_model, model)
    heads = {key.rpartition(".")[0] for key in layout.heads}
    left_out = layout.left_out.items()
    source_heads = {key.rpartition(".")[0] for key, why in left_out if why in (HEAD_REASON, CLASSIFIER_REASON)}
    own_state = {key: state[key] for key in source_model.state_dict() if key in state}
    lively, expected = _lively_run(source_model, own_state, source_images, source_heads)
    lively = {**state, **lively}
    own = {key: tensor.detach() for key, tensor in model.state_dict().items()}
    values = {**own, **lay_values(layout, lively, own)}
    as_is = _difference(_run(model, values, images, heads), expected)
    after = as_is
    adapted = deepcopy(model)
    with suppress(ModelError):  # a setting that only the model's code can change: then the outputs stay different
        apply_settings(adapted, settings)
        after = _difference(_run(adapted, values, images, heads), expected)
    used = watch_flow(model, on_device(model, images)).before
    idle = tuple(key for key, tensor in own.items() if holds_weights(tensor) and key not in used)
    return Proof(after, as_is, "features" if heads or source_heads else "outputs", tuple(expected.shape), idle)


def _lively_run(model: nn.Module, state: State, images_BCHW: Tensor, heads: set[str]) -> tuple[State, Tensor]:
    """A state like the one given under which the model's output depends on its images, and that output.

    Raises:
        ModelError: no such state was found.
    """
    lively = _lively({key: tensor.detach() for key, tensor in state.items()})
    output = _run(model, lively, images_BCHW, heads)
    if not _depends_on_images(output):  # random weights let the signal die away: let batch norm hold it up
        _fill_running_statistics(model, lively, images_BCHW)
        output = _run(model, lively, images_BCHW, heads)
    if not _depends_on_images(output):
        raise ModelError("the source's output does not depend on its input", "compare by eye")
    return lively, output


def _depends_on_images(output_BK: Tensor) -> bool:
    """Whether the outputs for two images differ by more than rounding."""
    largest = float(output_BK.abs().max())
    return 0 < largest < float("inf") and float((output_BK[0] - output_BK[1]).abs().max()) >= _LIVELY * largest


def _fill_running_statistics(model: nn.Module, state: State, images_BCHW: Tensor) -> None:
    """Sets every batch norm's running statistics, in `state`, to those of these images."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    try:
        with training_kept(model), torch.no_grad():
            model.eval()
            for norm in norms:
                norm.momentum = 1.0
                norm.train()
            functional_call(model, state, (images_BCHW,), strict=False)
    except ValueError:  # a batch norm that sees one value per channel has no statistics
        return
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def _lively(state: State) -> State:
    """The state with random values for constant or tiny ones: a layer scaled by 0 hides what comes before it."""
    rng = torch.Generator().manual_seed(0)
    found = {}
    for key, tensor in state.items():
        if tensor.is_floating_point() and tensor.numel():
            level = float(tensor.reshape(-1)[0])
            is_tiny = float(tensor.abs().max()) < _TINY
            if is_tiny or bool((tensor == level).all()):
                tensor = (0.0 if is_tiny else level) + 0.1 * torch.randn(tensor.shape, generator=rng)
        found[key] = tensor.clone()
    return found


def _run(model: nn.Module, state: State, images_BCHW: Tensor, heads: set[str]) -> Tensor:
    """The model's output with the values of `state`, or what goes into its heads."""
    seen: list[Tensor] = []
    handles = [
        model.get_submodule(path).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])) for path in heads
    ]
    images_BCHW = on_device(model, images_BCHW)
    values = {key: tensor.to(images_BCHW.device) for key, tensor in state.items()}
    try:
        with training_kept(model), torch.no_grad():
            model.eval()
            output = functional_call(model, values, (images_BCHW,), strict=False)
    except Exception as reason:
        text = (str(reason).splitlines() or [type(reason).__name__])[0]
        raise ModelError(f"a model does not run on images {list(images_BCHW.shape)}: {text[:160]}") from reason
    finally:
        for handle in handles:
            handle.remove()
    return (seen[0] if seen else next(output_tensors(output))).flatten(1).cpu()


def _difference(one: Tensor, other: Tensor) -> float:
    """The largest difference relative to the largest value."""
    if one.shape != other.shape:
        raise ModelError(f"the models give {list(one.shape)} and {list(other.shape)}", "compare by eye")
    difference = float((one - other).abs().max()) / float(other.abs().max())
    return difference if difference == difference else float("inf")
