"""Labels that a model gives to unlabelled images, for training on, without fooling oneself.

A label made by all folds' models together carries the answers of every fold: trained on in fold k, it would tell fold
k's model about the very samples that it is judged by. So what one fold's model says is a value of that fold
(`FoldProbs`), the labels chosen from it are too (`FoldLabels`), and a fold trains on labels of its own number only.

Shapes: U unlabelled images, M of them chosen, K joint classes, C classes of a head, V views.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from finefold.metrics.classification import FloatArray, IntArray

Target = Literal["soft", "hard"]


@dataclass(frozen=True, eq=False)
class FoldProbs:
    """What one fold's model says of unlabelled images.

    Args:
        fold: whose model; it saw no sample that the fold holds out.
        views_VUK: its probabilities under each view of the images, rows sum to 1.
    """

    fold: int
    views_VUK: FloatArray

    @property
    def probs_UK(self) -> FloatArray:
        """The mean over views."""
        return np.asarray(self.views_VUK.mean(axis=0))


@dataclass(frozen=True, eq=False)
class FoldLabels:
    """Labels of some unlabelled images, to train the model of one fold on, and of no other.

    Args:
        fold: whose model made them, and whose may be trained on them.
        rows_M: places of the images among all unlabelled ones.
        targets_MC: probabilities of the classes; rows sum to 1.
        weight: of each in the loss, where a labelled sample has 1.
    """

    fold: int
    rows_M: IntArray
    targets_MC: FloatArray
    weight: float

    @property
    def answers_M(self) -> IntArray:
        """The likeliest class of each."""
        return np.asarray(self.targets_MC.argmax(axis=1))

    def check_is_of(self, fold: int) -> None:
        """These labels are for that fold.

        Raises:
            ValueError: it would train on another fold's labels.
        """
        if self.fold != fold:
            raise ValueError(f"labels of fold {self.fold} for fold {fold}: a fold trains on its own alone")

    def under(self, codes_K: IntArray, num_classes: int) -> "FoldLabels":
        """The same labels of one attribute.

        Args:
            codes_K: the attribute's class in each joint class.
            num_classes: of the attribute.
        """
        return FoldLabels(self.fold, self.rows_M, self.targets_MC @ np.eye(num_classes)[codes_K], self.weight)

    def __len__(self) -> int:
        return len(self.rows_M)


def choose_labels(
    said: FoldProbs,
    shares_K: FloatArray,
    *,
    share: float,
    threshold: float,
    target: Target,
    weight: float,
) -> FoldLabels:
    """The images that one fold's model is surest of, class by class.

    Each class gets as many labels as its share of the images gives it, of those that the model takes for that class
    under every view, the surest first. So a scarce class is not crowded out by one that the model is always sure of:
    its threshold is lower.

    Args:
        said: by the fold's model, calibrated.
        shares_K: shares of the classes among the images, estimated or believed.
        share: of the images that get a label, over all classes: 0 to 1.
        threshold: least probability of the label.
        target: the model's probabilities, or its answer alone.
        weight: of each label in the loss.
    """
    probs_UK = said.probs_UK
    answers_U, sure_U = probs_UK.argmax(axis=1), probs_UK.max(axis=1)
    agree_U = (said.views_VUK.argmax(axis=2) == answers_U).all(axis=0) & (sure_U >= threshold)
    quota_K = np.round(share * len(probs_UK) * shares_K).astype(np.int64)
    chosen: list[NDArray[Any]] = []
    for code, quota in enumerate(quota_K.tolist()):
        rows = np.flatnonzero(agree_U & (answers_U == code))
        chosen.append(rows[np.argsort(-sure_U[rows], kind="stable")[:quota]])
    rows_M = np.sort(np.concatenate(chosen)) if chosen else np.zeros(0, np.int64)
    targets_MK = probs_UK[rows_M] if target == "soft" else np.eye(probs_UK.shape[1])[answers_U[rows_M]]
    return FoldLabels(said.fold, rows_M.astype(np.int64), targets_MK, weight)


def check_matched(labels: Sequence[FoldLabels], num_folds: int) -> None:
    """There is one value for each fold, in the folds' order.

    Raises:
        ValueError: a fold would train on another fold's labels.
    """
    folds = [one.fold for one in labels]
    if folds != list(range(num_folds)):
        raise ValueError(f"labels of the folds {folds} for folds 0..{num_folds - 1}: a fold trains on its own alone")
