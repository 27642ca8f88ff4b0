"""Copies are found between groups, and people who merely look alike are none."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from finefold.auditing.copies import clusters, find_copies
from finefold.auditing.duplicates import duplicate_findings, overlap_findings, split_findings
from finefold.auditing.looks import Looks
from finefold.auditing.neighbours import nearest


def darker(image: np.ndarray) -> np.ndarray:
    return (image * 0.6).astype(np.uint8)


def cropped(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(image[8:-6, 5:-4])


@pytest.fixture
def looks(look, faces):
    """Sixty people, the same file of the first again, and the second and third changed."""
    contents = {f"{number:02}.png": face for number, face in enumerate(faces)}
    more = {"first again.png": faces[0], "second darker.jpg": darker(faces[1]), "third cropped.jpg": cropped(faces[2])}
    return look(contents | more)


def found_pairs(copies) -> set[tuple[int, int]]:
    return {tuple(pair) for pair in copies.pairs_P2.tolist()}


def test_exact_and_changed_copies_and_nothing_else(looks):
    """Of 63 drawn people the three planted pairs are found by hashes alone; the exact one comes first."""
    copies = find_copies(looks, np.arange(63), None)
    assert found_pairs(copies) == {(0, 60), (1, 61)} or found_pairs(copies) == {(0, 60), (1, 61), (2, 62)}
    assert copies.is_exact_P.tolist()[0] and not copies.is_exact_P[1:].any()


def test_features_find_what_hashes_miss(looks, tmp_path):
    """With neighbours by features the cropped copy is found as well; from the cache the same comes back."""
    features = np.random.default_rng(0).random((63, 20)).astype(np.float16)
    features[62] = features[2] * 1.01
    first = find_copies(looks, np.arange(63), features, cache=tmp_path)
    assert found_pairs(first) == {(0, 60), (1, 61), (2, 62)}
    again = find_copies(looks, np.arange(63), features, cache=tmp_path)
    assert (again.pairs_P2 == first.pairs_P2).all() and again.least == first.least
    assert np.allclose(again.likeness_P, first.likeness_P, atol=1e-6)


def test_candidates_that_are_left_are_counted(looks):
    """With fewer pairs compared than there are candidates the most alike ones are, and the rest is counted."""
    features = np.random.default_rng(0).random((63, 20)).astype(np.float16)
    features[62] = features[2] * 1.01
    whole = find_copies(looks, np.arange(63), features)
    part = find_copies(looks, np.arange(63), features, most_pairs=20)
    assert whole.num_left == 0 and part.num_candidates == 20
    assert part.num_candidates + part.num_left == whole.num_candidates
    assert {(0, 60), (2, 62)} <= found_pairs(part)


def test_images_of_one_group_are_no_near_copies(looks):
    """One person's photos may look alike; the same file twice is told all the same."""
    groups = np.arange(63)
    groups[[60, 61, 62]] = [0, 1, 2]
    assert found_pairs(find_copies(looks, groups, None)) == {(0, 60)}


def test_findings_name_groups_labels_folds_and_test_images(looks):
    """One finding per set of copies; differing labels, two folds and test images are findings of their own."""
    features = np.random.default_rng(0).random((63, 20)).astype(np.float16)
    features[62] = features[2]
    copies = find_copies(looks, np.arange(63), features)
    names = tuple(f"{number}" for number in range(63))
    codes = np.zeros(63, np.int64)
    codes[60] = 1
    findings = duplicate_findings(copies, looks.ids, np.arange(63), names, {"kind": (("a", "b"), codes)})
    assert [one.kind for one in findings] == [
        "exact-duplicate", "near-duplicate", "near-duplicate", "duplicate-labels-differ",
    ]  # fmt: skip
    assert findings[0].ids == ("00.png", "first again.png") and findings[0].severity == "warning"
    assert findings[3].severity == "error" and findings[3].evidence["labels"] == {"kind": ["a", "b"]}
    folds = np.zeros(63, np.int64)
    assert split_findings(copies, looks.ids, folds, codes) == []
    folds[61] = 1
    (leak,) = split_findings(copies, looks.ids, folds, codes)
    assert leak.evidence["pairs"] == 1 and set(leak.ids) == {"01.png", "second darker.jpg"}
    assert leak.severity == "error"  # two of 63 images are more than 2 %
    folds[:] = 0
    folds[60] = 1
    (leak,) = split_findings(copies, looks.ids * 2, folds, codes)
    assert leak.severity == "error" and leak.evidence["share"] < 0.02  # equal files are, however few
    is_test = np.arange(63) >= 60
    severities = [one.severity for one in overlap_findings(copies, looks.ids, is_test)]
    assert severities == ["error", "warning", "warning"]


def test_grouped_copies_are_told_once_per_pair_of_people(looks):
    """Where groups hold several samples, the finding names both groups."""
    groups = np.arange(63) // 2
    copies = find_copies(looks, groups, None)
    names = tuple(f"person {number}" for number in range(32))
    exact = duplicate_findings(copies, looks.ids, groups, names, {})[0]
    assert exact.evidence["groups"] == ["person 0", "person 30"]


def test_clusters_are_what_pairs_connect():
    """Connected sets, sorted, each member once."""
    assert clusters([(5, 2), (9, 8), (2, 7)]) == [[2, 5, 7], [8, 9]]
    assert clusters([]) == []


def test_nearest_is_exact_whatever_the_blocks(monkeypatch):
    """Blocks of any size give the neighbours of one large product, and never one of the own group."""
    from finefold.auditing import neighbours

    rng = np.random.default_rng(2)
    features, groups = rng.random((90, 12)), rng.integers(0, 30, 90)
    whole = nearest(features, groups, num_neighbours=4, rng=np.random.default_rng(0))
    monkeypatch.setattr(neighbours, "_BLOCK", 17)
    monkeypatch.setattr(neighbours, "_BLOCK_OF_OTHERS", 13)
    parts = nearest(features, groups, num_neighbours=4, rng=np.random.default_rng(0))
    assert (whole == parts).all()
    assert (groups[whole] != groups[:, None]).all()
    lonely = nearest(features[:3], np.array([0, 0, 1]), num_neighbours=4, rng=np.random.default_rng(0))
    assert (lonely >= 0).sum(axis=1).tolist() == [1, 1, 2]


def test_many_images_are_compared_in_little_memory(look, faces):
    """Of 12,000 thumbs a third, as floats, is more than is ever held: what looks at all of them goes in blocks."""
    seen = look({"face.png": faces[0]})
    rng = np.random.default_rng(0)
    rows_N = np.repeat(seen.rows_N[:1], 12_000)
    rows_N["thumb"] = rng.integers(0, 256, (12_000, 64, 64), np.uint8)
    rows_N["hash"], rows_N["mirrored"] = rng.integers(0, 2**63, (2, 12_000), np.uint64)
    names = tuple(f"{row}.png" for row in range(12_000))
    many = Looks(names, (Path("none.png"),) * 12_000, tuple(name.encode() for name in names), rows_N, ())
    tracemalloc.start()
    try:
        copies = find_copies(many, np.arange(12_000), None)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert many.is_readable_N.all() and len(copies) == 0
    assert peak < 12_000 * 64 * 64 * 8 / 3
