"""finefold soup."""

import json
import shutil

import numpy as np
import pytest
import torch

import finefold as ff
from finefold.cli.main import main
from finefold.nn.weights import read_header, read_state, write_weights


def change(run, how):
    """Rewrites every fold's weights of a run."""
    for file in sorted(run.glob("fold-*/weights.safetensors")):
        write_weights(file, {name: how(name, value) for name, value in read_state(file).items()}, read_header(file))


def test_a_soup_of_runs_is_a_run_like_any_other(tuned_runs, tmp_path, capsys):
    """Fold k's weights are the mean of the members' fold k, its ledger is what they say, and it predicts."""
    out = tmp_path / "soup"
    assert main(["soup", str(tuned_runs / "first"), str(tuned_runs / "second"), "--out", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["folds"] == [["first", "second"], ["first", "second"]]
    for fold in (0, 1):
        parts = [
            read_state(place / f"fold-{fold}" / "weights.safetensors")
            for place in (out, tuned_runs / "first", tuned_runs / "second")
        ]
        name = "head.heads.joint.weight"
        assert torch.allclose(parts[0][name], (parts[1][name] + parts[2][name]) / 2)
    run = ff.open_run(out)
    assert told["scores"]["macro_f1"] == run.scores()["macro_f1"]
    asked = ff.evaluate(run, views="recipe")["views"]["lines"][-1]
    assert asked["log_loss"]["value"] == pytest.approx(told["scores"]["log_loss"]["value"], abs=1e-6)
    assert len(run.ledger().predictions) == 48
    assert main(["compare", str(out), str(tuned_runs / "first")]) == 0
    assert main(["predict", str(out), str(tuned_runs.parent), "--out", str(tmp_path / "a.csv")]) in (0, 1)
    capsys.readouterr()


def test_greedy_leaves_out_what_harms(tuned_runs, tmp_path, capsys):
    """A member whose head was spoilt is in no fold's model, and the soup is then the other run itself."""
    shutil.copytree(tuned_runs / "second", tmp_path / "spoilt")
    change(tmp_path / "spoilt", lambda name, value: -5 * value if name.startswith("head.heads") else value)
    first, spoilt, out = str(tuned_runs / "first"), str(tmp_path / "spoilt"), str(tmp_path / "soup")
    assert main(["soup", spoilt, first, "--greedy", "--goal", "log_loss", "--out", out]) == 0
    said = capsys.readouterr().out
    assert "members, weights averaged fold by fold" in said
    assert "better than first by" in said
    run = ff.open_run(out)
    assert run.manifest["soup"]["folds"] == [["first"], ["first"]]
    before = ff.open_run(first).ledger().predictions
    after = run.ledger().predictions.rows_for(before.ids)
    np.testing.assert_allclose(after.probs_NK, before.probs_NK, atol=1e-5)


def test_over_folds_there_is_no_score(tuned_runs, shapes, tmp_path, capsys):
    """One model of all folds answers, and whatever would score it says why it cannot."""
    out = tmp_path / "one"
    assert main(["soup", str(tuned_runs / "first"), "--folds", "--out", str(out)]) == 0
    assert "no score: every sample was trained on by most of what is in it" in capsys.readouterr().out
    assert main(["predict", str(out), str(shapes), "--out", str(tmp_path / "a.csv")]) == 0
    capsys.readouterr()
    about = json.loads((tmp_path / "a.json").read_text())
    assert (about["folds"], about["images"]) == (1, 48)
    assert set(about["expected"]) == {"basis"}
    for command in (["evaluate", str(out)], ["correct", str(out)], ["compare", str(out), str(tuned_runs / "first")]):
        assert main(command) == 1
        assert "is one model averaged over folds" in capsys.readouterr().err
    assert main(["runs", str(tmp_path)]) == 0
    assert "one" in capsys.readouterr().out


def test_norms_that_trained_are_refused_until_recomputed(tuned_runs, tmp_path, capsys):
    """Other statistics of batch norms stop the soup; asked for anew, they are those of the training images."""
    shutil.copytree(tuned_runs / "second", tmp_path / "moved")
    change(tmp_path / "moved", lambda name, value: value + 3 if name.endswith("running_mean") else value)
    recipe = tmp_path / "moved" / "recipe.toml"
    recipe.write_text(recipe.read_text().replace('keep = "last"', 'keep = "best"'))
    command = ["soup", str(tuned_runs / "first"), str(tmp_path / "moved"), "--out", str(tmp_path / "soup")]
    assert main(command) == 1
    said = capsys.readouterr().err
    assert "the mean of their statistics is that of no model's inputs" in said
    assert "hint: add --recompute-norms" in said
    assert not (tmp_path / "soup").exists()
    assert main([*command, "--recompute-norms"]) == 0
    capsys.readouterr()
    state = read_state(tmp_path / "soup" / "fold-0" / "weights.safetensors")
    plain = read_state(tuned_runs / "first" / "fold-0" / "weights.safetensors")
    name = next(name for name in state if name.endswith("running_mean"))
    between = plain[name] + 1.5
    assert not torch.allclose(state[name], between, atol=0.1)
    run = ff.open_run(tmp_path / "soup")
    assert name.removesuffix(".running_mean") in run.manifest["soup"]["norms"]
    told = ["each fold keeps the epoch that is best on the samples it holds out (train.keep)"]
    assert run.scores()["selection"] == told  # what a member's score flatters itself by, the soup's does too


def test_probes_make_soups(runs, tmp_path):
    """Heads of probes are averaged too."""
    made = ff.make_soup([runs / "joint", runs / "weak"], out=tmp_path / "soup")
    assert made.run.scores()["n"] == 126
    assert set(made.scores) == {"joint", "weak"}


def test_what_is_no_soup_is_told(runs, tuned_runs, tmp_path, capsys):
    """Too few runs, a run twice, greedy over folds, an ensemble, other heads or parts: each refused in words."""
    joint, out = str(runs / "joint"), str(tmp_path / "out")
    ff.make_ensemble([joint, runs / "apart"], out=tmp_path / "both", by="mean")
    ff.train(ff.read_data(runs / "data.toml"), overrides=["split.folds=3", "probe.power=0.4"], out=tmp_path / "root")
    for arguments, code, words in [
        ([joint], 2, "one run is no soup"),
        ([joint, joint], 2, "a run is given twice"),
        ([joint, str(runs / "weak"), "--greedy", "--folds"], 2, "greedy selection looks at the ledger"),
        ([joint, str(tmp_path / "both")], 2, "`both` is an ensemble, which has no weights of its own"),
        ([joint, str(runs / "apart")], 1, "the weights of `joint` and `apart` cannot be averaged: their heads differ"),
        (
            [joint, str(tmp_path / "root")],
            1,
            "their heads raise features to other powers\n\nhint: train both by the same [probe]",
        ),
        ([joint, str(tuned_runs / "first")], 1, "`joint` and `first` cannot be averaged: their classes differ"),
    ]:
        assert main(["soup", *arguments, "--out", out]) == code
        assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
