"""Looking inside any module: its tree with parameters and memory, its stages and cut points, and its state.

Measuring (shapes, operations, time, gradients) is `nn/measuring.py`'s.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from typing import Any

from torch import Tensor, nn

from finefold.data.findings import Finding
from finefold.errors import ModelError
from finefold.nn.catalogue import example_images
from finefold.nn.cutting import Chain, find_cuts, on_device
from finefold.nn.measuring import Flow, Gradients, measure_flow, measure_gradients
from finefold.nn.stages import Stage, find_stages
from finefold.nn.weights import tensor_hash


@dataclass(frozen=True)
class ModuleRow:
    """One module of a tree.

    Args:
        name: as in `named_modules`; `""` is the model itself.
        kind: its class.
        depth: 0 is the model itself.
        num_children: modules directly inside.
        parameters: values of its parameters, its children's included, shared ones once.
        trainable: how many of them require a gradient.
        dtype: of its parameters, several joined by a slash, empty without.
        bytes: of its parameters and buffers.
        stage: of the chain that it opens, else empty.
        cut: name of the cut point at its end, else empty.
    """

    name: str
    kind: str
    depth: int
    num_children: int
    parameters: int
    trainable: int
    dtype: str
    bytes: int
    stage: str
    cut: str

    @property
    def trainable_share(self) -> float:
        """Share of its parameters that require a gradient; 0 where it has none."""
        return self.trainable / self.parameters if self.parameters else 0.0


@dataclass(frozen=True)
class StateRow:
    """One tensor of a state dict.

    Args:
        key: its name.
        shape, dtype: its own.
        mean, std: over all values (std with N in the denominator); None where there are none, or they are no numbers.
        hash: 16 hex digits over its values.
    """

    key: str
    shape: tuple[int, ...]
    dtype: str
    mean: float | None
    std: float | None
    hash: str


@dataclass(frozen=True)
class Inspection:
    """What was seen of a model. `str()` gives it as plain text, `to_dict()` as JSON's values.

    Args:
        modules: the tree, parents before children.
        stages: stem, stages, head; empty where the chain has no cut.
        chain: the cut points, or the reason why there is none.
        flow: with `forward=True`.
        gradients: with `gradients=True`.
        state: with `state=True`.
    """

    modules: tuple[ModuleRow, ...]
    stages: tuple[Stage, ...]
    chain: Chain
    flow: Flow | None = None
    gradients: Gradients | None = None
    state: tuple[StateRow, ...] | None = None

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What is wrong with it."""
        return self.gradients.findings if self.gradients else ()

    def module(self, name: str) -> ModuleRow:
        """The row of a module.

        Raises:
            ModelError: there is none of that name; near names are suggested.
        """
        rows = {row.name: row for row in self.modules}
        if name not in rows:
            near = get_close_matches(name, [one for one in rows if one], n=3, cutoff=0.5)
            told = f"did you mean {' or '.join(near)}?" if near else "`.modules` has them all; `''` is the model itself"
            raise ModelError(f"there is no module `{name}`", told)
        return rows[name]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `finefold inspect --json` prints them."""
        told: dict[str, Any] = {
            "parameters": self.modules[0].parameters,
            "trainable": self.modules[0].trainable,
            "bytes": self.modules[0].bytes,
            "modules": [asdict(row) for row in self.modules],
            "stages": [asdict(stage) for stage in self.stages],
            "cuts": [asdict(cut) for cut in self.chain.cuts],
            "no_cuts_because": self.chain.reason,
        }
        if self.flow is not None:
            told["forward"] = self.flow.to_dict()
        if self.gradients is not None:
            told["gradients"] = self.gradients.to_dict()
        if self.state is not None:
            told["state"] = [asdict(row) for row in self.state]
        told["findings"] = [finding.to_dict() for finding in self.findings]
        return told

    def __str__(self) -> str:
        lines = [
            f"{'  ' * row.depth}{row.name.rpartition('.')[2] or '(model)'}: {row.kind}, {row.parameters:,} parameters"
            + (f", {row.trainable_share:.0%} trainable" if row.parameters else "")
            + (f"  [{row.stage}]" if row.stage else "")
            + (" | cut" if row.cut else "")
            for row in self.modules
        ]
        if self.chain.reason is not None:
            lines.append(f"no cut points: {self.chain.reason}")
        lines += [f"{finding.severity}: {finding.kind}: {finding.cause}" for finding in self.findings]
        return "\n".join(lines)


def inspect_model(
    model: nn.Module,
    images_BCHW: Tensor | None = None,
    labels_B: Tensor | None = None,
    *,
    forward: bool = False,
    gradients: bool = False,
    state: bool = False,
) -> Inspection:
    """Looks inside any module. Its parameters, buffers, gradients and modes are left as they were.

    Args:
        model: takes images [B, C, H, W]; for the tree and the state alone, any module will do.
        images_BCHW: what to run it on; one random image of its own size by default (two for gradients).
        labels_B: class numbers for the loss of `gradients`; 0, 1, 2 ... by default.
        forward: measure shapes, operations and time of every module.
        gradients: run one batch forward and backward.
        state: list every tensor of the state dict.

    Raises:
        ModelError: `model` is none, but a name perhaps; or, with `forward` or `gradients`, it does not run on the
            images.
    """
    chain = find_cuts(model, example=None if images_BCHW is None else images_BCHW[:1])
    stages = find_stages(model, chain)
    given = images_BCHW is not None
    images = images_BCHW if images_BCHW is not None else example_images(model, count=2)
    images = on_device(model, images) if forward or gradients else images
    return Inspection(
        tuple(_tree(model, stages, chain)),
        stages,
        chain,
        measure_flow(model, images if given else images[:1]) if forward else None,
        measure_gradients(model, images, labels_B) if gradients else None,
        state_rows(model.state_dict()) if state else None,
    )


def _tree(model: nn.Module, stages: tuple[Stage, ...], chain: Chain) -> list[ModuleRow]:
    opens = {stage.modules[0]: stage.name for stage in stages}
    cuts = {name: cut.name for cut in chain.cuts for name in cut.modules}
    rows = []
    for name, module in model.named_modules():
        parameters = list(module.parameters())
        tensors = [*parameters, *module.buffers()]
        rows.append(
            ModuleRow(
                name,
                type(module).__name__,
                name.count(".") + 1 if name else 0,
                sum(1 for _ in module.children()),
                sum(parameter.numel() for parameter in parameters),
                sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
                "/".join(sorted({_dtype(parameter) for parameter in parameters})),
                sum(tensor.numel() * tensor.element_size() for tensor in tensors),
                opens.get(name, ""),
                cuts.get(name, ""),
            )
        )
    return rows


def state_tree(state: Mapping[str, Tensor]) -> tuple[ModuleRow, ...]:
    """The tree that a state dict's keys tell of, without a model: parents before children.

    Kinds are read off the tensors: a layer with running statistics is a batch norm, one with a weight [O, I, H, W]
    a convolution. What is trainable is not in a state dict.
    """
    held: dict[str, list[str]] = {"": list(state)}
    for key in state:
        names = key.split(".")
        for length in range(1, len(names)):
            held.setdefault(".".join(names[:length]), []).append(key)
    rows = []
    first = {path: number for number, path in enumerate(held)}
    paths = sorted(held, key=lambda path: [first[part] for part in _parents_of(path)])
    for path in paths:
        keys = held[path]
        tensors = [state[key] for key in keys]
        floats = [tensor for tensor in tensors if tensor.is_floating_point()]
        children = {other for other in held if other and other.rpartition(".")[0] == path and other != path}
        num_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        dtype = "/".join(sorted({_dtype(tensor) for tensor in floats}))
        kind = "" if children else _kind({key.rpartition(".")[2]: state[key] for key in keys})
        count = sum(state[key].numel() for key in keys if state[key].is_floating_point() and ".running_" not in key)
        depth = path.count(".") + 1 if path else 0
        rows.append(ModuleRow(path, kind, depth, len(children), count, 0, dtype, num_bytes, "", ""))
    return tuple(rows)


def _parents_of(path: str) -> list[str]:
    """A path's parents, outermost first, and itself."""
    names = path.split(".") if path else []
    return ["", *(".".join(names[:length]) for length in range(1, len(names) + 1))]


def _kind(tensors: Mapping[str, Tensor]) -> str:
    if "running_mean" in tensors:
        return "batch norm"
    weight = tensors.get("weight")
    kinds = {1: "norm or scale", 2: "linear", 3: "convolution 1d", 4: "convolution", 5: "convolution 3d"}
    return "" if weight is None else kinds.get(weight.ndim, "")


def state_rows(state: Mapping[str, Tensor]) -> tuple[StateRow, ...]:
    """Every tensor of a state dict, in its order."""
    return tuple(_state_row(key, tensor.detach()) for key, tensor in state.items() if isinstance(tensor, Tensor))


def _state_row(key: str, tensor: Tensor) -> StateRow:
    mean, std = None, None
    if tensor.numel() and not tensor.is_complex():
        values = tensor.double()
        mean, std = (_finite(value) for value in (values.mean(), values.std(correction=0)))
    return StateRow(key, tuple(tensor.shape), _dtype(tensor), mean, std, tensor_hash(tensor))


def _finite(value: Tensor) -> float | None:
    return float(value) if bool(value.isfinite()) else None


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
