"""Batches mixed with themselves: mixup, cutmix, half_cutmix.

Shapes: B samples, C channels or classes, H x W pixels or cells of a map, D features.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from finefold.errors import RecipeError
from finefold.recipe.training import AugmentRecipe


def mix_batch(
    maps_BCHW: Tensor,
    targets_BC: Tensor,
    recipe: AugmentRecipe,
    rng: np.random.Generator,
    *,
    allowed_BB: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Mixes each sample of a batch with another one, with probability `mix_share`; one lambda or box a batch.

    * mixup: maps and targets are averaged with lambda ~ Beta(alpha, alpha).
    * cutmix: a box of the partner is pasted, its side sqrt(1 - lambda) of the map's, its middle anywhere.
    * half_cutmix: the left or the right half comes from the partner; of an odd width the smaller half.

    Args:
        maps_BCHW: floating-point images or maps [B, C, H, W]; mixup takes [B, D] and any other shape too.
        targets_BC: [B, C] shares of the classes, rows sum to 1.
        recipe: `mix`, `mix_alpha` and `mix_share`.
        rng: the only source of chance.
        allowed_BB: bool; which partners (columns) each sample (rows) may have. A sample with none stays as it is.

    Returns:
        Mixed maps and targets, new tensors; the given ones where nothing is mixed, as in a batch of one.

    Raises:
        RecipeError: cutmix of rows that have no height and width.

    References:
        Zhang et al., mixup, ICLR 2018. Yun et al., CutMix, ICCV 2019, eq. 2: lambda is taken from the area that
        was pasted after rounding and clipping, so that targets are exact on small maps too.
    """
    if recipe.mix in ("cutmix", "half_cutmix") and maps_BCHW.ndim != 4:
        raise RecipeError(
            f'augment.mix = "{recipe.mix}" cuts maps, and here are rows of shape {list(maps_BCHW.shape[1:])}',
            'write augment.mix = "mixup", or let more stages train, so that the frozen part ends in maps',
        )
    if recipe.mix == "none" or len(maps_BCHW) < 2 or rng.random() >= recipe.mix_share:
        return maps_BCHW, targets_BC
    assert maps_BCHW.is_floating_point(), "averages of whole numbers would be cut off"
    partners_B = torch.from_numpy(_partners(len(maps_BCHW), allowed_BB, rng)).to(maps_BCHW.device)
    if recipe.mix == "mixup":
        kept = float(rng.beta(recipe.mix_alpha, recipe.mix_alpha))
        mixed = torch.lerp(maps_BCHW[partners_B], maps_BCHW, kept)
    else:
        height, width = maps_BCHW.shape[-2:]
        rows, columns = _box(height, width, recipe, rng)
        mixed = maps_BCHW.clone()
        mixed[:, :, rows, columns] = maps_BCHW[partners_B][:, :, rows, columns]
        kept = 1 - (rows.stop - rows.start) * (columns.stop - columns.start) / (height * width)
    return mixed, kept * targets_BC + (1 - kept) * targets_BC[partners_B.to(targets_BC.device)]


def _partners(batch: int, allowed_BB: Tensor | None, rng: np.random.Generator) -> NDArray[np.int64]:
    """[B] whom each sample is mixed with; without `allowed_BB` every sample is somebody's partner once."""
    if allowed_BB is None:
        return rng.permutation(batch)
    draws_BB = np.where(allowed_BB.cpu().numpy(), rng.random((batch, batch)), -1.0)
    return np.where(draws_BB.max(axis=1) >= 0, draws_BB.argmax(axis=1), np.arange(batch))


def _box(height: int, width: int, recipe: AugmentRecipe, rng: np.random.Generator) -> tuple[slice, slice]:
    """Rows and columns that come from the partner; may be none."""
    if recipe.mix == "half_cutmix":
        half, is_right = width // 2, bool(rng.integers(2))
        return slice(0, height), slice(width - half, width) if is_right else slice(0, half)
    side = (1 - rng.beta(recipe.mix_alpha, recipe.mix_alpha)) ** 0.5
    ends = []
    for length, middle in zip((height, width), rng.random(2), strict=True):
        low, high = (int(np.clip(round((middle + sign * side / 2) * length), 0, length)) for sign in (-1, 1))
        ends.append(slice(low, high))
    return ends[0], ends[1]
