"""A model learns nothing and gives every image one class, because of how its data set was made; the doctor says so."""

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import finefold as ff
from finefold.data.images import natural_key
from finefold.data.synthetic import draw_portraits

SIZE_PX = (64, 48)  # height, width of what the small network sees


class Photos(Dataset):
    """What people write: a list of paths, a list of labels, and dataset[i] pairs the i-th of both."""

    def __init__(self, paths: Sequence[str], labels: Sequence[int]) -> None:
        self.paths = list(paths)
        self.labels = list(labels)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image = cv2.imread(self.paths[index])[:, :, ::-1].copy()
        return torch.from_numpy(image).permute(2, 0, 1).float() / 255, self.labels[index]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], list[int]]:
    """210 photos of 30 drawn people in natural order, and whether a mask is worn (0), worn wrongly (1) or not (2)."""
    folder = tmp_path_factory.mktemp("story")
    draw_portraits(folder, num_people=30, num_test=7, size_px=(96, 128), seed=3)
    paths = sorted(map(str, (folder / "train" / "images").rglob("*.*")), key=natural_key)
    kinds = {"incorrect_mask": 1, "normal": 2}
    return paths, [kinds.get(Path(path).stem, 0) for path in paths]


def train(dataset: Dataset) -> nn.Module:
    """A small network, ten epochs."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.AdaptiveAvgPool2d(SIZE_PX),
        *(nn.Conv2d(3, 12, 5, stride=3), nn.ReLU(), nn.Conv2d(12, 24, 3, stride=2), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(24 * 16, 3)),
    )
    optimiser = torch.optim.Adam(model.parameters(), 2e-3)
    loader = DataLoader(dataset, batch_size=16, shuffle=True, generator=torch.Generator().manual_seed(0))
    for _ in range(10):
        for images, labels in loader:
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimiser.step()
    return model.eval()


def error(diagnosis: ff.Diagnosis, kind: str) -> ff.Finding:
    """The one finding of a kind, which must be an error."""
    (found,) = [finding for finding in diagnosis.findings if finding.kind == kind]
    assert found.severity == "error"
    return found


def test_the_story(photos):
    """paths[train_idx] with the labels of the whole list: one class for every image, and the cause is named."""
    paths, labels = photos
    train_idx = np.random.default_rng(0).permutation(len(paths))[:168]
    dataset = Photos([paths[place] for place in train_idx], labels)
    model = train(dataset)
    said = ff.diagnose(dataset, model, only=["alignment", "collapse"])
    assert not said.is_sound
    collapse = error(said, "one-class-collapse")
    assert collapse.evidence["class"] == "0" and collapse.evidence["share"] > 0.98
    assert "paired with the wrong images" in collapse.cause
    found = error(said, "misaligned-labels")
    assert found.evidence["pairing"] == "natural order of all 210 files in images/"
    assert found.evidence["best"] > 0.85 > found.evidence["current"] + 0.1
    assert "one of the two lists is a part, the other the whole" in found.cause
    wrong = {paths[place] for row, place in enumerate(train_idx) if labels[row] != labels[place]}
    assert set(found.ids) == wrong


def test_the_same_data_set_made_rightly_is_sound(photos):
    """With labels[train_idx] beside paths[train_idx] nothing is found, and the check says what it could have seen."""
    paths, labels = photos
    train_idx = np.random.default_rng(0).permutation(len(paths))[:168]
    dataset = Photos([paths[place] for place in train_idx], [labels[place] for place in train_idx])
    said = ff.diagnose(dataset, only=["alignment"])
    assert said.is_sound and not said.findings
    assert "would be seen" in said.checks[0].says


def in_text_order(paths: Sequence[str], labels: Sequence[int]) -> Photos:
    return Photos(sorted(paths), labels)


def backwards(paths: Sequence[str], labels: Sequence[int]) -> Photos:
    return Photos(paths, labels[::-1])


def one_too_many(paths: Sequence[str], labels: Sequence[int]) -> Photos:
    return Photos(paths[1:], labels[:-1])


def shard_moved(paths: Sequence[str], labels: Sequence[int]) -> Photos:
    return Photos(paths, [*labels[:105], *labels[107:], *labels[105:107]])


@pytest.mark.parametrize(
    ("make", "pairing"),
    [
        (in_text_order, "natural order"),
        (backwards, "reversing the labels"),
        (one_too_many, "shift of the labels by -1 rows"),
        (shard_moved, "shift of the labels by +2 rows in rows 10"),
    ],
)
def test_other_wrong_pairings_are_named(photos, make: Callable[..., Photos], pairing: str):
    """Sorted against listed, reversed, off by one, and a part that moved: each is an error with the right pairing."""
    paths, masks = photos
    labels = [
        mask + 3 * ("_female_" in path) for path, mask in zip(paths, masks, strict=True)
    ]  # else all people are alike
    if make is in_text_order:  # names whose text order is another
        paths = numbered(paths)
    found = error(ff.diagnose(make(paths, labels), only=["alignment"]), "misaligned-labels")
    assert pairing in found.evidence["pairing"]
    assert found.evidence["best"] > found.evidence["current"]


def numbered(paths: Sequence[str]) -> list[str]:
    """The same photos under names like 7.jpg and 10.jpg, in the same order."""
    folder = Path(paths[0]).parents[2] / "numbered"
    folder.mkdir(exist_ok=True)
    named = [folder / f"{number}{Path(path).suffix}" for number, path in enumerate(paths)]
    for link, path in zip(named, paths, strict=True):
        if not link.exists():
            link.symlink_to(path)
    return list(map(str, named))
