"""Probabilities of all folds' models on one shared prefix.

Shapes: N images, B of them at a time, D features, K joint classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from finefold.data.labels import LabelSpace
from finefold.nn.backbones import Backbone
from finefold.nn.classifier import HEADS, Classifier, Tail
from finefold.nn.devices import training_device
from finefold.nn.features import PLAIN
from finefold.nn.heads import FoldHeads
from finefold.nn.loop import predict_rows
from finefold.nn.weights import read_header
from finefold.recipe.training import View

ROWS_AT_ONCE = 64  # through a tail


class Fold(Protocol):
    """One fold's model from the shared prefix on."""

    def probs(self, rows: NDArray[Any], space: LabelSpace) -> NDArray[np.float64]:
        """[B, ...] rows of the prefix -> [B, K] probabilities of the joint classes."""
        ...


@dataclass(frozen=True)
class HeadFold:
    """Heads on pooled features.

    Args:
        heads: of the fold.
    """

    heads: FoldHeads

    def probs(self, rows: NDArray[Any], space: LabelSpace) -> NDArray[np.float64]:
        """[B, D] features -> [B, K] probabilities."""
        return self.heads.joint_probs(rows, space)


@dataclass(frozen=True)
class TunedFold:
    """Everything from a cut on.

    Args:
        tail: of the fold.
        device: where it is.
    """

    tail: Tail
    device: torch.device

    def probs(self, rows: NDArray[Any], space: LabelSpace) -> NDArray[np.float64]:
        """[B, ...] rows -> [B, K] probabilities."""
        starts = range(0, len(rows), ROWS_AT_ONCE)
        batches = (torch.from_numpy(rows[start : start + ROWS_AT_ONCE]) for start in starts)
        found = predict_rows(self.tail, batches, self.device)
        assert found.shape[1] == space.num_classes
        return found


@dataclass(frozen=True)
class SeparateFold:
    """A model of its own for every attribute, whose probabilities are multiplied.

    Args:
        models: attribute -> its model and the space of its classes.
    """

    models: Mapping[str, tuple[Fold, LabelSpace]]

    def probs(self, rows: NDArray[Any], space: LabelSpace) -> NDArray[np.float64]:
        """[B, ...] rows -> [B, K] probabilities."""
        return space.joint_probs([self.models[name][0].probs(rows, self.models[name][1]) for name in space.names])


@dataclass(frozen=True)
class FoldEnsemble:
    """One backbone and the models of every fold from the shared prefix on, which is computed once.

    Args:
        backbone: shared by the folds, up to where they differ.
        folds: each fold's model.
        space: what the classes are.
        views: of each image, whose probabilities are averaged.
    """

    backbone: Backbone
    folds: tuple[Fold, ...]
    space: LabelSpace
    views: tuple[View, ...] = (PLAIN,)

    @classmethod
    def read(
        cls,
        backbone: Backbone,
        folds: Sequence[Path | Mapping[str, Path]],
        space: LabelSpace,
        *,
        views: Sequence[View] = (PLAIN,),
    ) -> "FoldEnsemble":
        """The models in a run's files.

        Args:
            backbone: the run's.
            folds: each fold's weights.safetensors, or one for each attribute.
            space: what the classes are.
            views: of each image.
        """
        first = folds[0] if isinstance(folds[0], Path) else next(iter(folds[0].values()))
        header, shared = read_header(first), backbone
        if header.get("kind") != HEADS:
            shared = shared.until(header["cut"], tuple(header["shape"]))
            if "opened" in header:  # not in runs before it was kept, which are searched for their cut again
                shared = replace(shared, opened=frozenset(header["opened"]))
        return cls(shared, tuple(read_fold(shared, path, space) for path in folds), space, tuple(views))

    def head_probs(self, rows: NDArray[Any]) -> NDArray[np.float64]:
        """[B, ...] rows of the prefix -> the folds' mean probabilities [B, K]."""
        return np.asarray(np.mean([fold.probs(rows, self.space) for fold in self.folds], axis=0))

    def mean_over_views(self, rows_of: Mapping[View, NDArray[Any]]) -> NDArray[np.float64]:
        """Each view's rows [B, ...] of the prefix -> the mean of their probabilities [B, K]."""
        return np.asarray(np.mean([self.head_probs(rows_of[view]) for view in self.views], axis=0))


def read_fold(shared: Backbone, path: Path | Mapping[str, Path], space: LabelSpace) -> Fold:
    """One fold's model from the shared prefix on, out of its file, or of one for each attribute."""
    if isinstance(path, Mapping):
        spaces = {one.name: LabelSpace((one,)) for one in space.attributes}
        return SeparateFold({name: (read_fold(shared, path[name], of), of) for name, of in spaces.items()})
    if read_header(path).get("kind") == HEADS:
        return HeadFold(FoldHeads.read(path))
    device = training_device()
    return TunedFold(Tail(Classifier.read(shared, path, space), shared).to(device), device)
