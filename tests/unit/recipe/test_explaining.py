"""Every value of a recipe has a source and a reason, and the reference says the same."""

import importlib.util
from pathlib import Path

import pytest

from finefold.recipe.explaining import explain_recipe, schema_keys, to_toml
from finefold.recipe.loader import preset_names
from finefold.recipe.reasons import REASONS

DOCS = Path(__file__).resolve().parents[3] / "docs"


def sources(*arguments) -> dict[str, str]:
    return {value.key: value.source for value in explain_recipe(*arguments)[1]}


def test_every_key_has_a_reason():
    """Reasons are there for exactly the keys of the schema, in its order, a short line each."""
    assert list(REASONS) == [key.name for key in schema_keys()]
    assert all(reason.strip() and "\n" not in reason for reason in REASONS.values())


def test_the_reference_lists_every_key():
    """The table in docs/reference/recipe.md is what the schema says now; docs/make_recipe_table.py writes it."""
    spec = importlib.util.spec_from_file_location("make_recipe_table", DOCS / "make_recipe_table.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    page = (DOCS / "reference" / "recipe.md").read_text(encoding="utf-8")
    assert made.with_table(page) == page, "run: python docs/make_recipe_table.py"


@pytest.mark.parametrize("name", preset_names())
def test_every_value_of_a_preset_is_explained(name):
    """Every value has a reason and a source, and values are those of the recipe."""
    recipe, values = explain_recipe(name)
    assert {value.source for value in values} <= {"default", f"preset {name}"}
    assert all(value.reason for value in values)
    assert len(values) == len(schema_keys()) + 5 * (len(recipe.phase) - 1)
    told = {value.key: value.value for value in values}
    assert told["train.batch_size"] == recipe.train.batch_size
    assert told["phase.1.trainable"] == recipe.phase[0].trainable


def test_sources_are_told_apart(tmp_path):
    """Defaults, what the file says and what was set each say so; a table that is set speaks for its keys."""
    file = tmp_path / "mine.toml"
    file.write_text('seed = 3\n[[phase]]\ntrainable = "last:1"\nuntil = "2 epochs"\n[loss]\nterms = { focal = 1.0 }\n')
    told = sources(str(file), ["split.folds=4", "optim={ name = 'sgd' }", "seed=4"])
    assert told["seed"] == told["split.folds"] == told["optim.name"] == "--set"
    assert told["optim.momentum"] == told["phase.1.lr"] == "default"
    assert told["phase.1.until"] == told["loss.terms"] == f"file {file}"
    assert sources("quick", ["phase=[{trainable='all', until='1 epoch'}]"])["phase.1.trainable"] == "--set"


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "unset"), (True, "true"), ("a", '"a"'), (1e-3, "0.001"), ((1.0, 2), "[1, 2]"), ({"a": 1.0}, "{ a = 1 }")],
)
def test_values_look_like_toml(value, text):
    """Values are shown as a recipe would write them."""
    assert to_toml(value) == text
