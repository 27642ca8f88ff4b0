"""One attribute alone beside the wrong images, told from all labels beside the wrong images."""

from dataclasses import replace

import numpy as np
import pytest

from finefold.doctor.alignment import check_alignment, repaired_attributes, repaired_labels
from finefold.doctor.subject import Subject
from unit.doctor.planted import planted, subject_of

COUNT = 480
SIZES = {"kind": 4, "colour": 3, "age": 2}


def columns(*, noise: float = 1.0) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Features that know three attributes, and the attributes' codes."""
    parts = [planted(COUNT, size, seed=place, noise=noise) for place, size in enumerate(SIZES.values())]
    return np.concatenate([one[0] for one in parts], axis=1), {
        name: part[1] for name, part in zip(SIZES, parts, strict=True)
    }


def subject(features_ND: np.ndarray, codes: dict[str, np.ndarray], **more) -> Subject:
    sizes = tuple(SIZES.values())
    grid = np.unravel_index(np.arange(np.prod(sizes)), sizes)
    table = {
        name: (tuple("abcd"[:size]), grid[place].astype(np.int64)) for place, (name, size) in enumerate(SIZES.items())
    }
    labels_N = np.ravel_multi_index(tuple(codes.values()), sizes).astype(np.int64)
    made = subject_of(features_ND, labels_N, **more)
    return replace(made, attributes=table, class_names=tuple(map(str, range(int(np.prod(sizes))))))


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("turn", ["shift", "reversed"])
def test_one_column_that_moved_is_named_and_moved_back(name, turn):
    """The finding names the attribute and the pairing of that column alone; the others are left as they are."""
    features_ND, codes = columns()
    moved_N = np.roll(codes[name], 3) if turn == "shift" else codes[name][::-1].copy()
    moved = subject(features_ND, codes | {name: moved_N})
    (found,) = check_alignment(moved).findings
    assert (found.kind, found.severity, found.evidence["attribute"]) == ("misaligned-labels", "error", name)
    assert f"`{name}` is laid beside the wrong images" in found.cause
    assert ("by -3 rows" if turn == "shift" else "reversing the labels") in found.cause
    assert repaired_labels(moved) is None
    repaired = repaired_attributes(moved)
    assert list(repaired) == [name]
    assert (repaired[name] == codes[name])[repaired[name] >= 0].all()


def test_all_columns_that_moved_alike_are_one_finding():
    """What is wrong with every attribute is said of the labels, once."""
    features_ND, codes = columns()
    moved = subject(features_ND, {name: np.roll(codes_N, 3) for name, codes_N in codes.items()})
    (found,) = check_alignment(moved).findings
    assert "attribute" not in found.evidence and "by -3 rows" in found.evidence["pairing"]
    assert not repaired_attributes(moved) and repaired_labels(moved) is not None


def test_two_columns_that_moved_each_have_a_finding():
    """The third fits as it is, and is not named."""
    features_ND, codes = columns()
    moved = {"colour": np.roll(codes["colour"], 3), "age": np.roll(codes["age"], -2)}
    said = check_alignment(subject(features_ND, codes | moved))
    pairings = {one.evidence["attribute"]: one.evidence["pairing"] for one in said.findings}
    assert set(pairings) == {"colour", "age"}
    assert "-3 rows" in pairings["colour"] and "+2 rows" in pairings["age"]


def test_a_pairing_that_only_touches_one_attribute_is_that_attributes():
    """Labels turned within each folder of one kind of thing change nothing else, so the column is named."""
    features_ND, codes = columns()
    folders = np.arange(COUNT) // 12
    constant = {name: np.repeat(codes[name][::12], 12) for name in ("kind", "colour")}
    centres = {name: np.random.default_rng(9).normal(size=(SIZES[name], 32)) for name in constant}
    parts = [
        centres[name][codes_N] + np.random.default_rng(3).normal(size=(COUNT, 32)) for name, codes_N in constant.items()
    ]
    features_ND = np.concatenate([*parts, features_ND[:, 64:]], axis=1).astype(np.float16)
    turned_N = np.concatenate([np.roll(codes["age"][folders == one], 1) for one in range(COUNT // 12)])
    paths = [f"{folder:03}/{row:04}.png" for row, folder in enumerate(folders)]
    (found,) = check_alignment(subject(features_ND, {**constant, "age": turned_N}, paths=paths)).findings
    assert found.evidence["attribute"] == "age"


def test_right_columns_have_no_finding_and_are_told():
    """The sentence of the check names every attribute with what its probe reaches."""
    features_ND, codes = columns()
    said = check_alignment(subject(features_ND, codes))
    assert not said.findings
    assert "each attribute alone: kind " in said.says
    assert said.numbers is not None and set(said.numbers["attributes"]) == set(SIZES)


def test_an_attribute_that_says_nothing_is_a_warning_that_names_it():
    """A column in random order has no signal, while the others have; all in random order are told once."""
    features_ND, codes = columns()
    rng = np.random.default_rng(0)
    (found,) = check_alignment(subject(features_ND, codes | {"colour": rng.permutation(codes["colour"])})).findings
    assert (found.kind, found.severity, found.evidence["attribute"]) == ("no-signal", "warning", "colour")
    order_N = rng.permutation(COUNT)
    (found,) = check_alignment(
        subject(features_ND, {name: codes_N[order_N] for name, codes_N in codes.items()})
    ).findings
    assert found.kind == "no-signal" and "attribute" not in found.evidence


def test_rows_that_only_one_attribute_lacks_are_judged_for_the_others():
    """A value that is missing keeps its row out of that column's judgement alone."""
    features_ND, codes = columns()
    moved = subject(features_ND, codes | {"age": np.roll(codes["age"], 3)})
    labels_N = moved.labels_N.copy()
    labels_N[::40] = -1
    moved = replace(moved, labels_N=labels_N)
    (found,) = check_alignment(moved).findings
    assert found.evidence["attribute"] == "age"
    assert (repaired_attributes(moved)["age"][::40] == -1).all()
