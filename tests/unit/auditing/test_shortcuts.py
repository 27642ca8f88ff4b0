"""A property that follows the label is told with its effect; one that does not is not."""

import numpy as np
import pytest

from finefold.auditing.shortcuts import find_shortcuts


@pytest.fixture(scope="module")
def classes() -> np.ndarray:
    return np.tile([0, 1], 30)


def test_sizes_that_follow_the_label_are_told(look, faces, classes):
    """Class 0 is 96 wide and class 1 is 80 wide: width predicts fully, and is a warning."""
    contents = {
        f"{number:02}.png": face[:, : 96 - 16 * code]
        for number, (face, code) in enumerate(zip(faces, classes, strict=True))
    }
    found = find_shortcuts(look(contents), np.arange(60), {"kind": (("a", "b"), classes)})
    first = found[0]
    assert first.evidence["property"] in ("width", "shape") and first.evidence["gain"] == 1.0
    assert first.severity == "warning" and first.evidence["chance_at_most"] < 0.6


def test_alike_images_raise_nothing(look, faces, classes):
    """Where properties do not follow the label, nothing is said of files."""
    seen = look({f"{number:02}.png": face for number, face in enumerate(faces)})
    found = find_shortcuts(seen, np.arange(60), {"kind": (("a", "b"), classes)})
    assert [one for one in found if one.severity != "info"] == []


def test_suffixes_are_counted(look, faces, classes):
    """A class that comes as PNG and one as JPEG: the format is told with its counts."""
    contents = {
        f"{number:02}{('.png', '.jpg')[code]}": face
        for number, (face, code) in enumerate(zip(faces, classes, strict=True))
    }
    found = find_shortcuts(look(contents), np.arange(60), {"kind": (("a", "b"), classes)})
    told = {one.evidence["property"]: one for one in found}
    assert told["format"].evidence["counts"] == {"a": {"JPEG": 0, "PNG": 30}, "b": {"JPEG": 30, "PNG": 0}}
