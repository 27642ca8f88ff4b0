"""The same in gives the same out: runs repeat bitwise, and every way to a probability leads to the same one."""

import shutil

import numpy as np
import polars as pl
import pytest

import finefold as ff
from finefold.data.predictions import Predictions
from finefold.nn.backbones import Backbone
from finefold.nn.engines import Choice
from finefold.nn.features import PrefixCache
from finefold.nn.infer import FoldEnsemble

MAX_PIXELS = 10**8
SAME_BYTES = ("oof.parquet", "samples.parquet", "split.csv", "recipe.toml", "data.toml", "scores.json")
SAME_BYTES += ("backbone.safetensors", "confusion.svg", "classes.svg", "findings.json")


@pytest.fixture(scope="module")
def run(job) -> ff.Run:
    return ff.open_run(job.run)


@pytest.fixture(scope="module")
def cached(run):
    """Features of the run's samples by id."""
    engine = run.manifest["engine"]
    cache = PrefixCache(
        Backbone.read(run.folder.backbone), Choice(engine["name"], engine["precision"], "test"), MAX_PIXELS
    )
    samples = ff.read_data(run.folder.data).samples
    rows_ND = cache.compute(samples.ids, samples.paths).rows_ND
    return dict(zip(samples.ids, rows_ND, strict=True))


def ensemble(run: ff.Run, folds: list[int]) -> FoldEnsemble:
    return FoldEnsemble.read(run.backbone, [run.folder.fold_weights(fold) for fold in folds], run.space)


def test_two_runs_are_bitwise_the_same(job, run, tmp_path):
    """The same data, split, recipe and seed give the same bytes in every file but the manifest."""
    again = ff.train(ff.read_data(job.data), job.folder / "split.csv", out=tmp_path / "again").folder.path
    for name in (
        *SAME_BYTES,
        *(f"fold-{n}/{file}" for n in range(3) for file in ("weights.safetensors", "valid.parquet")),
    ):
        assert (again / name).read_bytes() == (run.folder.path / name).read_bytes(), name


@pytest.mark.slow  # two engines start; a fold of two runs is compared always
def test_features_computed_twice_are_bitwise_the_same(run, shapes, tmp_path, monkeypatch):
    """An empty cache is filled with the same bits, on the same engine, whichever thread takes which image."""
    engine = run.manifest["engine"]
    files = sorted(shapes.rglob("*.png"))
    rows = []
    for number in range(2):
        monkeypatch.setenv("FINEFOLD_CACHE", str(tmp_path / str(number)))
        choice = Choice(engine["name"], engine["precision"], "test")
        found = PrefixCache(Backbone.read(run.folder.backbone), choice, MAX_PIXELS).compute(
            [file.name for file in files], files
        )
        assert found.num_computed == len(files)
        rows.append(found.rows_ND)
    assert np.array_equal(*rows)


def test_the_ensemble_is_the_mean_of_its_folds(run, cached):
    """All folds together give the mean of the probabilities that each gives alone."""
    rows_ND = np.stack(list(cached.values()))[:40]
    alone = [ensemble(run, [fold]).head_probs(rows_ND) for fold in range(run.num_folds)]
    together_NK = ensemble(run, list(range(run.num_folds))).head_probs(rows_ND)
    assert np.allclose(together_NK, np.mean(alone, axis=0), atol=1e-12)
    assert not np.allclose(alone[0], alone[1], atol=1e-3)


def test_images_at_a_time_do_not_matter(run, portraits, monkeypatch):
    """Predicting in blocks, to bound memory, gives what predicting at once gives."""
    plain = run.predict().predictions
    monkeypatch.setattr("finefold.nn.streaming.IMAGES_AT_ONCE", 4)
    blocks = run.predict(portraits / "eval" / "images").predictions
    assert np.allclose(plain.rows_for(blocks.ids).probs_NK, blocks.probs_NK, atol=1e-12)


@pytest.mark.parametrize("fold", range(3))
def test_submitting_a_folds_own_images_gives_its_ledger(run, fold, tmp_path):
    """Through the submission path, one fold's heads give its held-out images the probabilities of the ledger.

    The round trip: weights, preprocessing and class order survive from training to the answer file.
    """
    one = tmp_path / "one-fold"
    shutil.copytree(run.folder.path, one)
    shutil.copy(run.folder.fold_weights(fold), one / "fold-0" / "weights.safetensors")
    single = ff.Run(ff.open_run(one).folder, {**run.manifest, "num_folds": 1}, run.spec, run.recipe)
    answers = single.predict(run.spec.root)
    valid = pl.read_parquet(run.folder.fold_valid(fold))
    assert valid.columns == ["id", *run.space.class_names]
    expected = Predictions(tuple(valid["id"]), valid.drop("id").to_numpy(), run.space.class_names)
    found = answers.predictions.rows_for(expected.ids)
    assert np.abs(found.probs_NK - expected.probs_NK).max() < 1e-6
    written = pl.read_csv(answers.to_csv(tmp_path / "answers.csv"), infer_schema_length=None)
    table = dict(zip(written["id"], written["class"], strict=True))
    assert [table[name] for name in expected.ids] == [run.space.class_names[code] for code in expected.codes_N]


def test_valid_files_make_the_ledger(run):
    """The ledger holds every fold's held-out predictions, and nothing else."""
    folds = pl.concat([pl.read_parquet(run.folder.fold_valid(fold)) for fold in range(run.num_folds)])
    ledger = pl.read_parquet(run.folder.ledger)
    assert ledger.drop("fold", "group", "label").sort("id").equals(folds.sort("id"))


def test_an_image_is_the_same_under_any_name(run, portraits, tmp_path):
    """Probabilities follow an image's content, not its name, its place or its neighbours."""
    source = sorted((portraits / "eval" / "images").iterdir())[:3]
    for number, path in enumerate(source):
        shutil.copy(path, tmp_path / f"{9 - number}{path.suffix}")
    renamed = run.predict(tmp_path).predictions.probs_NK
    plain = run.predict(portraits / "eval" / "images").predictions.rows_for([path.name for path in source]).probs_NK
    assert np.allclose(renamed[::-1], plain, atol=1e-12)
