"""Batches for training and evaluation, out of the prefix cache.

What an epoch shows depends on seed, fold, phase and epoch alone, never on what was drawn before: a resumed run
draws what an uninterrupted one would have drawn.

Shapes: N samples, M extra images with pseudo labels, E samples that train and their copies, X of these and the extra
images after them, B rows of a batch, K joint classes, S strata (joint classes and partial labels).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from finefold.data.preprocessing import Box, Preprocessing
from finefold.data.store import ContentStore
from finefold.metrics.pseudo import FoldLabels
from finefold.nn.copies import Version, copies_of, versions_of
from finefold.nn.features import PLAIN, load_framed, lost_rows, row_hash
from finefold.nn.mixing import mix_batch
from finefold.nn.sampling import epoch_rows
from finefold.nn.transforms import Augment
from finefold.recipe.schema import Recipe
from finefold.recipe.training import View

Scalar = TypeVar("Scalar", bound=np.generic)


@dataclass(frozen=True)
class Batch:
    """Some training samples.

    Args:
        rows: of the prefix, or uint8 images [B, H, W, 3].
        targets_BS: rows sum to 1; soft where images are mixed. Those of extra images sum to their weight in the loss.
        samples_B: numbers of the samples and extra images.
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

    def read(self, samples_B: NDArray[np.int64], version: Version) -> NDArray[Any]:
        """[B, ...] of some samples under one view, or one copy of each."""
        ...


@dataclass(frozen=True)
class CachedRows:
    """Rows of the prefix cache, which are there already.

    Args:
        stores: view or copy -> its rows.
        hashes: [N] where each sample's rows are.
    """

    stores: Mapping[Version, ContentStore]
    hashes: Sequence[bytes]
    are_images: bool = False

    def read(self, samples_B: NDArray[np.int64], version: Version) -> NDArray[Any]:
        """[B, ...] float16 rows.

        Raises:
            EngineError: a row is gone.
        """
        rows, is_found_B = self.stores[version].read([self.hashes[sample] for sample in samples_B])
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

    def read(self, samples_B: NDArray[np.int64], version: Version) -> NDArray[np.uint8]:
        """[B, H, W, 3] inputs."""
        return np.stack([self._made(one, version) for one in samples_B.tolist()])

    def _made(self, sample: int, version: Version) -> NDArray[np.uint8]:
        data, preprocessing, max_pixels, box = self._source(sample)
        framed_HWC = load_framed(data, preprocessing, max_pixels, box, keep_grey=True)
        (made_HWC,) = versions_of(framed_HWC, [version], preprocessing, partial(row_hash, data, box))
        return made_HWC

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
        rows: of all samples, and of the extra images after them.
        samples: numbers of those that train.
        labels_N: [N] joint codes that training sees; of a partial label a class that it may be.
        groups_N: [N] who is on it.
        strata_N: [N] what is learnt of it: the joint code, K and above for partial labels.
        num_strata: S.
        recipe: batch size, sampling, views, mixing.
        augment: what an image goes through anew each time; None where rows are computed once.
        key: seed, fold and phase.
        copies_N: [N] how many augmented copies each sample has beside itself.
        partners_N: [N] which samples may be mixed into others, where augment.mix_partners names classes.
        teacher_NK: what the fold's teacher says; behind the targets, and mixed with them. None without a teacher.
        extra: the fold's own labels of images that train besides; image m is number N + m in `rows`. None without.

    Raises:
        ValueError: the extra images' labels are another fold's.
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
    copies_N: NDArray[np.int64] | None = None
    partners_N: NDArray[np.bool_] | None = None
    teacher_NK: NDArray[np.float32] | None = None
    extra: FoldLabels | None = None

    def __post_init__(self) -> None:
        assert self.extra is None or self.teacher_NK is None, "a teacher says nothing of extra images"
        if self.extra is not None:
            self.extra.check_is_of(self.key[1])

    @cached_property
    def shown_E(self) -> NDArray[np.int64]:
        """[E] numbers of the samples that train: each once, then again for each of its copies."""
        return self.samples if self.copies_N is None else np.repeat(self.samples, 1 + self.copies_N[self.samples])

    @cached_property
    def _copy_X(self) -> NDArray[np.int64]:
        """[X] which copy of it; 0 is the image itself."""
        is_first_E = np.diff(self.shown_E, prepend=-1) != 0
        places_E = np.arange(len(self.shown_E))
        return self._and_extra(places_E - np.maximum.accumulate(np.where(is_first_E, places_E, 0)), 0)

    @cached_property
    def _numbers_X(self) -> NDArray[np.int64]:
        """[X] numbers in `rows`."""
        return self._and_extra(self.shown_E, 0 if self.extra is None else len(self.labels_N) + self.extra.rows_M)

    @cached_property
    def _labels_X(self) -> NDArray[np.int64]:
        """[X] joint codes; of an extra image its likeliest class."""
        return self._and_extra(self.labels_N[self.shown_E], 0 if self.extra is None else self.extra.answers_M)

    @cached_property
    def _strata_X(self) -> NDArray[np.int64]:
        """[X] what is learnt of it; of an extra image its likeliest class."""
        return self._and_extra(self.strata_N[self.shown_E], 0 if self.extra is None else self.extra.answers_M)

    def _and_extra(self, values_E: NDArray[Scalar], of_extra: NDArray[Scalar] | int) -> NDArray[Scalar]:
        """[X] values of samples, and those of the extra images after them."""
        if self.extra is None:
            return values_E
        return np.append(values_E, np.broadcast_to(of_extra, len(self.extra)).astype(values_E.dtype))

    @property
    def num_extra(self) -> int:
        """How many extra images train."""
        return 0 if self.extra is None else len(self.extra)

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
        """Places in [X]. Extra images are sampled among themselves, so that samples come as they would without."""
        rng = self.rng(epoch, -1)
        places_E = self._sampled(self.labels_N[self.shown_E], self.groups_N[self.shown_E], rng)
        if self.extra is None:
            return places_E
        places_M = self._sampled(self.extra.answers_M, np.arange(len(self.extra)), rng)
        return rng.permutation(np.append(places_E, len(self.shown_E) + places_M))

    def _sampled(
        self, labels_n: NDArray[np.int64], groups_n: NDArray[Any], rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """Places of the rows that an epoch shows of some."""
        loss, sampling = self.recipe.loss, self.recipe.sampling
        return epoch_rows(
            np.arange(len(labels_n)),
            labels_n,
            groups_n,
            balance=loss.balance,
            balance_power=loss.balance_power,
            at_most=sampling.at_most,
            quota=sampling.quota,
            rng=rng,
        )

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from number `start` on."""
        order, size = self._order(epoch), self.recipe.train.batch_size
        for batch in range(start, -(-len(order) // size)):
            places_B = order[batch * size : (batch + 1) * size]
            yield self._batch(places_B, self.rng(epoch, batch))

    def _batch(self, places_B: NDArray[np.int64], rng: np.random.Generator) -> Batch:
        numbers_B = self._numbers_X[places_B]
        if self.augment is None:
            rows = self._versions(numbers_B, self._copy_X[places_B], rng)
        else:
            assert isinstance(self.rows, ImageRows)
            pairs = zip(numbers_B.tolist(), self._labels_X[places_B].tolist(), strict=True)
            rows = np.stack([self.augment(self.rows.decode(number), label, rng) for number, label in pairs])
        mixed, targets_BS = self._mix(torch.from_numpy(rows), self._targets(places_B), places_B, rng)
        return Batch(mixed, targets_BS, numbers_B)

    def _targets(self, places_B: NDArray[np.int64]) -> Tensor:
        """[B, S] what is to be learnt; behind it what the teacher says, where there is one."""
        targets_BS = torch.eye(self.num_strata)[torch.from_numpy(self._strata_X[places_B])]
        if self.extra is not None:
            is_extra_B = places_B >= len(self.shown_E)
            guessed_nK = self.extra.weight * self.extra.targets_MC[places_B[is_extra_B] - len(self.shown_E)]
            targets_BS[torch.from_numpy(is_extra_B), : guessed_nK.shape[1]] = torch.from_numpy(guessed_nK).float()
        if self.teacher_NK is not None:
            said_BK = torch.from_numpy(np.array(self.teacher_NK[self._numbers_X[places_B]]))
            targets_BS = torch.cat([targets_BS, said_BK], dim=1)
        return targets_BS

    def _versions(
        self, samples_B: NDArray[np.int64], copy_B: NDArray[np.int64], rng: np.random.Generator
    ) -> NDArray[Any]:
        """Each sample under a view drawn for it, and copies as they are."""
        views = self.recipe.augment.views
        asked: tuple[Version, ...] = (*views, *copies_of(self.recipe))
        which_B = np.where(copy_B > 0, len(views) + copy_B - 1, rng.integers(len(views), size=len(samples_B)))
        parts = {number: np.flatnonzero(which_B == number) for number in np.unique(which_B).tolist()}
        found = {number: self.rows.read(samples_B[places], asked[number]) for number, places in parts.items()}
        first = next(iter(found.values()))
        rows = np.empty((len(samples_B), *first.shape[1:]), first.dtype)
        for number, places in parts.items():
            rows[places] = found[number]
        return rows

    def _mix(
        self, rows: Tensor, targets_BS: Tensor, places_B: NDArray[np.int64], rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        recipe = self.recipe.augment
        if recipe.mix == "none":
            return rows, targets_BS
        allowed_BB = self._allowed(places_B)
        if not self.rows.are_images:
            return mix_batch(rows.float(), targets_BS, recipe, rng, allowed_BB=allowed_BB)
        maps = rows.permute(0, 3, 1, 2).float()
        maps, targets_BS = mix_batch(maps, targets_BS, recipe, rng, allowed_BB=allowed_BB)
        return maps.permute(0, 2, 3, 1), targets_BS

    def _allowed(self, places_B: NDArray[np.int64]) -> Tensor | None:
        """[B, B] whom (columns) each row may be mixed with; None for anybody.

        Where classes are named, a partner is a sample: what an extra image is of is only thought.
        """
        if self.recipe.augment.mix_partners == "any":
            return None
        if self.recipe.augment.mix_partners == "same":
            strata_B = self._strata_X[places_B]
            allowed_BB = strata_B[:, None] == strata_B
        else:
            assert self.partners_N is not None
            is_partner_X = self._and_extra(self.partners_N[self.shown_E], 0)
            allowed_BB = np.tile(is_partner_X[places_B], (len(places_B), 1))
        return torch.from_numpy(allowed_BB & ~np.eye(len(places_B), dtype=bool))


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
