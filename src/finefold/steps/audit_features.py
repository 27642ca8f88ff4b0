"""Features that tell people apart by their faces: where in the picture something is, before it is averaged away."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from finefold.data.samples import SampleTable
from finefold.nn.cutting import find_cuts
from finefold.nn.features import PrefixCache
from finefold.nn.stages import find_stages
from finefold.recipe.loader import load_recipe
from finefold.steps.progress import Progress
from finefold.steps.train import backbone_of

MOST_SAMPLES = 20_000  # beyond, maps would fill disk and memory
GRID = 4
_BLOCK = 512


def group_features(cache: PrefixCache, samples: SampleTable, progress: Progress) -> NDArray[np.float16] | None:
    """[N, C x 4 x 4] maps of the last stage but one on whole images, averaged over a grid; None where there are none.

    On faces they tell gender and age better than the pooled features, which forget where something was seen.
    """
    if len(samples) > MOST_SAMPLES:
        return None
    with progress.stage("model", 0, ""):
        backbone = backbone_of(load_recipe("probe", ("image.crop_fraction=1.0",)))
        network = backbone.build_network()
        chain = find_cuts(network, example=backbone.example())
        stages = [
            (stage.cut, stage.shape)
            for stage in find_stages(network, chain)
            if stage.cut is not None
            and stage.shape is not None
            and len(stage.shape) == 3
            and min(stage.shape[1:]) >= GRID
        ]
    if len(stages) < 2:
        return None
    at, shape = stages[-2]
    part = PrefixCache(replace(backbone, opened=chain.opened).until(at, shape), cache.choice, cache.max_pixels)
    with progress.stage("maps", len(samples), "images") as advance:
        filled = part.fill(samples.ids, samples.paths, advance=advance)
    store = part.open()
    maps_ND = np.zeros((len(samples), shape[0] * GRID * GRID), np.float16)
    for start in range(0, len(samples), _BLOCK):
        rows, _ = store.read(filled.hashes[start : start + _BLOCK])
        maps_ND[start : start + len(rows)] = _on_grid(rows.astype(np.float32)).reshape(len(rows), -1)
    return maps_ND


def _on_grid(maps_BCHW: NDArray[np.float32]) -> NDArray[np.float32]:
    """[B, C, 4, 4] means over the cells of a grid; neighbouring cells share rows that a border runs through."""
    height, width = maps_BCHW.shape[2:]
    cells = np.empty((*maps_BCHW.shape[:2], GRID, GRID), np.float32)
    for row in range(GRID):
        for column in range(GRID):
            tall = slice(row * height // GRID, -(-(row + 1) * height // GRID))
            wide = slice(column * width // GRID, -(-(column + 1) * width // GRID))
            cells[:, :, row, column] = maps_BCHW[:, :, tall, wide].mean(axis=(2, 3))
    return cells
