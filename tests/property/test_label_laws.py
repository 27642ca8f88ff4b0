"""Laws of labels: codes are a bijection, probabilities factor and come back, bands partition the line."""

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from finefold.data.labels import Attribute, Bands, LabelSpace

few = settings(deadline=None, max_examples=50)
class_name = st.text(st.characters(exclude_characters="/", exclude_categories=["Cs"]), min_size=1, max_size=6)


@st.composite
def spaces(draw: st.DrawFn) -> LabelSpace:
    """Up to four attributes of two to four classes each, of any names without a slash."""
    sizes = draw(st.lists(st.integers(2, 4), min_size=1, max_size=4))
    attributes = []
    for number, size in enumerate(sizes):
        names = draw(st.lists(class_name, min_size=size, max_size=size, unique=True))
        names = [name if name not in {"id", "fold", "group", "label"} else f"{name}!" for name in names]
        attributes.append(Attribute(f"a{number}", tuple(names), "x", tuple((name,) for name in names)))
    return LabelSpace(tuple(attributes))


@st.composite
def factors(draw: st.DrawFn) -> tuple[LabelSpace, list[NDArray[np.float64]]]:
    """A space, and each attribute's probabilities for some images, sure ones among them."""
    space = draw(spaces())
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    num_rows, sharpness = draw(st.integers(1, 5)), draw(st.sampled_from([0.01, 1.0, 100.0]))
    return space, [rng.dirichlet(np.full(size, sharpness), num_rows) for size in space.sizes]


@st.composite
def bands(draw: st.DrawFn) -> Bands:
    """Rising bounds of any size, the last one infinite."""
    finite = st.floats(-1e300, 1e300)
    upper = sorted(draw(st.lists(finite, min_size=1, max_size=6, unique=True)))
    return Bands(tuple(f"b{number}" for number in range(len(upper) + 1)), (*upper, math.inf))


@few
@given(spaces())
def test_joint_and_attribute_codes_are_a_bijection(space: LabelSpace) -> None:
    """Reading a joint code's digits and counting them again gives the code, in the order of the names."""
    digits_KA = np.stack(list(space.attribute_codes().values()), axis=1)
    assert space.joint_codes(digits_KA).tolist() == list(range(space.num_classes))
    assert len(np.unique(digits_KA, axis=0)) == space.num_classes
    told = ["/".join(a.classes[code] for a, code in zip(space.attributes, row, strict=True)) for row in digits_KA]
    assert tuple(told) == space.class_names


@given(st.integers(0, 2), st.integers(0, 1), st.integers(0, 2))
def test_the_competitions_class_is_mask_gender_age(mask: int, gender: int, age: int) -> None:
    """class = mask * 6 + gender * 3 + age."""
    sizes = {"mask": 3, "gender": 2, "age": 3}
    space = LabelSpace(
        tuple(
            Attribute(
                name, tuple(f"{name}{code}" for code in range(size)), name, tuple((str(code),) for code in range(size))
            )
            for name, size in sizes.items()
        )
    )
    assert space.joint_codes(np.array([[mask, gender, age]])).tolist() == [mask * 6 + gender * 3 + age]


@few
@given(factors())
def test_joint_probabilities_give_their_factors_back(drawn: tuple[LabelSpace, list[NDArray[np.float64]]]) -> None:
    """Rows of joint probabilities sum to 1, and summing out the other attributes returns each factor."""
    space, probs = drawn
    joint_NK = space.joint_probs(probs)
    assert joint_NK.shape == (len(probs[0]), space.num_classes)
    np.testing.assert_allclose(joint_NK.sum(axis=1), 1, atol=1e-12)
    for attribute, (name, probs_NC) in zip(space.attributes, zip(space.names, probs, strict=True), strict=True):
        member_KC = np.eye(len(attribute.classes))[space.attribute_codes()[name]]
        np.testing.assert_allclose(joint_NK @ member_KC, probs_NC, atol=1e-12)


@few
@given(bands(), st.lists(st.floats(allow_nan=False), max_size=20))
def test_bands_partition_the_line(ranges: Bands, numbers: list[float]) -> None:
    """Every number is in one band: at or above the bound below it, and under its own."""
    codes = ranges.codes_for(np.array(numbers)).tolist()
    lower = (-math.inf, *ranges.upper[:-1])
    for number, code in zip(numbers, codes, strict=True):
        assert lower[code] <= number
        assert number < ranges.upper[code] or number == math.inf


@few
@given(bands())
def test_a_bound_belongs_to_the_band_above_it(ranges: Bands) -> None:
    """Upper bounds are exclusive: the bound is the next band's first number."""
    bounds = np.array(ranges.upper[:-1])
    assert ranges.codes_for(bounds).tolist() == list(range(1, len(ranges.upper)))
    below = ranges.codes_for(np.nextafter(bounds, -math.inf))
    assert below.tolist() == list(range(len(bounds)))
