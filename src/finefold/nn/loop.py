"""The training loop of one fold and phase: a generator that yields after every optimiser step.

The caller decides when to evaluate, log, save and stop. Everything a step does follows from the state before it and
from its number: the order of samples, their views and dropout are drawn from (seed, fold, phase, epoch, batch), so that
a loop that goes on from a saved state does bitwise what it would have done.

Shapes: B rows of a batch, K joint classes, S strata (joint classes and partial labels), C classes of one head.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from finefold.errors import TrainingError
from finefold.nn.averaging import Average
from finefold.nn.classifier import Tail
from finefold.nn.distilling import Taught
from finefold.nn.freezing import PhasePlan
from finefold.nn.loaders import Batch, TrainRole
from finefold.nn.losses import Loss, Spread, of_known
from finefold.nn.optim import clip_gradients, load_state_tensors, set_rates, state_tensors
from finefold.nn.range_test import Ramp
from finefold.nn.schedules import Schedule
from finefold.nn.watching import Watcher

OPTIMISER, AVERAGE = "optimiser/", "average/"  # beginnings of keys in a saved state


@dataclass(frozen=True)
class Step:
    """What one optimiser step was.

    Args:
        number: steps taken so far in this phase, this one too.
        epoch: counted from 0.
        is_epoch_end: whether the epoch ends here.
        loss: mean over the step's rows.
        factor: of the base rates.
        norm: of all gradients, before they were clipped.
    """

    number: int
    epoch: int
    is_epoch_end: bool
    loss: float
    factor: float
    norm: float


class NotFinite(Exception):  # noqa: N818, turned into a TrainingError by who knows the samples' names
    """A loss or a gradient is NaN or infinite.

    Args:
        samples: numbers of the samples in the step.
        what: is not finite, in words.
    """

    def __init__(self, samples: NDArray[np.int64], what: str) -> None:
        super().__init__(what)
        self.samples = samples
        self.what = what


@dataclass(frozen=True)
class HeadLosses:
    """The loss of every head, and how the targets become theirs.

    Args:
        losses: head -> its loss.
        members: head -> [S, C], 1 where a stratum is of the head's class, a row of zeros where that is missing.
        weights: head -> of its loss in the sum.
        shares: head -> the share of training rows whose class is known; heads that know all are left out.
        spread: for a joint head, what makes targets of partial labels; None where there are none.
        taught: what a teacher adds; None where there is none.
    """

    losses: Mapping[str, Loss]
    members: Mapping[str, Tensor]
    weights: Mapping[str, float]
    shares: Mapping[str, float] = field(default_factory=dict)
    spread: Spread | None = None
    taught: Taught | None = None

    def __call__(self, logits: Mapping[str, Tensor], targets_BS: Tensor) -> Tensor:
        teacher_BK = targets_BS
        if self.taught is not None:
            targets_BS, teacher_BK = self.taught.split(targets_BS)
        total = targets_BS.new_zeros(())
        for name, loss in self.losses.items():
            logits_BC = logits[name].float()
            if self.spread is None:
                targets_BC = targets_BS @ self.members[name].to(targets_BS.device)
            else:
                targets_BC = self.spread(logits_BC, targets_BS)
            if name in self.shares:
                value = of_known(loss, logits_BC, targets_BC, self.shares[name])
            else:
                value = loss(logits_BC, targets_BC)
            if self.taught is not None:
                value = self.taught.with_teacher(name, value, logits_BC, teacher_BK)
            total = total + self.weights[name] * value
        return total


@dataclass
class PhaseLoop:
    """One phase of one fold, and everything that changes while it runs.

    Args:
        tail: the model from the prefix on.
        plan: what of it trains.
        role: the batches.
        losses: what is minimised.
        schedule: factors of the rates.
        optimiser: made for the plan's groups.
        average: of the weights; None for none.
        num_steps: of the phase.
        steps_per_epoch: above 0.
        accumulate: batches per step.
        clip_norm: 0 for none.
        precision: "fp32", "bf16" or "fp16" (on CUDA, with loss scaling).
        device: where the tail is.
        average_from: step after which weights are averaged.
        is_compiled: whether whole batches go through the tail compiled; an epoch's last, smaller one never does.
        watcher: told of every step; None for none. It changes nothing.
    """

    tail: Tail
    plan: PhasePlan
    role: TrainRole
    losses: HeadLosses
    schedule: Schedule | Ramp
    optimiser: torch.optim.Optimizer
    average: Average | None
    num_steps: int
    steps_per_epoch: int
    accumulate: int
    clip_norm: float
    precision: str
    device: torch.device
    average_from: int = 0
    is_compiled: bool = False
    watcher: Watcher | None = None
    step: int = 0
    scores: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._names = dict(self.tail.classifier.named_parameters())
        self._trained = {name: self._names[name] for group in self.plan.groups for name in group.names}
        self._compiled = _compiled(self.tail) if self.is_compiled else self.tail
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")
        self._seen: tuple[Mapping[str, Tensor], Tensor] | None = None

    def run(self) -> Iterator[Step]:
        """Steps until the phase is over, from where it stands."""
        while self.step < self.num_steps:
            epoch, within = divmod(self.step, self.steps_per_epoch)
            batches = self.role.epoch(epoch, start=within * self.accumulate)
            for number in range(within, self.steps_per_epoch):
                step = self._take(list(islice(batches, self.accumulate)), epoch, number + 1 == self.steps_per_epoch)
                yield step
                if self.step >= self.num_steps:
                    return

    def _take(self, batches: Sequence[Batch], epoch: int, is_epoch_end: bool) -> Step:
        """One optimiser step over some batches."""
        set_modes(self.tail, self.plan)
        factor = self.schedule.factor(self.step, self.scores)
        set_rates(self.optimiser, self.plan.groups, factor)
        torch.manual_seed(int(np.random.SeedSequence([*self.role.key, self.step]).generate_state(1)[0]))  # of dropout
        samples = np.concatenate([batch.samples_B for batch in batches])
        loss = sum(self._backward(batch, len(batch.samples_B) / len(samples)) for batch in batches)
        self._scaler.unscale_(self.optimiser)
        norm = clip_gradients(list(self._trained.values()), self.clip_norm)
        if not np.isfinite(loss) or not (np.isfinite(norm) or self._scaler.is_enabled()):
            raise NotFinite(samples, "a gradient" if np.isfinite(loss) else "the loss")
        self._watch(float(loss))
        self._scaler.step(self.optimiser)
        self._scaler.update()
        self.optimiser.zero_grad(set_to_none=True)
        self.step += 1
        if self.average is not None and self.step > self.average_from:
            self.average.update(self._changing())
        return Step(self.step, epoch, is_epoch_end, float(loss), factor, norm)

    def _backward(self, batch: Batch, share: float) -> float:
        """Adds a batch's gradients, weighed by its share of the step; its part of the loss."""
        rows, targets_BS = batch.rows.to(self.device), batch.targets_BS.to(self.device)
        forward = self._compiled if len(rows) == self.role.recipe.train.batch_size else self.tail
        with _compiling() if self.is_compiled else contextlib.nullcontext():
            with autocast(self.device, self.precision):
                logits = forward(rows)
            loss = self.losses(logits, targets_BS) * share
            self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if self.watcher is not None and self.watcher.is_due:
            self._seen = {name: logits_BC.detach() for name, logits_BC in logits.items()}, targets_BS
        return float(loss.detach())

    def _watch(self, loss: float) -> None:
        """Tells the watcher, where there is one, of a step whose gradients are there."""
        if self.watcher is None:
            return
        if self._seen is None:
            self.watcher.step(loss)
            return
        (logits, targets_BS), self._seen = self._seen, None
        classifier = self.tail.classifier
        with torch.no_grad():
            logs_BK = classifier.head.join(logits)
        self.watcher.step(loss, logs_BK, targets_BS, classifier)

    def _changing(self) -> dict[str, Tensor]:
        """Parameters and batch-norm statistics that this phase changes."""
        norms = tuple(f"network.{name}." for name in self.plan.running)
        return {
            name: value
            for name, value in self.tail.classifier.state_dict().items()
            if name in self._trained or (norms and name.startswith(norms))
        }

    def state(self) -> dict[str, Tensor]:
        """Everything that going on from here needs beside the model, `step` and `scores`."""
        state = {f"{OPTIMISER}{k}": v for k, v in state_tensors(self.optimiser, self.plan.groups).items()}
        if self.average is not None:
            state |= {f"{AVERAGE}{name}": value for name, value in self.average.state().items()}
        return state

    def load(self, state: Mapping[str, Tensor], step: int, scores: Sequence[float]) -> None:
        """Goes on from what `state` gave after `step` steps."""
        parts = {
            part: {key.removeprefix(part): value for key, value in state.items() if key.startswith(part)}
            for part in (OPTIMISER, AVERAGE)
        }
        load_state_tensors(self.optimiser, self.plan.groups, self._names, parts[OPTIMISER])
        if self.average is not None:
            self.average.load(parts[AVERAGE])
        self.step, self.scores = step, list(scores)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """In the block the model has the averaged weights, where weights are averaged."""
        if self.average is None or self.step <= self.average_from:
            yield
            return
        plain = {name: value.clone() for name, value in self._changing().items()}
        self._put(self.average.values())
        try:
            yield
        finally:
            self._put(plain)

    def finish(self) -> None:
        """Leaves the averaged weights in the model, where weights are averaged."""
        if self.average is not None and self.step > self.average_from:
            self._put(self.average.values())

    def _put(self, values: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, value in self._changing().items():
                value.copy_(values[name])


def _compiled(tail: Tail) -> Callable[[Tensor], dict[str, Tensor]]:
    """The tail, to be compiled when it is first called."""
    torch.compiler.reset()  # what earlier phases and folds compiled would count against this one
    compiled: Callable[[Tensor], dict[str, Tensor]] = torch.compile(tail, dynamic=False)
    return compiled


@contextlib.contextmanager
def _compiling() -> Iterator[None]:
    """In the block, a model that cannot be compiled is an error that says what to set."""
    from torch._dynamo.exc import TorchDynamoException  # takes a second to load

    try:
        yield
    except TorchDynamoException as reason:
        told = (str(reason).splitlines() or [type(reason).__name__])[0]
        raise TrainingError(f"the model cannot be compiled: {told[:200]}", "set train.compile = false") from reason


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[object]:
    """Mixed precision, where it is not fp32."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16 if precision == "bf16" else torch.float16)


def set_modes(tail: Tail, plan: PhasePlan) -> None:
    """Training mode where the plan trains, evaluation mode for batch norms that keep their statistics."""
    tail.train()
    for name, module in tail.classifier.network.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.train(name in plan.running)


def freeze(tail: Tail, plan: PhasePlan) -> None:
    """Gradients for what the plan trains, none for the rest."""
    trainable = plan.trainable
    for name, parameter in tail.classifier.named_parameters():
        parameter.requires_grad_(name in trainable)
        parameter.grad = None


@torch.inference_mode()
def predict_rows(tail: Tail, batches: Iterator[Tensor], device: torch.device) -> NDArray[np.float64]:
    """[N, K] probabilities of the joint classes, in fp32 whatever the training's precision."""
    tail.eval()
    found = [tail.log_probs(rows.to(device)).double().softmax(1).cpu().numpy() for rows in batches]
    return np.concatenate(found)
