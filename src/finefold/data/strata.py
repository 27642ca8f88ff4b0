"""Labels of which a part may be missing: the joint classes, and after them each partial label that occurs.

A sample whose age is not known is `wear/male/(missing)`: it may be of any class that is wear and male. Such partial
labels are strata of their own beside the joint classes: a split deals each of them evenly to the folds, and training
takes from them what they say.

Shapes: N samples, A attributes, K joint classes, P partial labels, S = K + P strata, C classes of one attribute.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finefold.data.labels import LabelSpace

MISSING = "(missing)"

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Strata:
    """The joint class or the partial label of every sample.

    Args:
        space: what the classes are.
        codes_N: 0..K-1 a joint class, K..S-1 a partial label; -1 where nothing is known.
        partial_PA: attribute codes of the partial labels, -1 where missing; at least one is known of each.
    """

    space: LabelSpace
    codes_N: Ints
    partial_PA: Ints

    @classmethod
    def of(cls, space: LabelSpace, codes_NA: Ints) -> "Strata":
        """The strata of samples with these attribute codes, -1 where missing."""
        is_known_NA = codes_NA >= 0
        is_partial_N = is_known_NA.any(axis=1) & ~is_known_NA.all(axis=1)
        codes_N = np.where(is_known_NA.all(axis=1), space.joint_codes(np.maximum(codes_NA, 0)), -1)
        partial_PA, place = np.unique(codes_NA[is_partial_N], axis=0, return_inverse=True)
        codes_N[is_partial_N] = space.num_classes + place.ravel()
        return cls(space, codes_N, partial_PA)

    def __len__(self) -> int:
        return self.space.num_classes + len(self.partial_PA)

    @property
    def names(self) -> tuple[str, ...]:
        """[S] names of the joint classes, and of the partial labels with `(missing)` in the gaps."""
        texts = [(*attribute.classes, MISSING) for attribute in self.space.attributes]  # -1 is the last one
        partial = ("/".join(text[code] for text, code in zip(texts, row, strict=True)) for row in self.partial_PA)
        return (*self.space.class_names, *partial)

    @property
    def possible_PK(self) -> NDArray[np.bool_]:
        """Which joint classes each partial label may be."""
        codes_KA = np.stack(list(self.space.attribute_codes().values()), axis=1)
        fits_PKA = (self.partial_PA[:, None, :] < 0) | (self.partial_PA[:, None, :] == codes_KA)
        return np.asarray(fits_PKA.all(axis=2))

    def members(self, name: str) -> NDArray[np.float64]:
        """[S, C] 1 where a stratum is of an attribute's class; a row of zeros where that is missing."""
        place = self.space.names.index(name)
        codes_S = np.concatenate([self.space.attribute_codes()[name], self.partial_PA[:, place]])
        size = self.space.sizes[place]
        return np.asarray(np.eye(size + 1)[:, :size][codes_S])  # -1 is the last row, which has no one in it

    def likely_N(self, counts_K: Ints) -> Ints:
        """[N] joint codes; of a partial label the most frequent class that it may be; -1 where nothing is known.

        Args:
            counts_K: how frequent the classes are.
        """
        most_P = np.where(self.possible_PK, counts_K, -1).argmax(axis=1)
        most_S = np.concatenate([np.arange(self.space.num_classes), most_P])
        return np.asarray(np.where(self.codes_N >= 0, most_S[self.codes_N], -1))
