"""Running a model to see what flows through it: shapes, operations, time, and gradients back."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from finefold.data.findings import Finding
from finefold.errors import ModelError
from finefold.nn.comparing import does_not_run, output_tensors, training_kept
from finefold.nn.tracing import attributes_kept

_TIMED_RUNS = 3
_SHOWN = 10


@dataclass(frozen=True)
class FlowRow:
    """One module as data flows through it.

    Args:
        name: as in `named_modules`; `""` is the model itself.
        kind: its class.
        order: place among the modules by first call, from 0.
        calls: how often one forward calls it.
        shape: of its first output tensor, batch included; empty where it gives none.
        flops: floating-point operations of its first call's forward for the whole batch, its children's included.
        seconds: of all its calls in one forward, its children's included; the median of several.
    """

    name: str
    kind: str
    order: int
    calls: int
    shape: tuple[int, ...]
    flops: int
    seconds: float


@dataclass(frozen=True)
class Flow:
    """One forward.

    Args:
        rows: modules in the order in which they are first called.
        batch: images in it.
        device, threads: where it was timed.
    """

    rows: tuple[FlowRow, ...]
    batch: int
    device: str
    threads: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True)
class GradientRow:
    """One parameter after one backward.

    Args:
        name: as in `named_parameters`.
        shape: its own.
        trainable: whether it requires a gradient.
        norm: L2 norm of its gradient; None where it got none, or one that is not finite.
        zeros: share of the gradient's values that are exactly 0; None where it got none.
        not_finite: how many values are NaN or infinite.
    """

    name: str
    shape: tuple[int, ...]
    trainable: bool
    norm: float | None
    zeros: float | None
    not_finite: int


@dataclass(frozen=True)
class Gradients:
    """One backward.

    Args:
        rows: every parameter, in the model's order.
        loss: cross-entropy of the batch; None where it is not finite.
        batch: images in it.
        findings: trainable parameters without a gradient, gradients that are not finite or all zero.
    """

    rows: tuple[GradientRow, ...]
    loss: float | None
    batch: int
    findings: tuple[Finding, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "loss": self.loss,
            "batch": self.batch,
            "rows": [asdict(row) for row in self.rows],
            "findings": [finding.to_dict() for finding in self.findings],
        }


def measure_flow(model: nn.Module, images_BCHW: Tensor, *, runs: int = _TIMED_RUNS) -> Flow:
    """Shapes, operations and time of every module in one forward, in evaluation mode.

    Operations are counted by torch's FlopCounterMode: a multiply-add is two, and only matrix products,
    convolutions and attention count. Time is wall time with torch's present number of threads, the median of
    `runs` after one to warm up; hooks add some microseconds a call.

    Raises:
        ModelError: the model does not run on these images.
    """
    names = {module: name for name, module in model.named_modules()}
    shapes: dict[nn.Module, tuple[int, ...]] = {}
    flops: dict[nn.Module, int] = {}
    counter = FlopCounterMode(display=False)

    def leave(module: nn.Module, before: float, output: Any) -> None:
        flops.setdefault(module, round(counter.get_total_flops() - before))
        first = next(output_tensors(output), None)
        shapes.setdefault(module, () if first is None else tuple(first.shape))

    order: dict[nn.Module, int] = {}
    with _inference(model), attributes_kept(model), plain_attention():
        with counter, sdpa_kernel(SDPBackend.MATH):  # as matrix products, which are counted
            _run_hooked(model, images_BCHW, order, lambda: counter.get_total_flops(), leave)
        timed = [_time(model, images_BCHW) for _ in range(runs)]
    rows = tuple(
        FlowRow(
            names[module],
            type(module).__name__,
            place,
            len(timed[0].get(module, ())),
            shapes.get(module, ()),
            flops.get(module, 0),
            median(sum(one.get(module, ())) for one in timed),
        )
        for module, place in order.items()
    )
    return Flow(rows, len(images_BCHW), str(images_BCHW.device), torch.get_num_threads())


def _time(model: nn.Module, images_BCHW: Tensor) -> dict[nn.Module, list[float]]:
    """Seconds of every call of every module in one forward."""
    seconds: dict[nn.Module, list[float]] = {}

    def now() -> float:
        if images_BCHW.is_cuda:  # kernels are queued: wait for them, or their time is somebody else's
            torch.cuda.synchronize(images_BCHW.device)
        return time.perf_counter()

    def leave(module: nn.Module, before: float, _: Any) -> None:
        seconds.setdefault(module, []).append(now() - before)

    _run_hooked(model, images_BCHW, {}, now, leave)
    return seconds


def _run_hooked(
    model: nn.Module,
    images_BCHW: Tensor,
    order: dict[nn.Module, int],
    enter: Callable[[], float],
    leave: Callable[[nn.Module, float, Any], None],
) -> None:
    """One forward; `leave` is told each module, what `enter` said when it was entered, and its output."""
    entered: list[tuple[nn.Module, float]] = []

    def before(module: nn.Module, _: Any) -> None:
        order.setdefault(module, len(order))
        entered.append((module, enter()))

    def after(module: nn.Module, _: Any, output: Any) -> None:
        while entered[-1][0] is not module:  # one that ended by an exception its caller caught
            entered.pop()
        leave(module, entered.pop()[1], output)

    handles = [module.register_forward_pre_hook(before) for module in model.modules()]
    handles += [module.register_forward_hook(after) for module in model.modules()]
    try:
        model(images_BCHW)
    except Exception as reason:
        raise does_not_run(images_BCHW, reason) from reason
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _inference(model: nn.Module) -> Iterator[None]:
    with training_kept(model), torch.no_grad():
        model.eval()
        yield


@contextmanager
def plain_attention() -> Iterator[None]:
    """nn.MultiheadAttention as separate operations, which can be counted, in place of one fused call."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def measure_gradients(model: nn.Module, images_BCHW: Tensor, labels_B: Tensor | None = None) -> Gradients:
    """One batch forward and backward in training mode; parameters, buffers and `.grad` are left as they were.

    Args:
        model: gives logits [B, K], alone or first of several.
        images_BCHW: at least two, or batch norm may have nothing to average.
        labels_B: class numbers below K; 0, 1, 2 ... by default.

    Raises:
        ModelError: the model does not run on these images, gives no logits, or has nothing to train.
    """
    named = list(model.named_parameters())
    trainable = [(name, parameter) for name, parameter in named if parameter.requires_grad]
    if not trainable:
        raise ModelError("no parameter requires a gradient", "unfreeze some: `parameter.requires_grad_(True)`")
    with (
        torch.inference_mode(False),
        training_kept(model),
        attributes_kept(model),
        torch.enable_grad(),
        torch.random.fork_rng(devices=[]),
    ):
        torch.manual_seed(0)  # of dropout
        model.train()
        loss = _loss(model, images_BCHW, labels_B)
        tensors = [parameter for _, parameter in trainable]
        found = dict(zip([name for name, _ in trainable], _backward(loss, tensors), strict=True))
    rows = tuple(_gradient_row(name, parameter, found.get(name)) for name, parameter in named)
    loss = loss.detach()
    is_finite = bool(loss.isfinite())
    return Gradients(rows, float(loss) if is_finite else None, len(images_BCHW), tuple(_findings(rows, is_finite)))


def _loss(model: nn.Module, images_BCHW: Tensor, labels_B: Tensor | None) -> Tensor:
    try:
        output = model(images_BCHW)
    except Exception as reason:
        raise does_not_run(images_BCHW, reason) from reason
    logits_BK = next(output_tensors(output), None)
    if logits_BK is None or logits_BK.ndim < 2 or len(logits_BK) != len(images_BCHW):
        got = "nothing" if logits_BK is None else f"a tensor {list(logits_BK.shape)}"
        raise ModelError(f"the model gives {got}, not logits [B, K]", "give a classifier")
    logits_BK = logits_BK.flatten(1).float()
    num_classes = logits_BK.shape[1]
    chosen = torch.arange(len(logits_BK)) % num_classes if labels_B is None else labels_B
    if chosen.shape != logits_BK.shape[:1] or chosen.is_floating_point() or chosen.is_complex():
        raise ModelError(
            f"labels are {str(chosen.dtype).removeprefix('torch.')} {list(chosen.shape)}",
            f"give a class number for each of the {len(logits_BK)} images",
        )
    if int(chosen.max()) >= num_classes or int(chosen.min()) < 0:
        raise ModelError(
            f"labels run from {int(chosen.min())} to {int(chosen.max())}, and the model has {num_classes} outputs",
            f"give class numbers from 0 to {num_classes - 1}",
        )
    return F.cross_entropy(logits_BK, chosen.to(logits_BK.device).long())


def _backward(loss: Tensor, parameters: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
    if not loss.requires_grad:  # what is trainable is not used at all
        return (None,) * len(parameters)
    return torch.autograd.grad(loss, parameters, allow_unused=True)


def _gradient_row(name: str, parameter: Tensor, gradient: Tensor | None) -> GradientRow:
    shape = tuple(parameter.shape)
    if gradient is None:
        return GradientRow(name, shape, parameter.requires_grad, None, None, 0)
    not_finite = int((~gradient.isfinite()).sum())
    norm = None if not_finite else float(gradient.double().norm())
    zeros = float((gradient == 0).double().mean()) if gradient.numel() else 0.0
    return GradientRow(name, shape, parameter.requires_grad, norm, zeros, not_finite)


def _findings(rows: tuple[GradientRow, ...], is_finite: bool) -> Iterator[Finding]:
    without = [row.name for row in rows if row.trainable and row.zeros is None]
    if without:
        yield Finding(
            "no-gradient",
            "error",
            tuple(without),
            {"parameters": len(without), "of": sum(row.trainable for row in rows), "first": without[:_SHOWN]},
            f"{_some(without)} can be trained, but the loss does not depend on {'it' if len(without) == 1 else 'them'}",
            "use them in forward(), or freeze them; look for .detach(), torch.no_grad() or an unused branch",
        )
    broken = [row for row in rows if row.not_finite]
    if broken or not is_finite:
        yield Finding(
            "not-finite",
            "error",
            tuple(row.name for row in broken),
            {"loss_is_finite": is_finite, "values": sum(row.not_finite for row in broken)},
            "the loss or a gradient is NaN or infinite",
            "look for a division by 0, a logarithm of 0, inputs that are not finite, or weights that exploded",
        )
    zero = [row.name for row in rows if row.zeros == 1.0]
    if zero:
        yield Finding(
            "zero-gradient",
            "warning",
            tuple(zero),
            {"parameters": len(zero), "first": zero[:_SHOWN]},
            f"every value of the gradient of {_some(zero)} is 0 on this batch",
            "a layer before a scale that starts at 0 learns from the second step on; otherwise look for dead units",
        )


def _some(names: list[str]) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
