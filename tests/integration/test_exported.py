"""Tuned folds on an engine's runner: the same probabilities as on torch, for every kind of network, head and cut.

Shapes: N rows, D features.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from numpy.typing import NDArray
from torch import nn

from finefold.data.labels import Attribute, LabelSpace
from finefold.data.preprocessing import Preprocessing
from finefold.errors import EngineError
from finefold.nn import infer
from finefold.nn.backbones import IMAGES, Backbone
from finefold.nn.classifier import Classifier, JointLogits, Tail
from finefold.nn.engines import Choice
from finefold.nn.heads import JOINT, FoldHeads, LinearHead
from finefold.nn.infer import ExportedFold, FoldEnsemble, SeparateFold, TunedFold
from finefold.steps.predict import predict
from finefold.steps.run import open_run

SIZE_PX, NUM_ROWS = 32, 19  # no whole number of batches
SHAPE, SIZE = Attribute("shape", ("disc", "square"), "shape"), Attribute("size", ("small", "middle", "large"), "size")
SPACE = LabelSpace((SHAPE, SIZE))
MANY = infer.ROWS_WORTH_IT
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "efficientnet": partial(timm.create_model, "test_efficientnet", num_classes=0),
    "vit": partial(timm.create_model, "test_vit", img_size=SIZE_PX, num_classes=0),
    "torchvision": partial(torchvision.models.squeezenet1_1, num_classes=40),
}
KINDS = {"joint": (JOINT,), "per_attribute": SPACE.names, "ordinal": SPACE.names}


@pytest.fixture(params=["openvino", "onnxruntime"])
def engine(request: pytest.FixtureRequest) -> Choice:
    """Every engine that folds may run on."""
    pytest.importorskip(request.param)
    return Choice(request.param, "fp32", "test")


@pytest.fixture
def images() -> NDArray[np.uint8]:
    """Rows at the cut before which nothing is frozen."""
    return np.random.default_rng(0).integers(0, 256, (NUM_ROWS, SIZE_PX, SIZE_PX, 3), dtype=np.uint8)


def fold_of(network: str = "efficientnet", heads: str = "joint", space: LabelSpace = SPACE) -> TunedFold:
    """A fold that trained everything, with random weights."""
    torch.manual_seed(0)
    body = NETWORKS[network]().eval()
    with torch.inference_mode():
        features_ND = body(torch.randn(16, 3, SIZE_PX, SIZE_PX)).flatten(1)
    num_features, scale = features_ND.shape[1], 1 / float(features_ND.std(dim=0).norm())  # logits differ by about 1
    rng = np.random.default_rng(1)
    sizes = {JOINT: space.num_classes, **dict(zip(space.names, space.sizes, strict=True))}
    linear = {
        name: LinearHead(
            rng.normal(0, scale, (num_features, sizes[name])).astype(np.float32), np.zeros(sizes[name], np.float32)
        )
        for name in KINDS[heads]
    }
    ordinal = {"size": (0.2, 0.3, 0.5)} if heads == "ordinal" else None
    classifier = Classifier(body, JointLogits(FoldHeads(linear), space, ordinal))
    return TunedFold(Tail(classifier, backbone()), torch.device("cpu"))


def backbone() -> Backbone:
    """Of which nothing is frozen."""
    seen = Preprocessing(SIZE_PX, SIZE_PX)
    return Backbone(Path("none"), "none", seen, "none", 0, cut=IMAGES, shape=(SIZE_PX, SIZE_PX, 3))


def ensemble_of(*folds: infer.Fold) -> FoldEnsemble:
    return FoldEnsemble(backbone(), folds, SPACE)


@pytest.mark.parametrize("network", NETWORKS)
def test_networks_answer_as_on_torch(network, engine, images):
    """CNNs and transformers, of timm and torchvision, answer the same on an engine, whatever the number of rows."""
    plain = ensemble_of(fold_of(network))
    told: list[str] = []
    quick = plain.exported(engine, MANY, told.append)
    assert plain.head_probs(images).std(axis=0).max() > 1e-3  # else any answer would do
    for rows in (images, images[:1]):
        np.testing.assert_allclose(quick.folds[0].probs(rows, SPACE), plain.folds[0].probs(rows, SPACE), atol=1e-5)
    assert told == []
    assert isinstance(quick.folds[0], ExportedFold)


@pytest.mark.parametrize("heads", KINDS)
def test_heads_answer_as_on_torch(heads, engine, images):
    """One head, a head per attribute and an ordinal one give the same joint probabilities."""
    plain = ensemble_of(fold_of(heads=heads), fold_of("vit", heads))
    told: list[str] = []
    np.testing.assert_allclose(
        plain.exported(engine, MANY, told.append).head_probs(images), plain.head_probs(images), atol=1e-5
    )
    assert told == []


def test_a_model_per_attribute_answers_as_on_torch(engine, images):
    """Of separate models each is exported."""
    spaces = {one.name: LabelSpace((one,)) for one in SPACE.attributes}
    plain = ensemble_of(SeparateFold({name: (fold_of(space=of), of) for name, of in spaces.items()}))
    quick = plain.exported(engine, MANY)
    assert isinstance(quick.folds[0], SeparateFold)
    assert all(isinstance(fold, ExportedFold) for fold, _ in quick.folds[0].models.values())
    np.testing.assert_allclose(quick.head_probs(images), plain.head_probs(images), atol=1e-5)


def test_only_what_pays_is_exported():
    """A few rows stay on torch, and so does a run that was trained with it, or with a network of one's own."""
    plain = ensemble_of(fold_of())
    choice = Choice("openvino", "bf16", "test")
    assert plain.exported(choice, MANY - 1) is plain
    assert plain.exported(Choice("torch", "fp32", "asked for"), MANY) is plain
    own = FoldEnsemble(Backbone(**{**vars(backbone()), "own": nn.Identity()}), plain.folds, SPACE)
    assert own.exported(choice, MANY) is own


def test_what_cannot_be_exported_stays_on_torch_and_says_so_once(images, monkeypatch):
    """Folds that cannot be exported answer on torch, and one line says so for all of them."""
    pytest.importorskip("openvino")

    def fail(*_args: object, **_more: object) -> None:
        raise EngineError("a fold's own part cannot be exported to ONNX: no such operator", "")

    monkeypatch.setattr(infer, "export_onnx", fail)
    plain = ensemble_of(fold_of(), fold_of())
    told: list[str] = []
    quick = plain.exported(Choice("openvino", "fp32", "test"), MANY, told.append)
    for _ in range(2):
        np.testing.assert_array_equal(quick.head_probs(images), plain.head_probs(images))
    assert told == [
        "the folds' own parts run on torch, which is slower: "
        "a fold's own part cannot be exported to ONNX: no such operator"
    ]


def test_a_runner_that_answers_otherwise_is_not_used(images, monkeypatch):
    """An export is compared with torch on the first rows; one that answers otherwise is left out, with its distance."""

    class Wrong:
        streams = 1

        def __init__(self, *_facts: object) -> None: ...

        def __call__(self, rows: NDArray[np.uint8]) -> NDArray[np.float32]:
            return np.log(np.tile(np.float32([0.9, 0.02, 0.02, 0.02, 0.02, 0.02]), (len(rows), 1)))

    monkeypatch.setitem(infer.RUNNERS, "openvino", Wrong)
    plain = ensemble_of(fold_of())
    told: list[str] = []
    quick = plain.exported(Choice("openvino", "fp32", "test"), MANY, told.append)
    np.testing.assert_array_equal(quick.head_probs(images), plain.head_probs(images))
    assert len(told) == 1
    assert "openvino answers otherwise than torch, by 0." in told[0]


def test_a_run_predicts_alike_on_either(tuned_runs, shapes, monkeypatch):
    """`predict` of a tuned run gives the same answers, from cached maps too, where its folds are exported."""
    pytest.importorskip("openvino")
    run = open_run(tuned_runs / "first")
    run.manifest["engine"].update(name="openvino", precision="fp32")
    plain = predict(run, shapes).predictions
    monkeypatch.setattr(infer, "ROWS_WORTH_IT", 1)
    asked: list[int] = []
    before = infer._run
    monkeypatch.setattr(infer, "_run", lambda runner, rows: (asked.append(len(rows)), before(runner, rows))[1])
    quick = predict(run, shapes).predictions
    assert sum(asked) >= 2 * 2 * 48  # folds, views, images
    assert quick.ids == plain.ids
    np.testing.assert_allclose(quick.probs_NK, plain.probs_NK, atol=1e-5)
