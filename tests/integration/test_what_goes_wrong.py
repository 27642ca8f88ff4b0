"""What goes wrong again and again while training, planted one by one; the doctor and the watcher name each.

A small network on drawn people: a rate far too high, images that are not scaled, prepared twice, read in another
order of channels, or otherwise than in training.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import finefold as ff
from finefold.data.synthetic import draw_portraits

MEAN, STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
ASKED = ["inputs", "learning", "collapse"]

Prepare = Callable[[np.ndarray], np.ndarray]


def normalised(image: np.ndarray) -> np.ndarray:
    return (image.astype(np.float32) / 255 - MEAN) / STD


def unscaled(image: np.ndarray) -> np.ndarray:
    return image.astype(np.float32)


class Photos(Dataset):
    """Photos and whether a mask is worn on them."""

    def __init__(self, paths: Sequence[str], labels: Sequence[int], prepare: Prepare = normalised) -> None:
        self.paths, self.labels, self.prepare = list(paths), list(labels), prepare

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image = cv2.resize(cv2.imread(self.paths[index]), (48, 64), interpolation=cv2.INTER_AREA)[:, :, ::-1]
        return torch.from_numpy(np.ascontiguousarray(self.prepare(image).transpose(2, 0, 1))), self.labels[index]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], list[int]]:
    """140 photos of 20 drawn people, and whether a mask is worn (0), worn wrongly (1) or not (2)."""
    folder = tmp_path_factory.mktemp("wrong")
    draw_portraits(folder, num_people=20, num_test=7, size_px=(96, 128), seed=5)
    paths = sorted(map(str, (folder / "train" / "images").rglob("*.*")))
    kinds = {"incorrect_mask": 1, "normal": 2}
    return paths, [kinds.get(Path(path).stem, 0) for path in paths]


def network(*, norm: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 12, 5, stride=3),
        nn.BatchNorm2d(12) if norm else nn.Identity(),
        *(nn.ReLU(), nn.Conv2d(12, 24, 3, stride=2), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(24 * 16, 3)),
    )


def train(model: nn.Module, dataset: Dataset, *, lr: float, epochs: int = 14) -> ff.Watcher:
    """A plain loop with the watcher in it: three lines."""
    watcher = ff.Watcher(num_classes=3)
    optimiser = torch.optim.SGD(model.parameters(), lr, momentum=0.9)
    loader = DataLoader(dataset, batch_size=8, shuffle=True, generator=torch.Generator().manual_seed(0))
    for _ in range(epochs):
        for images, labels in loader:
            logits = model(images)
            loss = nn.functional.cross_entropy(logits, labels)
            optimiser.zero_grad()
            loss.backward()
            watcher.step(loss, logits, labels, model)
            optimiser.step()
    model.eval()
    return watcher


def kinds(findings: Sequence[ff.Finding], severity: str = "") -> set[str]:
    return {finding.kind for finding in findings if severity in ("", finding.severity)}


def test_a_pipeline_without_a_fault_has_no_finding(photos):
    """Normalised photos, a fitting rate: neither the watcher nor the doctor says a word."""
    dataset, model = Photos(*photos), network(norm=True)
    watcher = train(model, dataset, lr=0.02)
    said = ff.diagnose(dataset, model, valid=Photos(*photos), only=ASKED)
    assert not watcher.findings and not said.findings
    assert all(check.is_done for check in said.checks)


def test_a_rate_far_too_high(photos):
    """The loss shoots up and every photo gets one class: the watcher names the rate, the doctor the collapse."""
    dataset, model = Photos(*photos), network()
    watcher = train(model, dataset, lr=3.0)
    assert kinds(watcher.findings) & {"rate-too-high", "not-finite"}
    rate = next(one for one in watcher.findings if one.kind in ("rate-too-high", "not-finite"))
    assert "rate" in rate.remedy
    said = ff.diagnose(dataset, model, only=ASKED)
    assert "one-class-collapse" in kinds(said.findings, "error")
    assert "input-statistics" not in kinds(said.findings)


def test_images_that_are_not_scaled(photos):
    """0..255 in a network without norms: one class for every photo, explained by how the photos are scaled."""
    dataset, model = Photos(*photos, unscaled), network()
    before = ff.diagnose(dataset, network(), only=["inputs", "learning"])
    assert "input-statistics" in kinds(before.findings)
    watcher = train(model, dataset, lr=0.02)
    assert watcher.findings
    said = ff.diagnose(dataset, model, only=ASKED)
    (scale,) = [one for one in said.findings if one.kind == "input-statistics"]
    assert scale.severity == "error" and "not divided by 255" in scale.cause
    (collapse,) = [one for one in said.findings if one.kind == "one-class-collapse"]
    assert "images are not scaled as the model expects" in collapse.cause


def test_test_images_prepared_otherwise_than_training(photos):
    """A model trained on normalised photos is shown unscaled ones: its batch norm remembers better."""
    paths, labels = photos
    model = network(norm=True)
    train(model, Photos(paths, labels), lr=0.02, epochs=8)
    said = ff.diagnose(Photos(paths, labels, unscaled), model, only=["inputs"])
    (found,) = said.findings
    assert found.severity == "error" and "ImageNet" in found.evidence["expected"]


@pytest.mark.parametrize(
    ("prepare", "severity", "told"),
    [
        (lambda image: (normalised(image) - MEAN) / STD, "error", "normalised twice"),
        (lambda image: normalised(image[:, :, ::-1]), "warning", "BGR"),
        (lambda image: normalised(image.swapaxes(0, 1)), "error", "transposed (height and width swapped)"),
        (lambda image: normalised(cv2.resize(np.ascontiguousarray(image), (64, 48))), "warning", "squashed"),
    ],
)
def test_other_ways_to_prepare_wrongly(prepare, severity, told, photos):
    """Normalised twice, BGR, height and width exchanged: each read off the files, from the data set alone."""
    (found,) = ff.diagnose(Photos(*photos, prepare), only=["inputs"]).findings
    assert (found.kind, found.severity) == ("input-statistics", severity) and told in found.cause


def test_a_backbone_behind_no_grad(photos):
    """Parameters that are meant to train and are never reached are named."""

    class Still(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = network()[:-1], nn.Linear(24 * 16, 3)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                features = self.body(images)
            return self.head(features)

    model = Still()
    watcher = train(model, Photos(*photos), lr=0.02, epochs=4)
    assert "no-gradient" in kinds(watcher.findings)
    said = ff.diagnose(Photos(*photos), model, only=["learning"])
    (found,) = [one for one in said.findings if one.kind == "no-gradient"]
    assert found.severity == "error" and "body.0.weight" in found.evidence["parameters"]
