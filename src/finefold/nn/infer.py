"""Probabilities of all folds' models on one shared prefix.

Shapes: N images, B of them at a time, D features, K joint classes.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from finefold.data.labels import LabelSpace
from finefold.errors import EngineError
from finefold.nn.backbones import IMAGES, Backbone
from finefold.nn.classifier import HEADS, Classifier, Tail
from finefold.nn.devices import training_device
from finefold.nn.engines import BATCH, Choice
from finefold.nn.exported import RUNNERS, Runner, export_onnx
from finefold.nn.features import DTYPE, PLAIN
from finefold.nn.heads import FoldHeads
from finefold.nn.loop import predict_rows
from finefold.nn.weights import read_header
from finefold.recipe.training import View

ROWS_AT_ONCE = 64  # through a tail
ROWS_WORTH_IT = 512  # from here on a tail is exported for: that takes a second or two, and a row a third of its time
SAME_PROBS = 1e-3  # by which an exported fold may differ; rounding alone gives about 1e-6


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


class ExportedFold:
    """A tuned fold on an engine's runner: the same probabilities, but for rounding.

    It is exported when it is first asked, and compared with what it came from on the first rows.

    Args:
        tuned: the fold.
        shape: of a row.
        dtype: of rows.
        engine: whose runner it is.
        report: told why it stays on torch, if it has to.
    """

    def __init__(
        self, tuned: TunedFold, shape: Sequence[int], dtype: np.dtype[Any], engine: str, report: Callable[[str], None]
    ) -> None:
        self._tuned, self._shape, self._dtype = tuned, tuple(shape), dtype
        self._engine, self._report = engine, report
        self._runner: Runner | None = None
        self._is_started = False

    def probs(self, rows: NDArray[Any], space: LabelSpace) -> NDArray[np.float64]:
        """[B, ...] rows -> [B, K] probabilities."""
        if not self._is_started:
            self._start(rows[:BATCH], space)
        if self._runner is None:
            return self._tuned.probs(rows, space)
        return _run(self._runner, rows)

    def _start(self, rows: NDArray[Any], space: LabelSpace) -> None:
        self._is_started = True
        try:
            runner = RUNNERS[self._engine](self._onnx, "fp32")
            apart = float(np.abs(_run(runner, rows) - self._tuned.probs(rows, space)).max())
            if not apart < SAME_PROBS:
                raise EngineError(f"{self._engine} answers otherwise than torch, by {apart:.3g}", "")
            self._runner = runner
        except (EngineError, ImportError, RuntimeError) as reason:
            said = str(reason).partition("\n")[0][:200]
            self._report(f"the folds' own parts run on torch, which is slower: {said}")

    def _onnx(self) -> bytes:
        made = BytesIO()
        rows = torch.from_numpy(np.zeros((BATCH, *self._shape), self._dtype))
        export_onnx(_LogProbs(self._tuned.tail).eval(), rows, made, name="a fold's own part")
        return made.getvalue()


def _run(runner: Runner, rows: NDArray[Any]) -> NDArray[np.float64]:
    """[B, K] probabilities, every processor busy."""
    parts = [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
    with ThreadPoolExecutor(runner.streams) as pool:
        logs_BK = np.concatenate(list(pool.map(runner, parts)))
    return np.asarray(torch.from_numpy(logs_BK).double().softmax(1).numpy())


class _LogProbs(nn.Module):
    """What a tail says, as a module's forward."""

    def __init__(self, tail: Tail) -> None:
        super().__init__()
        self.tail = tail

    def forward(self, rows: Tensor) -> Tensor:
        return self.tail.log_probs(rows)


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

    def exported(self, choice: Choice, num_rows: int, report: Callable[[str], None] = lambda _: None) -> "FoldEnsemble":
        """The same folds on the run's engine too, where so many rows are worth it; else as they are.

        Args:
            choice: the engine of the prefix; the folds' own parts stay in fp32 on it.
            num_rows: that each fold will be asked about.
            report: told once why they stay on torch, if they have to.
        """
        is_faster = choice.engine in RUNNERS and training_device().type == "cpu" and self.backbone.own is None
        if num_rows < ROWS_WORTH_IT or not is_faster:
            return self
        told: set[str] = set()

        def report_once(line: str) -> None:
            if line not in told:
                told.add(line)
                report(line)

        return replace(self, folds=tuple(_exported(one, self.backbone, choice, report_once) for one in self.folds))

    def head_probs(self, rows: NDArray[Any]) -> NDArray[np.float64]:
        """[B, ...] rows of the prefix -> the folds' mean probabilities [B, K]."""
        return np.asarray(np.mean([fold.probs(rows, self.space) for fold in self.folds], axis=0))

    def mean_over_views(self, rows_of: Mapping[View, NDArray[Any]]) -> NDArray[np.float64]:
        """Each view's rows [B, ...] of the prefix -> the mean of their probabilities [B, K]."""
        return np.asarray(np.mean([self.head_probs(rows_of[view]) for view in self.views], axis=0))


def _exported(fold: Fold, backbone: Backbone, choice: Choice, report: Callable[[str], None]) -> Fold:
    if isinstance(fold, SeparateFold):
        parts = {name: (_exported(one, backbone, choice, report), of) for name, (one, of) in fold.models.items()}
        return SeparateFold(parts)
    if not isinstance(fold, TunedFold) or len(backbone.shape) < 2:  # heads on features are quick as they are
        return fold
    dtype = np.dtype(np.uint8) if backbone.cut == IMAGES else DTYPE
    return ExportedFold(fold, backbone.shape, dtype, choice.engine, report)


def read_fold(shared: Backbone, path: Path | Mapping[str, Path], space: LabelSpace) -> Fold:
    """One fold's model from the shared prefix on, out of its file, or of one for each attribute."""
    if isinstance(path, Mapping):
        spaces = {one.name: LabelSpace((one,)) for one in space.attributes}
        return SeparateFold({name: (read_fold(shared, path[name], of), of) for name, of in spaces.items()})
    if read_header(path).get("kind") == HEADS:
        return HeadFold(FoldHeads.read(path))
    device = training_device()
    return TunedFold(Tail(Classifier.read(shared, path, space), shared).to(device), device)
