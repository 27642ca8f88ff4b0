"""Which tensor of one state belongs where in a model whose keys are named otherwise: the structure says.

First names, if they agree once a wrapper's prefix is taken off; then the flow of data, if the source's model is
there to be run; then containers, shapes and what else the keys tell (nn/aligning.py). What fits without being
equal (a stem of other channels, query, key and value in one tensor or three) is adapted, and said. Nothing is
guessed in silence: what could as well go elsewhere is marked with its rivals.
"""

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence

from torch import nn

from finefold.errors import ModelError, WeightsError
from finefold.nn.adapting import ADAPTIONS, coarse_label, how_to_adapt, is_other_head, weight_shape
from finefold.nn.aligning import Aligner, Pair
from finefold.nn.cutting import example_for
from finefold.nn.dataflow import DataFlow, flow_colours, watch_flow
from finefold.nn.layout import CLASSIFIER_REASON, HEAD_REASON, NO_HEAD_REASON, NO_PLACE, Layout, Placed
from finefold.nn.units import (
    COUNTER,
    Unit,
    common_prefixes,
    find_units,
    holds_weights,
    is_grouped,
    natural_order,
    plain_shape,
    says_its_role,
    words_and_numbers,
)
from finefold.nn.weights import State

_NAMED_SHARE = 0.6  # of the model's keys that the source must have by name, or names are not the way
_ROLES_SHARE = 0.5  # of the source's keys that must say what they are, or their order must
_BY_NAME, _BY_FLOW, _BY_POSITION, _ADAPTED, _IN_DOUBT = 1.0, 0.99, 0.9, 0.9, 0.5


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
            names = {words_and_numbers(key)[0] for key in keys}
            layers = {words_and_numbers(key.rpartition(".")[0])[0] for key in keys}
            self._order_is_kept = 1 in (len(names), len(layers))  # p0, p1, p2 ..., or layer0.weight, layer0.bias ...
        self._is_by_position = False
        self._target = find_units(self._own, self._own)
        self._source = self._by_position(keys) or find_units(state, keys)
        prefixes, self._is_outer = ([""], True) if self._is_by_position else common_prefixes(state, self._own)
        self._prefix, *self._other_prefixes = prefixes
        if sum(self._renamed(key) in state for key in self._own) < _NAMED_SHARE * len(self._own):
            self._prefix, self._other_prefixes = "", []  # a chance, not a wrapper
        self._counters = self._counters_by_position(keys)
        self._flow: DataFlow | None = None
        self._pairs: dict[int, Pair] = {}  # by target
        self._adapted: dict[int, str] = {}  # target -> how
        self._heads: dict[int, str] = {}  # target -> reason

    def _by_position(self, keys: Sequence[str]) -> list[Unit] | None:
        """The source's units where its keys do not say what they are and their shapes, in order, are the model's."""
        ours = [key for key in keys if holds_weights(self._state[key])]
        told = sum(says_its_role(key) for key in ours)
        theirs = [key for key, tensor in self._own.items() if holds_weights(tensor)]
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

    def _counters_by_position(self, keys: Sequence[str]) -> dict[str, str]:
        """The model's batch counters and the source's, where keys that say nothing were taken by position."""
        ours = [key for key in keys if not holds_weights(self._state[key]) and self._state[key].ndim == 0]
        theirs = [key for key in self._own if key.endswith(COUNTER)]
        is_sure = self._is_by_position and len(ours) == len(theirs)
        return dict(zip(theirs, ours, strict=True)) if is_sure else {}

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
        if len(found) < _NAMED_SHARE * len(self._target) or self._are_renumbered(found):
            return
        confidence = _BY_POSITION if self._is_by_position else _BY_NAME
        for target, source in found.items():
            others = [prefix + self._target[target].path for prefix in self._other_prefixes]
            rivals = tuple(names[path] for path in others if path in names)
            self._pairs[target] = Pair(source, target, _IN_DOUBT if rivals else confidence, reason, rivals)

    def _are_renumbered(self, found: Mapping[int, int]) -> bool:
        """Whether equal names are a chance of numbering: what they leave over on both sides differs in numbers only."""
        ours = {self._name(unit) for number, unit in enumerate(self._source) if number not in found.values()}
        theirs = {self._name(unit) for number, unit in enumerate(self._target) if number not in found}
        return bool(ours & theirs)

    @staticmethod
    def _name(unit: Unit) -> Hashable:
        """A unit's label and the words of its name, without numbers."""
        return unit.label, words_and_numbers(unit.path)[0]

    def take_hints(self, hints: Mapping[str, str]) -> None:
        """Pairs the units of the keys that the user named."""
        ours, theirs = _owners(self._target), _owners(self._source)
        hinted: list[Pair] = []
        for key, source_key in hints.items():
            for name, known, whose in ((key, ours, "the model"), (source_key, theirs, "the source")):
                if name not in known:
                    raise WeightsError(
                        f"a hint names `{name}`, which {whose} does not have", "see `finefold inspect --state`"
                    )
            target, source = ours[key], theirs[source_key]
            is_same_role = _role(self._target[target], key) == _role(self._source[source], source_key)
            if not is_same_role or self._source[source].label != self._target[target].label:
                raise WeightsError(
                    f"a hint lays `{source_key}` {list(self._state[source_key].shape)} onto "
                    f"`{key}` {list(self._own[key].shape)}",
                    "name tensors of one shape that are the same to their layers",
                )
            if any(pair.source == source and pair.target != target for pair in hinted):
                raise WeightsError(f"two hints lay the layer of `{source_key}` onto others", "name each layer once")
            hinted.append(Pair(source, target, _BY_NAME, "as the hint says"))
            self._pairs = {one: pair for one, pair in self._pairs.items() if source != pair.source}
            self._pairs[target] = hinted[-1]

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
        flows = (watch_flow(source_model, example_for(source_model)), self._target_flow())
        for units, flow in zip((self._source, self._target), flows, strict=True):
            by_place: dict[Hashable, list[int]] = {}
            if flow is not None:
                owners = {key: str(number) for key, number in _owners(units).items()}
                labels = {str(n): coarse_label(unit, flow) for n, unit in enumerate(units)}
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
                self._flow = watch_flow(self._model, example_for(self._model))
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
            is_convolution = any(self._own[key].ndim == 4 for keys in unit.keys.values() for key in keys)
            fits = [
                (number, how)
                for number in free
                if (how := how_to_adapt(self._source[number], unit, is_convolution=is_convolution))
            ]
            named = [fit for fit in fits if self._source[fit[0]].path == self._renamed(unit.path)]
            fits = named if len(fits) > 1 and named else fits
            if len(fits) == 1:
                source, how = fits[0]
                self._pairs[target] = Pair(source, target, _ADAPTED, ADAPTIONS[how])
                self._adapted[target] = how
            elif any(key in ends for keys in unit.keys.values() for key in keys):
                others = [self._source[number] for number in free if is_other_head(self._source[number], unit)]
                sizes = ""
                if others:
                    sizes = f": {others[0].path} has {weight_shape(others[0])[0]}, this one {weight_shape(unit)[0]}"
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
            elif key.endswith(COUNTER) or not holds_weights(self._own[key]):
                placed[key] = self._unsourced(key, placed)
            else:
                missing[key] = "nothing in the source fits here"
        used = {source for one in placed.values() for source in one.sources}
        parents = _parents(used)
        left_out = {key: self._why_left(key, parents) for key in self._state if key not in used}
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
                        how = "reshaped" if key.endswith(".bias") else self._adapted.get(target, "reshaped")
                elif len(own_keys) > 1:
                    how = f"part {piece + 1}/{len(own_keys)}"
                yield Placed(key, chosen, how, pair.confidence, pair.reason, rivals)

    def _unsourced(self, key: str, placed: Mapping[str, Placed]) -> Placed:
        """A batch counter, or an integer buffer: the source's where it has one in the same place, else the model's."""
        path, _, last = key.rpartition(".")
        beside = [one for one in placed.values() if one.key.rpartition(".")[0] == path and one.sources]
        guess = self._counters.get(key, self._renamed(key))
        if beside and not self._counters:
            guess = _sibling(beside[0].sources[0], last)
        if guess in self._state and self._state[guess].shape == self._own[key].shape:
            rivals = tuple(_sibling(rival, last) for rival in beside[0].rivals) if beside else ()
            return Placed(key, (guess,), "same", beside[0].confidence if rivals else 1.0, "beside its layer", rivals)
        if key.endswith(COUNTER):
            return Placed(key, (), "new", 1.0, "the source counts no batches; set to 0")
        return Placed(key, (), "kept", 1.0, "an integer buffer that the model makes itself")

    def _why_left(self, key: str, parents: set[str]) -> str:
        if not holds_weights(self._state[key]):
            return "the model makes or needs no such integer buffer"
        heads = [self._target[number] for number in self._heads]
        unit = next((unit for unit in self._source if any(key in keys for keys in unit.keys.values())), None)
        if unit is not None and any(is_other_head(unit, head) for head in heads):
            return HEAD_REASON
        if unit is not None and getattr(self._model, "num_classes", None) == 0 and self._is_classifier(unit, parents):
            return CLASSIFIER_REASON
        return NO_PLACE

    def _is_classifier(self, unit: Unit, parents: set[str]) -> bool:
        """Whether a unit is a linear layer behind all others: by itself, last, or on the model's own features."""
        shape = weight_shape(unit)
        if len(shape) != 2:
            return False
        inside = [path for path in _parents([f"{unit.path}.weight"]) if path != unit.path and path in parents]
        is_last = self._order_is_kept and unit.order == len(self._source) - 1
        return not inside or is_last or shape[1] == getattr(self._model, "num_features", None)

    def _misfits(self, left_out: Mapping[str, str], used: set[str]) -> tuple[str, ...]:
        """Left-out tensors inside a part of the source that does have a place."""
        prefix = self._prefix if self._is_outer else ""
        parents = _parents(used)
        owners = _owners(self._source)
        siblings = {self._place_of(self._source[owners[key]]) for key in used if key in owners}
        found = []
        for key, reason in left_out.items():
            if reason != NO_PLACE:
                continue
            names = key.split(".")
            outer = [".".join(names[:length]) for length in range(1, len(names))]
            is_inside = any(
                path in parents and f"{path}." != prefix and not prefix.startswith(f"{path}.") for path in outer
            )
            if is_inside or (key in owners and self._place_of(self._source[owners[key]]) in siblings):
                found.append(key)
        return tuple(found)

    @staticmethod
    def _place_of(unit: Unit) -> Hashable:
        """What a unit is and where: one too many of these is another network."""
        return unit.label, unit.path.rpartition(".")[0]


def _parents(keys: Iterable[str]) -> set[str]:
    """Every module that holds one of some keys."""
    return {".".join(key.split(".")[:length]) for key in keys for length in range(1, key.count(".") + 1)}


def _sibling(key: str, last: str) -> str:
    """The key of another tensor of the same layer."""
    path = key.rpartition(".")[0]
    return f"{path}.{last}" if path else last


def _role(unit: Unit, key: str) -> str:
    return next(role for role, keys in unit.keys.items() if key in keys)


def _owners(units: Sequence[Unit]) -> dict[str, int]:
    """Key -> number of the unit that has it."""
    return {key: number for number, unit in enumerate(units) for keys in unit.keys.values() for key in keys}
