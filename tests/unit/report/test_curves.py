"""Courses to SVG pictures."""

import re
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finefold.report.curves import LABEL_PT, Epoch, draw_history, draw_range_test, draw_rates, spread

STAGES = ["head", *[f"blocks.{number}" for number in range(9, -1, -1)], "stem"]
PHASES = [(0, "phase 1: head"), (20, "phase 2: all")]


def texts_of(svg):
    """Every text of a picture; parsing proves that it is well-formed XML."""
    return [
        "".join(element.itertext()).strip() for element in ElementTree.fromstring(svg).iter() if "text" in element.tag
    ]


def heights_of(svg, names):
    """Where texts stand, from the top."""
    found = {}
    for element in ElementTree.fromstring(svg).iter():
        text = "".join(element.itertext()).strip()
        if element.tag.endswith("text") and text in names:
            place = re.search(r"translate\(\S+ (\S+)\)", element.get("transform", ""))
            found[text] = float(place[1] if place else element.get("y"))
    return found


def stage_rates(decay=0.6):
    """Twelve stages: the head trains in both phases, the rest in the second."""
    falling = np.linspace(1, 0.01, 40)
    return {
        name: [*(falling[:20] * 1e-2 if not depth else [np.nan] * 20), *(falling * 1e-3 * decay**depth)]
        for depth, name in enumerate(STAGES)
    }


def history(num_folds=5):
    """Folds of two phases, one of which stopped early."""
    return [
        [
            Epoch(1 + (number >= 3), 1 / (number + 1), 0.5 + 0.04 * number + 0.01 * fold)
            for number in range(8 - fold % 2)
        ]
        for fold in range(num_folds)
    ]


def pictures():
    """One picture of each kind."""
    rates = np.geomspace(1e-6, 1, 50)
    return {
        "rates": draw_rates(stage_rates(), boundaries=PHASES, title="Rates"),
        "range": draw_range_test(list(rates), list(np.abs(np.log10(rates) + 2)), suggestion=1e-3, title="Range"),
        "history": draw_history(history(), metric="macro F1", title="History"),
    }


def test_pictures_are_deterministic():
    """The same facts give the same bytes, whatever settings the caller has in matplotlib."""
    first = pictures()
    with matplotlib.rc_context({"font.size": 30, "svg.fonttype": "path", "axes.facecolor": "red"}):
        assert pictures() == first
    for svg in first.values():
        assert "dc:date" not in svg and "<image" not in svg and matplotlib.__version__ not in svg


def test_labels_of_twelve_lines_do_not_overlap():
    """Every stage is named at its line's end, in the order of the lines, a label's height apart."""
    places = heights_of(draw_rates(stage_rates(), boundaries=PHASES, title="Rates"), STAGES)
    assert list(places) == STAGES
    assert (np.diff([places[name] for name in STAGES]) >= LABEL_PT - 0.1).all()


def test_labels_of_lines_that_end_at_one_place_do_not_overlap():
    """Rates that all fall to 0 have their labels apart all the same."""
    rates = {name: [1e-3 * (depth + 1), 0.0] for depth, name in enumerate(STAGES[:9])}
    places = sorted(heights_of(draw_rates(rates, boundaries=[], title="Rates"), STAGES).values())
    assert len(places) == 9 and (np.diff(places) >= LABEL_PT - 0.1).all()


def test_phases_are_named():
    """Each phase has its name in the picture."""
    assert {name for _, name in PHASES} <= set(texts_of(pictures()["rates"]))


@pytest.mark.parametrize(("ratio", "is_log"), [(9.0, False), (11.0, True)])
def test_rates_that_differ_tenfold_are_on_a_logarithmic_axis(ratio, is_log):
    """Below ten times the axis is linear; a rate of 0 is no mistake on either."""
    texts = texts_of(draw_rates({"a": [1e-3, 0.0], "b": [1e-3 / ratio, 1e-5]}, boundaries=[], title="Rates"))
    assert ("1e-3" in texts) == is_log


def test_stages_of_the_same_rates_share_a_line():
    """Lines that would lie on each other are one, with all their names or how many there are."""
    same = {name: [1e-3, 1e-4] for name in STAGES}
    assert "head, blocks.9 and 10 more" in texts_of(draw_rates(same, boundaries=[], title="Rates"))
    assert "a, b" in texts_of(draw_rates({"a": [1.0], "b": [1.0]}, boundaries=[], title="Rates"))


def test_rates_that_cannot_be_drawn_are_refused():
    """No steps, different lengths and nothing above 0 are told."""
    for rates, told in (({}, "one length"), ({"a": []}, "one length"), ({"a": [1], "b": [1, 2]}, "one length")):
        with pytest.raises(ValueError, match=told):
            draw_rates(rates, boundaries=[], title="Rates")
    with pytest.raises(ValueError, match="above 0"):
        draw_rates({"a": [0.0, np.nan]}, boundaries=[], title="Rates")


def test_the_suggestion_is_marked():
    """The rate that is suggested is written above the curve; without one nothing is."""
    rates, losses = [1e-3, 1e-2, 1e-1], [1.0, 0.5, 4.0]
    assert "suggestion 0.01" in texts_of(draw_range_test(rates, losses, suggestion=1e-2, title="Range"))
    assert not any(
        "suggestion" in text for text in texts_of(draw_range_test(rates, losses, suggestion=None, title="R"))
    )
    with pytest.raises(ValueError, match="expected as many"):
        draw_range_test(rates, losses[:2], suggestion=None, title="Range")


def test_a_history_names_folds_and_phases():
    """Both panels name every fold that has epochs; phases are marked where there are several."""
    texts = texts_of(draw_history([*history(3), []], metric="macro F1", title="History"))
    assert [texts.count(f"fold {number}") for number in range(4)] == [2, 2, 2, 0]
    assert {"phase 1", "phase 2", "macro F1, held out", "training loss", "epoch"} <= set(texts)
    assert "phase 1" not in texts_of(draw_history([[Epoch(2, 1.0, 0.5)]], metric="accuracy", title="History"))
    with pytest.raises(ValueError, match="no fold"):
        draw_history([[], []], metric="accuracy", title="History")


@given(st.lists(st.floats(-50, 250), max_size=15), st.floats(1, 300))
def test_spread_places_keep_their_order_and_gap(wanted, high):
    """Places lie within the whole, in the order of what was wanted, apart by the gap or by what room there is."""
    places = np.array(spread(wanted, 11.0, high))
    assert ((places >= -1e-6) & (places <= high + 1e-6)).all()
    order = np.argsort(places, kind="stable")
    assert (np.diff(np.array(wanted)[order]) >= 0).all()
    if len(wanted) > 1:
        assert (np.diff(places[order]) >= min(11.0, high / (len(wanted) - 1)) - 1e-6).all()


def test_places_that_do_not_meet_stay():
    """What has room is where it was wanted."""
    assert spread([50.0, 10.0], 11.0, 100.0) == [50.0, 10.0]
