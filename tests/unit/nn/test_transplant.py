"""A match as a person reads it."""

import torch
from torch import nn

from finefold.nn.transplant import match_weights


def network(num_classes: int = 2) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes)
    )


def test_a_match_prints_in_a_few_lines():
    """repr() is one short line and str() a few: how much was matched, what stays as it was, and the proof."""
    match = match_weights(network(), network(num_classes=3))
    assert repr(match) == "<Match: 2 of 4 tensors matched, proved>"
    lines = str(match).splitlines()
    assert lines[0] == "2 of 4 tensors matched"
    assert lines[1] == "left as they were: 4.weight, 4.bias"
    assert lines[2] == "left out of the source: 4.weight, 4.bias"
    assert lines[3].startswith("proof: both models run on the same input; features [2, 4] differ by 0 of the largest")
    assert len(lines) == 4


def test_a_refused_match_prints_its_problems():
    """What is wrong, and why there is no proof, stands in str() line by line."""
    match = match_weights({"x": torch.ones(7)}, network())
    assert repr(match) == "<Match: 0 of 4 tensors matched, not proved>"
    told = str(match)
    assert "not proved by running both: the model these weights are of is not known" in told
    assert told.count("problem: ") == len(match.problems()) > 0
