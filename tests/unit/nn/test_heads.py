"""Heads: probabilities of linear models, per attribute or joint, and their files."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from finefold.data.labels import Attribute, LabelSpace
from finefold.errors import WeightsError
from finefold.nn.heads import FoldHeads, LinearHead, raise_features, softmax
from finefold.nn.weights import read_header, write_weights

SPACE = LabelSpace(
    (
        Attribute("mask", ("wear", "incorrect", "normal"), "mask", (("wear",), ("incorrect",), ("normal",))),
        Attribute("gender", ("male", "female"), "gender", (("male",), ("female",))),
    )
)


def random_head(num_classes: int, seed: int, power: float = 1.0) -> LinearHead:
    rng = np.random.default_rng(seed)
    weight_DC = rng.normal(size=(16, num_classes)).astype(np.float32)
    return LinearHead(weight_DC, rng.normal(size=num_classes).astype(np.float32), power)


@pytest.fixture
def features_ND():
    return np.random.default_rng(1).normal(size=(20, 16)).astype(np.float16)


def test_probs_are_the_softmax_of_the_logits(features_ND):
    """A head's probabilities are scipy's softmax of x W + b, and rows sum to 1."""
    head = random_head(3, 0)
    logits_NC = features_ND.astype(np.float64) @ head.weight_DC + head.bias_C
    assert np.allclose(head.probs(features_ND), np.exp(log_softmax(logits_NC, axis=1)), atol=1e-6)
    assert np.allclose(head.probs(features_ND).sum(axis=1), 1, atol=1e-12)


def test_softmax_takes_any_logits():
    """Logits of any size give finite probabilities that sum to 1."""
    probs_NC = softmax(np.array([[3e38, -3e38, 0], [-1e9, -1e9, -1e9], [0, 0, 0]], np.float32))
    assert np.isfinite(probs_NC).all()
    assert np.allclose(probs_NC.sum(axis=1), 1)
    assert probs_NC[0].tolist() == [1, 0, 0]


def test_powers_keep_the_sign(features_ND):
    """sign(x) |x|^power, in float32; power 1 changes nothing."""
    assert np.array_equal(raise_features(features_ND, 1.0), features_ND.astype(np.float32))
    rooted_ND = raise_features(features_ND, 0.5)
    assert rooted_ND.dtype == np.float32
    assert np.array_equal(np.sign(rooted_ND), np.sign(features_ND))
    assert np.allclose(rooted_ND**2, np.abs(features_ND.astype(np.float32)), atol=1e-6)


def test_per_attribute_heads_imply_the_joint(features_ND):
    """With a head per attribute, a joint class has the product of its attributes' probabilities."""
    heads = FoldHeads({"gender": random_head(2, 1), "mask": random_head(3, 2)})  # the space's order counts, not this
    joint_NK = heads.joint_probs(features_ND, SPACE)
    mask_NC, gender_NC = heads.heads["mask"].probs(features_ND), heads.heads["gender"].probs(features_ND)
    for code, name in enumerate(SPACE.class_names):
        mask, gender = (SPACE.attributes[0].classes.index(name.split("/")[0]), code % 2)
        assert np.allclose(joint_NK[:, code], mask_NC[:, mask] * gender_NC[:, gender], atol=1e-12)
    assert np.allclose(joint_NK.sum(axis=1), 1)


@pytest.mark.parametrize("names", [["joint"], ["mask", "gender"]])
def test_heads_come_back_from_their_file(names, features_ND, tmp_path):
    """Heads that were written and read say bitwise the same; header and powers travel along."""
    sizes = {"joint": 6, "mask": 3, "gender": 2}
    heads = FoldHeads({name: random_head(sizes[name], seed, 0.5) for seed, name in enumerate(names)})
    heads.write(tmp_path / "w.safetensors", {"kind": "heads", "fold": 3})
    again = FoldHeads.read(tmp_path / "w.safetensors")
    assert np.array_equal(heads.joint_probs(features_ND, SPACE), again.joint_probs(features_ND, SPACE))
    assert read_header(tmp_path / "w.safetensors") == {
        "kind": "heads",
        "fold": 3,
        "heads": dict.fromkeys(names, 0.5),
    }


def test_a_file_that_lacks_a_head_is_told(tmp_path):
    """A weights file whose header names a head that is not in it is a broken run, in words."""
    write_weights(tmp_path / "w.safetensors", {"other.weight": torch.zeros(2)}, {"heads": {"joint": 1.0}})
    with pytest.raises(WeightsError, match=r"w.safetensors lacks 'joint.weight'"):
        FoldHeads.read(tmp_path / "w.safetensors")
