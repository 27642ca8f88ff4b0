"""How alike two pictures look: perceptual hashes to find candidates, aligned local contrast to be sure.

Shapes: N images, P pairs; pictures are THUMB_PX x THUMB_PX.
"""

import hashlib
from functools import cached_property
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

THUMB_PX = 64
_HASH_PX, _HASH_SIDE = 32, 8
_MIRROR = np.where(np.arange(_HASH_SIDE) % 2, -1.0, 1.0)  # what mirroring does to a cosine transform's columns
_BITS = np.uint64(1) << np.arange(64, dtype=np.uint64)

_ROUGH_PX, _ROUGH_AT_LEAST = 32, 0.35  # pairs less alike at this size are not aligned finely
_ROUGH = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 25, 1e-3)
_FINE = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 1e-3)
_EDGE_PX = 3  # where resampling leaves its marks
_OVERLAP = 0.3  # of the picture that two must share

Floats = NDArray[np.float32]
Grey = NDArray[np.uint8]


def perceptual_hashes(grey_HW: Grey) -> tuple[np.uint64, np.uint64]:
    """The 64-bit pHash of a grey picture, and that of its mirror image.

    The signs, against their median, of the lowest 8 x 8 coefficients of the cosine transform at 32 x 32.

    References:
        The DCT hash of pHash, as ImageHash's `phash` computes it; scaled here by area instead of Lanczos.
    """
    small = cv2.resize(grey_HW, (_HASH_PX, _HASH_PX), interpolation=cv2.INTER_AREA).astype(np.float32)
    lowest = cv2.dct(small)[:_HASH_SIDE, :_HASH_SIDE]
    return _bits(lowest), _bits(lowest * _MIRROR)


def _bits(coefficients: NDArray[np.floating]) -> np.uint64:
    is_high = (coefficients > np.median(coefficients)).ravel()
    return np.uint64(_BITS[is_high].sum(dtype=np.uint64))


def hamming(left: NDArray[np.uint64], right: NDArray[np.uint64]) -> NDArray[np.int64]:
    """[P] number of bits that differ."""
    return np.asarray(np.bitwise_count(left ^ right), np.int64)


def hash_pairs(
    hashes_N: NDArray[np.uint64], others_N: NDArray[np.uint64], *, most_bits: int, most_pairs: int
) -> NDArray[np.int64]:
    """[P, 2] pairs i < j whose hashes `hashes[i]` and `others[j]` differ in few bits, nearest first.

    Found by a banded index: of `most_bits + 1` bands of bits at least one is equal. Where a band's value is shared
    by so many pictures that all pairs would be too much, only neighbours in the order of the hashes are compared.

    Args:
        hashes_N: [N] hashes.
        others_N: [N] the same, or those of the mirror images.
        most_bits: that may differ, below 16.
        most_pairs: bounds what is returned and, times 32, what is compared in a band.
    """
    num_bands = most_bits + 1
    edges = np.linspace(0, 64, num_bands + 1).astype(np.uint64)
    found: list[NDArray[np.int64]] = []
    for low, high in pairwise(edges):
        mask = ((np.uint64(1) << (high - low)) - np.uint64(1)) << low
        found.append(_band_pairs(hashes_N, others_N, mask, most_bits=most_bits, most_pairs=most_pairs))
    pairs_P2 = np.unique(np.concatenate(found), axis=0)
    distance_P = hamming(hashes_N[pairs_P2[:, 0]], others_N[pairs_P2[:, 1]])
    return pairs_P2[np.argsort(distance_P, kind="stable")[:most_pairs]]


def _band_pairs(
    hashes_N: NDArray[np.uint64], others_N: NDArray[np.uint64], mask: np.uint64, *, most_bits: int, most_pairs: int
) -> NDArray[np.int64]:
    left_order = np.argsort(hashes_N & mask, kind="stable")
    left, right = (hashes_N & mask)[left_order], others_N & mask
    first = np.searchsorted(left, right, side="left")
    count = np.searchsorted(left, right, side="right") - first
    room = max(1, 32 * most_pairs // max(1, len(hashes_N)))
    count = np.minimum(count, room)
    j = np.repeat(np.arange(len(right)), count)
    offset = np.arange(len(j)) - np.repeat(np.cumsum(count) - count, count)
    i = left_order[np.repeat(first, count) + offset]
    is_near = hamming(hashes_N[i], others_N[j]) <= most_bits
    pairs_P2 = np.stack([i, j], axis=1)[is_near & (i != j)]
    return np.asarray(np.sort(pairs_P2, axis=1), np.int64)  # mirroring is symmetric, so the order says nothing


class Likeness:
    """How alike pictures are, beyond what all pictures of the data have in common.

    Two thumbs are aligned (an affine map that maximises their correlation), brought to local contrast, freed of the
    data's mean and principal pictures, and correlated where they overlap. Photos of different people or cells score
    low although they are framed alike; crops, re-encodings, other brightness and small turns of one photo score high.

    Args:
        thumbs_NHW: [N, THUMB_PX, THUMB_PX] uint8.
        num_common: principal pictures to take out.
        rng: chooses the pictures that tell what is common; `digest` is of these.
    """

    def __init__(self, thumbs_NHW: Grey, *, num_common: int = 32, rng: np.random.Generator) -> None:
        self.thumbs_NHW = thumbs_NHW
        chosen = np.sort(rng.choice(len(thumbs_NHW), min(1500, len(thumbs_NHW)), replace=False))
        self.digest = hashlib.blake2b(thumbs_NHW[chosen].tobytes(), digest_size=16).digest()
        self._chosen = chosen
        self._num_common = min(num_common, len(chosen) // 20)  # a few pictures would explain themselves away

    @cached_property
    def common_CP(self) -> Floats:
        """[C, P] what pictures have in common; made when the first pair is compared, for all may be known."""
        contrasts = np.stack([local_contrast(self.thumbs_NHW[row]).ravel() for row in self._chosen])
        contrasts /= np.maximum(np.linalg.norm(contrasts, axis=1, keepdims=True), 1e-6)
        return _principal(contrasts, self._num_common)

    def of(self, i: int, j: int) -> tuple[float, bool]:
        """The correlation, in -1..1, of two pictures as they are or mirrored, the higher one; and which."""
        left, right = self.thumbs_NHW[i].astype(np.float32), self.thumbs_NHW[j].astype(np.float32)
        plain = self._aligned(left, right)
        mirrored = self._aligned(left, np.ascontiguousarray(right[:, ::-1]))
        return (plain, False) if plain >= mirrored else (mirrored, True)

    def _aligned(self, left: Floats, right: Floats) -> float:
        scale = THUMB_PX / _ROUGH_PX
        small_left, small_right = (
            cv2.resize(one, (_ROUGH_PX, _ROUGH_PX), interpolation=cv2.INTER_AREA) for one in (left, right)
        )
        warp = np.eye(2, 3, dtype=np.float32)
        try:
            if (
                cv2.findTransformECC(small_left, small_right, warp, cv2.MOTION_AFFINE, _ROUGH, None, 5)[0]
                < _ROUGH_AT_LEAST
            ):
                return -1.0
            warp[:, 2] *= scale
            cv2.findTransformECC(left, right, warp, cv2.MOTION_AFFINE, _FINE, None, 5)
        except cv2.error:  # it did not converge: the two have nothing in common
            return -1.0
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        moved = cv2.warpAffine(right, warp, (THUMB_PX, THUMB_PX), flags=flags, borderMode=cv2.BORDER_REPLICATE)
        is_shared = cv2.warpAffine(np.ones_like(right), warp, (THUMB_PX, THUMB_PX), flags=flags) > 0.99
        is_shared[:_EDGE_PX] = is_shared[-_EDGE_PX:] = False
        is_shared[:, :_EDGE_PX] = is_shared[:, -_EDGE_PX:] = False
        if is_shared.mean() < _OVERLAP:
            return -1.0
        return _correlation(self._own(left)[is_shared], self._own(moved)[is_shared])

    def _own(self, picture: Floats) -> Floats:
        """Local contrast less what is common to all pictures."""
        flat = local_contrast(picture).ravel()
        return np.asarray(flat - self.common_CP.T @ (self.common_CP @ flat), np.float32).reshape(THUMB_PX, THUMB_PX)


def _principal(contrasts: Floats, num_common: int) -> Floats:
    """[C, P] orthonormal: the mean picture, and the principal ones around it."""
    mean = contrasts.mean(axis=0)
    if not num_common:
        return np.zeros((0, contrasts.shape[1]), np.float32)
    centred = contrasts - mean
    variance, axes = np.linalg.eigh(centred @ centred.T)
    pictures = axes[:, np.argsort(-variance)[:num_common]].T @ centred
    basis, _ = np.linalg.qr(np.vstack([mean, pictures]).T)
    return np.ascontiguousarray(basis.T, np.float32)


def local_contrast(picture: NDArray[np.uint8] | Floats) -> Floats:
    """Differences from the surroundings, in units of their deviation: light and shade of a scene drop out."""
    values = picture.astype(np.float32)
    detail = values - cv2.GaussianBlur(values, (0, 0), 3)
    return np.asarray(detail / np.sqrt(cv2.GaussianBlur(detail * detail, (0, 0), 6) + 4), np.float32)


def _correlation(left: Floats, right: Floats) -> float:
    left, right = left - left.mean(), right - right.mean()
    norm = float(np.linalg.norm(left) * np.linalg.norm(right))
    return float(left @ right) / norm if norm > 1e-6 else -1.0
