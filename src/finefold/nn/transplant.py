"""Weights of one model on another: found a place for, laid there, and proved by running both."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from finefold.errors import ModelError, WeightsError
from finefold.nn.adapting import lay_values
from finefold.nn.catalogue import check_module
from finefold.nn.layout import Layout
from finefold.nn.matching import lay_out
from finefold.nn.proving import Proof, find_settings, prove
from finefold.nn.renaming import Renamed, rename_onto
from finefold.nn.settings import Setting, apply_settings
from finefold.nn.units import holds_weights, wrapper_prefix
from finefold.nn.weights import State, keeps_order, load_values, read_state

_SHOWN = 4


@dataclass(frozen=True)
class Match:
    """Weights with a place for each in a model.

    Args:
        layout: what goes where.
        settings: hyperparameters in which the source's model differs, known only where it could be run.
        proof: None where it was not possible; `unproved` says why.
        unproved: the reason, else empty.
        accepted: whether the user accepted what is ambiguous.
        is_renamed: whether the source's names are not its model's, so that it was matched to this one first, by
            structure, of which the proof says nothing.
    """

    layout: Layout
    settings: tuple[Setting, ...]
    proof: Proof | None
    unproved: str
    accepted: bool
    is_renamed: bool
    _source: State = field(repr=False)
    _target: State = field(repr=False)

    @property
    def is_proved(self) -> bool:
        """Whether both models were run and gave the same."""
        return self.proof is not None and self.proof.holds

    def _is_settled(self, key: str) -> bool:
        """Whether the proof says that a tensor is where it belongs: it holds, and the tensor takes part in it."""
        return self.is_proved and self.proof is not None and key not in self.proof.idle

    def problems(self) -> list[str]:
        """Why these weights should not be used like this; empty where they can."""
        found = []
        layout = self.layout
        num_floats = sum(tensor.is_floating_point() for tensor in self._target.values())
        if layout.unplaced:
            shown = ", ".join(f"`{key}`" for key in layout.unplaced[:3])
            more = f" and {len(layout.unplaced) - 3} more" if len(layout.unplaced) > 3 else ""
            found.append(f"{len(layout.unplaced)} of the model's {num_floats} tensors found no source: {shown}{more}")
        elif not any(one.sources and holds_weights(self._target[one.key]) for one in layout.placed):
            found.append(f"none of the model's {num_floats} tensors found a source")
        if layout.misfits and not self.is_proved and not self.accepted:
            shown = ", ".join(f"`{key}`" for key in layout.misfits[:3])
            found.append(f"{len(layout.misfits)} tensors of the source have no place beside those that do: {shown} ...")
        unsure = [one for one in layout.ambiguous if not self._is_settled(one.key)]
        if unsure and not self.accepted:
            found.append(f"{len(unsure)} tensors could as well come from elsewhere")
        folded = [f"`{one.key}`" for one in layout.folded if not self._is_settled(one.key)]
        if folded and not self.accepted:
            found.append(f"the values of {', '.join(folded)} are folded otherwise in the source, in an order unknown")
        if self.proof is not None and not self.proof.holds:
            found.append(f"the two models give different {self.proof.compared}, by {self.proof.difference:.3g}")
        return found

    def proof_told(self) -> str:
        """The proof, or why there is none, in words."""
        if self.proof is None:
            return f"not proved by running both: {self.unproved}"
        renamed = "; which tensor is which of the source's model is by structure, not proved" if self.is_renamed else ""
        return f"{self.proof}{renamed}"

    def summary(self) -> list[str]:
        """How much was matched, whether running both proved it, and what is wrong: a line each."""
        layout = self.layout
        lines = [f"{layout.num_found} of {len(layout.placed) + len(layout.missing)} tensors matched"]
        for title, keys in (("left as they were", layout.missing), ("left out of the source", layout.left_out)):
            if keys:
                more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
                lines.append(f"{title}: {', '.join([*keys][:_SHOWN])}{more}")
        lines.append(self.proof_told())
        return lines + [f"problem: {problem}" for problem in self.problems()]

    def __repr__(self) -> str:
        return f"<Match: {self.summary()[0]}, {'proved' if self.is_proved else 'not proved'}>"

    def __str__(self) -> str:
        return "\n".join(self.summary())

    def check(self) -> None:
        """Raises where these weights should not be used like this.

        Raises:
            WeightsError: with every reason, and what to do.
        """
        problems = self.problems()
        if not problems:
            return
        hint = "use weights of the same architecture, or name another model"
        if (self.layout.ambiguous or self.layout.folded) and not self.layout.unplaced and len(problems) == 1:
            hint = (
                "look at them, then accept the best guesses (--accept), or say what goes where in a hint file (--hints)"
            )
        raise WeightsError("the weights do not fit: " + "; ".join(problems), hint)

    def state(self) -> State:
        """The model's state dict with the source's values; heads of another size are not in it.

        Raises:
            WeightsError: see `check`.
        """
        self.check()
        return lay_values(self.layout, self._source, self._target)

    def load_into(self, model: nn.Module) -> None:
        """Loads the values into a model of the target's architecture and applies the settings, in place.

        Raises:
            WeightsError: see `check`; also where the model is of another architecture.
            ModelError: a setting is written into the model's code.
        """
        state = self.state()
        own = {key: tensor.shape for key, tensor in model.state_dict().items()}
        if own.keys() != self._target.keys() or any(own[key] != state[key].shape for key in state):
            raise WeightsError("these weights were matched to another model", "match them to this one")
        apply_settings(model, self.settings)
        load_values(model, state)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `finefold weights match --json` prints them."""
        proof = None if self.proof is None else {**asdict(self.proof), "holds": self.proof.holds}
        return {
            "matched": self.layout.num_found,
            "tensors": [asdict(one) for one in self.layout.placed],
            "missing": dict(self.layout.missing),
            "left_out": dict(self.layout.left_out),
            "ambiguous": [one.key for one in self.layout.ambiguous],
            "settings": [one.to_dict() for one in self.settings],
            "proof": proof,
            "unproved_because": self.unproved or None,
            "source_is_renamed": self.is_renamed,
            "problems": self.problems(),
        }


def match_weights(
    source: nn.Module | Mapping[str, Tensor] | str | Path,
    model: nn.Module,
    *,
    source_model: nn.Module | None = None,
    hints: Mapping[str, str] | None = None,
    accept: bool = False,
) -> Match:
    """Finds a place in `model` for every tensor of `source`, and proves it where it can. Changes neither.

    Args:
        source: a model, a state dict in its order of definition, or a .pth, .pt or .safetensors file.
        model: the target.
        source_model: the model that a state dict or file is of, for the proof; where its names are others, which
            tensor is which is found by structure first.
        hints: key of the model -> key of the source, taken as given.
        accept: take the best guess where several sources are equally good.

    Raises:
        WeightsError: the file cannot be read, is not of `source_model`, or a hint is impossible. What does not fit is
            told by `Match.problems()`, and raised by `Match.state()` and `Match.load_into()`.
        ModelError: `model` or `source_model` is none, but a name perhaps.
    """
    for given in (model, *(() if source_model is None else (source_model,))):
        check_module(given)
    order_is_kept = True
    if isinstance(source, nn.Module):
        source_model = source_model or source
        state: State = dict(source.state_dict())
    elif isinstance(source, Mapping):
        state = dict(source)
    else:
        if not isinstance(source, str | Path):
            check_module(source)
        state, order_is_kept = read_state(Path(source)), keeps_order(Path(source))
    names_fit = source_model is not None and source_model.state_dict().keys() <= state.keys()
    prefix = "" if names_fit else wrapper_prefix(state)
    odd = {key for key in state if not key.startswith(prefix)}
    state = {key.removeprefix(prefix): tensor for key, tensor in state.items()}
    hints = {key: source_key.removeprefix(prefix) for key, source_key in (hints or {}).items()}
    renamed: Renamed | None = None
    if source_model is not None and not source_model.state_dict().keys() <= state.keys():
        renamed = rename_onto(state, source_model, order_is_kept=order_is_kept, accept=accept)
        state, hints, order_is_kept = renamed.state, renamed.hints(hints), True
    layout = lay_out(state, model, source_model=source_model, order_is_kept=order_is_kept, hints=hints)
    target = {key: tensor.detach() for key, tensor in model.state_dict().items()}
    settings: tuple[Setting, ...] = ()
    proof, unproved = None, "the model these weights are of is not known"
    if source_model is not None and layout.unplaced:
        unproved = "not every tensor found a source"
    elif source_model is not None:
        try:
            settings = find_settings(source_model, model, layout)
            proof, unproved = prove(source_model, state, model, layout, settings), ""
        except ModelError as reason:
            unproved = reason.message
    if renamed is not None:
        layout = renamed.undo(layout)
        state = {renamed.name_before(key): tensor for key, tensor in state.items()}
    whole = {key if key in odd else prefix + key: tensor for key, tensor in state.items()}
    return Match(_prefixed(layout, prefix, odd), settings, proof, unproved, accept, renamed is not None, whole, target)


def _prefixed(layout: Layout, prefix: str, odd: set[str]) -> Layout:
    """The layout with the source's keys as its file has them."""

    def name(key: str) -> str:
        return key if key in odd else prefix + key

    return Layout(
        tuple(
            replace(one, sources=tuple(map(name, one.sources)), rivals=tuple(map(name, one.rivals)))
            for one in layout.placed
        ),
        layout.missing,
        {name(key): why for key, why in layout.left_out.items()},
        tuple(map(name, layout.misfits)),
    )
