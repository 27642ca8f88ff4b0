"""Which tensors of a model's state feed which, seen by running it once and watching every operation.

What a module is called, in which order it was defined and how its code is written leave no trace here; only the
flow of data does. Two models that compute the same have the same flow.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from finefold.nn.comparing import does_not_run, training_kept
from finefold.nn.measuring import plain_attention
from finefold.nn.tracing import attributes_kept

# operations without parameters that change what a model computes, and can differ between two ports of it
_TELLING = {
    "relu": "ReLU",
    "hardtanh": "Hardtanh",
    "silu": "SiLU",
    "gelu": "GELU",
    "hardswish": "Hardswish",
    "hardsigmoid": "Hardsigmoid",
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "elu": "ELU",
    "leaky_relu": "LeakyReLU",
    "mish": "Mish",
    "celu": "CELU",
    "selu": "SELU",
    "softplus": "Softplus",
    "softshrink": "Softshrink",
    "hardshrink": "Hardshrink",
    "log_sigmoid_forward": "LogSigmoid",
    "max_pool2d_with_indices": "MaxPool2d",
    "avg_pool2d": "AvgPool2d",
}


@dataclass(frozen=True)
class Operation:
    """One operation without parameters.

    Args:
        name: as torch's module of it is called.
        settings: its arguments that are no tensors.
        after: state keys whose results it works on directly.
        where: the innermost module that ran it.
    """

    name: str
    settings: tuple[Any, ...]
    after: frozenset[str]
    where: str

    def __str__(self) -> str:
        if self.name == "Hardtanh" and self.settings == (0, 6):
            return "ReLU6"
        return self.name + (str(self.settings) if self.settings else "")


@dataclass(frozen=True)
class DataFlow:
    """What was seen in one forward.

    Args:
        before: for each state key that was used, the keys whose results reach it through no other key.
        order: the keys in the order of their first use.
        operations: in the order in which they ran.
        output: the keys whose results make the output.
    """

    before: Mapping[str, frozenset[str]]
    order: tuple[str, ...]
    operations: tuple[Operation, ...]
    output: frozenset[str]


@dataclass(frozen=True)
class _Tag:
    """Where a tensor comes from: from the images by way of `keys`, or made of the parameters `keys` alone."""

    is_data: bool
    keys: frozenset[str]


class _Watcher(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows tensors through the operations of one forward."""

    def __init__(self, state: Mapping[str, Tensor], images_BCHW: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._alive: list[Any] = [images_BCHW]  # a tensor that is gone would lend its id to another
        self.tags: dict[int, _Tag] = {id(images_BCHW): _Tag(True, frozenset())}
        self._places = {key: place for place, key in enumerate(state)}
        for key, tensor in state.items():
            before = self.tags.get(id(tensor), _Tag(False, frozenset()))
            self.tags[id(tensor)] = _Tag(False, before.keys | {key})
            self._alive.append(tensor)
        self.before: dict[str, frozenset[str]] = {}
        self.operations: list[Operation] = []
        self.where = [""]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = [one for one in tree_leaves((args, kwargs or {})) if isinstance(one, Tensor)]
        tags = [self.tags[id(one)] for one in inputs if id(one) in self.tags]
        result = func(*args, **(kwargs or {}))
        if tags:
            tag = self._follow(tags)
            if func._schema.is_mutable and inputs[0]._is_view():
                self._write_through(inputs[0], tag)
            self._note(func, (*args, *(kwargs or {}).values()), tag)
            for one in tree_leaves(result):
                if isinstance(one, Tensor):
                    self._alive.append(one)
                    self.tags[id(one)] = tag
        return result

    def _write_through(self, view: Tensor, tag: _Tag) -> None:
        """What is written into a part of a tensor is in the whole."""
        storage = view.untyped_storage()._cdata
        for other in self._alive:
            if isinstance(other, Tensor) and other.untyped_storage()._cdata == storage:
                before = self.tags.get(id(other), _Tag(tag.is_data, frozenset()))
                self.tags[id(other)] = _Tag(before.is_data or tag.is_data, before.keys | tag.keys)

    def _follow(self, tags: list[_Tag]) -> _Tag:
        reached = frozenset[str]().union(*(tag.keys for tag in tags if tag.is_data))
        own = frozenset[str]().union(*(tag.keys for tag in tags if not tag.is_data))
        if not any(tag.is_data for tag in tags):
            return _Tag(False, own)
        for key in sorted(own, key=self._places.__getitem__):
            self.before[key] = self.before.get(key, frozenset()) | (reached - own)
        return _Tag(True, own or reached)

    def _note(self, func: Any, args: Any, tag: _Tag) -> None:
        name = str(func.overloadpacket.__name__).rstrip("_")
        if name in _TELLING and tag.is_data:
            settings = tuple(_plain(one) for one in args if not isinstance(one, Tensor))
            if name == "avg_pool2d" and len(settings) == 1:
                settings *= 2  # the stride is the kernel's size unless it is said
            self.operations.append(Operation(_TELLING[name], settings, tag.keys, self.where[-1]))


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple) else value


def watch_flow(model: nn.Module, images_BCHW: Tensor) -> DataFlow:
    """Runs a model once in evaluation mode and tells which of its state's tensors feed which.

    Raises:
        ModelError: the model does not run on these images.
    """
    state = {key: tensor for key, tensor in state_tensors(model).items() if tensor.is_floating_point()}
    watcher = _Watcher(state, images_BCHW)
    with training_kept(model), attributes_kept(model), torch.no_grad(), plain_attention(), _placed(model, watcher):
        model.eval()
        try:
            with watcher:
                output = model(images_BCHW)
        except Exception as reason:
            raise does_not_run(images_BCHW, reason) from reason
    made = [watcher.tags[id(one)].keys for one in tree_leaves(output) if id(one) in watcher.tags]
    return DataFlow(
        watcher.before, tuple(watcher.before), tuple(watcher.operations), frozenset[str]().union(frozenset(), *made)
    )


def state_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The state dict with the model's own parameter and buffer objects in place of detached copies."""
    return dict(model.state_dict(keep_vars=True))


@contextmanager
def _placed(model: nn.Module, watcher: _Watcher) -> Iterator[None]:
    """Keeps the watcher told which module runs."""
    handles = []
    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(lambda *_, name=name: watcher.where.append(name)))
        handles.append(module.register_forward_hook(lambda *_: _left(watcher.where)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _left(where: list[str]) -> None:
    where.pop()


def flow_colours(flow: DataFlow, labels: Mapping[str, Any], owners: Mapping[str, str]) -> dict[str, tuple[int, int]]:
    """For every unit, a pair of numbers for all that lies before it and all that lies behind it.

    Units of two models with equal pairs stand in the same place of the same flow; within one model, units with
    equal pairs cannot be told apart by it.

    Args:
        flow: of the model.
        labels: unit -> what it is, whatever the model.
        owners: state key -> its unit.

    References:
        Weisfeiler, Leman, A reduction of a graph to a canonical form, 1968; once along the edges, once against them.
    """
    before: dict[str, set[str]] = {unit: set() for unit in labels}
    for key, reached in flow.before.items():
        if key in owners:
            before[owners[key]] |= {owners[one] for one in reached if one in owners}
    for unit, reached_units in before.items():
        reached_units.discard(unit)
    after: dict[str, set[str]] = {unit: set() for unit in labels}
    for unit, reached_units in before.items():
        for one in reached_units:
            after[one].add(unit)
    ends = {owners[key] for key in flow.output if key in owners}
    forward = _colour(before, {unit: (label, not before[unit]) for unit, label in labels.items()})
    backward = _colour(after, {unit: (label, unit in ends) for unit, label in labels.items()})
    return {unit: (forward[unit], backward[unit]) for unit in labels}


def _colour(edges: Mapping[str, set[str]], labels: Mapping[str, Any]) -> dict[str, int]:
    """A number for each node and everything that its edges lead to, by rounds until no further nodes differ."""
    colours = {node: hash(label) for node, label in labels.items()}
    for _ in range(len(edges)):  # the longest way has no more steps; where it is a ring, as many tell nodes apart
        before = colours
        colours = {
            node: hash((labels[node], tuple(sorted(Counter(before[one] for one in edges[node]).items()))))
            for node in edges
        }
        if colours == before:
            break
    return colours
