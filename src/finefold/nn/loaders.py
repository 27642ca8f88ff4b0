"""Batches for training and evaluation, out of the prefix cache.

What an epoch shows depends on seed, fold, phase and epoch alone, never on what was drawn before: a resumed run
draws what an uninterrupted one would have drawn.

Shapes: N samples, B of them in a batch, K joint classes, S strata (joint classes and partial labels), V views.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from finefold.data.preprocessing import Box, Preprocessing
from finefold.data.store import ContentStore
from finefold.nn.features import PLAIN, load_framed, load_input, lost_rows
from finefold.nn.mixing import mix_batch
from finefold.nn.sampling import epoch_rows
from finefold.nn.transforms import Augment, apply_view
from finefold.recipe.schema import Recipe
from finefold.recipe.training import View


@dataclass(frozen=True)
class Batch:
    """Some training samples.

    Args:
        rows: of the prefix, or uint8 images [B, H, W, 3].
        targets_BS: rows sum to 1; soft where images are mixed.
        samples_B: numbers of the samples.
    """

    rows: Tensor
    targets_BS: Tensor
    samples_B: NDArray[np.int64]


class Rows(Protocol):
    """Where the inputs of a tail come from."""

    @property
    def are_images(self) -> bool:
        """Whether rows are uint8 images."""
        ...

    def read(self, samples_B: NDArray[np.int64], view: View) -> NDArray[Any]:
        """[B, ...] of some samples under one view."""
        ...


@dataclass(frozen=True)
class CachedRows:
    """Rows of the prefix cache, which are there already.

    Args:
        stores: view -> its rows.
        hashes: [N] where each sample's rows are.
    """

    stores: Mapping[View, ContentStore]
    hashes: Sequence[bytes]
    are_images: bool = False

    def read(self, samples_B: NDArray[np.int64], view: View) -> NDArray[Any]:
        """[B, ...] float16 rows.

        Raises:
            EngineError: a row is gone.
        """
        rows, is_found_B = self.stores[view].read([self.hashes[sample] for sample in samples_B])
        if not is_found_B.all():
            raise lost_rows(int((~is_found_B).sum()))
        return rows


@dataclass(frozen=True)
class ImageRows:
    """Images decoded anew each time, where the prefix is empty.

    Args:
        paths: [N] files.
        preprocessing: what makes an image the network's input.
        max_pixels: larger images are refused before they are decoded.
        boxes: [N] what is kept of each image, instead of its centre; None where nothing is said.
    """

    paths: Sequence[Path]
    preprocessing: Preprocessing
    max_pixels: int
    boxes: Sequence[Box | None] | None = None
    are_images: bool = True

    def read(self, samples_B: NDArray[np.int64], view: View) -> NDArray[np.uint8]:
        """[B, H, W, 3] inputs."""
        images = [load_input(*self._source(one)) for one in samples_B.tolist()]
        return apply_view(np.stack(images), view)

    def decode(self, sample: int) -> NDArray[np.uint8]:
        """[H, W, 3] of any size, framed: what an augmentation starts from."""
        return load_framed(*self._source(sample))

    def _source(self, sample: int) -> tuple[bytes, Preprocessing, int, Box | None]:
        box = None if self.boxes is None else self.boxes[sample]
        return self.paths[sample].read_bytes(), self.preprocessing, self.max_pixels, box


@dataclass(frozen=True)
class TrainRole:
    """Training batches of one fold and phase.

    Args:
        rows: of all samples.
        samples: numbers of those that train.
        labels_N: [N] joint codes that training sees; of a partial label a class that it may be.
        groups_N: [N] who is on it.
        strata_N: [N] what is learnt of it: the joint code, K and above for partial labels.
        num_strata: S.
        recipe: batch size, sampling, views, mixing.
        augment: what an image goes through anew each time; None where rows are computed once.
        key: seed, fold and phase.
        teacher_NK: what the fold's teacher says; behind the targets, and mixed with them. None without a teacher.
    """

    rows: Rows
    samples: NDArray[np.int64]
    labels_N: NDArray[np.int64]
    groups_N: NDArray[Any]
    strata_N: NDArray[np.int64]
    num_strata: int
    recipe: Recipe
    augment: Augment | None
    key: tuple[int, int, int]
    teacher_NK: NDArray[np.float32] | None = None

    @property
    def rows_per_epoch(self) -> int:
        """The same in every epoch."""
        return len(self._order(0))

    @property
    def batches_per_epoch(self) -> int:
        """The same in every epoch."""
        return -(-self.rows_per_epoch // self.recipe.train.batch_size)

    def rng(self, epoch: int, batch: int) -> np.random.Generator:
        """A generator of this batch's own; batch -1 is the epoch's order."""
        return np.random.default_rng([*self.key, epoch, batch + 1])

    def _order(self, epoch: int) -> NDArray[np.int64]:
        loss, sampling = self.recipe.loss, self.recipe.sampling
        places = epoch_rows(
            np.arange(len(self.samples)),
            self.labels_N[self.samples],
            self.groups_N[self.samples],
            balance=loss.balance,
            balance_power=loss.balance_power,
            at_most=sampling.at_most,
            quota=sampling.quota,
            rng=self.rng(epoch, -1),
        )
        return self.samples[places]

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from number `start` on."""
        order, size = self._order(epoch), self.recipe.train.batch_size
        for batch in range(start, -(-len(order) // size)):
            yield self._batch(order[batch * size : (batch + 1) * size], self.rng(epoch, batch))

    def _batch(self, samples_B: NDArray[np.int64], rng: np.random.Generator) -> Batch:
        labels_B = self.labels_N[samples_B]
        if self.augment is None:
            rows = self._viewed(samples_B, rng)
        else:
            assert isinstance(self.rows, ImageRows)
            pairs = zip(samples_B.tolist(), labels_B.tolist(), strict=True)
            rows = np.stack([self.augment(self.rows.decode(sample), label, rng) for sample, label in pairs])
        targets_BS = torch.eye(self.num_strata)[torch.from_numpy(self.strata_N[samples_B])]
        if self.teacher_NK is not None:
            targets_BS = torch.cat([targets_BS, torch.from_numpy(np.array(self.teacher_NK[samples_B]))], dim=1)
        mixed, targets_BS = self._mix(torch.from_numpy(rows), targets_BS, rng)
        return Batch(mixed, targets_BS, samples_B)

    def _viewed(self, samples_B: NDArray[np.int64], rng: np.random.Generator) -> NDArray[Any]:
        """Each sample under a view drawn for it."""
        views = self.recipe.augment.views
        drawn_B = rng.integers(len(views), size=len(samples_B))
        parts = {number: np.flatnonzero(drawn_B == number) for number in np.unique(drawn_B).tolist()}
        found = {number: self.rows.read(samples_B[places], views[number]) for number, places in parts.items()}
        first = next(iter(found.values()))
        rows = np.empty((len(samples_B), *first.shape[1:]), first.dtype)
        for number, places in parts.items():
            rows[places] = found[number]
        return rows

    def _mix(self, rows: Tensor, targets_BS: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        if self.recipe.augment.mix == "none":
            return rows, targets_BS
        if not self.rows.are_images:
            return mix_batch(rows.float(), targets_BS, self.recipe.augment, rng)
        maps, targets_BS = mix_batch(rows.permute(0, 3, 1, 2).float(), targets_BS, self.recipe.augment, rng)
        return maps.permute(0, 2, 3, 1), targets_BS


@dataclass(frozen=True)
class EvaluateRole:
    """Rows of samples that are judged: named views and nothing else, every sample once.

    Args:
        rows: of all samples.
        samples: numbers of those that are judged.
        batch_size: B.
    """

    rows: Rows
    samples: NDArray[np.int64]
    batch_size: int

    def batches(self, view: View = PLAIN) -> Iterator[Tensor]:
        """All of them under one view, in order."""
        for start in range(0, len(self.samples), self.batch_size):
            yield torch.from_numpy(self.rows.read(self.samples[start : start + self.batch_size], view))
