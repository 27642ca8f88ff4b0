"""Odd images are told by kind, and what most images share is no fault."""

import cv2
import numpy as np

from finefold.auditing.quality import odd_sizes, quality_findings


def test_each_oddity_is_told_with_its_image(look, faces):
    """Blank, dark, bright, blurred, odd in size and shape, grey, misnamed: each planted image is found as such."""
    contents = {f"{number:02}.png": face for number, face in enumerate(faces)}
    contents |= {
        "blank.png": np.full((128, 96, 3), 90, np.uint8),
        "dark.png": (faces[0] * 0.12).astype(np.uint8),
        "bright.png": np.where(np.arange(128)[:, None, None] < 4, faces[1], 252).astype(np.uint8),
        "large.png": cv2.resize(faces[3], (960, 1000)),
        "long.png": cv2.resize(faces[4], (300, 60)),
        "grey.png": cv2.cvtColor(cv2.cvtColor(faces[5], cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB),
        "jpeg.png": cv2.imencode(".jpg", faces[6])[1].tobytes(),
    }
    found = quality_findings(look(contents))
    issues = {one.evidence["issue"]: one for one in found if one.kind == "image-quality"}
    told = {"blank": "blank.png", "dark": "dark.png", "bright": "bright.png", "odd-size": "large.png"}
    told |= {"odd-shape": "long.png", "grey": "grey.png"}
    for issue, name in told.items():
        assert name in issues[issue].ids, issue
    assert issues["blank"].ids == ("blank.png",) and issues["blank"].severity == "warning"
    assert issues["dark"].severity == "warning" and issues["odd-size"].severity == "info"
    assert [one.ids for one in found if one.kind == "wrong-extension"] == [("jpeg.png",)]
    assert all(one.severity != "error" for one in found)


def test_sharp_drawings_are_not_odd(look, faces):
    """Sixty plain portraits raise no finding but perhaps that some have soft edges."""
    found = quality_findings(look({f"{number:02}.png": face for number, face in enumerate(faces)}))
    assert {one.evidence.get("issue") for one in found} <= {"blurred"}


def test_odd_sizes_need_a_clear_distance():
    """Equal sizes with one of double size: that one; an even spread: none."""
    assert odd_sizes(np.array([200.0] * 20 + [420.0])).tolist() == [False] * 20 + [True]
    assert not odd_sizes(np.linspace(100, 300, 50)).any()
