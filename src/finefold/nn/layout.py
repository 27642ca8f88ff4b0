"""What goes where when one state is laid onto another: a value, with the reason for every tensor."""

from collections.abc import Mapping
from dataclasses import dataclass

HEAD_REASON = "a head of another size"
NO_HEAD_REASON = "the source has no head"
CLASSIFIER_REASON = "a classifier, which this model has not"
NO_PLACE = "no place for it in the model"


@dataclass(frozen=True)
class Placed:
    """A tensor of the model and where its values come from.

    Args:
        key: in the model.
        sources: keys of the source: one; three laid on top of each other; or one of which this is a third.
        how: "same", "reshaped" (other trailing ones), "folded" (a linear layer on patches that is a convolution here;
            the order of its values is a guess), "joined", "part 1/3" ..., "channels" (a stem adapted to other input
            channels), "new" (a batch counter, set to 0) or "kept" (the model makes it itself).
        confidence: 0 to 1.
        reason: in words.
        rivals: other keys of the source that would fit as well; empty where it is clear.
    """

    key: str
    sources: tuple[str, ...]
    how: str
    confidence: float
    reason: str
    rivals: tuple[str, ...] = ()


@dataclass(frozen=True)
class Layout:
    """What goes where.

    Args:
        placed: the model's tensors that get values, in the model's order.
        missing: the model's tensors that get none -> the reason.
        left_out: the source's tensors that have no place -> the reason.
        misfits: those of them whose neighbours do have a place, a sign of another architecture.
    """

    placed: tuple[Placed, ...]
    missing: Mapping[str, str]
    left_out: Mapping[str, str]
    misfits: tuple[str, ...]

    @property
    def ambiguous(self) -> tuple[Placed, ...]:
        """The tensors for which several sources are equally good."""
        return tuple(one for one in self.placed if one.rivals)

    @property
    def folded(self) -> tuple[Placed, ...]:
        """The tensors whose values may stand in another order."""
        return tuple(one for one in self.placed if one.how == "folded")

    @property
    def heads(self) -> tuple[str, ...]:
        """The model's classifier tensors that stay as they are."""
        return tuple(key for key, reason in self.missing.items() if reason.startswith((HEAD_REASON, NO_HEAD_REASON)))

    @property
    def unplaced(self) -> tuple[str, ...]:
        """The model's tensors, heads apart, for which nothing was found."""
        heads = self.heads
        return tuple(key for key in self.missing if key not in heads)

    @property
    def num_found(self) -> int:
        """How many of the model's tensors get values from the source."""
        return sum(bool(one.sources) for one in self.placed)
