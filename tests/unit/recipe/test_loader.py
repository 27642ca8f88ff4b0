"""Recipes: from a preset or a file, with overrides; every mistake at once, each with what was meant."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finefold.errors import RecipeError
from finefold.recipe.loader import dump_recipe, load_recipe, preset_names
from finefold.recipe.schema import STRENGTHS, Recipe


def told(name: str, *overrides: str) -> tuple[str, str | None]:
    """Message and hint of the RecipeError."""
    with pytest.raises(RecipeError) as caught:
        load_recipe(name, overrides)
    assert caught.value.exit_code == 2
    return caught.value.message, caught.value.hint


# ----------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_loads(name: str) -> None:
    """What comes with finefold is valid, and dumping it loses nothing."""
    assert isinstance(load_recipe(name), Recipe)


def test_probe_is_the_default_recipe() -> None:
    """`probe` says what the schema says by itself."""
    assert load_recipe("probe") == Recipe()


def test_an_unknown_preset_is_told_with_the_nearest() -> None:
    """A misspelt preset is suggested; the hint lists all, and how to give a file."""
    message, hint = told("prboe")
    assert message == "there is no recipe `prboe`"
    assert hint is not None
    assert hint.startswith("did you mean `probe`? Recipes that come with finefold: ")
    assert "probe" in hint
    assert hint.endswith("; or give a path ending in .toml")


@pytest.mark.parametrize("name", ["xyzzy", "", "../presets/probe", "probe/", "Probe "])
def test_what_is_no_preset_is_refused(name: str) -> None:
    """Only names are presets, not paths."""
    assert told(name)[0] == f"there is no recipe `{name}`"


def test_a_file_is_a_recipe(tmp_path: Path) -> None:
    """A path ending in .toml is read, with a byte order mark and CRLF as well; what it leaves out is the default."""
    path = tmp_path / "mine.toml"
    path.write_bytes(b"\xef\xbb\xbfseed = 3\r\n[split]\r\nfolds = 4\r\n")
    recipe = load_recipe(str(path))
    assert (recipe.seed, recipe.split.folds, recipe.probe.strengths) == (3, 4, STRENGTHS)


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    """A missing or malformed file is a usage mistake that names it."""
    path = tmp_path / "mine.toml"
    assert told(str(path)) == (
        f"cannot read {path}: No such file or directory",
        "give the path of an existing TOML file",
    )
    path.write_text("seed = \n")
    assert told(str(path))[0].startswith(f"{path} is not valid TOML: ")


# -------------------------------------------------------------------------------------------------- mistakes


def test_all_mistakes_come_at_once(tmp_path: Path) -> None:
    """Unknown keys, wrong types, values out of range and wrong choices are told together."""
    path = tmp_path / "mine.toml"
    path.write_text(
        """
        sed = 1
        [split]
        folds = 1
        [image]
        fit = "corp"
        max_megapixels = inf
        [model]
        backbon = "x"
        engine = "onnx"
        heads = "join"
        [probe]
        strengths = [1.0, -1.0]
        power = "half"
        """
    )
    assert told(str(path))[0].split("\n") == [
        f"recipe `{path}` has 9 mistakes:",
        "  `split.folds`: input should be greater than or equal to 2, got 1",
        "  `image.fit`: input should be 'crop' or 'squash', got 'corp': did you mean `crop`?",
        "  `image.max_megapixels`: input should be a finite number, got inf",
        "  `model.heads`: input should be 'joint', 'per_attribute' or 'separate', got 'join': did you mean `joint`?",
        "  `model.engine`: input should be 'auto', 'torch', 'openvino' or 'onnxruntime', got 'onnx'",
        "  unknown key `model.backbon`: did you mean `model.backbone`?",
        "  `probe.strengths`: needs different numbers above 0",
        "  `probe.power`: input should be a valid number, unable to parse string as a number, got 'half'",
        "  unknown key `sed`: did you mean `seed`?",
    ]


def test_an_unknown_key_is_told_with_the_nearest() -> None:
    """A misspelt key is suggested with its place; one like nothing gets the list."""
    assert told("probe", "split.fold=4")[0] == (
        "recipe `probe` has 1 mistake:\n  unknown key `split.fold`: did you mean `split.folds`?"
    )
    assert told("probe", "split.zzz=4")[0].endswith("unknown key `split.zzz`: known here are folds")


@pytest.mark.parametrize("strengths", ["[]", "[0.0]", "[-1.0]", "[1.0, 1.0]", "[inf]", "[nan]"])
def test_impossible_strengths_are_refused(strengths: str) -> None:
    """None, zero, negative, repeated or infinite ones are no strengths."""
    assert told("probe", f"probe.strengths={strengths}")[0].endswith(
        "`probe.strengths`: needs different numbers above 0"
    )


def test_embedded_weights_belong_to_one_backbone() -> None:
    """An impossible combination is told with what to give instead."""
    assert told("probe", "model.backbone=resnet18")[0].endswith(
        'model.weights = "embedded" are tf_efficientnet_lite0\'s; for resnet18 give a weights file, '
        'or "pretrained" to download'
    )
    load_recipe("probe", ["model.backbone=resnet18", "model.weights=pretrained"])


# ------------------------------------------------------------------------------------------------- overrides


@pytest.mark.parametrize(
    ("override", "where", "value"),
    [
        ("seed=7", ("seed",), 7),
        ("split.folds=4", ("split", "folds"), 4),
        (" split.folds = 4 ", ("split", "folds"), 4),
        ("probe.strengths=[300, 1, 2.5]", ("probe", "strengths"), (1.0, 2.5, 300.0)),
        ("probe.power=1", ("probe", "power"), 1.0),
        ("probe.power=2.5e-1", ("probe", "power"), 0.25),
        ("model.engine=torch", ("model", "engine"), "torch"),
        ('model.engine="torch"', ("model", "engine"), "torch"),
        ("image.fit=squash", ("image", "fit"), "squash"),
        ("model.weights=/data/my weights=1.safetensors", ("model", "weights"), "/data/my weights=1.safetensors"),
        ("model.weights=C:\\w.pth", ("model", "weights"), "C:\\w.pth"),
        ("model.weights=größe", ("model", "weights"), "größe"),
        ("image={size_px = 64}", ("image", "size_px"), 64),
    ],
)
def test_overrides_are_toml_or_words(override: str, where: tuple[str, ...], value: Any) -> None:
    """Numbers, lists, tables and quoted texts are TOML; a bare word, or anything that is no TOML, is text."""
    found: Any = load_recipe("probe", [override])
    for key in where:
        found = getattr(found, key)
    assert found == value
    assert type(found) is type(value)


def test_phases_are_counted_from_1() -> None:
    """An override reaches into one phase, as `recipe explain` names it, and leaves the others as they were."""
    before, after = load_recipe("quick"), load_recipe("quick", ["phase.2.lr=0.5", "phase.2.until=3 epochs"])
    assert after.phase[1].lr == 0.5 and after.phase[1].until == "3 epochs"
    assert after.phase[0] == before.phase[0] and len(after.phase) == len(before.phase)
    assert load_recipe("probe", ['phase.1={trainable = "head", until = "2 epochs"}']).phase[0].until == "2 epochs"
    assert load_recipe("probe", ["phase.1.until=2 epochs"]).phase[0].trainable == "head"


def test_mistakes_in_a_phase_name_it_as_overrides_do() -> None:
    """Places in messages count from 1, like those behind --set."""
    assert "unknown key `phase.2.lrr`: did you mean `phase.2.lr`?" in told("quick", "phase.2.lrr=1")[0]
    assert "`phase.2.lr`: input should be a valid number" in told("quick", "phase.2.lr=abc")[0]
    assert told("probe", "phase.2.lr=1") == (
        "`phase.2.lr`: there is no `phase.2`",
        "they are counted from 1, and the recipe has only phase.1",
    )


def test_later_overrides_win() -> None:
    """Overrides apply in their order, and leave the rest of a table alone."""
    recipe = load_recipe("probe", ["split.folds=4", "split.folds=6", "model.heads=per_attribute"])
    assert (recipe.split.folds, recipe.model.heads, recipe.model.weights) == (6, "per_attribute", "embedded")


@pytest.mark.parametrize(
    "override", ["split.folds", "=4", ".folds=4", "split.=4", "split..folds=4", "", " =1", "split. =1"]
)
def test_what_is_no_override_is_refused(override: str) -> None:
    """Without a key path and an equals sign there is nothing to set."""
    assert told("probe", override) == (
        f"`{override}` is not an override",
        "write --set key.path=value, e.g. --set split.folds=4",
    )


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["seed=1", "seed.x=1"], "`seed.x`: `seed` is a value, not a table"),
        (["model.heads.x=1"], "`model.heads.x`: `heads` is a value, not a table"),
        (["phase.3.lr=1"], "`phase.3.lr`: there is no `phase.3`"),
        (["phase.lr=1"], "`phase.lr`: there is no `phase.lr`"),
        (["split=4"], "`split`: input should be a valid dictionary or instance of SplitRecipe, got 4"),
        (["split.folds=four"], "`split.folds`: input should be a valid integer, unable to parse string as an integer"),
        (["split.folds=4.5"], "`split.folds`: input should be a valid integer"),
        (["split.folds="], "`split.folds`: input should be a valid integer"),
        (["seed=-1"], "`seed`: input should be greater than or equal to 0, got -1"),
        (["seed=1\nprobe.power=0.1"], "`seed`: input should be a valid integer"),
    ],
)
def test_an_override_that_does_not_fit_is_told(overrides: list[str], message: str) -> None:
    """Wrong types, tables for values and values for tables are named with their key."""
    assert message in told("probe", *overrides)[0]


# ---------------------------------------------------------------------------------------------------- dumping

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
positive = st.floats(0, exclude_min=True, allow_infinity=False)
recipes = st.builds(
    lambda **values: Recipe.model_validate(values),
    seed=st.integers(0, 2**31),
    split=st.fixed_dictionaries({"folds": st.integers(2, 100)}),
    image=st.fixed_dictionaries(
        {},
        optional={
            "size_px": st.integers(32, 2048),
            "crop_fraction": st.floats(0, 1, exclude_min=True),
            "fit": st.sampled_from(["crop", "squash"]),
            "max_megapixels": positive,
        },
    ),
    model=st.fixed_dictionaries({"weights": text.filter(lambda name: name != "embedded"), "backbone": text}),
    probe=st.fixed_dictionaries(
        {
            "strengths": st.lists(positive, min_size=1, max_size=4, unique=True),
            "power": st.floats(0, 1, exclude_min=True),
        }
    ),
)


@settings(deadline=None, max_examples=50)
@given(recipes)
def test_dumping_then_loading_is_identity(tmp_path_factory: pytest.TempPathFactory, recipe: Recipe) -> None:
    """A dumped recipe says everything, defaults too, to the last bit and letter."""
    path = tmp_path_factory.getbasetemp() / "recipe.toml"
    path.write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(str(path)) == recipe
    assert dump_recipe(load_recipe(str(path))) == dump_recipe(recipe)


def test_a_dump_says_defaults_and_leaves_the_unset_out() -> None:
    """Every value that is set stands in the file; image keys left to the backbone do not."""
    dumped = dump_recipe(load_recipe("probe"))
    assert "folds = 5" in dumped
    assert "strengths = [" in dumped
    assert "size_px" not in dumped
