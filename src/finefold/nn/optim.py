"""Optimisers over groups of named parameters, and their state as a flat dict of tensors.

torch's fused kernels are 2 to 5 times as fast on CPU as its foreach and plain ones (AdamW, 2 cores: mobilenetv3_small
1.4 against 6 ms, resnet18 6 against 25 ms). They read memory in its own order: gradients and state must lie as their
parameter does. autograd sees to the gradients, `load_state_tensors` to the state.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, cast

import torch
from torch import Tensor, nn

from finefold.errors import RecipeError, RunError
from finefold.nn.catalogue import timm_library
from finefold.recipe.training import OptimRecipe

_GROUP = "group."  # begins the state of a whole group, kept beside that of its first parameter
_NUMBERS: dict[str, tuple[type, torch.dtype]] = {
    ":bool": (bool, torch.bool),
    ":int": (int, torch.int64),
    ":float": (float, torch.float64),
}
# the first draws dice of its own that no checkpoint would hold, the second needs the gradients' gradients
_UNFIT = ("Kron", "Adahessian")


@dataclass(frozen=True)
class RateGroup:
    """Parameters that share a base rate and a decay.

    Args:
        names: of the parameters.
        lr: before the schedule's factor.
        weight_decay: 0 for none.
    """

    names: tuple[str, ...]
    lr: float
    weight_decay: float


def decays(name: str, module: nn.Module | None, parameter: Tensor, no_decay: Collection[str] = frozenset()) -> bool:
    """Whether weight decay makes sense for a parameter: it is no bias, of no norm, and no list of numbers.

    Args:
        name: of the parameter.
        module: that holds it; None where nobody knows.
        no_decay: names that never decay, as timm's models tell by `no_weight_decay()`: position embeddings,
            class tokens.
    """
    if parameter.ndim <= 1 or name in no_decay or name.endswith((".bias", "_bias")) or name == "bias":
        return False
    return module is None or not is_norm(module)


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a normalisation layer, by its class or what its class is called."""
    known = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase, nn.LocalResponseNorm)
    return isinstance(module, known) or ("norm" in type(module).__name__.lower() and not list(module.children()))


def make_optimiser(
    recipe: OptimRecipe, groups: Sequence[RateGroup], parameters: Mapping[str, nn.Parameter]
) -> torch.optim.Optimizer:
    """An optimiser with one group of torch's per group, in order.

    Args:
        recipe: `adamw` and `sgd` (with Nesterov's momentum) are torch's, other names timm's.
        parameters: at least those that the groups name.

    Raises:
        RecipeError: there is no such optimiser, or it cannot be made of these numbers.
    """
    told: list[dict[str, Any]] = [
        {"params": [parameters[name] for name in group.names], "lr": group.lr, "weight_decay": group.weight_decay}
        for group in groups
    ]
    if recipe.name == "adamw":
        return torch.optim.AdamW(told, fused=True)
    if recipe.name == "sgd":
        return torch.optim.SGD(
            told, lr=told[0]["lr"], momentum=recipe.momentum, nesterov=recipe.momentum > 0, fused=True
        )
    if recipe.name not in (names := list_optimisers()):
        near = get_close_matches(recipe.name, names, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(names)}"
        raise RecipeError(f"`optim.name`: there is no optimiser `{recipe.name}`", hint)
    largest = max(group.lr for group in groups)  # what timm's corrected decay is relative to
    try:
        made = _timm_optim().create_optimizer_v2(
            told, recipe.name, lr=largest, weight_decay=recipe.weight_decay, momentum=recipe.momentum
        )
    except ValueError as reason:
        message = f"`optim`: {recipe.name} cannot be made: {reason}"
        raise RecipeError(message, "change the numbers in [optim], or use adamw") from reason
    return cast(torch.optim.Optimizer, made)


def list_optimisers() -> list[str]:
    """Names for `optim.name`: those whose state can be kept and that need nothing but torch and timm."""
    optim = _timm_optim()
    classes = {name: optim.get_optimizer_info(name).opt_class for name in optim.list_optimizers()}
    return [name for name, one in classes.items() if not isinstance(one, str) and one.__name__ not in _UNFIT]


def set_rates(optimiser: torch.optim.Optimizer, groups: Sequence[RateGroup], factor: float) -> None:
    """Gives every group its base rate times a factor."""
    for group, torchs in zip(groups, optimiser.param_groups, strict=True):
        torchs["lr"] = group.lr * factor


def state_tensors(optimiser: torch.optim.Optimizer, groups: Sequence[RateGroup]) -> dict[str, Tensor]:
    """A copy of an optimiser's state: parameter name + "/" + state name -> contiguous tensor on the CPU.

    Numbers are tensors without dimensions, whose names end in `:int`, `:float` or `:bool`. What some optimisers
    keep per group is under the group's first parameter, after "group.".
    """
    flat: dict[str, Tensor] = {}
    for name, parameter in _named(optimiser, groups):
        flat |= _flatten(f"{name}/", optimiser.state.get(parameter, {}))
    for group, torchs in zip(groups, optimiser.param_groups, strict=True):
        own = {key: value for key, value in torchs.items() if key not in optimiser.defaults and key != "params"}
        flat |= _flatten(f"{group.names[0]}/{_GROUP}", own)
    return flat


def load_state_tensors(
    optimiser: torch.optim.Optimizer,
    groups: Sequence[RateGroup],
    parameters: Mapping[str, nn.Parameter],
    tensors: Mapping[str, Tensor],
) -> None:
    """Puts back what `state_tensors` gave: going on is then bitwise the same as never having stopped.

    Args:
        optimiser: made anew, of the same recipe, groups and parameters.

    Raises:
        RunError: the state is of parameters that this optimiser does not have.
    """
    places = {name: place for place, group in enumerate(groups) for name in group.names}
    unknown = sorted({key.rpartition("/")[0] for key in tensors} - set(places))
    if unknown:
        shown = ", ".join(f"`{name}`" for name in unknown[:3]) + (" and others" if len(unknown) > 3 else "")
        message = f"the checkpoint holds optimiser state of {shown}, expected only parameters that train here"
        raise RunError(message, "the recipe has changed since: go on with the recipe of then, or train anew")
    for _, parameter in _named(optimiser, groups):
        optimiser.state.pop(parameter, None)
    for key, tensor in tensors.items():
        name, _, state_name = key.rpartition("/")
        torchs, parameter = optimiser.param_groups[places[name]], parameters[name]
        if state_name.startswith(_GROUP):
            plain, value = _restore(state_name.removeprefix(_GROUP), tensor)
            torchs[plain] = value
        else:
            plain, value = _restore(state_name, tensor)
            optimiser.state[parameter][plain] = _beside(value, plain, parameter, torchs)


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> float:
    """Scales gradients down to a total 2-norm; their norm before that.

    Args:
        max_norm: 0 to only measure. A norm that is not finite leaves gradients as they are.

    References:
        Pascanu, Mikolov, Bengio, On the difficulty of training recurrent neural networks, ICML 2013, algorithm 1.
    """
    trained = [parameter for parameter in parameters if parameter.grad is not None]
    total = torch.nn.utils.get_total_norm([cast(Tensor, parameter.grad) for parameter in trained])
    norm = float(total)
    if max_norm > 0 and max_norm < norm < float("inf"):
        torch.nn.utils.clip_grads_with_norm_(trained, max_norm, total)
    return norm


def _timm_optim() -> Any:
    timm_library()
    import timm.optim

    return timm.optim


def _named(optimiser: torch.optim.Optimizer, groups: Sequence[RateGroup]) -> Iterator[tuple[str, nn.Parameter]]:
    """Names and parameters, in the optimiser's order."""
    for group, torchs in zip(groups, optimiser.param_groups, strict=True):
        yield from zip(group.names, torchs["params"], strict=True)


def _flatten(prefix: str, state: Mapping[str, Any]) -> dict[str, Tensor]:
    """One state's values as tensors; None says nothing and is left out."""
    flat = {}
    for name, value in state.items():
        if isinstance(value, Tensor):
            flat[prefix + name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        elif value is not None:
            suffix = f":{type(value).__name__}"
            assert suffix in _NUMBERS, f"{prefix}{name} is a {type(value).__name__}"
            flat[prefix + name + suffix] = torch.tensor(value, dtype=_NUMBERS[suffix][1])
    return flat


def _restore(name: str, tensor: Tensor) -> tuple[str, Tensor | bool | int | float]:
    """A state's name without suffix, and its value: a tensor of its own or a number."""
    plain, colon, kind = name.partition(":")
    return plain, _NUMBERS[colon + kind][0](tensor.item()) if colon else tensor.clone()


def _beside(value: Any, name: str, parameter: nn.Parameter, torchs: Mapping[str, Any]) -> Any:
    """State on its parameter's device, and in memory as the parameter is."""
    if not isinstance(value, Tensor):
        return value
    if name == "step" and not (torchs.get("fused") or torchs.get("capturable")):
        return value  # torch counts steps on the CPU, but for kernels that read them
    if value.shape == parameter.shape:
        return torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)
    return value.to(parameter.device)
