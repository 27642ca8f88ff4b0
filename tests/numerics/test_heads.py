"""Several attributes three ways: one head of joint classes, a head per attribute, a model per attribute."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

import finefold as ff
from finefold.cli.main import main
from finefold.data.cachedir import cache_root, list_entries
from finefold.errors import RecipeError

RECIPE = """
[split]
folds = 2
[model]
heads = "{heads}"
{more}
[[phase]]
trainable = "head"
until = "probe"
[[phase]]
trainable = "last:1"
until = "2 epochs"
[augment]
views = ["plain"]
"""
WAYS = ("joint", "per_attribute", "separate", "ordinal")


@pytest.fixture(scope="module")
def data(tmp_path_factory, portraits):
    """Drawn people: mask, gender and age."""
    home = tmp_path_factory.mktemp("data")
    ff.init(portraits, out=home / "data.toml")
    return ff.read_data(home / "data.toml")


@pytest.fixture(scope="module")
def runs(tmp_path_factory, data) -> dict[str, ff.Run]:
    """One run for each way, on one split."""
    home = tmp_path_factory.mktemp("runs")
    split = ff.make_split(data, folds=2)
    made = {}
    for way in WAYS:
        recipe = home / f"{way}.toml"
        heads, more = ("per_attribute", 'ordinal = ["age"]') if way == "ordinal" else (way, "")
        recipe.write_text(RECIPE.format(heads=heads, more=more), encoding="utf-8")
        made[way] = ff.train(data, split, recipe=str(recipe), out=home / way)
    return made


@pytest.mark.parametrize("way", WAYS)
def test_each_way_predicts_joint_classes(way, runs, portraits):
    """Ledger and predictions of new images are probabilities of all 18 joint classes."""
    run = runs[way]
    ledger = run.ledger().predictions
    assert ledger.probs_NK.shape == (126, 18)
    answers = run.predict(portraits / "eval" / "images")
    assert answers.predictions.probs_NK.shape == (21, 18)
    assert np.allclose(answers.predictions.probs_NK.sum(1), 1)


@pytest.mark.parametrize("way", ["per_attribute", "separate", "ordinal"])
def test_heads_of_attributes_multiply(way, runs):
    """Where attributes have heads of their own, the joint probability is the product of the attributes'."""
    run = runs[way]
    ledger = run.ledger().predictions
    marginals = ledger.marginals(run.space.attribute_table())
    joint_NK = run.space.joint_probs([marginals[name] for name in run.space.names])
    assert np.allclose(joint_NK, ledger.probs_NK, atol=1e-5)


def test_separate_models_share_one_prefix(runs):  # noqa: ARG001, made before the cache is looked at
    """Three ways and five models on one frozen prefix: it was computed and stored once."""
    prefixes = [entry for entry in list_entries(cache_root()) if "up to" in entry.about["what"]]
    assert len({entry.about["what"] for entry in prefixes if "blocks.5" in entry.about["what"]}) == 1


def test_every_attribute_has_its_own_weights(runs):
    """A model per attribute: weights of each fold and attribute, all different, and one set of joint predictions."""
    run = runs["separate"]
    files = [run.fold_weights(fold) for fold in range(2)]
    assert all(isinstance(one, dict) and list(one) == ["mask", "gender", "age"] for one in files)
    contents = {path.read_bytes() for one in files for path in one.values()}
    assert len(contents) == 6
    for fold in range(2):
        valid = pl.read_parquet(run.folder.fold_valid(fold))
        assert valid.width == 19
    assert not list(Path(run.folder.path).glob("attributes/*/work"))


def test_a_run_of_separate_models_can_be_looked_into(runs, capsys):
    """`inspect` of such a run shows the first attribute's model, and says so."""
    assert main(["inspect", str(runs["separate"].folder.path)]) == 0
    assert "the head of `mask` (each of 3 attributes has a model of its own)" in capsys.readouterr().out


def test_an_ordinal_head_has_one_score_and_thresholds(runs):
    """The attribute whose classes are in order has a score and thresholds between them; the others are linear."""
    from finefold.nn.weights import read_state

    state = read_state(runs["ordinal"].folder.fold_weights(0))
    shapes = {key.removeprefix("head.heads."): tuple(value.shape) for key, value in state.items() if "heads" in key}
    assert shapes["age.score.weight"] == (1, 1280)
    assert (shapes["age.first"], shapes["age.steps"]) == ((1,), (1,))
    assert shapes["mask.weight"] == (3, 1280)


def test_an_ordinal_attribute_must_be_there(data, tmp_path):
    """An attribute that the data does not have is told, with those that it has."""
    (tmp_path / "r.toml").write_text(RECIPE.format(heads="per_attribute", more='ordinal = ["aeg"]'), encoding="utf-8")
    with pytest.raises(RecipeError, match="`aeg`, which is no attribute") as told:
        ff.train(data, recipe=str(tmp_path / "r.toml"), out=tmp_path / "run")
    assert "mask, gender, age" in str(told.value.hint)
