"""A watcher beside a training loop: it says, once, when nothing is being learned, and why. It changes no number.

Most steps cost it a note of the loss. Every so many steps it looks at logits and gradients.

Shapes: B rows of a batch, K classes.
"""

import math
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import fmean, median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from finefold.data.findings import Finding, Severity
from finefold.nn.gradients import Look, look_at_gradients

COLLAPSED = 0.98  # share of one class among the predictions that is worth a word, where the truth has a different share
MARGIN = 0.1  # by which the truth must differ
START = 10  # losses that training starts with
RECENT = 20  # losses that are compared with them
RISE = 1.5  # times the start's loss, and half the prior's entropy above it: far above
KEPT = 20  # looks that are remembered
FEW_LOOKS, FEW_STEPS = 10, 200  # before anything is called stuck
STUCK = 0.97  # of the prior's entropy
VANISHED, EXPLODED = 1e-6, 100.0  # of the strongest stage's gradient; times a stage's own before
PERSISTENT = 3  # looks in a row
DEAD = 0.8  # share of a layer's units
LOOK = "see whether labels belong to their images and how images are scaled (`finefold doctor`)"
SLOWER = "divide the rate by ten; `finefold lr-find` measures one that fits"
GAP, LEARNED = 0.3, 0.9  # accuracy in training above validation, where training's is at least that


@dataclass(frozen=True)
class _Batch:
    """What was looked at of one batch.

    Args:
        predicted, true: [K] how many rows of each class.
        believed: [K] sum of the rows' probabilities.
        right: share of rows that are predicted rightly.
        surprise: mean -log p(label), in nats.
        num_rows: B.
    """

    predicted: NDArray[np.int64]
    true: NDArray[np.float64]
    believed: NDArray[np.float64]
    right: float
    surprise: float
    num_rows: int


class Watcher:
    """Looks over the shoulder of a loop: call `step` after `backward()`, before gradients are set to zero.

    Args:
        num_classes: K; of the logits where None.
        prior: [K] shares or counts of the classes among what trains; those of the labels seen where None.
        class_names: [K], for what is said.
        stages: name -> names of parameters; the model's modules where None.
        every: steps between two looks at logits and gradients.
        said: kinds of findings that are not to be said again.
        losses: of steps taken before, where training goes on.
    """

    def __init__(
        self,
        *,
        num_classes: int | None = None,
        prior: Sequence[float] | None = None,
        class_names: Sequence[str] = (),
        stages: Mapping[str, Collection[str]] | None = None,
        every: int = 20,
        said: Collection[str] = (),
        losses: Sequence[float] = (),
    ) -> None:
        self.num_classes = len(prior) if num_classes is None and prior is not None else num_classes
        self.class_names = tuple(class_names)
        self.stages = stages
        self.every = every
        self.findings: list[Finding] = []
        self._prior_K = None if prior is None else np.asarray(prior, np.float64) / np.sum(prior)
        self._said = set(said)
        self._told = 0
        self._steps = len(losses)
        self._first: list[float] = list(losses[:START])
        self._recent: deque[float] = deque(losses[-RECENT:], RECENT)
        self._peak = max(losses, default=-math.inf)
        self._waiting: list[Tensor] = []  # losses on an accelerator, which are fetched together
        self._batches: deque[_Batch] = deque(maxlen=KEPT)
        self._looks: deque[Look] = deque(maxlen=PERSISTENT)
        self._before: dict[str, list[float]] = {}  # stage -> its first strengths
        self._gaps = 0

    @property
    def is_due(self) -> bool:
        """Whether the next step is one at which logits and gradients are looked at."""
        return (self._steps + 1) % self.every == 0

    def step(
        self,
        loss: Tensor | float,
        logits: Tensor | None = None,
        labels: Tensor | None = None,
        model: nn.Module | None = None,
        *,
        ids: Sequence[Any] = (),
    ) -> None:
        """One optimiser step.

        Args:
            loss: of the step.
            logits: [B, K]; looked at where `is_due`.
            labels: [B] codes, -1 where not known, or [B, K] shares of classes.
            model: whose gradients are looked at.
            ids: names of the rows, for a loss that is not finite.
        """
        is_due = self.is_due
        self._steps += 1
        if isinstance(loss, Tensor) and loss.device.type != "cpu":
            self._waiting.append(loss.detach())
        else:
            self._note(loss.item() if isinstance(loss, Tensor) else loss, ids)
        if is_due and self._waiting:
            for value in torch.stack(self._waiting).tolist():
                self._note(value, ids)
            self._waiting = []
        if not is_due:
            return
        batch = None if logits is None or labels is None else _batch_of(logits.detach(), labels.detach())
        if batch is not None:
            self._batches.append(batch)
            self._judge_batches()
        self._judge_losses()
        if model is not None:
            self._looks.append(look_at_gradients(model, self.stages))
            self._judge_gradients()

    def validated(self, predicted_N: Any, labels_N: Any) -> None:
        """What the model predicts of samples it does not train on, e.g. at the end of an epoch.

        Args:
            predicted_N: codes.
            labels_N: codes, -1 where not known.
        """
        labels, predicted = np.asarray(labels_N), np.asarray(predicted_N)
        predicted, labels = predicted[labels >= 0], labels[labels >= 0]
        if not len(labels):
            return
        size = int(max(predicted.max(), labels.max())) + 1
        self._judge_shares(np.bincount(predicted, minlength=size), np.bincount(labels, minlength=size))
        valid, train = float((predicted == labels).mean()), self._train_accuracy()
        self._gaps = self._gaps + 1 if train is not None and train >= max(LEARNED, valid + GAP) else 0
        if self._gaps >= 2:
            self._say(
                "train-above-valid",
                "warning",
                {"train_accuracy": train, "valid_accuracy": valid},
                f"accuracy is {train:.2f} on what trains and {valid:.2f} on what does not: the images are remembered",
                "train fewer stages, augment, or stop earlier (`train.patience`); more samples help most",
            )

    def news(self) -> Iterator[Finding]:
        """Findings that were not handed out before."""
        new = self.findings[self._told :]
        self._told = len(self.findings)
        yield from new

    def _say(self, kind: str, severity: Severity, evidence: Mapping[str, Any], cause: str, remedy: str) -> None:
        if kind not in self._said:
            self._said.add(kind)
            self.findings.append(Finding(kind, severity, (), {"step": self._steps, **evidence}, cause, remedy))

    def _note(self, loss: float, ids: Sequence[Any]) -> None:
        if not math.isfinite(loss):
            if "not-finite" not in self._said:
                self._said.add("not-finite")
                self.findings.append(not_finite(self._steps, "the loss", ids))
            return
        if len(self._first) < START:
            self._first.append(loss)
        self._recent.append(loss)
        self._peak = max(self._peak, loss)

    def _judge_losses(self) -> None:
        """A rate that is too high: the loss is far above where it began."""
        if self._steps < START + RECENT or len(self._first) < START or len(self._recent) < RECENT:
            return
        start, now = median(self._first), median(self._recent)
        if now > max(RISE * start, start + 0.5 * (self._entropy() or 1.0)):
            self._say(
                "rate-too-high",
                "warning",
                {"start": start, "now": now},
                f"the loss rose from {start:.2f} to {now:.2f}: the rate is too high",
                SLOWER,
            )

    def _judge_peak(self) -> None:
        """The same where the model broke at once: the loss shot up, and came back to what no model gives."""
        start = median(self._first)
        if self._peak > max(2 * start, start + 2 * (self._entropy() or 1.0)):
            self._say(
                "rate-too-high",
                "warning",
                {"start": start, "peak": self._peak},
                f"the loss shot up from {start:.2f} to {self._peak:.2f} before it came to rest where nothing is "
                "learned: the rate is too high",
                SLOWER,
            )

    def _judge_batches(self) -> None:
        seen = self._batches
        if len(seen) < FEW_LOOKS or self._steps < FEW_STEPS:
            return
        self._judge_shares(np.sum([one.predicted for one in seen], axis=0), np.sum([one.true for one in seen], axis=0))
        entropy = self._entropy() or 0.0
        surprise = fmean(batch.surprise for batch in seen)
        believed_K, true_K = np.sum([one.believed for one in seen], axis=0), np.sum([one.true for one in seen], axis=0)
        flat = float(-(true_K * np.log(np.maximum(believed_K / believed_K.sum(), 1e-12))).sum() / true_K.sum())
        if entropy > 0.05 and surprise >= STUCK * max(entropy, flat):  # no better than its own mean answer either
            self._judge_peak()
            self._say(
                "nothing-learned",
                "warning",
                {"surprise": surprise, "entropy": entropy, "looks": len(seen)},
                f"after {self._steps} steps log loss is {surprise:.3f}, no better than the classes' shares alone "
                f"({entropy:.3f})",
                f"{LOOK}; then look for a rate with `finefold lr-find`: it may be far too high or too low",
            )

    def _judge_shares(self, predicted_K: NDArray[Any], true_K: NDArray[Any]) -> None:
        top = int(predicted_K.argmax())
        share, truth = float(predicted_K[top] / predicted_K.sum()), float(true_K[top] / true_K.sum())
        if share < COLLAPSED or truth > COLLAPSED - MARGIN:
            return
        name = self.class_names[top] if top < len(self.class_names) else f"class {top}"
        self._say(
            "one-class-collapse",
            "warning",
            {"class": name, "share": share, "truth": truth},
            f"{share:.0%} of the predictions are `{name}`, which {truth:.0%} of the samples are",
            f"{LOOK}; then lower the rate",
        )

    def _judge_gradients(self) -> None:
        latest, looks = self._looks[-1], list(self._looks)
        if not math.isfinite(latest.norm):
            return
        for stage, strength in latest.strength.items():
            self._before.setdefault(stage, []).append(strength)
        if len(looks) < PERSISTENT or self._is_fitted():
            return
        self._judge_reach(looks)
        self._judge_strength(looks)
        self._judge_units(looks)

    def _judge_reach(self, looks: Sequence[Look]) -> None:
        """Parameters that no gradient reaches."""
        untouched = frozenset[str].intersection(*(look.missing | look.still for look in looks))
        if all(look.is_blank for look in looks):
            cause = "no parameter has a gradient when the watcher looks"
            remedy = "call `watcher.step` after `backward()` and before `zero_grad()`; else nothing trains"
        elif not untouched & looks[-1].missing:
            cause = f"gradients of {listed(untouched)} are 0 throughout: layers above are never active"
            remedy = DEAD_REMEDY
        else:
            cause = f"no gradient reaches {listed(untouched)}"
            remedy = "look for `detach()`, `no_grad()` or a layer that is not called; or freeze them"
        if untouched:
            self._say("no-gradient", "warning", {"parameters": sorted(untouched)}, cause, remedy)

    def _judge_strength(self, looks: Sequence[Look]) -> None:
        """Stages whose gradients are next to nothing beside others', or many times what they were."""
        for stage in looks[-1].strength:
            shares = [look.strength.get(stage, 0) / max(max(look.strength.values()), 1e-30) for look in looks]
            if 0 < max(shares) < VANISHED:
                self._say(
                    "vanishing-gradient",
                    "warning",
                    {"stage": stage, "share": max(shares)},
                    f"gradients of `{stage}` are {max(shares):.0e} of the strongest stage's: it does not train",
                    "use normalisation or shortcuts between layers, ReLU instead of sigmoid or tanh, another start",
                )
            before = self._before[stage]
            usual = median(before[:5])
            if len(before) > 5 + 1 and usual > 0 and min(before[-2:]) > EXPLODED * usual:
                self._say(
                    "exploding-gradient",
                    "warning",
                    {"stage": stage, "times": min(before[-2:]) / usual},
                    f"gradients of `{stage}` are {min(before[-2:]) / usual:.0f} times what they were at the start",
                    "lower the rate, warm up longer (`schedule.warmup`), or clip gradients (`train.clip_norm = 1`)",
                )

    def _judge_units(self, looks: Sequence[Look]) -> None:
        """Layers most of whose units learn nothing from any batch."""
        dead = {}
        for layer in set[str].intersection(*(set(look.silent) for look in looks)):
            silent_R = torch.stack([look.silent[layer] for look in looks]).all(dim=0)
            if float(silent_R.float().mean()) >= DEAD:
                dead[layer] = f"{int(silent_R.sum())} of {len(silent_R)}"
        if dead:
            self._say("dead-units", "warning", {"layers": dead}, dead_cause(dead), DEAD_REMEDY)

    def _is_fitted(self) -> bool:
        """Whether what is looked at is known by heart, so that gradients are naturally next to nothing."""
        recent = list(self._batches)[-PERSISTENT:]
        return bool(recent) and max(batch.surprise for batch in recent) < 0.01

    def _entropy(self) -> float | None:
        """Of the prior, in nats; of the labels seen where there is none."""
        prior_K = self._prior_K
        if prior_K is None:
            if not self._batches:
                return math.log(self.num_classes) if self.num_classes else None
            prior_K = np.sum([batch.true for batch in self._batches], axis=0)
        return entropy_of(prior_K)

    def _train_accuracy(self) -> float | None:
        recent = list(islice(reversed(self._batches), FEW_LOOKS))
        if len(recent) < PERSISTENT or sum(batch.num_rows for batch in recent) < 64:
            return None
        return float(np.average([batch.right for batch in recent], weights=[batch.num_rows for batch in recent]))


DEAD_REMEDY = "lower the rate, scale the images, or start these layers anew: a unit that is never active stays so"


def dead_cause(layers: Mapping[str, str]) -> str:
    """What to say of dead units: layer -> how many of how many."""
    told = ", ".join(f"{count} units of `{layer}`" for layer, count in islice(layers.items(), 3))
    return f"no image wakes {told}" + (f" and {len(layers) - 3} layers more" if len(layers) > 3 else "")


def listed(names: Collection[str]) -> str:
    """A few of some names, and how many there are."""
    shown = sorted(names)
    more = f" and {len(shown) - 3} more" if len(shown) > 3 else ""
    return ", ".join(f"`{name}`" for name in shown[:3]) + more


def not_finite(step: int, what: str, ids: Sequence[Any]) -> Finding:
    """A loss or gradient that is no number, with the rows of its step."""
    return Finding(
        "not-finite",
        "error",
        tuple(map(str, ids)),
        {"step": step},
        f"{what} of step {step} is not a finite number",
        "lower the rate, warm up longer, clip gradients, or train in fp32; look at the images of that step",
    )


def entropy_of(shares_K: Any) -> float:
    """Of shares or counts of classes, in nats: the log loss of who knows these alone."""
    shares = np.asarray(shares_K, np.float64)
    shares = shares[shares > 0] / shares.sum()
    return float(-(shares * np.log(shares)).sum())


def _batch_of(logits_BK: Tensor, labels: Tensor) -> _Batch | None:
    """What a batch's logits say of its labels; None where it has none."""
    num_classes = logits_BK.shape[1]
    logs_BK = logits_BK.float().log_softmax(1).cpu()
    labels = labels.cpu()
    if labels.ndim == 2:
        shares_BK = labels.float()[:, :num_classes]
    else:
        shares_BK = torch.zeros_like(logs_BK)
        known = torch.nonzero((labels >= 0) & (labels < num_classes))[:, 0]
        shares_BK[known, labels[known].long()] = 1
    is_known_B = shares_BK.sum(1) > 0.5
    logs_BK, shares_BK = logs_BK[is_known_B], shares_BK[is_known_B] / shares_BK[is_known_B].sum(1, keepdim=True)
    if not (count := len(logs_BK)):
        return None
    top_B = logs_BK.argmax(1)
    return _Batch(
        np.bincount(top_B.numpy(), minlength=num_classes),
        shares_BK.double().sum(0).numpy(),
        logs_BK.double().exp().sum(0).numpy(),
        float((top_B == shares_BK.argmax(1)).float().mean()),
        float(-(shares_BK * logs_BK.clamp(min=-1e4)).sum(1).mean()),
        count,
    )
