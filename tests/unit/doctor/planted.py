"""Features that know their labels, for tests of pairings: no image, no network."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from finefold.doctor.evidence import ClosedProbe
from finefold.doctor.lists import Lists
from finefold.doctor.subject import Subject
from finefold.doctor.trials import Court
from finefold.nn.features import Features
from finefold.recipe.loader import load_recipe


def planted(
    count: int = 400, num_classes: int = 4, *, run: int = 5, noise: float = 1.0, seed: int = 0
) -> tuple[NDArray[np.float16], NDArray[np.int64]]:
    """[N, 32] features and [N] labels that come in runs of about `run` rows."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 2 * run, count)
    labels_N = np.repeat(rng.integers(0, num_classes, count), lengths)[:count]
    centres_CD = rng.normal(size=(num_classes, 32))
    features_ND = centres_CD[labels_N] + noise * rng.normal(size=(count, 32))
    return features_ND.astype(np.float16), labels_N


def court_of(features_ND: NDArray[np.float16], labels_N: NDArray[np.int64], num_classes: int = 4) -> Court:
    count = len(labels_N)
    return Court.of(ClosedProbe(features_ND, np.arange(count) % 5), labels_N, num_classes, np.arange(count))


def subject_of(
    features_ND: NDArray[np.float16],
    labels_N: NDArray[np.int64],
    *,
    paths: Sequence[str] = (),
    lists: Lists | None = None,
    num_classes: int = 4,
) -> Subject:
    count = len(labels_N)
    found = Features(features_ND, np.ones(count, bool), (), 0, (bytes(16),) * count)
    return Subject(
        name="planted",
        ids=tuple(paths) or tuple(map(str, range(count))),
        labels_N=labels_N,
        class_names=tuple("abcdefgh"[:num_classes]),
        recipe=load_recipe("probe"),
        look=lambda: found,
        cache=lambda: None,  # type: ignore[arg-type, return-value]
        paths=tuple(map(Path, paths)) or None,
        lists=lists or Lists(),
    )
