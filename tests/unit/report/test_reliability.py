"""Accuracy over confidence as a picture."""

from dataclasses import replace
from xml.etree import ElementTree

import pytest

from finefold.report.reliability import Bin, draw_reliability

BINS = [Bin(0.4, 0.6, 30, 0.52, 0.4, 0.3, 0.6), Bin(0.8, 1.0, 70, 0.93, 0.9, 0.8, 0.95)]


def test_the_largest_bin_says_how_many_answers_it_holds():
    """The picture is well-formed, names its axes and says which share of the answers the largest bin has."""
    texts = [
        "".join(one.itertext()).strip()
        for one in ElementTree.fromstring(draw_reliability(BINS, title="Reliability", note="ECE < 0.1 & small")).iter()
        if "text" in one.tag
    ]
    assert {"70 %", "ECE < 0.1 & small", "share that is right"} <= set(texts)


def test_empty_bins_are_left_out():
    """A bin without answers changes nothing; where all are empty there is nothing to draw."""
    empty = replace(BINS[0], low=0.0, high=0.2, count=0)
    assert draw_reliability([empty, *BINS], title="R") == draw_reliability(BINS, title="R")
    with pytest.raises(ValueError, match="no answers"):
        draw_reliability([empty], title="R")
