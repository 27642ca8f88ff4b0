"""A model as a chain: where it can be cut in two, and cutting it into a prefix and a tail that share its parameters.

The model's own code is traced (torch.fx) with its modules as opaque links, and opened further where that helps.
A cut is valid where a single tensor crosses: everything later depends on the images through that tensor alone.
Nothing is known of families; what cannot be traced is not opened, and what cannot be cut says why.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from finefold.errors import ModelError
from finefold.nn.catalogue import check_module, example_images
from finefold.nn.comparing import TOLERANCE, are_close, training_kept, why_not_the_same
from finefold.nn.tracing import Trace, Untraceable, attributes_kept, open_chain, trace_model

_TRAINING_TRACES = 2


@dataclass(frozen=True)
class CutPoint:
    """A place where one tensor crosses.

    Args:
        name: the outermost module that ends here, or the traced name of a function's result.
        modules: every module that ends here, outermost first; empty where it is a function's result.
        index: place in the flow of data.
        shape: of the tensor for one image, without the batch.
    """

    name: str
    modules: tuple[str, ...]
    index: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Chain:
    """Where a model can be cut.

    Args:
        cuts: in the order in which data flows; empty where there is none.
        reason: why there is none, else None.
        opened: modules whose inside was looked at, `""` for the model itself.
        links: every module called at the level of the cuts, in order.
    """

    cuts: tuple[CutPoint, ...]
    reason: str | None
    opened: frozenset[str] = frozenset()
    links: tuple[str, ...] = ()
    _trace: "Trace | None" = field(default=None, repr=False, compare=False)

    def point(self, at: str | int) -> CutPoint:
        """The cut called `at` (a module's name, also an outer or inner one that ends there), or number `at`.

        Raises:
            ModelError: there is no such cut; the nearest ones are named.
        """
        if self.reason is not None:
            raise ModelError(f"this model cannot be cut: {self.reason}", "use the whole model")
        if isinstance(at, int):
            if not -len(self.cuts) <= at < len(self.cuts):
                raise ModelError(f"there is no cut number {at}", f"choose one from 0 to {len(self.cuts) - 1}")
            return self.cuts[at]
        for cut in self.cuts:
            if at == cut.name or at in cut.modules:
                return cut
        raise self._no_cut(at)

    def parameters_before(self, at: str, model: nn.Module) -> frozenset[str]:
        """Names of the parameters that the prefix of a cut uses.

        Args:
            at: a cut's name.
            model: the model whose chain this is.

        Raises:
            ModelError: there is no such cut.
        """
        point, trace = self.point(at), self._trace
        assert trace is not None
        graph = _prefix_graph(trace, trace.nodes[point.index])
        used = {str(node.target) for node in graph.nodes if node.op in ("call_module", "get_attr")}
        tensors = {id(model.get_parameter(name)): name for name, _ in model.named_parameters()}
        found = set()
        for target in used:
            part = trace.parts[target]
            inside = part.parameters() if isinstance(part, nn.Module) else [part]
            found |= {tensors[id(one)] for one in inside if id(one) in tensors}
        return frozenset(found)

    def _no_cut(self, at: str) -> ModelError:
        names = [cut.name for cut in self.cuts]
        inside = [name for name in names if at.startswith(f"{name}.")]
        near = get_close_matches(at, names, n=3, cutoff=0.5)
        if at in self.links or inside or any(name.startswith(f"{at}.") for name in names):
            what = f"more than one tensor crosses after `{at}`"
        else:
            what = f"there is no cut `{at}`"
        shown = near or [*names[:2], *names[-2:]]
        return ModelError(what, f"cut points near it: {', '.join(shown)}; `finefold inspect` shows all")


@dataclass(frozen=True)
class Cut:
    """A model in two parts that share its parameters, buffers and modules.

    Args:
        prefix: images -> the tensor that crosses.
        tail: that tensor -> what the model gives.
        at: where.
    """

    prefix: nn.Module
    tail: nn.Module
    at: CutPoint


def find_cuts(model: nn.Module, *, example: Tensor | None = None) -> Chain:
    """The cut points of any model, in the order in which data flows.

    Args:
        model: takes images [B, C, H, W]; its parameters are not touched.
        example: images to run it on once; a random one of the model's own size by default.

    Raises:
        ModelError: `model` is none, but a name perhaps.
    """
    images_BCHW = example_for(model, example)
    try:
        with training_kept(model):
            model.eval()
            opened = open_chain(model)
            trace = trace_model(model, opened)
            model.train()
            for _ in range(_TRAINING_TRACES):  # the second sees what the first may have changed
                if _shape_of(trace_model(model, opened)) != _shape_of(trace):
                    return Chain((), "its own code does something else in training than in evaluation")
        with training_kept(model), attributes_kept(model):
            model.eval()
            reason = why_not_the_same(model, _module(model, trace, _whole_graph(trace), "Followed"), images_BCHW)
            if reason:
                return Chain((), reason)
            return _chain(model, opened, trace, images_BCHW)
    except (Untraceable, ModelError) as reason:
        return Chain((), str(getattr(reason, "message", reason)))


def _chain_again(model: nn.Module, opened: Collection[str], images_BCHW: Tensor) -> Chain:
    """The chain of a model whose like was searched and checked before: traced once, a twentieth of the time."""
    with training_kept(model), attributes_kept(model):
        model.eval()
        try:
            return _chain(model, set(opened), trace_model(model, set(opened)), images_BCHW)
        except Untraceable as reason:
            return Chain((), str(reason))


def _chain(model: nn.Module, opened: set[str], trace: Trace, images_BCHW: Tensor) -> Chain:
    with torch.no_grad():
        shapes = _run(model, trace, images_BCHW)
    cuts = tuple(_named(trace, node, shape) for node, shape in shapes.items())
    links = tuple(str(node.target) for node in trace.nodes if node.op == "call_module")
    if not cuts:
        return Chain((), "more than one tensor crosses everywhere", frozenset(opened), links)
    return Chain(cuts, None, frozenset(opened), links, trace)


def cut(
    model: nn.Module, at: str | int, *, example: Tensor | None = None, opened: Collection[str] | None = None
) -> Cut:
    """Cuts a model in two and proves it: the tail of the prefix must give what the whole gives.

    Args:
        model: takes images [B, C, H, W].
        at: a cut point's name, as `finefold inspect` lists them, or its number.
        example: images to prove it on; random ones of the model's own size by default.
        opened: where `find_cuts` has seen such a model before, its `Chain.opened`: the search is not done again.

    Raises:
        ModelError: there is no such cut, or model and parts differ on the example.
    """
    if opened is None:
        chain = find_cuts(model, example=example)
    else:
        chain = _chain_again(model, opened, example_for(model, example))
    point, trace = chain.point(at), chain._trace
    assert trace is not None
    prefix = _module(model, trace, _prefix_graph(trace, trace.nodes[point.index]), "Prefix")
    tail = _module(model, trace, _tail_graph(trace, trace.nodes[point.index]), "Tail")
    made = Cut(prefix, tail, point)
    _prove(model, made, example_for(model, example))
    return made


def _run(model: nn.Module, trace: Trace, images_BCHW: Tensor) -> dict[fx.Node, tuple[int, ...]]:
    """The crossing nodes whose value is one tensor, with its shape less the batch.

    Raises:
        ModelError: the model does not run on these images.
    """
    crossings = trace.crossings()
    if not crossings:
        return {}
    given = _module(model, trace, _prefix_graph(trace, *crossings), "Crossings")(images_BCHW.clone())
    values = given if len(crossings) > 1 else (given,)
    is_tensor = [isinstance(value, Tensor) and value.ndim > 0 for value in values]
    return {
        node: tuple(value.shape[1:]) for node, value, is_one in zip(crossings, values, is_tensor, strict=True) if is_one
    }


def _whole_graph(trace: Trace) -> fx.Graph:
    graph = fx.Graph()
    copies = _Copies(graph)
    for node in trace.nodes:
        if node.op == "output":
            graph.output(fx.node.map_arg(node.args[0], copies.__getitem__))
        else:
            copies[node]
    return graph


def _named(trace: Trace, node: fx.Node, shape: tuple[int, ...]) -> CutPoint:
    """The cut after a node, under the outermost module that ends there."""
    called = [str(node.target)] if node.op == "call_module" else []
    ended = {path for path, end in trace.ends.items() if end is node} | set(called)
    paths = sorted(ended, key=lambda path: path.count("."))
    if called and sum(str(other.target) == called[0] for other in trace.nodes) > 1:
        paths = []  # a module that is called twice does not say where
    function = f"{node.name}()" if node.name in trace.ends else node.name  # a module may be called like it
    return CutPoint(paths[0] if paths else function, tuple(paths), trace.place[node], shape)


def _shape_of(trace: Trace) -> list[tuple[str, str, str]]:
    """What a trace does, comparable to another's."""
    return [(node.op, str(node.target), f"{node.args} {node.kwargs}") for node in trace.nodes]


def _prefix_graph(trace: Trace, *ends: fx.Node) -> fx.Graph:
    """From the images to a node, or to several in the order of the trace, as a tuple."""
    graph = fx.Graph()
    copies = _Copies(graph)
    for node in trace.nodes[: trace.place[ends[-1]] + 1]:
        if node not in trace.static:
            copies[node]
    graph.output(copies[ends[0]] if len(ends) == 1 else tuple(copies[node] for node in ends))
    return graph


def _tail_graph(trace: Trace, at: fx.Node) -> fx.Graph:
    graph = fx.Graph()
    copies = _Copies(graph)
    # a module that works in place would otherwise write into the caller's tensor, a cached one perhaps
    copies[at] = graph.call_method("clone", (graph.placeholder("crossing"),))
    for node in trace.nodes[trace.place[at] + 1 :]:
        if node.op == "output":
            graph.output(fx.node.map_arg(node.args[0], copies.__getitem__))
        elif node not in trace.static:
            copies[node]
    return graph


class _Copies(dict[fx.Node, fx.Node]):
    """Nodes and their copies in a graph; parameters, and what is made of them alone, are copied where needed."""

    def __init__(self, graph: fx.Graph) -> None:
        super().__init__()
        self._graph = graph

    def __missing__(self, node: fx.Node) -> fx.Node:
        self[node] = self._graph.node_copy(node, self.__getitem__)
        return self[node]


def _module(model: nn.Module, trace: Trace, graph: fx.Graph, name: str) -> nn.Module:
    targets = {str(node.target) for node in graph.nodes if node.op in ("call_module", "get_attr")}
    made = fx.GraphModule({target: trace.parts[target] for target in targets}, graph, name)
    made.training = model.training  # and not .train(): its modules are the model's own, frozen ones among them
    buffers = targets & {buffer for buffer, _ in model.named_buffers()}
    if buffers:
        made.register_forward_pre_hook(partial(_take_buffers, model, sorted(buffers)))
    return made


def _take_buffers(model: nn.Module, names: list[str], part: nn.Module, _: Any) -> None:
    """Gives a part the model's buffers of now: moving a model to another device or type makes them anew."""
    for name in names:
        path, _, last = name.rpartition(".")
        part.get_submodule(path)._buffers[last] = model.get_buffer(name)


def _prove(model: nn.Module, made: Cut, images_BCHW: Tensor) -> None:
    with training_kept(model, made.prefix, made.tail), attributes_kept(model), torch.no_grad():
        for part in (model, made.prefix, made.tail):
            part.eval()
        whole = model(images_BCHW.clone())
        crossing = made.prefix(images_BCHW.clone())
        made.prefix(images_BCHW.flip(0, -1) + 1)  # nothing of the images may reach the tail behind the tensor's back
        again = made.tail(crossing)
    if not are_close(whole, again, tolerance=TOLERANCE):
        raise ModelError(
            f"cut at `{made.at.name}`, prefix and tail do not give what the model gives", "use the whole model"
        )


def example_for(model: nn.Module, example: Tensor | None = None) -> Tensor:
    """The images given, or a random one of the model's own size, where and as the model's parameters are.

    Raises:
        ModelError: the model is none.
    """
    check_module(model)
    return on_device(model, example_images(model) if example is None else example)


def on_device(model: nn.Module, images_BCHW: Tensor) -> Tensor:
    """Images where the model's parameters are, in their precision."""
    first = next((one for one in model.parameters() if one.is_floating_point()), images_BCHW)
    return images_BCHW.to(first.device, first.dtype)
