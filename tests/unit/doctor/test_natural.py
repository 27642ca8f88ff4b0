"""How images look to the embedded backbone: right ones are never doubted, red and blue exchanged show."""

import cv2
import numpy as np
import pytest

from finefold.data.synthetic import portrait_batch
from finefold.doctor.natural import (
    Reading,
    looks_swapped,
    looks_turned,
    reading_transposed,
    reading_with_swapped_channels,
)
from finefold.nn.backbones import EMBEDDED_BACKBONE, Backbone, find_backbone


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return find_backbone(EMBEDDED_BACKBONE, "embedded")


@pytest.fixture(scope="module")
def people() -> list[np.ndarray]:
    return portrait_batch(14, size_px=(96, 128))


def test_red_and_blue_exchanged_are_seen(backbone, people):
    """Drawn people with red and blue exchanged come nearer to photographs exchanged back; as they are, no word."""
    as_they_are = reading_with_swapped_channels(backbone, people)
    exchanged = reading_with_swapped_channels(backbone, [image[:, :, ::-1] for image in people])
    assert as_they_are is not None and exchanged is not None
    assert not looks_swapped(as_they_are) and as_they_are.early > 0.2
    assert exchanged.early == pytest.approx(-as_they_are.early, abs=0.01)


def test_what_lies_no_other_way_is_not_called_turned(backbone, people):
    """Drawn people are recognised as well on their side: nothing is said of them."""
    reading = reading_transposed(backbone, people)
    assert reading is not None and not looks_turned(reading)


def test_grey_and_few_images_tell_nothing(backbone, people):
    """No reading at all."""
    grey = [cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB) for image in people]
    assert reading_with_swapped_channels(backbone, grey) is None
    assert reading_transposed(backbone, people[:5]) is None


@pytest.mark.parametrize(
    ("reading", "swapped", "turned"),
    [
        (Reading(-0.5, -12.0, 0.12, 11.0, 32), True, False),
        (Reading(-0.5, -12.0, -0.05, -4.0, 32), False, False),
        (Reading(-0.5, -3.0, 0.12, 11.0, 32), False, False),
        (Reading(0.0, 1.0, 0.22, 10.0, 32), False, True),
        (Reading(0.0, 1.0, -0.22, -10.0, 32), False, False),
    ],
)
def test_a_reading_speaks_only_where_early_and_late_layers_agree(reading, swapped, turned):
    """Colour shows early, and must not be recognised less; posture shows late."""
    assert (looks_swapped(reading), looks_turned(reading)) == (swapped, turned)
