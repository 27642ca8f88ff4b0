"""What a model computes beside its tensors: eps, padding, activations ... and making one model's be another's."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from finefold.errors import ModelError

if TYPE_CHECKING:
    from finefold.nn.dataflow import DataFlow, Operation

SAME = "same"  # padding as TensorFlow does it: as much as the size and stride ask for, more at the end
_CONV = ("stride", "padding", "dilation", "groups", "padding_mode")
_ATTENTION = "num_heads"
ACTIVATION = "operation"


@dataclass(frozen=True)
class Setting:
    """A hyperparameter in which the source differs from the model its weights were laid onto.

    Args:
        module: of the model.
        name: "eps", "padding", "num_heads" ..., or "operation" for an activation or pooling.
        source: its value where the weights come from, and what the model needs.
        target: its value in the model as it is.
        after: for an operation, the layer whose result it works on.
    """

    module: str
    name: str
    source: Any
    target: Any
    after: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Setting":
        """What `to_dict` described, also after a round trip through JSON."""
        return cls(**{key: _tuples(value) for key, value in values.items()})

    def __str__(self) -> str:
        where = f"{self.module} (after {self.after})" if self.after else self.module
        return f"{where}: {self.name} is {_shown(self.source)} in the source, {_shown(self.target)} in the model"


def _tuples(value: Any) -> Any:
    return tuple(_tuples(one) for one in value) if isinstance(value, list | tuple) else value


def _shown(value: Any) -> str:
    if isinstance(value, tuple) and value and isinstance(value[0], str):
        return f"{value[0]}({', '.join(map(repr, value[1:]))})"
    return "none" if value is None else str(value)


def compare_modules(source: nn.Module, target: nn.Module, paths: Mapping[str, str]) -> list[Setting]:
    """Hyperparameters of layers that differ.

    Args:
        source, target: the models.
        paths: module of the target -> module of the source.
    """
    found = []
    for path, source_path in paths.items():
        ours, theirs = target.get_submodule(path), source.get_submodule(source_path)
        values, wanted = _hyperparameters(ours), _hyperparameters(theirs)
        found += [
            Setting(path, name, wanted[name], values[name])
            for name in values
            if name in wanted and values[name] != wanted[name]
        ]
    return found


def _hyperparameters(module: nn.Module) -> dict[str, Any]:
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        values = {name: _tuples(getattr(module, name)) for name in _CONV}
        if "Same" in type(module).__name__ or module.padding == "same":
            values["padding"] = _same_padding(module)
        elif module.padding == "valid":
            values["padding"] = (0,) * len(module.kernel_size)
        return values
    found = {name: getattr(module, name) for name in ("eps", "num_groups", _ATTENTION) if hasattr(module, name)}
    return {name: value for name, value in found.items() if isinstance(value, int | float)}


def _same_padding(module: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> Any:
    """Padding that keeps the size, in numbers where it is the same on both ends whatever the image."""
    extents = [(size - 1) * step for size, step in zip(module.kernel_size, module.dilation, strict=True)]
    if any(stride != 1 for stride in module.stride) or any(extent % 2 for extent in extents):
        return SAME
    return tuple(extent // 2 for extent in extents)


def compare_operations(source: "DataFlow", target: "DataFlow", keys: Mapping[str, str]) -> list[Setting]:
    """Activations and poolings that differ: of those on the same results, in the order in which they run.

    Args:
        source, target: the flows.
        keys: state key of the source -> state key of the target.
    """
    ours = _by_input(target.operations, {key: key for key in keys.values()})
    theirs = _by_input(source.operations, keys)
    found = []
    for after, operations in ours.items():
        wanted = theirs.get(after, [])
        layer = sorted(after)[-1].rpartition(".")[0] if after else ""
        for place, operation in enumerate(operations):
            other = wanted[place] if place < len(wanted) else None
            value, source_value = _value(operation), _value(other) if other else None
            if value != source_value and len(wanted) in (0, len(operations)):
                found.append(Setting(operation.where, ACTIVATION, source_value, value, layer))
    for after, operations in theirs.items():
        if after not in ours:
            layer = sorted(after)[-1].rpartition(".")[0] if after else ""
            found += [Setting(layer, ACTIVATION, _value(operation), None, layer) for operation in operations]
    return found


def _by_input(operations: Sequence["Operation"], keys: Mapping[str, str]) -> dict[frozenset[str], list["Operation"]]:
    found: dict[frozenset[str], list[Operation]] = {}
    for operation in operations:
        if all(key in keys for key in operation.after):
            found.setdefault(frozenset(keys[key] for key in operation.after), []).append(operation)
    return found


def _value(operation: "Operation") -> tuple[Any, ...]:
    return (operation.name, *operation.settings)


def apply_settings(model: nn.Module, settings: Sequence[Setting]) -> None:
    """Gives a model the source's hyperparameters, in place.

    Raises:
        ModelError: one of them is written into the model's code and cannot be set from outside.
    """
    for setting in settings:
        module = model.get_submodule(setting.module)
        if setting.name == ACTIVATION:
            _replace(model, setting.module, _operation(setting, module))
        elif isinstance(module, nn.Conv2d) and setting.name in _CONV:
            _replace(model, setting.module, _convolution(module, {setting.name: setting.source}))
        elif setting.name == _ATTENTION:
            _set_heads(module, int(setting.source))
        else:
            setattr(module, setting.name, setting.source)


def _replace(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    module.train(model.get_submodule(path).training)
    setattr(model.get_submodule(parent), name, module)


def _operation(setting: Setting, module: nn.Module) -> nn.Module:
    if any(True for _ in module.children()) or any(True for _ in module.parameters()):
        raise ModelError(f"{setting}; the model's code calls it itself", "change that line of the model")
    if setting.source is None:
        return nn.Identity()
    name, *values = setting.source
    if name == "MaxPool2d" and len(values) > 4:
        values.insert(4, False)  # torch's module has return_indices there
    made: nn.Module = getattr(nn, name)(*values)
    return made


def _convolution(module: nn.Conv2d, changes: Mapping[str, Any]) -> nn.Conv2d:
    """The same convolution with other hyperparameters."""
    from timm.layers import Conv2dSame

    values = {name: getattr(module, name) for name in _CONV}
    if isinstance(module, Conv2dSame):
        values["padding"] = SAME
    values |= changes
    kind: Any = nn.Conv2d
    if values["padding"] == SAME:
        kind, values["padding"] = Conv2dSame, 0
        values.pop("padding_mode")
    has_bias = module.bias is not None
    made: nn.Conv2d = kind(module.in_channels, module.out_channels, module.kernel_size, bias=has_bias, **values)
    made.weight, made.bias = module.weight, module.bias
    return made


def _set_heads(module: nn.Module, num_heads: int) -> None:
    before = int(getattr(module, _ATTENTION))
    setattr(module, _ATTENTION, num_heads)
    head_dim = getattr(module, "head_dim", None)
    if isinstance(head_dim, int):
        size = head_dim * before // num_heads
        setattr(module, "head_dim", size)  # noqa: B010, mypy knows no such attribute of a module
        if isinstance(getattr(module, "scale", None), float):
            setattr(module, "scale", size**-0.5)  # noqa: B010
