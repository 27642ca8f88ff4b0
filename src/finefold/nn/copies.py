"""Augmented copies of scarce classes' images: made once, kept in the prefix cache, and shown in training alone.

A copy follows from the image's content, its own number and the recipe's seed, so that every fold, every resumed run and
every process shows the same pixels.

Shapes: N samples, K joint classes.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version

import numpy as np
from numpy.typing import NDArray

from finefold.data.preprocessing import Preprocessing
from finefold.nn.classwise import by_class
from finefold.nn.transforms import PRESETS, Augment, apply_view, preset_augment
from finefold.recipe.schema import Recipe
from finefold.recipe.training import Strength, View


@dataclass(frozen=True)
class Copy:
    """One augmented copy of an image.

    Args:
        number: which of its copies, from 1.
        preset: what is done to it.
        views: one of them is drawn as well.
        seed: of all chance, with the image's content.
    """

    number: int
    preset: Strength
    views: tuple[View, ...]
    seed: int

    def __str__(self) -> str:
        """Part of the cache's address: everything that decides the pixels, but for the image."""
        how = f"{self.seed}|{self.views}|{PRESETS[self.preset]}|albumentations {version('albumentations')}"
        return f"copy {self.number} ({self.preset}, {hashlib.sha256(how.encode()).hexdigest()[:8]})"

    def make(self, framed_HWC: NDArray[np.uint8], preprocessing: Preprocessing, content: bytes) -> NDArray[np.uint8]:
        """An image's copy.

        Args:
            framed_HWC: uint8 [H, W, 3] or grey [H, W], as `Preprocessing.framed` gives it.
            preprocessing: what the result looks like.
            content: 16 bytes that stand for the image.

        Returns:
            uint8 [height, width, 3].
        """
        rng = np.random.default_rng([self.seed, self.number, *np.frombuffer(content, np.uint32).tolist()])
        return _augment(self.preset, preprocessing, self.views)(framed_HWC, 0, rng)


Version = View | Copy  # of an image, each with rows of its own in the cache


@cache
def _augment(preset: Strength, preprocessing: Preprocessing, views: tuple[View, ...]) -> Augment:
    return preset_augment(preset, preprocessing, views)


def versions_of(
    framed_HWC: NDArray[np.uint8], asked: Sequence[Version], preprocessing: Preprocessing, content: Callable[[], bytes]
) -> Iterator[NDArray[np.uint8]]:
    """An image as a network gets it, under views, for which it is resized once, and as copies.

    Args:
        framed_HWC: uint8 [H, W, 3] or grey [H, W], as `Preprocessing.framed` gives it.
        asked: which, in the order of the answers.
        preprocessing: what the result looks like.
        content: gives 16 bytes that stand for the image; called for copies alone.

    Yields:
        uint8 [height, width, 3] each.
    """
    plain_HWC = None
    for one in asked:
        if isinstance(one, Copy):
            yield one.make(framed_HWC, preprocessing, content())
            continue
        plain_HWC = preprocessing.finished(framed_HWC) if plain_HWC is None else plain_HWC
        yield apply_view(plain_HWC, one)


def copies_of(recipe: Recipe) -> tuple[Copy, ...]:
    """The copies that a recipe's classes have at most, in the order of their numbers."""
    augment = recipe.augment
    most = max(augment.copies.values(), default=0)
    return tuple(Copy(number + 1, augment.copies_preset, augment.views, recipe.seed) for number in range(most))


def copies_by_class(recipe: Recipe, class_names: Sequence[str]) -> NDArray[np.int64]:
    """[K] how many copies each training image of a class has.

    Raises:
        RecipeError: the recipe names no class.
    """
    return np.array(by_class("augment.copies", recipe.augment.copies, class_names, 0), np.int64)


def wanted_by(copies_N: NDArray[np.int64], copies: Sequence[Copy]) -> Mapping[Copy, NDArray[np.bool_]]:
    """Copy -> [N] the samples that have it."""
    return {one: copies_N >= one.number for one in copies}
