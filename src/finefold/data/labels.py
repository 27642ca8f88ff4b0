"""Attributes, their classes in declared order, and the joint class they make.

A label space says what can be answered: `mask` is one of wear / incorrect / normal, in that order,
and the joint class of several attributes counts like digits, the last attribute fastest:
`class = mask * 6 + gender * 3 + age`. The order is declared, never read off a listing.

Shapes: N samples, K joint classes, A attributes.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from finefold.errors import DataError

RESERVED = frozenset({"id", "path", "group", "source", "label", "train_label", "train_codes", "fold"})
MAX_CLASSES = 100_000  # joint classes; more are a mistake, and their names alone would fill the memory


@dataclass(frozen=True)
class Bands:
    """Ranges of a number: each named band reaches up to its bound, exclusive; the last bound is inf.

    Args:
        names: band names from the lowest up.
        upper: exclusive upper bounds, strictly increasing, ending in `inf`.
    """

    names: tuple[str, ...]
    upper: tuple[float, ...]

    def __post_init__(self) -> None:
        bounds = ", ".join(f"{name} < {bound:g}" for name, bound in zip(self.names, self.upper, strict=True))
        hint = 'write rising upper bounds, the last one "inf": { "<30" = 30, "30-59" = 60, ">=60" = "inf" }'
        if len(self.names) < 2:
            raise DataError(f"bands need at least two ranges, got: {bounds or 'none'}", hint)
        if len(set(self.names)) < len(self.names):
            raise DataError(f"a band is named twice: {bounds}", hint)
        if any(not low < high for low, high in pairwise((-math.inf, *self.upper))):
            raise DataError(f"bands do not rise, so one of them would hold nobody: {bounds}", hint)
        if self.upper[-1] != math.inf:
            raise DataError(f"bands do not cover every number: nothing holds {self.upper[-1]:g} and above", hint)

    @classmethod
    def from_mapping(cls, bounds: Mapping[str, float]) -> "Bands":
        """Bands from name -> exclusive upper bound."""
        return cls(tuple(bounds), tuple(bounds.values()))

    def codes_for(self, values_N: NDArray[np.float64]) -> NDArray[np.int64]:
        """[N] numbers -> [N] band codes in [0, number of bands)."""
        return np.asarray(np.searchsorted(np.asarray(self.upper[:-1]), values_N, side="right"), np.int64)


@dataclass(frozen=True)
class Attribute:
    """One question about an image and its possible answers.

    Args:
        name: what is asked, e.g. `gender`.
        classes: the answers in code order.
        column: the source column that holds the raw value.
        patterns: per class, the raw values or shell patterns (`mask*`) that mean it. Empty when banded.
        bands: ranges of the raw number, instead of patterns.
        train_bands: ranges that training sees instead; evaluation always uses `bands`.
        train_drop: [low, high) ranges of the raw number left out of training only.
        missing: raw values that say nothing; the empty text stands for an empty cell too.
    """

    name: str
    classes: tuple[str, ...]
    column: str
    patterns: tuple[tuple[str, ...], ...] = ()
    bands: Bands | None = None
    train_bands: Bands | None = None
    train_drop: tuple[tuple[float, float], ...] = ()
    missing: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        where = f"[attributes.{self.name}]"
        if self.name in RESERVED:
            raise DataError(f"{where}: `{self.name}` is a name the sample table uses itself", "name it otherwise")
        if len(self.classes) < 2:
            raise DataError(
                f"{where} needs at least two classes, got: {', '.join(self.classes) or 'none'}",
                "with a single class there is nothing to learn; add the other class's images or values",
            )
        if repeated := sorted({name for name in self.classes if self.classes.count(name) > 1}):
            raise DataError(f"{where}: class named twice: {', '.join(repeated)}", "give every class its own name")
        if "" in self.classes:
            raise DataError(f"{where}: a class has an empty name", "name it, or fill in the rows that lack a value")
        if self.bands is None and (self.train_bands or self.train_drop):
            raise DataError(f"{where}: train_bands and train_drop need `bands`", "say what evaluation uses")
        if self.bands and self.train_bands and self.bands.names != self.train_bands.names:
            raise DataError(
                f"{where}: train_bands are named {list(self.train_bands.names)}, bands {list(self.bands.names)}",
                "use the same names in the same order: only the bounds may differ",
            )
        for low, high in self.train_drop:
            if not low < high:
                raise DataError(
                    f"{where}: train_drop [{low:g}, {high:g}] holds no number",
                    "write the lower bound first; the upper one is exclusive: [[57, 60]]",
                )
        meant = {name for names in self.patterns for name in names} | set(self.classes)
        if clash := [text for text in self.missing if text in meant]:
            raise DataError(
                f"{where}: `{clash[0]}` is declared missing, and is a class or a value of one",
                "leave it out of `missing`, or out of `classes`",
            )

    def class_of(self, raw: str) -> int | None:
        """The code a raw value means, or None where no class claims it.

        An exact value beats a pattern; a value that patterns of two classes match is an error.
        """
        exact = [code for code, names in enumerate(self.patterns) if raw in names]
        matching = exact or [
            code for code, names in enumerate(self.patterns) if any(fnmatchcase(raw, name) for name in names)
        ]
        if len(matching) > 1:
            claimed = " and ".join(f"`{self.classes[code]}`" for code in matching)
            raise DataError(
                f"[attributes.{self.name}]: value `{raw}` belongs to {claimed}",
                "make the patterns of the classes exclude each other",
            )
        return matching[0] if matching else None


@dataclass(frozen=True)
class LabelSpace:
    """The attributes that make the joint class, first attribute slowest.

    Args:
        attributes: in the order of `[label] joint`.
    """

    attributes: tuple[Attribute, ...]

    def __post_init__(self) -> None:
        if not self.attributes:
            raise DataError(
                "no attribute makes the label",
                "add an [attributes.NAME] table to data.toml and name it in [label] joint",
            )
        if twice := [name for name in self.names if self.names.count(name) > 1]:
            raise DataError(f"[label] joint names `{twice[0]}` twice", "name every attribute once")
        if self.num_classes > MAX_CLASSES:
            sizes = " x ".join(f"{size} ({name})" for name, size in zip(self.names, self.sizes, strict=True))
            raise DataError(
                f"the label has {self.num_classes} joint classes: {sizes}",
                f"name fewer attributes in [label] joint; at most {MAX_CLASSES} classes make sense",
            )
        names = Counter(self.class_names)
        if twice := [name for name, count in names.items() if count > 1]:
            raise DataError(f"two joint classes are called `{twice[0]}`", "leave `/` out of the names of classes")
        if clash := sorted({"id", "fold", "group", "label", "label codes"} & set(names)):
            raise DataError(
                f"a class is called `{clash[0]}`, which is a column of the ledger",
                f'name it otherwise in data.toml: classes = {{ "class {clash[0]}" = ["{clash[0]}"], ... }}',
            )

    @property
    def names(self) -> tuple[str, ...]:
        """Attribute names."""
        return tuple(attribute.name for attribute in self.attributes)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of classes of each attribute."""
        return tuple(len(attribute.classes) for attribute in self.attributes)

    @property
    def num_classes(self) -> int:
        """Number of joint classes, K."""
        return math.prod(self.sizes)

    @property
    def class_names(self) -> tuple[str, ...]:
        """[K] joint class names: attribute classes joined by `/`, or the plain class of a single attribute."""
        names = [""]
        for attribute in self.attributes:
            names = [f"{head}/{name}" if head else name for head in names for name in attribute.classes]
        return tuple(names)

    def joint_codes(self, codes_NA: NDArray[np.int64]) -> NDArray[np.int64]:
        """[N, A] attribute codes -> [N] joint codes."""
        return np.asarray(np.ravel_multi_index(tuple(codes_NA.T), self.sizes), np.int64)

    def attribute_codes(self) -> dict[str, NDArray[np.int64]]:
        """For each attribute, [K]: the attribute's code in each joint class."""
        grid = np.unravel_index(np.arange(self.num_classes), self.sizes)
        return {name: codes.astype(np.int64) for name, codes in zip(self.names, grid, strict=True)}

    def attribute_table(self) -> dict[str, tuple[tuple[str, ...], NDArray[np.int64]]]:
        """For each attribute: its class names, and [K] its code in each joint class."""
        codes = self.attribute_codes()
        return {attribute.name: (attribute.classes, codes[attribute.name]) for attribute in self.attributes}

    def joint_probs(self, probs: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
        """Per attribute [N, C_a] probabilities -> [N, K] joint probabilities, as if independent given the image."""
        joint_NK = np.ones((len(probs[0]), 1))
        for probs_NC in probs:
            joint_NK = (joint_NK[:, :, None] * probs_NC[:, None, :]).reshape(len(probs_NC), -1)
        return joint_NK
