"""Label spaces: order is declared, codes count like digits, and what cannot be meant is refused in words."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from finefold.data.labels import RESERVED, Attribute, Bands, LabelSpace
from finefold.errors import DataError

AGE = Bands(("<30", "30-59", ">=60"), (30, 60, math.inf))
MASK = Attribute("mask", ("wear", "incorrect", "normal"), "shot", (("mask*",), ("incorrect_mask",), ("normal",)))
GENDER = Attribute("gender", ("male", "female"), "gender", (("male",), ("female",)))
SPACE = LabelSpace((MASK, GENDER, Attribute("age", AGE.names, "age", bands=AGE)))


def refusal(action: Callable[[], Any]) -> DataError:
    with pytest.raises(DataError) as caught:
        action()
    assert caught.value.hint
    return caught.value


def plain(name: str, *classes: str) -> Attribute:
    return Attribute(name, classes, name, tuple((label,) for label in classes))


# ---------------------------------------------------------------------------------------------------- bands


@pytest.mark.parametrize(
    ("number", "code"), [(-5, 0), (0, 0), (29.999, 0), (30, 1), (59, 1), (60, 2), (1e300, 2), (math.inf, 2)]
)
def test_a_number_falls_into_exactly_one_band(number: float, code: int) -> None:
    """Upper bounds are exclusive, and no number is too small or too large."""
    assert AGE.codes_for(np.array([number])).tolist() == [code]


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ({}, "bands need at least two ranges, got: none"),
        ({"all": math.inf}, "bands need at least two ranges, got: all < inf"),
        (
            {"a": 30, "b": 30, "c": math.inf},
            "bands do not rise, so one of them would hold nobody: a < 30, b < 30, c < inf",
        ),
        (
            {"a": 60, "b": 30, "c": math.inf},
            "bands do not rise, so one of them would hold nobody: a < 60, b < 30, c < inf",
        ),
        ({"a": -math.inf, "b": math.inf}, "bands do not rise, so one of them would hold nobody: a < -inf, b < inf"),
        ({"a": math.nan, "b": math.inf}, "bands do not rise, so one of them would hold nobody: a < nan, b < inf"),
        ({"a": 30, "b": 60}, "bands do not cover every number: nothing holds 60 and above"),
    ],
)
def test_bands_that_leave_numbers_out_are_refused(bounds: dict[str, float], message: str) -> None:
    """Bands rise and end in infinity, or the error shows them."""
    error = refusal(lambda: Bands.from_mapping(bounds))
    assert error.message == message
    assert error.hint is not None
    assert '"inf"' in error.hint


def test_a_band_named_twice_is_refused() -> None:
    """Band names are class names, so they are unique."""
    assert refusal(lambda: Bands(("a", "a"), (1, math.inf))).message == "a band is named twice: a < 1, a < inf"


# ----------------------------------------------------------------------------------------------- attributes


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_a_reserved_attribute_name_is_refused(name: str) -> None:
    """An attribute never takes the name of one of the sample table's own columns."""
    error = refusal(lambda: plain(name, "a", "b"))
    assert error.message == f"[attributes.{name}]: `{name}` is a name the sample table uses itself"


@pytest.mark.parametrize(
    ("attribute", "message"),
    [
        (lambda: plain("kind"), "[attributes.kind] needs at least two classes, got: none"),
        (lambda: plain("kind", "cat"), "[attributes.kind] needs at least two classes, got: cat"),
        (lambda: plain("kind", "cat", "dog", "cat"), "[attributes.kind]: class named twice: cat"),
        (lambda: plain("kind", "cat", ""), "[attributes.kind]: a class has an empty name"),
        (
            lambda: Attribute("kind", ("a", "b"), "kind", (("a",), ("b",)), train_bands=AGE),
            "[attributes.kind]: train_bands and train_drop need `bands`",
        ),
        (
            lambda: Attribute("kind", ("a", "b"), "kind", (("a",), ("b",)), train_drop=((1, 2),)),
            "[attributes.kind]: train_bands and train_drop need `bands`",
        ),
        (
            lambda: Attribute("age", AGE.names, "age", bands=AGE, train_bands=Bands(("young", "old"), (30, math.inf))),
            "[attributes.age]: train_bands are named ['young', 'old'], bands ['<30', '30-59', '>=60']",
        ),
        (
            lambda: Attribute("age", AGE.names, "age", bands=AGE, train_drop=((60, 57),)),
            "[attributes.age]: train_drop [60, 57] holds no number",
        ),
        (
            lambda: Attribute("age", AGE.names, "age", bands=AGE, train_drop=((math.nan, 57),)),
            "[attributes.age]: train_drop [nan, 57] holds no number",
        ),
    ],
)
def test_an_impossible_attribute_is_refused(attribute: Callable[[], Attribute], message: str) -> None:
    """Too few, repeated or nameless classes and training ranges without meaning are errors that name the table."""
    assert refusal(attribute).message == message


def test_an_exact_value_beats_a_pattern() -> None:
    """`maskless` may be a class beside `mask*`; letters' case counts; a stranger belongs to none."""
    attribute = Attribute("mask", ("on", "off"), "shot", (("mask*",), ("maskless", "[no]")))
    assert [attribute.class_of(raw) for raw in ("mask1", "maskless", "[no]", "Mask1", "", "x")] == [
        0,
        1,
        1,
        None,
        None,
        None,
    ]


def test_a_value_of_two_classes_is_refused() -> None:
    """Patterns that overlap are an error naming the value and both classes."""
    attribute = Attribute("mask", ("on", "off"), "shot", (("mask*",), ("*less",)))
    assert refusal(lambda: attribute.class_of("maskless")).message == (
        "[attributes.mask]: value `maskless` belongs to `on` and `off`"
    )


# --------------------------------------------------------------------------------------------- label spaces


def test_the_joint_class_counts_like_digits() -> None:
    """class = mask * 6 + gender * 3 + age, named in that order."""
    assert (SPACE.names, SPACE.sizes, SPACE.num_classes) == (("mask", "gender", "age"), (3, 2, 3), 18)
    assert SPACE.class_names[0] == "wear/male/<30"
    assert SPACE.class_names[2 * 6 + 1 * 3 + 2] == "normal/female/>=60"
    assert SPACE.joint_codes(np.array([[0, 0, 0], [1, 0, 2], [2, 1, 2]])).tolist() == [0, 8, 17]
    assert SPACE.joint_codes(np.empty((0, 3), np.int64)).tolist() == []


def test_a_single_attribute_keeps_its_class_names() -> None:
    """With one attribute the joint class is the attribute's class."""
    space = LabelSpace((plain("kind", "2", "10", "1"),))
    assert space.class_names == ("2", "10", "1")
    assert space.attribute_codes()["kind"].tolist() == [0, 1, 2]


def test_the_attribute_table_reads_the_digits_back() -> None:
    """Per attribute: its classes, and its code in each joint class."""
    classes, codes_K = SPACE.attribute_table()["gender"]
    assert classes == ("male", "female")
    assert codes_K.tolist() == [0, 0, 0, 1, 1, 1] * 3


@pytest.mark.parametrize("name", ["id", "fold", "group", "label"])
def test_a_class_called_like_a_column_of_the_ledger_is_refused(name: str) -> None:
    """A class folder called `id` is an error that says how to name the class otherwise."""
    error = refusal(lambda: LabelSpace((plain("kind", "cat", name),)))
    assert error.message == f"a class is called `{name}`, which is a column of the ledger"
    assert error.hint == (f'name it otherwise in data.toml: classes = {{ "class {name}" = ["{name}"], ... }}')


def test_such_a_class_is_no_trouble_in_a_joint_name() -> None:
    """`cat/id` is no column of the ledger, so two attributes may hold a class `id`."""
    assert "cat/id" in LabelSpace((plain("kind", "cat", "dog"), plain("view", "id", "other"))).class_names


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ((), "no attribute makes the label"),
        ((plain("kind", "a", "b"), plain("kind", "a", "b")), "[label] joint names `kind` twice"),
        ((plain("x", "a", "a/b"), plain("y", "b/c", "c")), "two joint classes are called `a/b/c`"),
        (
            tuple(plain(f"a{number}", "0", "1") for number in range(40)),
            f"the label has {2**40} joint classes: {' x '.join(f'2 (a{number})' for number in range(40))}",
        ),
    ],
)
def test_an_impossible_label_space_is_refused(attributes: tuple[Attribute, ...], message: str) -> None:
    """No attribute, one twice, names that cannot be told apart, or more classes than memory: each says so."""
    assert refusal(lambda: LabelSpace(attributes)).message == message
