"""Pairing units of two models: what is alone needs no name, what is not is told by evidence, or left in doubt."""

from collections import OrderedDict

import torch

from finefold.nn.aligning import Aligner, Pair
from finefold.nn.units import find_units


def units(*paths: str, shape: tuple[int, ...] = (4, 4)):
    state = OrderedDict(
        (f"{path}.{role}", torch.zeros(shape[: 1 + (role == "weight")]))
        for path in paths
        for role in ("weight", "bias")
    )
    return find_units(state, state)


def align(
    source, target, *, order_is_kept: bool = True, fixed: tuple[Pair, ...] = ()
) -> dict[str, tuple[str, list[str]]]:
    """Target path -> its source's path and its rivals' paths."""
    aligner = Aligner(
        source,
        target,
        source_labels=[unit.label for unit in source],
        target_labels=[unit.label for unit in target],
        order_is_kept=order_is_kept,
    )
    for pair in fixed:
        aligner.fix(pair)
    return {
        target[number].path: (source[pair.source].path, [source[rival].path for rival in pair.rivals])
        for number, pair in aligner.run().items()
    }


def joined(*groups):
    """Units one after the other, numbered anew."""
    from dataclasses import replace

    return [replace(unit, order=order) for order, unit in enumerate(unit for group in groups for unit in group)]


def test_what_is_alone_needs_no_name():
    """A unit of a shape of its own is paired whatever it is called and wherever it stands."""
    source = joined(units("x"), units("y", shape=(8, 4)))
    target = joined(units("b", shape=(8, 4)), units("a"))
    assert align(source, target) == {"a": ("x", []), "b": ("y", [])}


def test_containers_of_one_content_are_looked_into():
    """Where the only group of a kind stands on either side, its inside is paired with the other's inside."""
    source = joined(units("body.p", "body.q"), units("body.r", shape=(8, 4)), units("end", shape=(2, 4)))
    target = joined(units("trunk.a", "trunk.b"), units("trunk.c", shape=(8, 4)), units("last", shape=(2, 4)))
    found = align(source, target)
    assert {path: name for path, (name, _) in found.items()} == {
        "trunk.a": "body.p",
        "trunk.b": "body.q",
        "trunk.c": "body.r",
        "last": "end",
    }


def test_numbers_in_names_tell_blocks_apart():
    """Blocks that differ by their number only are paired by it, with the order kept or lost."""
    source, target = (
        units("layer.10.fc", "layer.2.fc", "layer.1.fc"),
        units("blocks.0.mlp", "blocks.1.mlp", "blocks.2.mlp"),
    )
    for order_is_kept in (True, False):
        found = align(source, target, order_is_kept=order_is_kept)
        assert {path: name for path, (name, _) in found.items()} == {
            "blocks.0.mlp": "layer.1.fc",
            "blocks.1.mlp": "layer.2.fc",
            "blocks.2.mlp": "layer.10.fc",
        }


def test_without_evidence_everything_is_a_rival():
    """Units that nothing tells apart are paired with their rivals named, and each is used once."""
    found = align(units("x", "y"), units("a", "b"), order_is_kept=False)
    assert sorted(name for name, _ in found.values()) == ["x", "y"]
    assert all(rivals == [{"x": "y", "y": "x"}[name]] for name, rivals in found.values())


def test_order_counts_where_it_is_kept():
    """The same units are told apart by order where order was kept and is seen to be the same."""
    source = joined(units("s", shape=(8, 4)), units("x", "y"), units("t", shape=(2, 4)))
    target = joined(units("i", shape=(8, 4)), units("a", "b"), units("o", shape=(2, 4)))
    assert align(source, target) == {"i": ("s", []), "a": ("x", []), "b": ("y", []), "o": ("t", [])}
    lost = align(source, target, order_is_kept=False)
    assert lost["a"][1] == [{"x": "y", "y": "x"}[lost["a"][0]]]


def test_doubt_about_a_container_is_doubt_about_all_in_it():
    """Two containers of one content that nothing tells apart: every unit in them has its twin for a rival."""
    source = joined(units("p.fc"), units("p.up", shape=(8, 4)), units("q.fc"), units("q.up", shape=(8, 4)))
    target = joined(units("a.fc"), units("a.up", shape=(8, 4)), units("b.fc"), units("b.up", shape=(8, 4)))
    found = align(source, target, order_is_kept=False)
    assert all(rivals for _, rivals in found.values())
    assert all(name.split(".")[1] == path.split(".")[1] for path, (name, _) in found.items())


def test_what_is_fixed_stays():
    """A pair taken as given is kept, and what is left is paired around it."""
    fixed = (Pair(1, 0, 1.0, "as the hint says"),)
    assert align(units("x", "y"), units("a", "b"), order_is_kept=False, fixed=fixed) == {"a": ("y", []), "b": ("x", [])}


def test_more_sources_than_places_leave_some_out():
    """Where the source has more of a kind, the likest take the places; equally like ones are rivals."""
    found = align(units("conv1", "conv2", "other"), units("conv1", "conv2"), order_is_kept=False)
    assert {path: name for path, (name, _) in found.items()} == {"conv1": "conv1", "conv2": "conv2"}
    assert all(rivals for _, rivals in align(units("x", "y", "z"), units("a", "b"), order_is_kept=False).values())


def test_an_equal_word_beats_every_place():
    """A name that is the same but for a word more wins over neighbours and order together."""
    source = joined(units("s", shape=(8, 4)), units("caa_layer", "aab_layer"), units("t", shape=(2, 4)))
    target = joined(units("i", shape=(8, 4)), units("aab", "caa"), units("o", shape=(2, 4)))
    for order_is_kept in (True, False):
        found = align(source, target, order_is_kept=order_is_kept)
        assert found["caa"] == ("caa_layer", [])
        assert found["aab"] == ("aab_layer", [])


def test_counting_from_another_number_is_seen_among_other_names_too():
    """scale2, scale3, norm2, norm3 against scale1, scale2, norm1, norm2: 2 is not 2, as the others have no place."""
    source = units("scale2", "norm2", "scale3", "norm3")
    target = units("scale1", "norm1", "scale2", "norm2")
    for order_is_kept in (True, False):
        found = align(source, target, order_is_kept=order_is_kept)
        right = {"scale1": "scale2", "scale2": "scale3", "norm1": "norm2", "norm2": "norm3"}
        assert {path: name for path, (name, rivals) in found.items() if name != right[path] and not rivals} == {}


def test_nothing_is_paired_with_nothing():
    """Sides without a label in common, or without units, give no pairs."""
    assert align(units("a"), units("b", shape=(8, 4))) == {}
    assert align([], units("b")) == {}
    assert align(units("a"), []) == {}
