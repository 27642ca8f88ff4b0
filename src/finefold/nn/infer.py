"""Probabilities of all folds' models on one shared prefix.

Shapes: N images, B of them at a time, D features, K joint classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from finefold.data.findings import Finding
from finefold.data.labels import LabelSpace
from finefold.nn.backbones import Backbone
from finefold.nn.engines import Choice
from finefold.nn.features import PrefixCache, Progress
from finefold.nn.heads import FoldHeads

IMAGES_AT_ONCE = 4096  # bounds memory; the features of so many are held at a time


@dataclass(frozen=True)
class FoldEnsemble:
    """One backbone and the heads of every fold: the prefix is computed once, the heads cost next to nothing.

    Args:
        backbone: shared by the folds.
        folds: the heads of each fold.
        space: what the classes are.
    """

    backbone: Backbone
    folds: tuple[FoldHeads, ...]
    space: LabelSpace

    @classmethod
    def read(cls, backbone: Path, folds: Sequence[Path], space: LabelSpace) -> "FoldEnsemble":
        """The models in a run's files.

        Args:
            backbone: the run's backbone.safetensors.
            folds: each fold's weights.safetensors.
            space: what the classes are.
        """
        return cls(Backbone.read(backbone), tuple(FoldHeads.read(path) for path in folds), space)

    def probs(
        self,
        ids: Sequence[str],
        paths: Sequence[Path],
        *,
        choice: Choice,
        max_pixels: int,
        fallback_K: NDArray[np.float64],
        advance: Progress = lambda _: None,
    ) -> tuple[NDArray[np.float64], tuple[Finding, ...]]:
        """The folds' mean probabilities [N, K], and a finding for every unreadable image.

        Args:
            ids: [N] names for findings.
            paths: [N] files.
            choice: the engine the heads were trained on.
            max_pixels: larger images are refused before they are decoded.
            fallback_K: what an unreadable image gets.
            advance: told how many images are done since.
        """
        cache = PrefixCache(self.backbone, choice, max_pixels)
        probs_NK = np.empty((len(ids), self.space.num_classes))
        findings: list[Finding] = []
        for start in range(0, len(ids), IMAGES_AT_ONCE):
            rows = slice(start, start + IMAGES_AT_ONCE)
            features = cache.compute(ids[rows], paths[rows], advance=advance)
            probs_BK = self.head_probs(features.rows_ND)
            probs_BK[~features.is_readable_N] = fallback_K
            probs_NK[rows] = probs_BK
            findings += features.findings
        return probs_NK, tuple(findings)

    def head_probs(self, features_BD: NDArray[np.float16]) -> NDArray[np.float64]:
        """[B, D] features -> the folds' mean probabilities [B, K]."""
        return np.asarray(np.mean([heads.joint_probs(features_BD, self.space) for heads in self.folds], axis=0))
