"""The classes that somebody's model gives to the rows of somebody's data set.

Shapes: N rows, B at a time, K outputs.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from finefold.doctor.datasets import num_rows, random_numbers_kept, row_of, split_row
from finefold.errors import ModelError

BATCH = 32
NEEDED = "the doctor calls model(images) with images stacked as the data set yields them, and expects logits [B, K]"


def answers_of(model: nn.Module, dataset: Any) -> NDArray[np.int64]:
    """[N] the output with the highest logit for every row; the model is left in the mode it was in.

    Raises:
        ModelError: the model does not run on what the data set yields.
    """
    was_training = model.training
    parameter = next(model.parameters(), None)
    device = torch.device("cpu") if parameter is None else parameter.device
    model.eval()
    found = []
    try:
        with torch.inference_mode(), random_numbers_kept():
            for start in range(0, num_rows(dataset), BATCH):
                places = range(start, min(start + BATCH, len(dataset)))
                images_B = [_tensor(split_row(row_of(dataset, place), place)[0]) for place in places]
                found.append(_logits(model, images_B, device).argmax(dim=1).cpu().numpy())
    finally:
        model.train(was_training)
    return np.concatenate(found).astype(np.int64)


def _tensor(image: Any) -> torch.Tensor:
    if isinstance(image, torch.Tensor):
        return image
    try:
        return torch.as_tensor(np.asarray(image))
    except TypeError as reason:
        raise ModelError(f"an image of type {type(image).__name__} makes no tensor", NEEDED) from reason


def logits_of(model: nn.Module, images_B: list[torch.Tensor]) -> torch.Tensor:
    """[B, K] in the mode that the model is in.

    Raises:
        ModelError: it does not run on these images.
    """
    parameter = next(model.parameters(), None)
    return _logits(model, images_B, torch.device("cpu") if parameter is None else parameter.device)


def _logits(model: nn.Module, images_B: list[torch.Tensor], device: torch.device) -> torch.Tensor:
    try:
        output = model(torch.stack(images_B).to(device))
    except Exception as reason:
        shape = list(images_B[0].shape)
        raise ModelError(
            f"the model failed on images of shape {shape}: {type(reason).__name__}: {str(reason)[:200]}", NEEDED
        ) from reason
    logits = output["logits"] if isinstance(output, Mapping) and "logits" in output else output
    logits = getattr(logits, "logits", logits)
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2:
        raise ModelError(f"the model gives {type(output).__name__}, not logits [B, K]", NEEDED)
    return logits
