"""nn.soups: averaged weights."""

import torch
from torch import nn

from finefold.nn.soups import mean_state, moved_norms, recompute_norms


def test_the_mean_of_states():
    """Every tensor is the mean, in its own type; counters are the first one's, and a state alone stays as it is."""
    one = {"a": torch.tensor([1.0, 2.0]), "h": torch.tensor([1.0], dtype=torch.float16), "n": torch.tensor(3)}
    two = {"a": torch.tensor([3.0, 6.0]), "h": torch.tensor([2.0], dtype=torch.float16), "n": torch.tensor(9)}
    mean = mean_state([one, two])
    assert torch.equal(mean["a"], torch.tensor([2.0, 4.0]))
    assert (mean["h"].dtype, float(mean["h"])) == (torch.float16, 1.5)
    assert int(mean["n"]) == 3
    assert all(torch.equal(value, one[name]) for name, value in mean_state([one]).items())


def test_norms_whose_statistics_differ_are_found():
    """Other weights of a norm are averaged; other statistics are told."""
    one = {"x.weight": torch.ones(2), "x.running_mean": torch.zeros(2), "y.running_var": torch.ones(2)}
    two = {"x.weight": torch.zeros(2), "x.running_mean": torch.zeros(2), "y.running_var": torch.full((2,), 2.0)}
    assert moved_norms([one, two]) == ("y",)
    assert moved_norms([one, one, one]) == ()


class _Tail(nn.Module):
    """What a tail is to `recompute_norms`: rows in, and its norms by name."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5), nn.BatchNorm1d(3))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.classifier(rows)


def test_statistics_are_those_of_the_rows():
    """A recomputed norm has the mean of its inputs; the others, and dropout, stay as in evaluation."""
    rows = torch.randn(64, 3, generator=torch.Generator().manual_seed(0)) * 2 + 5
    tail = _Tail()
    first, last = tail.classifier[0], tail.classifier[2]
    last.running_mean.fill_(7.0)
    recompute_norms(tail, ["0"], iter(rows.split(32)), torch.device("cpu"))  # type: ignore[arg-type]
    assert torch.allclose(first.running_mean, rows.mean(dim=0), atol=1e-5)
    assert torch.allclose(first.running_var, rows.var(dim=0), rtol=0.1)
    assert torch.equal(last.running_mean, torch.full((3,), 7.0))
    assert not any(module.training for module in tail.modules())
