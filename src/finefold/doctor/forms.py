"""In which form a data set gives its numbers: bytes, 0..1, normalised, and the ways in which that goes wrong.

Shapes: images [H, W, 3]; C channels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SLACK = 0.02  # of the range 0..1 that undone values may lie outside
WIDE = 0.3  # of that range, which they fill at least
ALIKE = 0.04  # by which means, in units of 0..1, and logarithms of stds may differ

Three = tuple[float, float, float]
MEANS = {
    "ImageNet's mean and std": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "mean and std 0.5": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "CLIP's mean and std": ((0.4815, 0.4578, 0.4082), (0.2686, 0.2613, 0.2758)),
}


@dataclass(frozen=True)
class Form:
    """x = (u - mean) / std, where u is the pixel in units of 0..1.

    Args:
        says: in words.
        mean, std: per channel.
        mistake: what went wrong, where no network is trained on such numbers; empty where nothing did.
    """

    says: str
    mean: Three
    std: Three
    mistake: str = ""

    def undo(self, values: NDArray[np.floating]) -> NDArray[np.floating]:
        """[..., C] numbers -> units of 0..1."""
        return np.asarray(values * np.asarray(self.std, values.dtype) + np.asarray(self.mean, values.dtype))


def _same(value: float) -> Three:
    return (value, value, value)


def _forms() -> Iterator[Form]:
    yield Form("floats in 0..1", _same(0.0), _same(1.0))
    yield Form("floats in 0..255", _same(0.0), _same(1 / 255), "they were not divided by 255")
    yield Form("floats in 0..1/255", _same(0.0), _same(255.0), "they were divided by 255 twice")
    for name, (mean, std) in MEANS.items():
        yield Form(f"normalised with {name}", mean, std)
        again = [(m + s * m, s * s) for m, s in zip(mean, std, strict=True)]
        yield Form(
            f"normalised twice with {name}",
            three([m for m, _ in again]),
            three([s for _, s in again]),
            "they were normalised twice",
        )
        yield Form(
            f"bytes normalised with {name}",
            three([m / 255 for m in mean]),
            three([s / 255 for s in std]),
            "they were normalised without being divided by 255 first",
        )


def three(values: Sequence[float]) -> Three:
    """One number for each channel."""
    first, second, third = values
    return float(first), float(second), float(third)


BYTES = Form("uint8", _same(0.0), _same(1 / 255))
FORMS = tuple(_forms())


def form_by_range(images: Sequence[NDArray[np.generic]]) -> Form | None:
    """The known form that the values' range fits best; None where it fits none.

    Args:
        images: [H, W, 3] each, some dozens: their darkest and brightest pixels count.
    """
    if all(image.dtype == np.uint8 for image in images):
        return BYTES
    ends_2C = ends_of(images)
    if not np.isfinite(ends_2C).all():
        return None
    fitting = []
    for place, form in enumerate(FORMS):
        undone_2C = form.undo(ends_2C)
        least, most = float(undone_2C.min()), float(undone_2C.max())
        if least >= -SLACK and most <= 1 + SLACK and most - least > WIDE:
            fitting.append((round(most - least, 2), -place, form))
    return max(fitting)[2] if fitting else None


def ends_of(images: Sequence[NDArray[np.generic]]) -> NDArray[np.float64]:
    """[2, C] the least and the greatest value of each channel."""
    least = np.min([image.reshape(-1, 3).min(axis=0) for image in images], axis=0)
    most = np.max([image.reshape(-1, 3).max(axis=0) for image in images], axis=0)
    return np.stack([least, most]).astype(np.float64)


def form_by_files(
    images: Sequence[NDArray[np.generic]], files: Sequence[NDArray[np.uint8]], *, swapped: bool = False
) -> Form | None:
    """The form as measured against the files' own pixels; None where the two do not agree.

    Args:
        images: [H, W, 3] each, upright and in the size of its file's picture beside it.
        files: [H, W, 3] each, RGB.
        swapped: whether the images' channels are in the order BGR.
    """
    given_NC = np.concatenate([image.reshape(-1, 3) for image in images]).astype(np.float64)
    own_NC = np.concatenate([file.reshape(-1, 3) for file in files]).astype(np.float64) / 255
    if swapped:
        own_NC = own_NC[:, ::-1]
    means, stds = [], []
    for channel in range(3):
        x_N, u_N = given_NC[:, channel], own_NC[:, channel]
        if x_N.std() < 1e-9 or u_N.std() < 1e-3 or not np.isfinite(x_N).all():
            return None
        agreement = float(np.corrcoef(x_N, u_N)[0, 1])
        if agreement < 0.9:
            return None
        slope = x_N.std() / u_N.std()  # noise lies in both
        stds.append(1 / slope)
        means.append(u_N.mean() - x_N.mean() / slope)
    return named(three(means), three(stds))


def named(mean: Three, std: Three) -> Form:
    """The known form of these numbers, or one that tells them."""
    known = [form for form in FORMS if distance(form, mean, std) <= ALIKE]
    if known:
        return min(known, key=lambda form: distance(form, mean, std))
    told = f"mean {', '.join(f'{m:.3g}' for m in mean)} and std {', '.join(f'{s:.3g}' for s in std)}"
    return Form(f"normalised with {told}", mean, std)


def distance(form: Form, mean: Three, std: Three) -> float:
    """How far numbers are from a form: of means in units of 0..1, of stds in half their logarithms."""
    by_mean = np.abs(np.subtract(form.mean, mean)).max()
    by_std = np.abs(np.log(np.divide(form.std, std))).max() / 2
    return float(max(by_mean, by_std))
