"""Whether two models, or two outputs, are the same: what following a model's code found against the model itself."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import is_dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from finefold.errors import ModelError
from finefold.nn.tracing import attributes_kept

TOLERANCE = 1e-5
_GRADIENT_TOLERANCE = 1e-3  # sums over many pixels, in another order
_GRADIENTS_COMPARED = 8  # parameters
_LARGER_PX = 32


def why_not_the_same(model: nn.Module, followed: nn.Module, images_BCHW: Tensor) -> str | None:
    """Why the code as it was followed is not what the model does: tried on other batches and sizes; None where it is.

    Raises:
        ModelError: the model does not run on the images.
    """
    versions = {name: _version(tensor) for name, tensor in _tensors_of(model)}
    can_learn = not any(tensor.is_inference() for _, tensor in _tensors_of(model))
    for number, batch_BCHW in enumerate(_other_batches(images_BCHW)):
        with_gradients = number == 0 and can_learn
        try:
            whole = _run_once(model, batch_BCHW, with_gradients)
        except Exception as reason:
            if number == 0:
                raise does_not_run(batch_BCHW, reason) from reason
            continue  # another size or batch is not for every model
        if any(_version(tensor) != versions.get(name) for name, tensor in _tensors_of(model)):
            return "it writes into its own parameters or buffers while it evaluates"
        try:
            again = _run_once(followed, batch_BCHW, with_gradients)
        except Exception as reason:  # what the followed code does with a tensor in place of a stand-in
            return f"its code cannot be followed ({type(reason).__name__})"
        if not any(True for _ in output_tensors(whole)):
            return f"it gives a {type(whole).__name__}, in which no tensor is found to compare"
        if not are_close(whole, again, tolerance=TOLERANCE):
            return "its code decides by what its inputs are, which following it cannot show"
        if with_gradients and not _have_equal_gradients(model, whole, again):
            return "its code changes gradients on their way back, which following it cannot show"
    return None


def _run_once(model: nn.Module, images_BCHW: Tensor, with_gradients: bool) -> Any:
    with torch.set_grad_enabled(with_gradients), attributes_kept(model):
        return model(images_BCHW.clone())


def _have_equal_gradients(model: nn.Module, output: Any, again: Any) -> bool:
    """Whether two outputs of the same parameters give them the same gradients."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trainable:
        return True
    parameters = trainable[:: -(-len(trainable) // _GRADIENTS_COMPARED)]  # the first among them: all paths lead there
    found = []
    for value in (output, again):
        tensors = [one for one in output_tensors(value) if one.requires_grad]
        weights = [torch.linspace(-1, 1, max(1, one.numel())).to(one).reshape(one.shape) for one in tensors]
        gradients: tuple[Tensor | None, ...] = (None,) * len(parameters)
        if tensors:
            with suppress(RuntimeError, NotImplementedError):  # a model that cannot be gone back through at all
                gradients = torch.autograd.grad(tensors, parameters, weights, allow_unused=True)
        found.append(gradients)
    return all(
        (one is None) == (other is None)
        and (one is None or other is None or is_close(one, other, tolerance=_GRADIENT_TOLERANCE))
        for one, other in zip(*found, strict=True)
    )


def _version(tensor: Tensor) -> int:
    """How often a tensor was written into; those made in inference mode do not count."""
    return 0 if tensor.is_inference() else tensor._version


def _tensors_of(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _other_batches(images_BCHW: Tensor) -> Iterator[Tensor]:
    """The images, one of them, twice as many, and larger ones: code may look at any of it."""
    yield images_BCHW
    if len(images_BCHW) > 1:
        yield images_BCHW[:1]
    yield torch.cat([images_BCHW, images_BCHW.flip(-1)])
    if images_BCHW.ndim == 4:
        yield nn.functional.pad(images_BCHW[:1], (0, _LARGER_PX, 0, _LARGER_PX))


def are_close(one: Any, other: Any, *, tolerance: float) -> bool:
    """Whether two outputs, tensors or several of them, are close."""
    ones, others = list(output_tensors(one)), list(output_tensors(other))
    return len(ones) == len(others) and all(map(partial(is_close, tolerance=tolerance), ones, others))


def is_close(one: Tensor, other: Tensor, *, tolerance: float) -> bool:
    """Whether two tensors of one shape differ by at most `tolerance` times their largest finite value."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    plain, again = (torch.view_as_real(part) if part.is_complex() else part for part in (one, other))
    plain, again = plain.detach().double(), again.detach().double()
    finite = plain[plain.isfinite()].abs()
    scale = float(finite.max()) if finite.numel() else 0.0
    return torch.allclose(plain, again, rtol=0, atol=tolerance * scale, equal_nan=True)


@contextmanager
def training_kept(*models: nn.Module) -> Iterator[None]:
    """After the block, every module is in training or evaluation mode as it was before."""
    states = {module: module.training for model in models for module in model.modules()}
    try:
        yield
    finally:
        for module, was_training in states.items():
            module.training = was_training


def does_not_run(images_BCHW: Tensor, reason: Exception) -> ModelError:
    """The error of a model that fails on some images."""
    text = (str(reason).splitlines() or [type(reason).__name__])[0]
    return ModelError(
        f"the model does not run on images {list(images_BCHW.shape)}: {text[:160]}",
        "give images of the size and channels it wants",
    )


def output_tensors(value: Any) -> Iterator[Tensor]:
    """The tensors of a model's output: one, or those of a tuple, list, dict or dataclass, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from output_tensors(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from output_tensors(one)
    elif is_dataclass(value):
        yield from output_tensors(vars(value))
