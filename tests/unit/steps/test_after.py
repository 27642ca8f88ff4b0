"""steps.after and steps.shares: what is done to probabilities of new images."""

import json
from dataclasses import replace

import numpy as np
import pytest

from finefold.errors import DataError
from finefold.recipe.training import AfterRecipe
from finefold.runs.folder import read_json
from finefold.steps.after import correction_of, plan_correction
from finefold.steps.reading import read_data
from finefold.steps.run import open_run
from finefold.steps.shares import read_shares
from finefold.steps.train import train


@pytest.fixture(scope="module")
def run(runs):
    """A run of three attributes."""
    return open_run(runs / "joint")


def mostly_women(run):
    """The ledger's probabilities of all women, and of every sixth photo of a man: a shifted set."""
    ledger, (classes, codes_K) = run.ledger(), run.space.attribute_table()["gender"]
    is_woman_N = codes_K[ledger.labels_N] == classes.index("female")
    return ledger.predictions.probs_NK[is_woman_N | (np.arange(len(is_woman_N)) % 6 == 0)]


def test_nothing_asked_for_is_nothing_done(run):
    """Without [after], probabilities are the very same and there is nothing to tell."""
    probs_NK = run.ledger().predictions.probs_NK
    plan = plan_correction(run, lambda: probs_NK, AfterRecipe())
    assert plan.is_nothing
    assert np.array_equal(plan.apply(probs_NK), probs_NK)


def test_unreadable_images_keep_the_training_shares(run):
    """A row that is exactly the training class shares says nothing of an image, and is left as it is."""
    probs_NK = run.ledger().predictions.probs_NK[:3].copy()
    probs_NK[1] = run.train_shares_K
    changed_NK = plan_correction(run, lambda: probs_NK, AfterRecipe(adjust="logit", calibrate="temperature")).apply(
        probs_NK
    )
    assert np.array_equal(changed_NK[1], run.train_shares_K)
    assert not np.allclose(changed_NK[0], probs_NK[0])


@pytest.fixture
def surer(run, monkeypatch):
    """The run with a ledger that doubts gender alone, as much as it should, whatever features its processor gives."""
    ledger, rng = run.ledger(), np.random.default_rng(0)
    table = run.space.attribute_table()
    code_of = {
        codes: place
        for place, codes in enumerate(zip(*(codes_K.tolist() for _, codes_K in table.values()), strict=True))
    }
    gender = list(table).index("gender")
    twins_K = [code_of[(*codes[:gender], 1 - codes[gender], *codes[gender + 1 :])] for codes in code_of]
    num_rows, num_classes = ledger.predictions.probs_NK.shape
    rows, sure_N = np.arange(num_rows), rng.uniform(0.5, 1, num_rows)
    twins_N = np.array(twins_K)[ledger.labels_N]
    is_right_N = rng.random(num_rows) < sure_N
    probs_NK = np.full((num_rows, num_classes), 1e-6)
    probs_NK[rows, ledger.labels_N] = np.where(is_right_N, sure_N, 1 - sure_N)
    probs_NK[rows, twins_N] = np.where(is_right_N, 1 - sure_N, sure_N)
    probs_NK /= probs_NK.sum(axis=1, keepdims=True)
    told = replace(ledger, predictions=replace(ledger.predictions, probs_NK=probs_NK))
    monkeypatch.setattr(type(run), "ledger", lambda _: told)
    return run


def test_a_shifted_set_is_seen_and_corrected(surer):
    """Women six times as often: the shares of gender are found and adapted to, and all of it is told."""
    run = surer
    probs_NK = mostly_women(run)
    plan = plan_correction(run, lambda: probs_NK, AfterRecipe(), "auto")
    assert plan.adaptation is not None
    assert plan.adaptation.is_applied
    assert "mask" not in plan.adaptation.wanted
    classes, codes_K = run.space.attribute_table()["gender"]
    female = classes.index("female")
    assert plan.adaptation.wanted["gender"][female] > 0.75
    before, after = probs_NK[:, codes_K == female].sum(axis=1), plan.apply(probs_NK)[:, codes_K == female].sum(axis=1)
    assert after.mean() > before.mean()
    told = json.loads(json.dumps(plan.about(), allow_nan=False))
    assert "gender differ by more than chance" in told["adaptation"]["reason"].replace(" and age", "")
    assert any("only class shares differ" in line for line in told["adaptation"]["assumed"])
    assert set(told["adaptation"]["estimates"]) == {"mask", "gender", "age", "joint"}
    assert set(told["expected"]) == {"macro_f1", "accuracy", "balanced_accuracy", "log_loss"}


def test_a_class_that_seems_gone_can_still_be_answered(surer):
    """Women alone: men count as half an image, and no interval is a single point."""
    run = surer
    classes, codes_K = run.space.attribute_table()["gender"]
    ledger = run.ledger()
    is_woman_N = codes_K[ledger.labels_N] == classes.index("female")
    probs_NK = ledger.predictions.probs_NK[is_woman_N].copy()
    probs_NK[:, codes_K == classes.index("male")] *= 1e-9
    probs_NK /= probs_NK.sum(axis=1, keepdims=True)
    found = plan_correction(run, lambda: probs_NK, AfterRecipe(), "auto").adaptation
    assert found is not None
    men = classes.index("male")
    assert 0 < found.wanted["gender"][men] == pytest.approx(0.5 / len(probs_NK), rel=0.02)
    (gender,) = [one for one in found.estimates if one.name == "gender"]
    assert gender.em[men].value < 1e-3 and gender.em[men].high > 3 / len(probs_NK)


def test_an_unchanged_set_is_left_alone(run):
    """The ledger's own images: no share differs by more than chance, and probabilities stay as they are."""
    probs_NK = run.ledger().predictions.probs_NK
    plan = plan_correction(run, lambda: probs_NK, AfterRecipe(), "auto")
    assert plan.adaptation is not None
    assert not plan.adaptation.is_applied
    assert plan.adaptation.reason == "no share differs by more than chance"
    assert np.array_equal(plan.apply(probs_NK), probs_NK)


def test_known_shares_are_taken_at_their_word(run, tmp_path):
    """Shares from a file are used whatever the images say; the training's own shares change hardly anything."""
    classes, codes_K = run.space.attribute_table()["gender"]
    shares = dict(zip(classes, np.bincount(codes_K[run.ledger().labels_N]) / 126, strict=True))
    file = tmp_path / "shares.toml"
    file.write_text("[gender]\n" + "\n".join(f"{name} = {share:.12f}" for name, share in shares.items()))
    probs_NK = run.ledger().predictions.probs_NK
    plan = plan_correction(run, lambda: probs_NK, AfterRecipe(calibrate="temperature"), file)
    assert plan.adaptation is not None
    assert plan.adaptation.is_applied
    plain = plan_correction(run, lambda: probs_NK, AfterRecipe(calibrate="temperature"))
    assert np.allclose(plan.apply(probs_NK), plain.apply(probs_NK), atol=1e-6)
    file.write_text("[gender]\nmale = 1.0\nfemale = 0.0\n")
    answers_N = plan_correction(run, lambda: probs_NK, AfterRecipe(), file).apply(probs_NK).argmax(axis=1)
    assert (codes_K[answers_N] == classes.index("male")).all()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[gendre]\nmale = 1.0\n", "`[gendre]` is no attribute (did you mean `gender`?): known are mask, gender, age"),
        ("[gender]\nmale = 0.5\nfemal = 0.5\n", "`gender.femal` is no class (did you mean `female`?)"),
        ("[gender]\nmale = 0.5\n", "`gender.female` is missing"),
        ("[gender]\nmale = 0.5\nfemale = 0.4\n", "`[gender]`: shares sum to 0.9, not 1"),
        ("[gender]\nmale = -0.5\nfemale = 1.5\n", "`[gender]`: shares are numbers, 0 or more"),
        ('[gender]\nmale = "half"\nfemale = 0.5\n', "`[gender]`: shares are numbers, 0 or more"),
        ("", "it holds no table"),
        ("gender = 0.5", "`[gender]` is no attribute"),
    ],
)
def test_a_file_that_is_none_is_told_what_is_wrong(run, tmp_path, text, told):
    """Every mistake of a file of shares is named, with what was meant and how it is written."""
    file = tmp_path / "shares.toml"
    file.write_text(text)
    with pytest.raises(DataError) as caught:
        read_shares(file, run.space)
    assert told in caught.value.message
    assert caught.value.hint is not None
    assert "[mask] " in caught.value.hint


def test_a_run_keeps_what_its_recipe_came_to(runs, tmp_path):
    """[after] of the recipe is fitted when the run is trained, stored, and what predicting uses."""
    data = read_data(runs / "data.toml")
    made = train(
        data, overrides=["split.folds=3", "after.adjust=logit", "after.calibrate=vector"], out=tmp_path / "run"
    )
    stored = read_json(made.folder.after)
    assert stored["adjust"] == "logit"
    assert correction_of(made, made.recipe.after).to_dict() == stored
    made.folder.after.unlink()
    again = correction_of(made, made.recipe.after).to_dict()
    assert again["strength"] == stored["strength"]
    assert again["calibration"]["scale"] == pytest.approx(stored["calibration"]["scale"])
    assert not (runs / "joint" / "after.json").exists()
