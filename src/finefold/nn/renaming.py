"""A state of other names brought to the names of the model that it is of, so that this model can be run with it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor, nn

from finefold.errors import WeightsError
from finefold.nn.adapting import lay_values
from finefold.nn.layout import HEAD_REASON, Layout, Placed
from finefold.nn.matching import lay_out
from finefold.nn.units import wrapper_prefix
from finefold.nn.weights import State

_ONE_TO_ONE = ("same", "reshaped", "new", "kept")
_SHOWN = 3


@dataclass(frozen=True)
class Renamed:
    """A state under its model's names.

    Args:
        state: its tensors; what has no place in the model keeps its name.
        placed: the model's key -> whence its tensor is.
    """

    state: State
    placed: Mapping[str, Placed]

    def name_before(self, key: str) -> str:
        """What the tensor was called; the model's name of one that the state had not."""
        placed = self.placed.get(key)
        return placed.sources[0] if placed and placed.sources else key

    def hints(self, hints: Mapping[str, str]) -> dict[str, str]:
        """Hints that name the tensors as they were called -> the same under the model's names."""
        names = {self.name_before(key): key for key in self.placed}
        return {key: names.get(source, source) for key, source in hints.items()}

    def undo(self, layout: Layout) -> Layout:
        """A layout of the renamed state, told of the state as it was: no tensor is surer than its new name is."""
        return Layout(
            tuple(map(self._undo_one, layout.placed)),
            layout.missing,
            {self.name_before(key): why for key, why in layout.left_out.items()},
            tuple(map(self.name_before, layout.misfits)),
        )

    def _undo_one(self, one: Placed) -> Placed:
        renamed = [self.placed[key] for key in one.sources if key in self.placed]
        weakest = min((one, *renamed), key=lambda placed: placed.confidence)
        rivals = (*map(self.name_before, one.rivals), *(rival for other in renamed for rival in other.rivals))
        sources = tuple(map(self.name_before, one.sources))
        return replace(one, sources=sources, rivals=rivals, confidence=weakest.confidence, reason=weakest.reason)


def rename_onto(state: State, model: nn.Module, *, order_is_kept: bool, accept: bool = False) -> Renamed:
    """Finds out by structure which tensor of `state` is which of the model that it is of.

    Args:
        state: the tensors.
        model: what they are said to be of.
        order_is_kept: see `lay_out`.
        accept: take the best guess where several tensors are equally good.

    Raises:
        WeightsError: they are not of this model, or it cannot be told which is which.
    """
    layout = lay_out(state, model, order_is_kept=order_is_kept)
    own = {key: tensor.detach() for key, tensor in model.state_dict().items()}
    _check(layout, len(own), accept)
    placed = {one.key: one for one in layout.placed}
    used = {source for one in layout.placed for source in one.sources}
    rest = {key: tensor for key, tensor in state.items() if key not in used and key not in own}
    return Renamed({**lay_values(layout, state, own), **rest}, placed)


def _check(layout: Layout, num_tensors: int, accept: bool) -> None:
    """Refuses what is another model's, and what is not settled."""
    said = "the weights are not of the model that was said"
    if layout.unplaced or not layout.num_found:
        lacking = layout.unplaced or tuple(layout.missing)
        found = f"{len(lacking)} of its {num_tensors} tensors are not among them by name or structure"
        raise WeightsError(f"{said}: {found}: {_some(lacking)}", "name another --source-model")
    if layout.misfits:
        more = f"{len(layout.misfits)} of the weights have no place beside those that do"
        raise WeightsError(f"{said}: {more}: {_some(layout.misfits)}", "name another --source-model")
    odd = [one.key for one in layout.placed if one.how not in _ONE_TO_ONE]
    if odd:
        raise WeightsError(
            f"{said}: {_some(odd)} would have to be made of other tensors", "name another --source-model"
        )
    unsure = [one.key for one in layout.ambiguous]
    if unsure and not accept:
        raise WeightsError(
            f"the weights' names are not those of the model that was said, and {len(unsure)} of its {num_tensors} "
            f"tensors could be several of them: {_some(unsure)}",
            "give a .pth file, whose order tells more, or accept the best guesses (--accept)",
        )


def num_rows(state: Mapping[str, Tensor], model: nn.Module, *, order_is_kept: bool) -> int | None:
    """Outputs of the classifier in a state that is of `model`, but for their number; None where there is none."""
    prefix = wrapper_prefix(state)
    plain = {key.removeprefix(prefix): tensor for key, tensor in state.items()}
    own = model.state_dict()
    last = [key for key, tensor in own.items() if tensor.ndim == 2 and key.endswith("weight")]
    if last and last[-1] in plain:
        return len(plain[last[-1]])
    if own.keys() <= plain.keys():
        return None
    left_out = lay_out(plain, model, order_is_kept=order_is_kept).left_out
    heads = [plain[key] for key, why in left_out.items() if why == HEAD_REASON and plain[key].ndim == 2]
    return len(heads[-1]) if heads else None


def _some(keys: tuple[str, ...] | list[str]) -> str:
    shown = ", ".join(f"`{key}`" for key in keys[:_SHOWN])
    return shown if len(keys) <= _SHOWN else f"{shown} and {len(keys) - _SHOWN} more"
