"""ROC and precision-recall curves as a picture."""

from xml.etree import ElementTree

import numpy as np
import pytest

from finefold.report.ranking import MOST_CURVES, MOST_POINTS, Curve, draw_ranking


def curve(name="owl", *, auc=0.9, num_points=50):
    line_T = np.linspace(0, 1, num_points)
    return Curve(name, line_T, np.sqrt(line_T), 1 - 0.5 * line_T, auc, 0.7, 0.2)


def texts_of(svg):
    return ["".join(one.itertext()).strip() for one in ElementTree.fromstring(svg).iter() if "text" in one.tag]


def test_classes_stand_with_their_areas():
    """Every class is named with its areas, odd letters included."""
    texts = texts_of(draw_ranking([curve("<30 & 40"), curve("한국어", auc=0.5)], title="Curves"))
    assert "<30 & 40   0.900 / 0.700" in texts
    assert "한국어   0.500 / 0.700" in texts


def test_of_many_classes_the_worst_are_drawn():
    """Beyond what can be told apart the classes with the least area are kept, in class order, and the note says so."""
    curves = [curve(f"class {number:02}", auc=1 - number / 100) for number in range(12)]
    texts = texts_of(draw_ranking(curves, title="Curves"))
    named = [text.split("   ")[0] for text in texts if text.startswith("class")]
    assert named == [f"class {number:02}" for number in range(12 - MOST_CURVES, 12)]
    assert any(text.startswith(f"The {MOST_CURVES} lowest of 12 classes.") for text in texts)


def test_a_long_curve_is_thinned():
    """A curve of many thresholds keeps its ends and no more points than can be seen."""
    short = len(draw_ranking([curve(num_points=MOST_POINTS)], title="Curves"))
    assert len(draw_ranking([curve(num_points=50_000)], title="Curves")) < 1.2 * short


def test_the_same_curves_give_the_same_bytes():
    """A picture depends on its facts alone; nothing to draw is an error."""
    assert draw_ranking([curve()], title="Curves") == draw_ranking([curve()], title="Curves")
    with pytest.raises(ValueError, match="no curves"):
        draw_ranking([], title="Curves")
