"""Probabilities of all folds' models on one shared prefix.

Shapes: N images, B of them at a time, D features, K joint classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from finefold.data.findings import Finding
from finefold.data.labels import LabelSpace
from finefold.data.preprocessing import Box
from finefold.data.readable import bytes_or_reason, unreadable
from finefold.errors import ImageError
from finefold.nn.backbones import IMAGES, Backbone
from finefold.nn.classifier import HEADS, Classifier, Tail
from finefold.nn.devices import training_device
from finefold.nn.engines import Choice
from finefold.nn.features import PLAIN, PrefixCache, Progress, load_input
from finefold.nn.heads import FoldHeads
from finefold.nn.loop import predict_rows
from finefold.nn.transforms import apply_view
from finefold.nn.weights import read_header
from finefold.recipe.training import View

IMAGES_AT_ONCE = 4096  # bounds memory; the features of so many are held at a time
BYTES_AT_ONCE = 2e8  # and of maps, so many numbers
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
        return cls(shared, tuple(_read_fold(shared, path, space) for path in folds), space, tuple(views))

    def probs(
        self,
        ids: Sequence[str],
        paths: Sequence[Path],
        *,
        choice: Choice,
        max_pixels: int,
        fallback_K: NDArray[np.float64],
        boxes: Sequence[Box | None] | None = None,
        advance: Progress = lambda _: None,
    ) -> tuple[NDArray[np.float64], tuple[Finding, ...]]:
        """The folds' mean probabilities [N, K], and a finding for every unreadable image.

        Args:
            ids: [N] names for findings.
            paths: [N] files.
            choice: the engine the folds were trained on.
            max_pixels: larger images are refused before they are decoded.
            fallback_K: what an unreadable image gets.
            boxes: [N] what is kept of each image, instead of its centre.
            advance: told how many images are done since.
        """
        source = _Images(self, max_pixels) if self.backbone.cut == IMAGES else _Cached(self, choice, max_pixels)
        probs_NK = np.empty((len(ids), self.space.num_classes))
        findings: list[Finding] = []
        kept = boxes or [None] * len(ids)
        at_once = max(1, min(IMAGES_AT_ONCE, int(BYTES_AT_ONCE / np.prod(self.backbone.shape))))
        for start in range(0, len(ids), at_once):
            rows = slice(start, start + at_once)
            found, unreadable = source.probs(ids[rows], paths[rows], kept[rows], advance)
            probs_NK[rows] = np.where(np.isfinite(found), found, fallback_K)
            findings += unreadable
        return probs_NK, tuple(findings)

    def head_probs(self, rows: NDArray[Any]) -> NDArray[np.float64]:
        """[B, ...] rows of the prefix -> the folds' mean probabilities [B, K]."""
        return np.asarray(np.mean([fold.probs(rows, self.space) for fold in self.folds], axis=0))


def _read_fold(shared: Backbone, path: Path | Mapping[str, Path], space: LabelSpace) -> Fold:
    """One fold's model from the shared prefix on."""
    if isinstance(path, Mapping):
        spaces = {one.name: LabelSpace((one,)) for one in space.attributes}
        return SeparateFold({name: (_read_fold(shared, path[name], of), of) for name, of in spaces.items()})
    if read_header(path).get("kind") == HEADS:
        return HeadFold(FoldHeads.read(path))
    device = training_device()
    return TunedFold(Tail(Classifier.read(shared, path, space), shared).to(device), device)


class _Cached:
    """Probabilities over the prefix cache; NaN for an unreadable image."""

    def __init__(self, model: FoldEnsemble, choice: Choice, max_pixels: int) -> None:
        self._model = model
        self._cache = PrefixCache(model.backbone, choice, max_pixels)

    def probs(
        self, ids: Sequence[str], paths: Sequence[Path], boxes: Sequence[Box | None], advance: Progress
    ) -> tuple[NDArray[np.float64], tuple[Finding, ...]]:
        """[B, K], and a finding for every unreadable image."""
        views = self._model.views
        filled = self._cache.fill(ids, paths, boxes=boxes, views=views, advance=advance)
        found = [self._model.head_probs(self._cache.read(filled, view)) for view in views]
        probs_BK = np.asarray(np.mean(found, axis=0))
        probs_BK[~filled.is_readable_N] = np.nan
        return probs_BK, filled.findings


class _Images:
    """Probabilities of models without a common prefix: every image is decoded for all of them."""

    def __init__(self, model: FoldEnsemble, max_pixels: int) -> None:
        self._model = model
        self._max_pixels = max_pixels

    def probs(
        self, ids: Sequence[str], paths: Sequence[Path], boxes: Sequence[Box | None], advance: Progress
    ) -> tuple[NDArray[np.float64], tuple[Finding, ...]]:
        """[B, K], and a finding for every unreadable image."""
        probs_BK = np.full((len(ids), self._model.space.num_classes), np.nan)
        images: list[NDArray[np.uint8]] = []
        places: list[int] = []
        findings: list[Finding] = []
        for place, (name, path, box) in enumerate(zip(ids, paths, boxes, strict=True)):
            data = bytes_or_reason(path)
            try:
                if isinstance(data, str):
                    raise ImageError(data)
                images.append(load_input(data, self._model.backbone.preprocessing, self._max_pixels, box))
                places.append(place)
            except ImageError as reason:
                findings.append(unreadable(name, path, reason.message))
        if images:
            views = [self._model.head_probs(apply_view(np.stack(images), view)) for view in self._model.views]
            probs_BK[places] = np.mean(views, axis=0)
        advance(len(ids))
        return probs_BK, tuple(findings)
