"""In what held-out samples had a say."""

import pytest

from finefold.recipe.loader import load_recipe
from finefold.steps.evaluate import selection


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ('train.keep="best"', "keeps the epoch"),
        ("train.patience=3", "stops by its score"),
        ('schedule.name="plateau"', "rate drops"),
    ],
)
def test_every_use_of_the_held_out_samples_is_told(override, told):
    """Keeping the best epoch, stopping early and plateaus each are a sentence; none of them none."""
    assert selection(load_recipe("quick")) == () or "train.keep" in selection(load_recipe("quick"))[0]
    (reason,) = selection(load_recipe("quick", ['train.keep="last"', override]))
    assert told in reason


def test_the_probe_takes_no_steps():
    """A probe has no epochs to choose, whatever the recipe says of them."""
    assert selection(load_recipe("probe", ['train.keep="best"'])) == ()
    assert selection(load_recipe("probe"), was_chosen=True) == ("what trains was chosen by a trial on fold 0",)
