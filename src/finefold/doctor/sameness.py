"""Which rows show the same picture: within a subject, between its two roles, and between training and test.

Shapes: N rows, T images to answer for, P pairs.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finefold.auditing.copies import Copies, find_copies
from finefold.auditing.looks import Looks, look_at
from finefold.data.cachedir import cache_root
from finefold.doctor.subject import Subject

MOST_PAIRS = 1_500  # of look-alikes that are compared, the most alike ones: seconds; `finefold audit` compares them all
UNREADABLE = bytes(16)


def looks_of(subject: Subject) -> Looks | None:
    """What one pass saw of the rows' files and, after them, of the images to answer for; None without files."""
    if subject.paths is None:
        return None
    if "looks" not in subject.memory:
        ids = [*subject.ids, *(f"test:{name}" for name in subject.test_ids)]
        paths = [*subject.paths, *subject.test_paths]
        most = round(subject.recipe.image.max_megapixels * 1e6)
        subject.memory["looks"] = look_at(ids, paths, cache=cache_root(), max_pixels=most)
    found = subject.memory["looks"]
    assert isinstance(found, Looks)
    return found


def copies_of(subject: Subject) -> Copies | None:
    """Pairs of rows, and after them of test images, that show one photo; rows of one group only where files are equal.

    Two files that are equal byte by byte are found wherever they are; other copies by features and perceptual hash.
    """
    looks = looks_of(subject)
    if looks is None:
        return None
    if "copies" not in subject.memory:
        groups_N = subject.group_codes_N
        features_ND = subject.features.rows_ND
        if subject.test_features is not None:
            features_ND = np.concatenate([features_ND, subject.test_features.rows_ND])
        num_test = len(looks.ids) - len(groups_N)
        groups_N = np.concatenate([groups_N, np.full(num_test, groups_N.max() + 1)])
        subject.memory["copies"] = find_copies(looks, groups_N, features_ND, cache=cache_root(), most_pairs=MOST_PAIRS)
    found = subject.memory["copies"]
    assert isinstance(found, Copies)
    return found


def same_rows(train: Subject, valid: Subject) -> list[tuple[int, int]]:
    """(row of training, row of validation) for every picture or file that is in both."""
    pairs: dict[tuple[int, int], None] = {}
    for one, other in ((_pictures(train), _pictures(valid)), (_files(train), _files(valid))):
        for key, row in other.items():
            if key in one:
                pairs[one[key][0], row[0]] = None
                pairs.update(dict.fromkeys((one[key][0], again) for again in row[1:]))
    return sorted(pairs)


def _pictures(subject: Subject) -> Mapping[Any, list[int]]:
    """Hash of a picture, as the backbone gets it -> its rows."""
    found: dict[Any, list[int]] = {}
    for row, key in enumerate(subject.features.hashes):
        if key != UNREADABLE:
            found.setdefault(key, []).append(row)
    return found


def _files(subject: Subject) -> Mapping[Any, list[int]]:
    found: dict[Any, list[int]] = {}
    for row, path in enumerate(subject.paths or ()):
        found.setdefault(Path(path).absolute(), []).append(row)
    return found


def copies_between(train: Subject, valid: Subject) -> tuple[Copies, NDArray[np.bool_]] | None:
    """Copies of training images in a validation set, and [N] whether a row is validation's; None without files.

    Of the rows of both sets, training first.
    """
    if train.paths is None or valid.paths is None:
        return None
    ids = [*train.ids, *valid.ids]
    most = round(train.recipe.image.max_megapixels * 1e6)
    looks = look_at(ids, [*train.paths, *valid.paths], cache=cache_root(), max_pixels=most)
    is_valid_N = np.arange(len(ids)) >= len(train.ids)
    features_ND = np.concatenate([train.features.rows_ND, valid.features.rows_ND])
    groups_N = is_valid_N.astype(np.int64)
    return find_copies(looks, groups_N, features_ND, cache=cache_root(), most_pairs=MOST_PAIRS), is_valid_N
