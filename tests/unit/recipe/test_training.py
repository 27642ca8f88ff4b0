"""The tables that say what trains: what may stand in them, and what is told where it may not."""

import pytest

from finefold.errors import RecipeError
from finefold.recipe.loader import dump_recipe, load_recipe
from finefold.recipe.schema import Recipe

PROBE = {"trainable": "head", "until": "probe"}


def recipe(tmp_path, text: str) -> Recipe:
    (tmp_path / "r.toml").write_text(text, encoding="utf-8")
    return load_recipe(str(tmp_path / "r.toml"))


def test_phases_are_read(tmp_path):
    """Phases keep their order and values, and a recipe that is written out reads back as itself."""
    made = recipe(
        tmp_path,
        """
        [[phase]]
        trainable = "head"
        until = "probe"
        [[phase]]
        trainable = ["blocks.5.*", "conv_head"]
        until = "3 epochs"
        lr = 3e-4
        layer_decay = 0.75
        batch_norm = "running"
        """,
    )
    assert [phase.is_probe for phase in made.phase] == [True, False]
    assert made.phase[1].trainable == ("blocks.5.*", "conv_head")
    assert not made.is_probe_only
    assert made.head_power == 1
    assert recipe(tmp_path, dump_recipe(made)) == made


def test_the_probe_alone_keeps_its_power():
    """Features are raised to a power only where no step is taken after the probe."""
    assert load_recipe("probe").is_probe_only
    assert load_recipe("probe").head_power == 0.5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[phase]]\ntrainable = "head"\nuntil = "soon"', 'write "12 epochs", "500 steps" or "30 percent", or "probe"'),
        ('[[phase]]\ntrainable = "all"\nuntil = "probe"', 'until = "probe" fits the head'),
        ('[[phase]]\ntrainable = "all"\nuntil = "0 epochs"', "trains for no time"),
        ('[[phase]]\ntrainable = []\nuntil = "1 epoch"', "says nothing"),
        ('[[phase]]\ntrainable = "all"\nuntil = "50 percent"', "train.length, which is not set"),
        ('[[phase]]\ntrainable="all"\nuntil="1 epoch"\n[[phase]]\ntrainable="head"\nuntil="probe"', "comes first"),
        ("phase = []", "nothing trains"),
        ('[augment]\nviews = ["plain", "plain"]', "different views"),
        ('[augment]\nviews = ["hflp"]', "did you mean `hflip`?"),
        ("[loss]\nterms = {}", "is empty"),
        ("[loss]\nterms = { focl = 1.0 }", "focl"),
        ('[schedule]\nwarmup = "a bit"', "is no duration"),
        ("[train]\nbatch_sise = 3", "did you mean `train.batch_size`?"),
    ],
)
def test_mistakes_are_told(tmp_path, text, message):
    """Impossible phases, views, losses and durations are refused, in words that say what to write."""
    with pytest.raises(RecipeError) as told:
        recipe(tmp_path, text)
    assert message in str(told.value)
