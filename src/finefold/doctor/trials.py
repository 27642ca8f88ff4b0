"""Pairings put to the test: does the probe of the labels so paired know more than the probe of the labels as they are?

The gain of a pairing is a log-likelihood ratio in nats: by how much the labels it gives are more probable than those
that the rows have, each row by a probe that did not see it. A pairing that is no better gains more than t nats with a
probability of about exp(-t), were rows independent; `z` sets the gain against how much clusters of rows differ in it.

Shapes: N rows, C classes.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from finefold.doctor.evidence import Belief, ClosedProbe
from finefold.doctor.pairings import Pairing, Scope, shifted

SURE = 30.0  # nats
CLEAR: dict[Scope, float] = {  # deviations; with equal gains in k clusters and none elsewhere they are about sqrt(k)
    "all": 1.9,
    "folder": 2.2,
    "misfit": 2.5,
    "end": 2.5,
    "folders": 2.6,
    "near": 3.2,
    "stretch": 4.2,
}
EVEN = 2.0  # nats that decide nothing between two pairings
NUM_SHUFFLES = 100
ORDERED = 5.0  # deviations that labels lie above the same labels shuffled
LEAST_OTHERS = 50
USUAL = 0.5  # of the other rows' information, that re-paired rows must have
MOST_TRANSFORMED = 32  # classes, when all shifts are looked at
NUM_REFITTED = 6  # of pairings that a quick look ranks highest


@dataclass(frozen=True)
class Trial:
    """A pairing beside the one that the labels have.

    Args:
        pairing: which.
        labels_N: that it gives; -1 for rows without.
        belief: of a probe fitted to these.
        nats: gained over the rows that both label and that it changes.
        z: mean gain of a cluster over its standard error.
        num_changed: rows that get another label.
    """

    pairing: Pairing
    labels_N: NDArray[np.int64]
    belief: Belief
    nats: float
    z: float
    num_changed: int

    @property
    def is_better(self) -> bool:
        """Beyond doubt."""
        return self.nats > SURE and self.z > CLEAR[self.pairing.scope]


@dataclass(frozen=True)
class Court:
    """What pairings are compared on.

    Args:
        probe: of the features.
        labels_N: as they are.
        num_classes: C.
        clusters_N: rows of one cluster are no independent evidence.
        current: belief of the labels as they are.
        every_label: a longer list that the labels may come from; the labels themselves otherwise.
    """

    probe: ClosedProbe
    labels_N: NDArray[np.int64]
    num_classes: int
    clusters_N: NDArray[np.int64]
    current: Belief
    every_label: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        probe: ClosedProbe,
        labels_N: NDArray[np.int64],
        num_classes: int,
        clusters_N: NDArray[np.int64],
        every_label: NDArray[np.int64] | None = None,
    ) -> "Court":
        """With the belief of the labels as they are."""
        current = probe.believe(labels_N, num_classes)
        return cls(probe, labels_N, num_classes, clusters_N, current, labels_N if every_label is None else every_label)

    def with_labels(self, every_label: NDArray[np.int64]) -> "Court":
        """The same rows, with pairings taken from a longer list of labels."""
        return replace(self, every_label=every_label)

    def hear(self, pairing: Pairing) -> Trial:
        """Fits the probe to what a pairing says, and compares."""
        labels_N = pairing.labels(self.every_label)
        belief = self.probe.believe(labels_N, self.num_classes)
        nats, z, num_changed = self.gain(labels_N, belief)
        return Trial(pairing, labels_N, belief, nats, z, num_changed)

    def gain(self, labels_N: NDArray[np.int64], belief: Belief) -> tuple[float, float, int]:
        """Nats, z, and how many rows get another label."""
        changed = np.flatnonzero((labels_N >= 0) & (labels_N != self.labels_N))
        common = np.flatnonzero(labels_N >= 0)
        if not len(changed):
            return 0.0, 0.0, 0
        new_N = belief.gain_NC[common, labels_N[common]]
        old_N = self.current.gain_NC[common, self.labels_N[common]]
        sums_G = np.bincount(self.clusters_N[common], weights=new_N - old_N)
        sums_G = sums_G[np.bincount(self.clusters_N[common]) > 0]
        error = float(np.sqrt(((sums_G - sums_G.mean()) ** 2).sum()))
        nats = float(sums_G.sum())
        return nats, nats / max(error, 1e-9), len(changed)

    def best(self, pairings: Iterable[Pairing], accept: Callable[[Trial], bool] = lambda _: True) -> Trial | None:
        """The pairing whose labels the images say most of: all by a quick look, the best few with all care.

        Args:
            pairings: any.
            accept: what is not accepted is passed over. Of several that are even, or the same, the first is taken.
        """
        distinct: dict[tuple[bytes, Scope], tuple[float, int, Pairing]] = {}
        for number, pairing in enumerate(pairings):
            labels_N = pairing.labels(self.every_label)
            if (told := (labels_N.tobytes(), pairing.scope)) not in distinct:
                distinct[told] = (-self.quick(labels_N), number, pairing)
        ranked = sorted(distinct.values(), key=lambda one: one[:2])[:NUM_REFITTED]
        heard = [(number, self.hear(pairing)) for _, number, pairing in ranked]
        good = [(number, trial) for number, trial in heard if accept(trial)]
        if not good:
            return None
        most = max(trial.nats for _, trial in good)
        return next(trial for _, trial in sorted(good, key=lambda one: one[0]) if trial.nats > most - EVEN)

    def is_about_order(self, trial: Trial, rng: np.random.Generator) -> bool:
        """Whether a pairing's labels fit far better than the same labels shuffled among the rows that it moves.

        Where labels gather in places (a run of one class that the probe takes for another), labels from elsewhere may
        fit better by what they are, not by their order; that is no pairing.
        """
        rows = np.flatnonzero((trial.pairing.source_N != np.arange(len(self.labels_N))) & (trial.labels_N >= 0))
        labels, gain_NC = trial.labels_N[rows], trial.belief.gain_NC[rows]
        places = np.arange(len(rows))
        own = float(gain_NC[places, labels].sum())
        drawn = [float(gain_NC[places, rng.permutation(labels)].sum()) for _ in range(NUM_SHUFFLES)]
        return (own - float(np.mean(drawn))) / max(float(np.std(drawn)), 1e-6) > ORDERED

    def explains(self, trial: Trial) -> bool:
        """Whether the rows that a pairing moves then fit about as well as all others; if part-right, they do not.

        Of a pairing of all rows, those that get another label.
        """
        is_labelled_N = trial.labels_N >= 0
        is_moved_N = trial.pairing.source_N != np.arange(len(self.labels_N))
        if trial.pairing.scope == "all":
            is_moved_N = trial.labels_N != self.labels_N
        moved, others = np.flatnonzero(is_moved_N & is_labelled_N), np.flatnonzero(~is_moved_N & is_labelled_N)
        if len(others) < LEAST_OTHERS or not len(moved):
            return True
        own_N = trial.belief.gain_NC[np.arange(len(trial.labels_N)), np.maximum(trial.labels_N, 0)]
        return float(own_N[moved].mean()) > USUAL * float(own_N[others].mean())

    def quick(self, labels_N: NDArray[np.int64]) -> float:
        """How much of the labels the probe explains, without probabilities."""
        known = np.flatnonzero(labels_N >= 0)
        if not len(known):
            return 0.0
        targets_NC = np.zeros((len(labels_N), self.num_classes), np.float32)
        targets_NC[known, labels_N[known]] = 1
        targets_NC[labels_N < 0] = targets_NC[known].mean(axis=0)
        return self.quick_of_targets(targets_NC) * float(np.sqrt(len(labels_N) / len(known)))

    def quick_of_targets(self, targets_NC: NDArray[np.float32]) -> float:
        """The same of shares of classes instead of labels."""
        share_C = targets_NC.mean(axis=0)
        scaled_NC = (targets_NC - share_C) / np.sqrt(share_C + 1e-3)
        found_NC = self.probe.scores(scaled_NC)
        size = float(np.linalg.norm(found_NC)) or 1.0
        return float((found_NC * scaled_NC).sum()) / size / float(np.sqrt(len(targets_NC)))

    def shifts(self, most: int = 12) -> list[Pairing]:
        """The nearest shifts, then those, of all there are, after which components and labels go together best.

        For component r and class c, the correlation at every cyclic shift is one product of Fourier transforms.
        """
        count = len(self.labels_N)
        if len(self.every_label) != count:
            return []
        targets_NC = np.eye(self.num_classes, dtype=np.float32)[self.labels_N]
        share_C = targets_NC.mean(axis=0)
        scaled_NC = (targets_NC - share_C) / np.sqrt(share_C + 1e-3)
        if self.num_classes > MOST_TRANSFORMED:  # random projections keep sums of squares, nearly
            drawn = np.random.default_rng(0).normal(size=(self.num_classes, MOST_TRANSFORMED))
            scaled_NC = scaled_NC @ drawn.astype(np.float32)
        size = _quick_size(2 * count)  # padded and folded: of a length with a large prime factor it takes three times
        targets = np.fft.rfft(scaled_NC.T, n=size, axis=1)
        explained_N = np.zeros(count)
        for component_N in self.probe.white_RN:
            waves = np.conj(np.fft.rfft(component_N, n=size))
            lags = np.fft.irfft(waves * targets, n=size, axis=1)
            explained_N += ((lags[:, :count] + lags[:, -count:]) ** 2).sum(axis=0)
        explained_N[0] = -1
        far = np.argsort(explained_N)[::-1][:most]
        near = [by % count for by in (1, -1, 2, -2, 3, -3)]
        places = dict.fromkeys([*near, *far.tolist()])
        return [shifted(count, by if by <= count // 2 else by - count, cyclic=True) for by in places if by]

    def cut_or_cyclic(self, trial: Trial) -> Trial:
        """A cyclic shift as one with its end cut off, where the rows that would wrap do not fit what they would get."""
        by = int(trial.pairing.source_N[0])
        count = len(self.labels_N)
        by = by if by <= count // 2 else by - count
        plain = shifted(count, by, cyclic=False)
        wrapped = np.flatnonzero(plain.source_N < 0)
        gained = trial.belief.gain_NC[wrapped, trial.labels_N[wrapped]].sum()
        return trial if gained > 0 else self.hear(plain)


def _quick_size(least: int) -> int:
    """The smallest 2^a, 3 * 2^a or 5 * 2^a that is large enough: Fourier transforms are quick there."""
    powers = (2 ** max(0, int(np.ceil(np.log2(least / odd)))) * odd for odd in (1, 3, 5))
    return int(min(powers))
