"""What cached prefixes may take on disk."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from finefold.data.cachedir import cache_root
from finefold.nn.features import DTYPE
from finefold.recipe.schema import Recipe
from finefold.steps.training import views_needed

GIGABYTE = 1e9
SHARE_OF_DISK = 0.25


@dataclass(frozen=True)
class Budget:
    """What cached prefixes may take on disk.

    Args:
        num_bytes: of rows.
        num_rows: images times views, and copies.
    """

    num_bytes: float
    num_rows: int

    @classmethod
    def of(cls, recipe: Recipe, num_samples: int, num_copies: int = 0) -> "Budget":
        """The recipe's, or a quarter of what is free."""
        root = cache_root()
        root.mkdir(parents=True, exist_ok=True)
        asked = recipe.cache.budget_gb
        num_bytes = asked * GIGABYTE if asked else SHARE_OF_DISK * shutil.disk_usage(root).free
        return cls(num_bytes, num_samples * len(views_needed(recipe)) + num_copies)

    def needed(self, shape: Sequence[int]) -> float:
        """Bytes of all rows of a shape."""
        return float(np.prod(shape, dtype=np.int64)) * DTYPE.itemsize * self.num_rows
