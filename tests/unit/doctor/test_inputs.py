"""Images in every wrong form are named; right ones, in every right form, are left in peace."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from finefold.doctor.forms import FORMS, form_by_files, form_by_range
from finefold.doctor.inputs import check_inputs
from finefold.doctor.lists import Lists
from finefold.doctor.posture import compare_with_files, is_turned
from finefold.doctor.subject import Subject
from unit.doctor.planted import planted, subject_of

MEAN, STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
COUNT = 40
Prepare = Callable[[NDArray[np.uint8]], NDArray[np.floating]]


def unit(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    return image.astype(np.float32) / 255


def normalised(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    return (unit(image) - MEAN) / STD


def twice(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    return (normalised(image) - MEAN) / STD


def unscaled(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    return image.astype(np.float32)


def divided_twice(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    return unit(image) / 255


def bytes_normalised(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    return (unscaled(image) - MEAN) / STD


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Pictures with a bright sky, a dark ground and something coloured on it, 60 wide and 80 high."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    paths = []
    for number in range(COUNT):
        image = np.zeros((80, 60, 3), np.float32)
        image[:] = np.linspace(230, 20, 80)[:, None, None] * np.array([0.8, 0.95, 1.0]) + rng.normal(0, 6, (80, 60, 3))
        image[0, 0], image[-1, -1] = 0, 255
        centre = (int(rng.integers(10, 50)), int(rng.integers(15, 65)))
        cv2.circle(image, centre, int(rng.integers(6, 12)), (230, 60, 20), -1)
        path = folder / f"{number}.png"
        cv2.imwrite(str(path), image.clip(0, 255).astype(np.uint8)[:, :, ::-1])
        paths.append(path)
    return paths


class Pictures:
    """The files as a data set: prepared, with channels first."""

    def __init__(self, files: list[Path], prepare: Prepare, change: Callable = lambda image: image) -> None:
        self.files, self.prepare, self.change = list(map(str, files)), prepare, change

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self.change(cv2.imread(self.files[index])[:, :, ::-1])
        return torch.from_numpy(np.ascontiguousarray(self.prepare(image).transpose(2, 0, 1))), index % 2


class Nameless(Pictures):
    """The same without a list of files."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.shown = {index: Path(file) for index, file in enumerate(self.files)}
        self.files = range(len(self.shown))

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self.change(cv2.imread(str(self.shown[index]))[:, :, ::-1])
        return torch.from_numpy(np.ascontiguousarray(self.prepare(image).transpose(2, 0, 1))), index % 2


@pytest.fixture(autouse=True)
def no_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Features have tests of their own with real weights."""
    monkeypatch.setattr("finefold.doctor.inputs._by_features", lambda *_: ("", []))


def given(dataset: Pictures, model: nn.Module | None = None, valid: Pictures | None = None) -> Subject:
    features_ND, _ = planted(COUNT)
    labels_N = np.arange(COUNT) % 2
    subject = replace(subject_of(features_ND, labels_N, num_classes=2), dataset=dataset, model=model)
    other = None if valid is None else replace(subject, dataset=valid, model=None)
    return replace(subject, valid=other, lists=Lists())


def found(subject: Subject) -> list[tuple[str, str]]:
    return [(one.severity, one.cause) for one in check_inputs(subject).findings]


@pytest.mark.parametrize("kind", [Pictures, Nameless])
@pytest.mark.parametrize("prepare", [unit, normalised, lambda image: (unit(image) - 0.5) / 0.5, lambda image: image])
def test_images_in_a_right_form_have_no_finding(prepare, kind, files):
    """0..1, normalised with ImageNet's or other constants, and bytes."""
    assert found(given(kind(files, prepare))) == []


@pytest.mark.parametrize(
    ("prepare", "told", "severity"),
    [
        (unscaled, "they were not divided by 255", "warning"),
        (twice, "they were normalised twice", "error"),
        (divided_twice, "they were divided by 255 twice", "error"),
        (bytes_normalised, "without being divided by 255 first", "error"),
    ],
)
def test_a_wrong_form_is_named(prepare, told, severity, files):
    """Measured against the files it is beyond doubt; by its range alone it is a warning."""
    ((by_files, cause),) = found(given(Pictures(files, prepare)))
    assert by_files == severity and told in cause and "measured against their files" in cause
    ((by_range, cause),) = found(given(Nameless(files, prepare)))
    assert by_range == "warning" and told in cause


def test_the_channels_order_is_read_off_the_files(files):
    """BGR is a warning with what to do, whatever the form; RGB is said to be RGB."""
    for prepare in (unit, normalised, lambda image: image):
        (finding,) = check_inputs(given(Pictures(files, prepare, lambda image: image[:, :, ::-1]))).findings
        assert finding.severity == "warning" and "BGR" in finding.cause and "COLOR_BGR2RGB" in finding.remedy
    assert ", RGB, by 16 files" in check_inputs(given(Pictures(files, unit))).says


def test_grey_images_cannot_tell_the_order(files):
    """Said, and no finding."""
    said = check_inputs(given(Pictures(files, unit, lambda image: np.repeat(image.mean(2, keepdims=True), 3, 2))))
    assert not said.findings and "cannot be told (grey)" in said.says


@pytest.mark.parametrize(
    ("change", "severity", "told"),
    [
        (lambda image: image.swapaxes(0, 1), "error", "transposed (height and width swapped)"),
        (lambda image: np.rot90(image), "warning", "turned by 90 degrees"),
        (lambda image: cv2.resize(image, (80, 60)), "warning", "squashed"),
        (lambda image: cv2.resize(image.swapaxes(0, 1), (48, 48)), "error", "transposed"),
    ],
)
def test_images_on_their_side_are_told_from_their_files(change, severity, told, files):
    """Transposed is an error; turned, and squashed into the other orientation, are warnings."""
    ((level, cause),) = found(given(Pictures(files, unit, lambda image: change(np.ascontiguousarray(image)))))
    assert level == severity and told in cause


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image[:, ::-1],
        lambda image: image[8:72, 6:54],
        lambda image: cv2.resize(np.ascontiguousarray(image), (48, 48)),
        lambda image: image[:, ::-1] * np.float32(0.8),
    ],
)
def test_augmentation_is_no_fault(change, files):
    """Mirrored, cropped, resized and darker images lie as their files do."""
    assert found(given(Pictures(files, lambda image: unit(image), change))) == []


def test_files_of_other_images_are_not_compared(files):
    """A list of paths beside other pictures is not believed."""
    dataset = Pictures(files, unit)
    shown = [cv2.imread(file)[:, :, ::-1] for file in reversed(dataset.files)]
    posture = compare_with_files([unit(one) for one in shown], [one[::-1, ::-1] * 0 for one in shown], shown)
    assert posture is None


def trained_on(prepare: Prepare, files: list[Path]) -> nn.Module:
    """A network whose batch norm remembers images prepared so."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 12, 3, bias=False), nn.BatchNorm2d(12, momentum=None), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
    )
    model = nn.Sequential(*model, nn.Flatten(), nn.Linear(12, 2)).train()
    dataset = Pictures(files, prepare)
    for _ in range(2):
        model(torch.stack([dataset[index][0] for index in range(0, COUNT, 2)]))
    return model.eval()


@pytest.mark.parametrize("prepare", [unit, normalised, unscaled, twice])
def test_what_a_model_was_trained_on_is_right_for_it(prepare, files):
    """Even unscaled images: the batch norm remembers them so."""
    model = trained_on(prepare, files)
    assert found(given(Nameless(files, prepare), model)) == []
    assert not model.training


@pytest.mark.parametrize(
    ("trained", "shown", "expected"),
    [
        (unit, unscaled, "floats in 0..1"),
        (normalised, unscaled, "ImageNet"),
        (normalised, twice, "ImageNet"),
        (unit, divided_twice, "floats in 0..1"),
        (unscaled, unit, "floats in 0..255"),
    ],
)
def test_a_model_trained_on_another_form_is_an_error(trained, shown, expected, files):
    """The batch norm's memory says which form it was trained on, and by how much the given one misses it."""
    (finding,) = check_inputs(given(Pictures(files, shown), trained_on(trained, files))).findings
    assert (finding.kind, finding.severity) == ("input-statistics", "error")
    assert expected in finding.evidence["expected"]
    assert finding.evidence["distance"] > 3 > finding.evidence["distance_expected"] * 4


def test_makers_constants_count_where_nothing_was_remembered(files):
    """timm's models carry mean and std: images 255 times too large are an error, unnormalised ones a warning."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(2))
    model.pretrained_cfg = {"mean": tuple(MEAN.tolist()), "std": tuple(STD.tolist())}
    model(torch.zeros(1, 3, 80, 60))
    assert found(given(Pictures(files, normalised), model)) == []
    assert [severity for severity, _ in found(given(Pictures(files, unscaled), model))] == ["error"]
    assert [severity for severity, _ in found(given(Pictures(files, unit), model))] == ["warning"]


def test_a_network_without_norms_that_answers_one_class_to_unscaled_images(files):
    """An error where all answers are the same, a warning where they differ; scaled images are fine."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 5, stride=4), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))
    model(torch.zeros(1, 3, 80, 60))
    ((severity, cause),) = found(given(Nameless(files, unscaled), model))
    assert severity in ("warning", "error") and "without any norm" in cause
    with torch.no_grad():
        model[3].bias[1] = 1e6
    ((severity, cause),) = found(given(Nameless(files, unscaled), model))
    assert severity == "error" and "answers the same to all" in cause
    assert found(given(Nameless(files, unit), model)) == []


def test_training_and_validation_must_come_in_one_form(files):
    """Validation that is not normalised, or has height and width exchanged, is an error."""
    train = Pictures(files, normalised)
    assert found(given(train, valid=Pictures(files, normalised))) == []
    ((severity, cause),) = found(given(train, valid=Pictures(files, unit)))
    assert severity == "error" and "validation images floats in 0..1" in cause
    causes = [
        cause for severity, cause in found(given(train, valid=Pictures(files, normalised, lambda x: x.swapaxes(0, 1))))
    ]
    assert any("training images are 80 x 60, validation images 60 x 80" in cause for cause in causes)


def test_values_that_are_no_numbers_and_blank_images_are_errors(files):
    """NaN; one value throughout in all."""
    ((severity, cause),) = found(given(Pictures(files, lambda image: unit(image) * np.float32("nan"))))
    assert severity == "error" and "no finite numbers" in cause
    ((severity, cause),) = found(given(Pictures(files, lambda image: unit(image) * 0)))
    assert severity == "error" and "of one value each" in cause


def test_finefolds_own_reading_is_right_by_construction():
    """Of a data.toml there is nothing to find."""
    said = check_inputs(subject_of(*planted(100)))
    assert said.is_done and not said.findings and "prepares them as" in said.says


def test_forms_are_told_by_range_and_by_files(files):
    """Every known form is named by its pictures' range, and measured exactly where files are there."""
    pictures = [cv2.imread(str(file))[:, :, ::-1] for file in files[:20]]
    for form in FORMS:
        given_ = [(unit(one) - np.array(form.mean)) / np.array(form.std) for one in pictures]
        by_range, by_files = form_by_range(given_), form_by_files(given_, pictures)
        assert by_range is not None and by_range.mistake == form.mistake, form.says
        assert by_files == form


def test_a_posture_is_only_named_where_it_is_clear():
    """Pictures that are the same in every posture are upright."""
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 255, (40, 40, 3)).astype(np.uint8) for _ in range(8)]
    posture = compare_with_files([unit(one) for one in noise], noise, noise)
    assert posture is not None and posture.turn == "upright" and not is_turned(posture)
