"""What is done to a model's probabilities before they answer: calibrated, moved to other shares, adjusted.

Shapes: N samples, L rows of the ledger, K joint classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from finefold.metrics.calibration import (
    Calibrate,
    Calibration,
    fit_per_attribute,
    fit_temperature,
    fit_vector,
    no_calibration,
)
from finefold.metrics.classification import FloatArray, IntArray
from finefold.metrics.imbalance import fit_bias, fit_strength, share_offsets, shift_logs, to_thresholds
from finefold.metrics.nested import nested_probs

Adjust = Literal["none", "logit", "bias"]


@dataclass(frozen=True, eq=False)
class Correction:
    """Fitted numbers, in the order in which they are applied.

    Args:
        calibration: of the probabilities.
        ratio_K: shares of the new images divided by the ledger's; 1 where they are the same.
        adjust: what made `offset_K`.
        strength: of logit adjustment, where that is it.
        offset_K: added to log-probabilities, for scarce classes.
    """

    calibration: Calibration
    ratio_K: FloatArray
    adjust: Adjust
    strength: float | None
    offset_K: FloatArray

    def apply(self, probs_NK: FloatArray) -> FloatArray:
        """[N, K] probabilities -> [N, K] corrected ones, rows sum to 1; the very numbers where nothing is done."""
        calibrated_NK = self.calibration.apply(probs_NK)
        shift_K = np.log(np.maximum(self.ratio_K, 1e-12)) + self.offset_K
        return shift_logs(calibrated_NK, shift_K) if shift_K.any() else calibrated_NK

    @property
    def is_nothing(self) -> bool:
        """Whether probabilities stay as they are."""
        return self.calibration.method == "none" and self.adjust == "none" and bool((self.ratio_K == 1).all())

    @property
    def thresholds_K(self) -> FloatArray:
        """[K]: the answer is the class whose calibrated probability is largest when divided by these."""
        return to_thresholds(self.offset_K)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "calibration": self.calibration.to_dict(),
            "ratio": self.ratio_K.tolist(),
            "adjust": self.adjust,
            "strength": self.strength,
            "offset": self.offset_K.tolist(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Correction":
        """What `to_dict` gave."""
        calibration = Calibration.from_dict(values["calibration"])
        ratio_K, offset_K = np.asarray(values["ratio"]), np.asarray(values["offset"])
        return cls(calibration, ratio_K, values["adjust"], values["strength"], offset_K)

    def say(self) -> str:
        """In a few words."""
        parts = []
        if self.calibration.method == "temperature":
            parts.append(f"temperature {1 / self.calibration.scale_K[0]:.2f}")
        elif self.calibration.method == "per_attribute":
            said = (f"{name} {1 / power:.2f}" for name, power in self.calibration.powers.items())
            parts.append(f"temperatures {', '.join(said)}")
        elif self.calibration.method == "vector":
            parts.append("a scale and an offset per class")
        if self.adjust == "logit":
            parts.append(f"logits adjusted with strength {self.strength:g}")
        elif self.adjust == "bias":
            parts.append("an offset per class for macro F1")
        return "; ".join(parts) or "nothing"


def nothing(num_classes: int) -> Correction:
    """What leaves probabilities as they are."""
    return Correction(no_calibration(num_classes), np.ones(num_classes), "none", None, np.zeros(num_classes))


def fit_correction(
    probs_LK: FloatArray,
    labels_L: IntArray,
    *,
    calibrate: Calibrate,
    adjust: Adjust,
    shares_K: FloatArray,
    codes: Mapping[str, IntArray],
    ratio_K: FloatArray | None = None,
) -> Correction:
    """Fits what was asked for on rows that the model did not see.

    Args:
        probs_LK: of the ledger.
        labels_L: its true class codes.
        calibrate: how.
        adjust: how; where shares differ, fitted on the ledger weighted to the new ones.
        shares_K: class shares of what training saw.
        codes: attribute -> [K] its code in each joint class.
        ratio_K: shares of new images divided by the ledger's; 1 where left out.
    """
    num_classes = probs_LK.shape[1]
    ratio_K = np.ones(num_classes) if ratio_K is None else ratio_K
    calibration = {
        "none": lambda: no_calibration(num_classes),
        "temperature": lambda: fit_temperature(probs_LK, labels_L),
        "vector": lambda: fit_vector(probs_LK, labels_L),
        "per_attribute": lambda: fit_per_attribute(probs_LK, labels_L, codes),
    }[calibrate]()
    plain = Correction(calibration, ratio_K, "none", None, np.zeros(num_classes))
    if adjust == "none":
        return plain
    moved_LK, weights_L = plain.apply(probs_LK), ratio_K[labels_L]
    new_K = shares_K * ratio_K / (shares_K @ ratio_K)
    strength = fit_strength(moved_LK, labels_L, new_K, weights_L)
    offset_K = share_offsets(new_K, strength)
    if adjust == "logit":
        return Correction(calibration, ratio_K, "logit", strength, offset_K)
    return Correction(calibration, ratio_K, "bias", None, fit_bias(moved_LK, labels_L, offset_K, weights_L))


def nested_correction(
    probs_LK: FloatArray,
    labels_L: IntArray,
    folds_L: IntArray,
    *,
    calibrate: Calibrate,
    adjust: Adjust,
    shares_K: FloatArray,
    codes: Mapping[str, IntArray],
    ratio_K: FloatArray | None = None,
) -> FloatArray:
    """[L, K] the ledger, each fold corrected by what the other folds gave; arguments as in `fit_correction`."""

    def fit(rows: Any) -> Any:
        fitted = fit_correction(
            probs_LK[rows],
            labels_L[rows],
            calibrate=calibrate,
            adjust=adjust,
            shares_K=shares_K,
            codes=codes,
            ratio_K=ratio_K,
        )
        return lambda others: fitted.apply(probs_LK[others])

    return nested_probs(probs_LK, folds_L, fit)
