"""Can a model learn a handful of images by heart? Tried on copies; the model itself is left alone.

Shapes: B rows, K outputs.
"""

import math
import time
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finefold.doctor.answers import device_of, logits_of
from finefold.errors import ModelError
from finefold.nn.gradients import look_at_gradients

RATES = (1e-3, 1e-2, 1e-4)  # of Adam, so that one unlucky rate is no finding
MOST_STEPS = 150  # of each rate
ENOUGH_STEPS = 40  # before a model that did not learn is said not to
BY_HEART = 0.95  # share of the rows predicted rightly
LOOKS = (0, 1, 2, 5, 10, 20)  # steps at which gradients are looked at: those of zero-initialised layers come later
DROPS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


@dataclass
class Attempt:
    """One rate.

    Args:
        rate: Adam's.
        losses: before every step.
        right: best share of rows predicted rightly.
        is_learned: whether that was enough.
    """

    rate: float
    losses: list[float] = field(default_factory=list)
    right: float = 0.0
    is_learned: bool = False


@dataclass(frozen=True)
class Lesson:
    """What came of it.

    Args:
        attempts: one per rate, until one succeeds.
        entropy: of the batch's labels, in nats: the loss of who knows their shares alone.
        num_rows, num_outputs: B and K.
        trainable: names of the parameters that require a gradient, and how many values they have.
        unreached: those of them whose gradient was None or 0 at every look.
        are_zero: whether none of those was ever None: then units have died, and no graph was cut.
        has_graph: whether the loss depends on any parameter at all.
        silent: layer -> units without gradient and units, at the first step.
        are_probs: whether the outputs are probabilities.
        seconds: that it took.
    """

    attempts: Sequence[Attempt]
    entropy: float
    num_rows: int
    num_outputs: int
    trainable: dict[str, int]
    unreached: tuple[str, ...]
    are_zero: bool
    has_graph: bool
    silent: dict[str, tuple[int, int]]
    are_probs: bool
    seconds: float

    @property
    def is_learned(self) -> bool:
        return any(attempt.is_learned for attempt in self.attempts)

    @property
    def first_loss(self) -> float:
        """Before any step."""
        return self.attempts[0].losses[0]

    @property
    def best_loss(self) -> float:
        return min((min(attempt.losses, default=math.inf) for attempt in self.attempts), default=math.inf)

    @property
    def right(self) -> float:
        return max(attempt.right for attempt in self.attempts)

    @property
    def num_steps(self) -> int:
        """Of the longest attempt."""
        return max(len(attempt.losses) for attempt in self.attempts)


def overfit(model: nn.Module, images_B: Sequence[Tensor], labels_B: Tensor, *, seconds: float = 60.0) -> Lesson:
    """Trains copies of a model on one batch, each at another rate, until one knows it by heart or time is up.

    Copies are in training mode, but for dropout, which only makes it slower. The caller keeps random numbers.

    Args:
        model: images -> logits; neither its values nor its mode change.
        images_B: [B] of one shape.
        labels_B: codes below K.
        seconds: for all rates together; a rate has a third.

    Raises:
        ModelError: the model cannot be copied, or does not run.
    """
    begin = time.monotonic()
    trainable = {name: one.numel() for name, one in model.named_parameters() if one.requires_grad}
    device = device_of(model)
    images, labels = _that_fit(model, images_B, labels_B, device, seconds / len(RATES))
    labels_B = labels.to(device)
    first = _copied(model)
    with torch.no_grad():
        logits_BK = logits_of(first, images, device).float()
    are_probs = bool((logits_BK >= 0).all() and ((logits_BK.sum(1) - 1).abs() < 1e-3).all())
    shares = torch.bincount(labels_B).double() / len(labels_B)
    entropy = float(-(shares[shares > 0] * shares[shares > 0].log()).sum())
    attempts: list[Attempt] = []
    witness = _Witness(trainable)
    for rate in RATES if trainable else ():
        attempt = Attempt(rate)
        attempts.append(attempt)
        _attempt(_copied(model), images, labels_B, attempt, witness, until=time.monotonic() + seconds / len(RATES))
        if attempt.is_learned or not witness.has_graph:
            break
    if not attempts or not attempts[0].losses:
        attempts = [Attempt(0.0, [float(F.cross_entropy(logits_BK, labels_B))])]
    return Lesson(
        attempts,
        entropy,
        len(images),
        logits_BK.shape[1],
        trainable,
        tuple(sorted(witness.unreached)) if witness.has_graph else tuple(trainable),
        witness.has_graph and not witness.absent & witness.unreached,
        witness.has_graph,
        witness.silent,
        are_probs,
        time.monotonic() - begin,
    )


def count_outputs(model: nn.Module, images_B: Sequence[Tensor]) -> int:
    """K of a model, which is left alone.

    Raises:
        ModelError: the model cannot be copied, or does not run.
    """
    with torch.no_grad():
        return logits_of(_copied(model), images_B, device_of(model)).shape[1]


class _Witness:
    """Which parameters ever had a gradient, in whatever attempt."""

    def __init__(self, trainable: dict[str, int]) -> None:
        self.unreached = set(trainable)
        self.absent: set[str] = set()
        self.has_graph = bool(trainable)
        self.silent: dict[str, tuple[int, int]] = {}

    def look(self, model: nn.Module, step: int) -> None:
        seen = look_at_gradients(model)
        self.unreached &= seen.missing | seen.still
        self.absent |= seen.missing
        if step == 0 and not self.silent:
            self.silent = {name: (int(one.sum()), len(one)) for name, one in seen.silent.items() if one.any()}


class _Adam:
    """Adam as published, for want of a quick one: making torch's loads its compiler, two seconds of the doctor's ten.

    References:
        Kingma, Ba, Adam: a method for stochastic optimization, 2015, algorithm 1, with its default decays.
    """

    DECAY, SQUARE_DECAY, TINY = 0.9, 0.999, 1e-8

    def __init__(self, parameters: Sequence[nn.Parameter], rate: float) -> None:
        self.parameters, self.rate, self.num_steps = parameters, rate, 0
        self.means = [torch.zeros_like(one) for one in parameters]
        self.squares = [torch.zeros_like(one) for one in parameters]

    def zero_grad(self) -> None:
        """Forgets all gradients."""
        for one in self.parameters:
            one.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Moves every parameter that has a gradient."""
        self.num_steps += 1
        rate = self.rate / (1 - self.DECAY**self.num_steps)
        for one, mean, square in zip(self.parameters, self.means, self.squares, strict=True):
            if one.grad is not None:
                mean.lerp_(one.grad, 1 - self.DECAY)
                square.mul_(self.SQUARE_DECAY).addcmul_(one.grad, one.grad, value=1 - self.SQUARE_DECAY)
                scale = (square / (1 - self.SQUARE_DECAY**self.num_steps)).sqrt_().add_(self.TINY)
                one.addcdiv_(mean, scale, value=-rate)


def _attempt(
    model: nn.Module, images: Sequence[Tensor], labels_B: Tensor, attempt: Attempt, witness: _Witness, *, until: float
) -> None:
    """Full-batch steps of Adam at one rate."""
    device = labels_B.device
    optimiser = _Adam([one for one in model.parameters() if one.requires_grad], attempt.rate)
    for step in range(MOST_STEPS):
        logits_BK = logits_of(model, images, device).float()
        loss = F.cross_entropy(logits_BK, labels_B)
        value = float(loss.detach())
        if not math.isfinite(value):
            return
        attempt.losses.append(value)
        attempt.right = max(attempt.right, float((logits_BK.argmax(1) == labels_B).float().mean()))
        attempt.is_learned = attempt.right >= BY_HEART
        if not loss.requires_grad:
            witness.has_graph = False
            return
        if (attempt.is_learned and step > LOOKS[2]) or time.monotonic() > until:
            return
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if step in LOOKS:
            witness.look(model, step)
        optimiser.step()


def _copied(model: nn.Module) -> nn.Module:
    """A copy in training mode without dropout.

    Raises:
        ModelError: it cannot be copied.
    """
    try:
        copy = deepcopy(model)
    except Exception as reason:
        raise ModelError(
            f"the model cannot be copied: {type(reason).__name__}: {str(reason)[:200]}",
            "the doctor trains a copy on a few images and leaves the model alone: make `copy.deepcopy(model)` work",
        ) from reason
    copy.train()
    for module in copy.modules():
        if isinstance(module, DROPS):
            module.eval()
    return copy


def _that_fit(
    model: nn.Module, images_B: Sequence[Tensor], labels_B: Tensor, device: torch.device, seconds: float
) -> tuple[list[Tensor], Tensor]:
    """As many of the rows, which come in turns of their classes, as leave time for steps: all, a half or a quarter."""
    few = max(2, len(images_B) // 4)
    trial = _copied(model)
    taken = []
    for _ in range(2):  # the first is slower: kernels are chosen
        begin = time.monotonic()
        loss = F.cross_entropy(logits_of(trial, list(images_B[:few]), device).float(), labels_B[:few].to(device))
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
        taken.append(time.monotonic() - begin)
    one = min(taken) / few
    for count in (len(images_B), len(images_B) // 2):
        if one * count * ENOUGH_STEPS <= seconds:
            return list(images_B[:count]), labels_B[:count]
    return list(images_B[:few]), labels_B[:few]
