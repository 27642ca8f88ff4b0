"""Following a model's own code with stand-ins for tensors (torch.fx).

Its modules are links that are not looked into, but for those that are chains of larger parts themselves.
"""

import builtins
import random
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy, deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, fx, nn

_ROOT = "model"
_NOT_ITS_OWN = ("torch", "finefold")  # whose frames in a traceback say nothing of the model's code


@dataclass(frozen=True)
class Trace:
    """A traced model: nodes in order, which module ends at which node, what depends on no image, and what is called.

    `parts` has the model's own modules, parameters and buffers under their names, and constants of its code.
    """

    nodes: tuple[fx.Node, ...]
    ends: dict[str, fx.Node]
    place: dict[fx.Node, int]
    static: frozenset[fx.Node]
    parts: dict[str, Any]

    def crossings(self) -> list[fx.Node]:
        """The nodes after which nothing else is still needed."""
        last = {node: max((self.place[user] for user in node.users), default=-1) for node in self.nodes}
        found: list[fx.Node] = []
        live: list[fx.Node] = []
        for number, node in enumerate(self.nodes):
            if node.op == "output":
                break
            live = [other for other in live if last[other] > number]
            if node not in self.static and last[node] > number:
                live.append(node)
            if live == [node] and node.op != "placeholder":
                found.append(node)
        return found


class _Opener(fx.Tracer):
    """Traces through the modules in `opened`, and calls every other one as a whole."""

    proxy_buffer_attributes = True  # what is computed from a buffer follows when the buffer changes

    def __init__(self, opened: set[str]) -> None:
        super().__init__(param_shapes_constant=True)
        self.opened = {_ROOT, *(f"{_ROOT}.{path}" for path in opened)}
        self.returned: dict[str, Any] = {}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:  # noqa: ARG002
        return module_qualified_name not in self.opened

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """Shapes are constants for parameters only: torch refuses them for buffers."""
        is_buffer = isinstance(attr_val, Tensor) and not isinstance(attr_val, nn.Parameter)
        self.param_shapes_constant = not is_buffer
        try:
            return super().getattr(attr, attr_val, parameter_proxy_cache)
        finally:
            self.param_shapes_constant = True

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        result = super().call_module(m, forward, args, kwargs)
        self.returned[self.path_of_module(m)] = result
        return result


class _One(nn.Module):
    """The model called with images alone, so that its optional arguments keep their defaults."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images_BCHW: Tensor) -> Any:
        return self.model(images_BCHW)


class Untraceable(Exception):  # noqa: N818, never reaches a user
    """A module's code cannot be followed without running it."""


def trace_model(model: nn.Module, opened: set[str]) -> Trace:
    """The model's flow of data with the modules in `opened` opened.

    Raises:
        Untraceable: its code decides by what is in the tensors.
    """
    tracer, root, own = _Opener(opened), _One(_shell(model)), _One(model)
    dice = _dice()
    try:
        with attributes_kept(model), _stand_ins_are_tensors():
            graph = tracer.trace(root)
    except Exception as reason:  # whatever a model's code does with a stand-in instead of a tensor
        raise Untraceable(_why_untraceable(reason, root)) from reason
    if _dice() != dice:
        raise Untraceable("its own code draws random numbers")
    parts: dict[str, Any] = {}
    for node in graph.nodes:
        if node.op in ("call_module", "get_attr"):
            whole = str(node.target)
            node.target = whole.removeprefix(f"{_ROOT}.")
            parts[node.target] = _part(own if whole.startswith(f"{_ROOT}.") else root, whole)
    nodes = tuple(graph.nodes)
    ends = {
        path.removeprefix(f"{_ROOT}."): result.node
        for path, result in tracer.returned.items()
        if isinstance(result, fx.Proxy) and path != _ROOT
    }
    static: set[fx.Node] = set()
    for node in nodes:
        inputs = node.all_input_nodes
        if node.op == "get_attr" or (node.op.startswith("call") and inputs and all(one in static for one in inputs)):
            static.add(node)
    return Trace(nodes, ends, {node: number for number, node in enumerate(nodes)}, frozenset(static), parts)


def _why_untraceable(reason: Exception, root: nn.Module) -> str:
    """What stopped the following of a model's code, and where in it, as far as the traceback tells."""
    what = f"cannot be followed ({type(reason).__name__}: {(str(reason).splitlines() or [''])[0][:120]})"
    if "control flow" in str(reason):
        what = "cannot be followed: it branches on what is in a tensor"
    found = None
    for frame, line in traceback.walk_tb(reason.__traceback__):
        module = frame.f_locals.get("self")
        library = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if isinstance(module, nn.Module) and library not in _NOT_ITS_OWN:
            found = module, Path(frame.f_code.co_filename).name, line
    if found is None:
        return f"its code {what}"
    module, file, line = found
    path = next((name for name, one in root.named_modules() if one is module), _ROOT).removeprefix(_ROOT).lstrip(".")
    owner = f"of `{path}` ({type(module).__name__})" if path else f"of {type(module).__name__} itself"
    return f"the code {owner} {what}, {file} line {line}"


def _shell(model: nn.Module) -> nn.Module:
    """The model's structure anew around its own tensors: what following leaves behind, it leaves there."""
    try:
        return deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})
    except Exception:  # a user's module may hold anything; then its attributes are put back, see below
        return model


def _dice() -> tuple[Any, ...]:
    """The states of the random generators that code draws from where it names none."""
    name, keys, *rest = cast(tuple[Any, ...], np.random.get_state())
    return random.getstate(), name, keys.tobytes(), rest, torch.get_rng_state().numpy().tobytes()


@contextmanager
def _stand_ins_are_tensors() -> Iterator[None]:
    """In the block, `isinstance` takes a stand-in for a tensor where anything but torch's own code asks.

    Raises:
        Untraceable: from within the model's code, which asks whether something is a number: it may be a size.
    """
    plain = builtins.isinstance

    def asked(value: Any, kinds: Any, /) -> bool:
        if not plain(value, fx.Proxy) or sys._getframe(1).f_globals.get("__name__", "").partition(".")[0] == "torch":
            return plain(value, kinds)
        told = kinds if plain(kinds, tuple) else (kinds,)
        if int in told or float in told:
            raise Untraceable("it asks whether something that is known only from an image is a number")
        return Tensor in told or plain(value, kinds)

    builtins.isinstance = asked
    try:
        yield
    finally:
        builtins.isinstance = plain


@contextmanager
def attributes_kept(model: nn.Module) -> Iterator[None]:
    """After the block, every module has the attributes and buffers that it had, with their values.

    Code that is followed may leave stand-ins behind, code that is run may count, cache and average.
    """
    before = {
        module: (dict(module.__dict__), {name: copy(value) for name, value in module.__dict__.items() if _holds(value)})
        for module in model.modules()
    }
    values = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        for module, (attributes, contents) in before.items():
            module.__dict__.clear()
            module.__dict__.update(attributes)
            for name, content in contents.items():
                value = module.__dict__[name]
                value.clear()
                value.extend(content) if isinstance(value, list) else value.update(content)
        with torch.no_grad():
            for buffer, value in values:
                if buffer.shape != value.shape:
                    buffer.data = value
                elif not torch.equal(buffer, value):
                    buffer.copy_(value)


def _holds(value: Any) -> bool:
    """Whether an attribute is a plain container, whose content is kept too."""
    return type(value) in (dict, list, set)


def _part(root: nn.Module, path: str) -> Any:
    """A module, parameter, buffer or constant by its path."""
    found: Any = root
    for name in path.split("."):
        found = getattr(found, name)
    return found


def open_chain(model: nn.Module) -> set[str]:
    """The modules worth opening: those that are chains of larger parts themselves.

    Modules of one class are opened together or not at all: a class one of whose instances has parts but no cut
    between them (a residual block) is a link.
    """
    opened: set[str] = set()
    closed: set[type] = set()
    frontier = [path for path in _calls(trace_model(model, opened)) if num_parts(model, path) > 1]
    while frontier:
        verdicts = {path: _verdict(model, opened, path) for path in frontier}
        for path, verdict in verdicts.items():
            if verdict is False and type(model.get_submodule(path)) is not nn.Sequential:
                closed.add(type(model.get_submodule(path)))
        chosen = {
            path for path, verdict in verdicts.items() if verdict and type(model.get_submodule(path)) not in closed
        }
        opened |= chosen
        inner = _calls(trace_model(model, opened)) if chosen else []
        frontier = [
            path
            for path in inner
            if any(path.startswith(f"{outer}.") for outer in chosen) and num_parts(model, path) > 1
        ]
    return opened


def _verdict(model: nn.Module, opened: set[str], path: str) -> bool | None:
    """Whether a module is a chain: True; False where it has larger parts and no cut; None where it has neither."""
    try:
        trace = trace_model(model, opened | {path})
    except Untraceable:
        return None
    inside = [inner for inner in _calls(trace) if inner.startswith(f"{path}.")]
    if not inside:
        return None
    cuts = {str(node.target) for node in trace.crossings() if node.op == "call_module"}
    larger = [inner for inner in inside if num_parts(model, inner) > 1]
    if cuts.intersection(inside) and 2 * num_parts(model, path) > num_parts(model, ""):  # the model calls little else
        return True
    if any(inner in cuts for inner in larger):
        return True
    if larger:
        return False
    is_plain = type(model.get_submodule(path)) is nn.Sequential
    return True if is_plain and sum(inner in cuts for inner in inside) > 1 else None


def _calls(trace: Trace) -> list[str]:
    return [str(node.target) for node in trace.nodes if node.op == "call_module"]


def num_parts(model: nn.Module, path: str) -> int:
    """How many modules with parameters of their own a module holds."""
    return sum(1 for module in model.get_submodule(path).modules() if any(True for _ in module.parameters(False)))
