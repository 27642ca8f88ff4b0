"""Several attributes: a head per attribute, a model per attribute, a head of classes in order."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

import finefold as ff
from finefold.cli.main import main
from finefold.data.images import content_hash
from finefold.errors import RecipeError
from finefold.nn.engines import Choice
from finefold.nn.features import PrefixCache
from finefold.nn.weights import read_header

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
until = "1 epochs"
[augment]
views = ["plain"]
"""
WAYS = ("separate", "ordinal")  # joint heads train in test_training; ordinal ones stand beside plain heads


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


@pytest.mark.parametrize("way", WAYS)
def test_heads_of_attributes_multiply(way, runs):
    """Where attributes have heads of their own, the joint probability is the product of the attributes'."""
    run = runs[way]
    ledger = run.ledger().predictions
    marginals = ledger.marginals(run.space.attribute_table())
    joint_NK = run.space.joint_probs([marginals[name] for name in run.space.names])
    assert np.allclose(joint_NK, ledger.probs_NK, atol=1e-5)


def test_all_ways_share_one_prefix(runs, data):
    """All ways, and every model of them, are on one frozen prefix: each image's row was computed and stored once."""
    stores = {}
    for run in runs.values():
        weights = run.fold_weights(0)
        header = read_header(weights if isinstance(weights, Path) else weights["mask"])
        engine = Choice(run.manifest["engine"]["name"], run.manifest["engine"]["precision"], "")
        shared = run.backbone.until(header["cut"], tuple(header["shape"]))
        store = PrefixCache(shared, engine, 10**8).open()
        stores[store.folder] = store
    ((folder, store),) = stores.items()
    hashes = [content_hash(path.read_bytes()) for path in data.samples.paths]
    assert store.contains(hashes).all()
    records = b"".join(path.read_bytes() for path in folder.glob("*.index"))
    stored = [records[start : start + 16] for start in range(0, len(records), 20)]
    assert all(stored.count(one) == 1 for one in set(hashes))


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


@pytest.mark.slow  # each of three networks is searched for cuts
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
