"""The audit's confident learning is cleanlab's, and its image measures are cleanvision's and ImageHash's."""

import cv2
import numpy as np
import pytest
from PIL import Image

from finefold.auditing.confident import confident_joint, confident_thresholds, suspects
from finefold.auditing.looks import measure_pixels
from finefold.auditing.perceptual import perceptual_hashes
from finefold.data.synthetic import portrait_batch

cleanlab = pytest.importorskip("cleanlab", reason="cleanlab is not installed")
SIZES = [(60, 50), (128, 96), (256, 256)]


@pytest.fixture(params=range(4))
def noisy(request) -> tuple[np.ndarray, np.ndarray]:
    """Labels of 3 to 6 classes, a tenth of them wrong, and probabilities that know somewhat better."""
    rng = np.random.default_rng(request.param)
    num_classes = 3 + request.param
    truth = rng.choice(num_classes, 400, p=rng.dirichlet(np.full(num_classes, 3.0)))
    logits = rng.normal(size=(400, num_classes)) + 2.5 * np.eye(num_classes)[truth]
    labels = np.where(rng.random(400) < 0.1, rng.integers(0, num_classes, 400), truth)
    labels[:num_classes] = np.arange(num_classes)  # cleanlab wants every class
    return labels, np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def test_thresholds_joint_and_suspects_are_cleanlabs(noisy):
    """Thresholds and the confident joint are equal; suspects are those of its `confident_learning` filter."""
    from cleanlab.count import compute_confident_joint, get_confident_thresholds
    from cleanlab.filter import find_label_issues

    labels, probs = noisy
    assert np.allclose(confident_thresholds(labels, probs), get_confident_thresholds(labels, probs))
    assert (confident_joint(labels, probs) == compute_confident_joint(labels, probs, calibrate=False)).all()
    theirs = np.flatnonzero(find_label_issues(labels, probs, filter_by="confident_learning", n_jobs=1))
    assert set(suspects(labels, probs).tolist()) == set(theirs.tolist())


@pytest.mark.parametrize("size_px", SIZES)
def test_measures_are_cleanvisions(size_px):
    """Mean and percentiles of brightness and entropy are equal on small images; sharpness differs by its resampling."""
    pytest.importorskip("cleanvision", reason="cleanvision is not installed")
    from cleanvision.issue_managers.image_property import (
        BlurrinessProperty,
        BrightnessProperty,
        calc_entropy,
    )

    for image in portrait_batch(4, size_px=size_px):
        ours, picture = measure_pixels(image), Image.fromarray(image)
        theirs = BrightnessProperty("dark").calculate(picture)
        for name in ("brightness", "brightness_p1", "brightness_p5", "brightness_p95", "brightness_p99"):
            assert abs(ours[name] - theirs[name.replace("_p", "_perc_")]) < 2e-3, name
        assert abs(ours["entropy"] - calc_entropy(picture.convert("L"))) < 0.05
        blur = BlurrinessProperty().calculate(picture)
        edges, tones = (np.exp(-blur[name] / 100) for name in ("blurriness", "blurriness_grayscale_std"))
        assert abs(np.exp(-ours["edges"] / 100) - edges) < 0.12
        assert abs(np.exp(-ours["tones"] / 100) - tones) < 0.05


def test_hashes_are_imagehashes_phash():
    """At most a few of 64 bits differ, for the picture is scaled by area and not by Lanczos."""
    imagehash = pytest.importorskip("imagehash", reason="imagehash is not installed")
    for image in portrait_batch(6, size_px=(96, 128)):
        ours, _ = perceptual_hashes(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))
        bits = np.array([(int(ours) >> place) & 1 for place in range(64)], bool)
        theirs = imagehash.phash(Image.fromarray(image)).hash.ravel()
        assert (bits != theirs).sum() <= 8
