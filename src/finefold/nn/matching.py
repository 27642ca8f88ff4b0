"""Which tensor of one state belongs where in a model whose keys are named otherwise: the structure says.

First names, if they agree once a wrapper's prefix is taken off; then the flow of data, if the source's model is
there to be run; then containers, shapes and what else the keys tell (nn/aligning.py). What fits without being
equal (a stem of other channels, query, key and value in one tensor or three) is adapted, and said. Nothing is
guessed in silence: what could as well go elsewhere is marked with its rivals.
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from math import prod

from torch import Tensor, nn

from finefold.errors import ModelError, WeightsError
from finefold.nn.aligning import Aligner, Pair
from finefold.nn.catalogue import example_images
from finefold.nn.cutting import on_device
from finefold.nn.dataflow import DataFlow, flow_colours, watch_flow
from finefold.nn.layout import CLASSIFIER_REASON, HEAD_REASON, NO_HEAD_REASON, NO_PLACE, Layout, Placed
from finefold.nn.units import (
    COUNTER,
    ONLY,
    Shape,
    Unit,
    find_units,
    is_grouped,
    natural_order,
    plain_shape,
    words_and_numbers,
)
from finefold.nn.weights import State

_NAMED_SHARE = 0.6  # of the model's keys that the source must have by name, or names are not the way
_ROLES_SHARE = 0.5  # of the source's keys that must say what they are, or their order must
_BY_NAME, _BY_FLOW, _BY_POSITION, _ADAPTED = 1.0, 0.99, 0.9, 0.9


def lay_out(
    state: State,
    model: nn.Module,
    *,
    source_model: nn.Module | None = None,
    order_is_kept: bool = True,
    hints: Mapping[str, str] | None = None,
) -> Layout:
    """Finds out which tensor of `state` belongs where in `model`.

    Args:
        state: the source's tensors.
        model: the target.
        source_model: the model that `state` is of, where it is known; its flow of data is then compared.
        order_is_kept: whether the keys of `state` stand in the order in which its model defines them, as in a
            .pth file; a .safetensors file sorts them.
        hints: key of the model -> key of the source, taken as given.

    Raises:
        WeightsError: a hint names a key that is not there, or one whose shape does not fit.
    """
    work = _Work(state, model, order_is_kept)
    work.take_names()
    work.take_hints(hints or {})
    work.align(source_model)
    work.adapt()
    return work.layout()


class _Work:
    """One search for what goes where."""

    def __init__(self, state: State, model: nn.Module, order_is_kept: bool) -> None:
        self._state, self._model, self._own = state, model, model.state_dict()
        keys = list(state)
        self._order_is_kept = order_is_kept and is_grouped(keys)
        if not self._order_is_kept:
            ranks = dict(zip(keys, natural_order(keys), strict=True))
            keys.sort(key=ranks.__getitem__)
            self._order_is_kept = len({words_and_numbers(key)[0] for key in keys}) == 1  # p0, p1, p2 ...
        self._is_by_position = False
        self._target = find_units(self._own, self._own)
        self._source = self._by_position(keys) or find_units(state, keys)
        self._prefix, self._is_outer = ("", True) if self._is_by_position else _prefix(state, self._own)
        self._flow: DataFlow | None = None
        self._pairs: dict[int, Pair] = {}  # by target
        self._adapted: dict[int, str] = {}  # target -> how
        self._heads: dict[int, str] = {}  # target -> reason

    def _by_position(self, keys: Sequence[str]) -> list[Unit] | None:
        """The source's units where its keys do not say what they are and their shapes, in order, are the model's."""
        ours = [key for key in keys if self._state[key].is_floating_point()]
        told = sum(key.endswith((".weight", ".bias", ".running_mean", ".running_var")) for key in ours)
        theirs = [key for key, tensor in self._own.items() if tensor.is_floating_point()]
        if not self._order_is_kept or told >= _ROLES_SHARE * max(1, len(ours)) or len(ours) < len(theirs):
            return None
        names = dict(zip(theirs, ours, strict=False))  # what the source has beyond comes last: its own head
        shapes = {key: plain_shape(self._state[names[key]].shape) for key in theirs}
        other = [key for key in theirs if shapes[key] != plain_shape(self._own[key].shape)]
        if any(key not in theirs[-2:] for key in other):  # a head of another size may differ
            return None
        units = []
        for order, unit in enumerate(self._target):
            found = {role: tuple(names[key] for key in own) for role, own in unit.keys.items()}
            is_other = any(key in other for own in unit.keys.values() for key in own)
            own_shapes = {role: shapes[own[0]] for role, own in unit.keys.items()} if is_other else unit.shapes
            units.append(Unit(unit.path, found, own_shapes, order))
        self._is_by_position = True
        return units

    def _renamed(self, path: str) -> str:
        """The source's name of what the model calls `path`, if names agree but for the prefix."""
        if self._is_outer:
            return self._prefix + path
        return path.removeprefix(self._prefix) if path.startswith(self._prefix) else f"\0{path}"

    def take_names(self) -> None:
        """Pairs units of equal names, if most names are equal."""
        names = {unit.path: number for number, unit in enumerate(self._source)}
        reason = f"same name after `{self._prefix}`" if self._prefix else "same name"
        if self._is_by_position:
            reason = "the same place in the order, every shape agrees"
        found = {
            target: names[path]
            for target, unit in enumerate(self._target)
            if (path := self._renamed(unit.path)) in names and self._source[names[path]].label == unit.label
        }
        if len(found) >= _NAMED_SHARE * len(self._target):
            confidence = _BY_POSITION if self._is_by_position else _BY_NAME
            self._pairs = {target: Pair(source, target, confidence, reason) for target, source in found.items()}

    def take_hints(self, hints: Mapping[str, str]) -> None:
        """Pairs the units of the keys that the user named."""
        ours = {key: number for number, unit in enumerate(self._target) for keys in unit.keys.values() for key in keys}
        theirs = {
            key: number for number, unit in enumerate(self._source) for keys in unit.keys.values() for key in keys
        }
        for key, source_key in hints.items():
            for name, known, whose in ((key, ours, "the model"), (source_key, theirs, "the source")):
                if name not in known:
                    raise WeightsError(
                        f"a hint names `{name}`, which {whose} does not have", "see `finefold inspect --state`"
                    )
            target, source = ours[key], theirs[source_key]
            if self._source[source].label != self._target[target].label:
                raise WeightsError(
                    f"a hint lays `{source_key}` {list(self._state[source_key].shape)} onto "
                    f"`{key}` {list(self._own[key].shape)}",
                    "name tensors of one shape",
                )
            self._pairs = {one: pair for one, pair in self._pairs.items() if source != pair.source}
            self._pairs[target] = Pair(source, target, _BY_NAME, "as the hint says")

    def align(self, source_model: nn.Module | None) -> None:
        """Pairs the rest by flow, where both models can be run, and by structure."""
        ours: list[Hashable] = [unit.label for unit in self._source]
        theirs: list[Hashable] = [unit.label for unit in self._target]
        if len(self._pairs) == len(self._target):
            return
        taken = {pair.source for pair in self._pairs.values()}
        if source_model is not None:
            our_colours, their_colours = self._colours(source_model)
            for colour, sources in our_colours.items():
                targets = their_colours.get(colour, [])
                free = [target for target in targets if target not in self._pairs]
                if len(sources) == len(targets) == 1 and free and sources[0] not in taken:
                    self._pair_by_flow(sources[0], targets[0])
                elif len(sources) == len(targets):
                    for number in sources:
                        ours[number] = (ours[number], colour)
                    for number in targets:
                        theirs[number] = (theirs[number], colour)
        aligner = Aligner(
            self._source,
            self._target,
            source_labels=ours,
            target_labels=theirs,
            order_is_kept=self._order_is_kept,
        )
        for pair in self._pairs.values():
            aligner.fix(pair)
        self._pairs = aligner.run()

    def _colours(self, source_model: nn.Module) -> tuple[dict[Hashable, list[int]], dict[Hashable, list[int]]]:
        """The units of both sides by their place in the flow of data."""
        sides = []
        flows = (watch_flow(source_model, _example(source_model)), self._target_flow())
        for units, flow in zip((self._source, self._target), flows, strict=True):
            by_place: dict[Hashable, list[int]] = {}
            if flow is not None:
                owners = {key: str(number) for key, number in _owners(units).items()}
                labels = {str(n): _coarse(unit, flow) for n, unit in enumerate(units)}
                for name, colour in flow_colours(flow, labels, owners).items():
                    by_place.setdefault(colour, []).append(int(name))
            sides.append(by_place)
        return sides[0], sides[1]

    def _pair_by_flow(self, source: int, target: int) -> None:
        one, other = self._source[source], self._target[target]
        if one.label == other.label:
            self._pairs[target] = Pair(source, target, _BY_FLOW, "the same place in the flow of data")

    def _target_flow(self) -> DataFlow | None:
        if self._flow is None:
            try:
                self._flow = watch_flow(self._model, _example(self._model))
            except ModelError:
                return None
        return self._flow

    def adapt(self) -> None:
        """Finds sources that fit without being equal, and heads that do not."""
        rest = [number for number in range(len(self._target)) if number not in self._pairs]
        if not rest:
            return
        flow = self._target_flow()
        ends = flow.output if flow else frozenset(self._target[-1].keys.get("weight", ()))
        for target in rest:
            unit = self._target[target]
            taken = {pair.source for pair in self._pairs.values()}
            free = [number for number in range(len(self._source)) if number not in taken]
            fits = [(number, how) for number in free if (how := _adapts(self._source[number], unit))]
            if len(fits) == 1:
                source, how = fits[0]
                self._pairs[target] = Pair(source, target, _ADAPTED, _ADAPTIONS[how])
                self._adapted[target] = how
            elif any(key in ends for keys in unit.keys.values() for key in keys):
                others = [self._source[number] for number in free if _is_other_head(self._source[number], unit)]
                sizes = f": {others[0].path} has {_num_rows(others[0])}, this one {_num_rows(unit)}" if others else ""
                self._heads[target] = HEAD_REASON + sizes if others else NO_HEAD_REASON

    def layout(self) -> Layout:
        """What was found."""
        placed: dict[str, Placed] = {}
        for target, pair in self._pairs.items():
            for one in self._place(target, pair):
                placed[one.key] = one
        missing: dict[str, str] = {}
        heads = {key: why for n, why in self._heads.items() for keys in self._target[n].keys.values() for key in keys}
        for key in self._own:
            if key in placed:
                continue
            if key in heads:
                missing[key] = heads[key]
            elif key.endswith(COUNTER) or not self._own[key].is_floating_point():
                placed[key] = self._unsourced(key, placed)
            else:
                missing[key] = "nothing in the source fits here"
        used = {source for one in placed.values() for source in one.sources}
        left_out = {key: self._why_left(key) for key in self._state if key not in used}
        ordered = tuple(placed[key] for key in self._own if key in placed)
        return Layout(ordered, missing, left_out, self._misfits(left_out, used))

    def _place(self, target: int, pair: Pair) -> Iterator[Placed]:
        one, other = self._source[pair.source], self._target[target]
        for role, own_keys in other.keys.items():
            sources = one.keys[role]
            rivals = tuple(key for rival in pair.rivals for key in self._source[rival].keys[role])
            for piece, key in enumerate(own_keys):
                chosen, how = sources, "joined"
                if len(sources) == len(own_keys):
                    chosen, how = (sources[piece],), "same"
                    if self._state[sources[piece]].shape != self._own[key].shape:
                        how = "channels" if self._adapted.get(target) == "channels" else "reshaped"
                elif len(own_keys) > 1:
                    how = f"part {piece + 1}/{len(own_keys)}"
                yield Placed(key, chosen, how, pair.confidence, pair.reason, rivals)

    def _unsourced(self, key: str, placed: Mapping[str, Placed]) -> Placed:
        """A batch counter, or an integer buffer: the source's where it has one in the same place, else the model's."""
        path = key.rpartition(".")[0]
        neighbour = next((one for one in placed.values() if one.key.startswith(f"{path}.") and one.sources), None)
        guess = self._renamed(key)
        if neighbour is not None:
            guess = f"{neighbour.sources[0].rpartition('.')[0]}.{key.rpartition('.')[2]}"
        if guess in self._state and self._state[guess].shape == self._own[key].shape:
            if neighbour is None or not neighbour.rivals:
                return Placed(key, (guess,), "same", _BY_NAME, "beside its layer")
            last = key.rpartition(".")[2]
            rivals = tuple(f"{rival.rpartition('.')[0]}.{last}" for rival in neighbour.rivals)
            return Placed(key, (guess,), "same", neighbour.confidence, "beside its layer", rivals)
        if key.endswith(COUNTER):
            return Placed(key, (), "new", 1.0, "the source counts no batches; set to 0")
        return Placed(key, (), "kept", 1.0, "an integer buffer that the model makes itself")

    def _why_left(self, key: str) -> str:
        if not self._state[key].is_floating_point():
            return "the model makes or needs no such integer buffer"
        heads = [self._target[number] for number in self._heads]
        unit = next((unit for unit in self._source if any(key in keys for keys in unit.keys.values())), None)
        if unit is not None and any(_is_other_head(unit, head) for head in heads):
            return HEAD_REASON
        if unit is not None and len(_weight_shape(unit)) == 2 and getattr(self._model, "num_classes", None) == 0:
            return CLASSIFIER_REASON
        return NO_PLACE

    def _misfits(self, left_out: Mapping[str, str], used: set[str]) -> tuple[str, ...]:
        """Left-out tensors inside a part of the source that does have a place."""
        prefix = self._prefix if self._is_outer else ""
        parents = {".".join(key.split(".")[:length]) for key in used for length in range(1, key.count(".") + 1)}
        found = []
        for key, reason in left_out.items():
            if reason != NO_PLACE:
                continue
            names = key.split(".")
            outer = [".".join(names[:length]) for length in range(1, len(names))]
            if any(path in parents and f"{path}." != prefix and not prefix.startswith(f"{path}.") for path in outer):
                found.append(key)
        return tuple(found)


def _prefix(state: State, own: State) -> tuple[str, bool]:
    """What stands before the keys of one side: (prefix, whether it is the source that has it)."""
    best, count = ("", True), sum(key in state for key in own)
    for is_outer, (longer, shorter) in ((True, (state, own)), (False, (own, state))):
        names = [key.split(".") for key in longer]
        starts = {".".join(parts[:depth]) + "." for parts in names for depth in (1, 2, 3) if len(parts) > depth}
        for start in sorted(starts):
            hits = sum(start + key in longer for key in shorter)
            if hits > count:
                best, count = (start, is_outer), hits
    return best


def _owners(units: Sequence[Unit]) -> dict[str, int]:
    """Key -> number of the unit that has it."""
    return {key: number for number, unit in enumerate(units) for keys in unit.keys.values() for key in keys}


def _example(model: nn.Module) -> Tensor:
    return on_device(model, example_images(model))


def _coarse(unit: Unit, flow: DataFlow) -> Hashable:
    """What a unit is, whatever its stem's channels, its head's size and how its weight is folded."""
    keys = [key for keys in unit.keys.values() for key in keys]
    is_end = any(key in flow.output for key in keys)
    is_start = all(not flow.before.get(key) for key in keys)
    shapes = []
    for role, shape in sorted(unit.shapes.items()):
        rows, rest = shape[0] if shape else 1, prod(shape[1:])
        if is_end:
            rows = 0
        if is_start and len(shape) == 4:
            rest = prod(shape[2:])
        shapes.append((role, rows, rest))
    return tuple(shapes)


_ADAPTIONS = {
    "channels": "the stem, adapted to other input channels",
    "reshaped": "the same number of values, folded otherwise",
}


def _adapts(source: Unit, target: Unit) -> str | None:
    """How a source's unit could be made a target's: "channels", "reshaped", or not at all."""
    if source.shapes.keys() != target.shapes.keys():
        return None
    role = ONLY if ONLY in source.shapes else "weight"
    if any(source.shapes[one] != target.shapes[one] for one in source.shapes if one != role):
        return None
    one, other = source.shapes.get(role, ()), target.shapes.get(role, ())
    if len(one) == len(other) == 4 and one[0] == other[0] and one[2:] == other[2:] and min(one[1], other[1]) <= 4:
        return "channels" if one[1] == 3 else None
    if one and other and one[0] == other[0] and prod(one) == prod(other) and {len(one), len(other)} == {2, 4}:
        return "reshaped"
    return None


def _is_other_head(source: Unit, head: Unit) -> bool:
    """Whether a unit is a linear layer on the same features as `head`, with another number of outputs."""
    one, other = _weight_shape(source), _weight_shape(head)
    return len(one) == len(other) == 2 and one[1] == other[1] and one[0] != other[0]


def _weight_shape(unit: Unit) -> Shape:
    return unit.shapes.get("weight") or unit.shapes.get(ONLY) or ()


def _num_rows(unit: Unit) -> int:
    return _weight_shape(unit)[0]
