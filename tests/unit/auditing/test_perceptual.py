"""Pictures of one photo are alike, whatever was done to it; pictures of others are not."""

import cv2
import numpy as np
import pytest

from finefold.auditing.perceptual import THUMB_PX, Likeness, hamming, hash_pairs, perceptual_hashes


def thumb(image: np.ndarray) -> np.ndarray:
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return cv2.resize(grey, (THUMB_PX, THUMB_PX), interpolation=cv2.INTER_AREA)


def darker(image: np.ndarray) -> np.ndarray:
    return (image * 0.6).astype(np.uint8)


def cropped(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(image[8:-6, 5:-4])


def turned(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), 6, 1.0)
    return cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)


def recompressed(image: np.ndarray) -> np.ndarray:
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 40])[1], cv2.IMREAD_COLOR)


@pytest.mark.parametrize("change", [darker, cropped, turned, recompressed])
def test_a_changed_copy_is_alike_and_another_person_is_not(faces, change):
    """A copy scores far above every other person, who is drawn by the same hand."""
    thumbs = np.stack([*map(thumb, faces), thumb(change(faces[7]))])
    likeness = Likeness(thumbs, rng=np.random.default_rng(0))
    copy, is_mirrored = likeness.of(7, 60)
    others = [likeness.of(7, other)[0] for other in range(0, 60, 3) if other != 7]
    assert copy > 0.9 and not is_mirrored
    assert max(others) < copy - 0.1


def test_a_mirrored_copy_is_found_as_such(faces):
    """Mirror images are alike, and said to be mirrored."""
    thumbs = np.stack([*map(thumb, faces), thumb(faces[3][:, ::-1])])
    alike, is_mirrored = Likeness(thumbs, rng=np.random.default_rng(0)).of(3, 60)
    assert alike > 0.95 and is_mirrored


def test_the_mirrored_hash_is_the_hash_of_the_mirror_image(faces):
    """What mirroring does to a hash is computed, not measured: at most rounding may differ."""
    grey = cv2.cvtColor(faces[0], cv2.COLOR_RGB2GRAY)
    plain, mirrored = perceptual_hashes(grey)
    other, back = perceptual_hashes(np.ascontiguousarray(grey[:, ::-1]))
    assert hamming(np.array([mirrored, plain]), np.array([other, back])).max() <= 2


def test_the_banded_index_finds_every_near_pair():
    """Against all pairs compared: the same set, none twice, nearest first."""
    rng = np.random.default_rng(1)
    hashes = rng.integers(0, 2**63, 300, dtype=np.uint64)
    for near in range(1, 60):  # copies that differ in up to six bits
        bits = rng.choice(64, rng.integers(0, 7), replace=False).astype(np.uint64)
        hashes[300 - near] = hashes[near] ^ np.bitwise_or.reduce(np.uint64(1) << bits, initial=np.uint64(0))
    found = hash_pairs(hashes, hashes, most_bits=6, most_pairs=10_000)
    i, j = np.triu_indices(300, 1)
    expected = {(a, b) for a, b in zip(i, j, strict=True) if hamming(hashes[[a]], hashes[[b]])[0] <= 6}
    assert {tuple(pair) for pair in found.tolist()} == expected and len(found) == len(expected) >= 59
    distances = hamming(hashes[found[:, 0]], hashes[found[:, 1]])
    assert (np.diff(distances) >= 0).all()
