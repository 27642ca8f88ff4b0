"""A recipe from a preset's name or a TOML file, with `a.b=c` overrides on top."""

import tomllib
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Any

import tomli_w

from finefold.data.strict import load_toml, validate
from finefold.errors import RecipeError
from finefold.recipe.schema import Recipe
from finefold.recipe.training import PhaseRecipe

DEFAULT_PHASES: tuple[PhaseRecipe, ...] = Recipe.model_fields["phase"].default


def preset_names() -> list[str]:
    """Names of the recipes that come with finefold."""
    folder = resources.files("finefold.recipe") / "presets"
    return sorted(file.name.removesuffix(".toml") for file in folder.iterdir() if file.name.endswith(".toml"))


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe called `name`.

    Args:
        name: a preset, or a path ending in .toml.
        overrides: `key.path=value`, values in TOML; a bare word is text. Phases are counted from 1: `phase.2.lr=1e-4`.

    Raises:
        RecipeError: no such recipe, or it has unknown keys or wrong values (all at once, with suggestions).
    """
    values = apply_overrides(recipe_values(name), overrides)
    return validate(Recipe, values, where=f"recipe `{name}`", error=RecipeError)


def recipe_values(name: str) -> dict[str, Any]:
    """What the recipe called `name` says, not yet checked and without defaults.

    Raises:
        RecipeError: no such recipe.
    """
    return load_toml(Path(name), RecipeError) if name.endswith(".toml") else tomllib.loads(preset_text(name))


def apply_overrides(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """`values` with `key.path=value` texts laid over them, in place.

    Raises:
        RecipeError: a text is no override, or goes through what is no table.
    """
    for override in overrides:
        _set(values, override)
    return values


def preset_text(name: str) -> str:
    """The file of a preset.

    Raises:
        RecipeError: no such preset.
    """
    names = preset_names()
    if name not in names:
        near = get_close_matches(name, names, n=1)
        suggestion = f"did you mean `{near[0]}`? " if near else ""
        raise RecipeError(
            f"there is no recipe `{name}`",
            f"{suggestion}Recipes that come with finefold: {', '.join(names)}; or give a path ending in .toml",
        )
    return (resources.files("finefold.recipe") / "presets" / f"{name}.toml").read_text(encoding="utf-8")


def _set(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    *tables, last = (part.strip() for part in key.split("."))
    if not equals or not all([*tables, last]):
        raise RecipeError(f"`{override}` is not an override", "write --set key.path=value, e.g. --set split.folds=4")
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        parsed = {}
    value = parsed["value"] if len(parsed) == 1 else text.strip()
    at: Any = values
    if tables[:1] == ["phase"]:
        values.setdefault("phase", [phase.model_dump(mode="json", exclude_none=True) for phase in DEFAULT_PHASES])
    for table in tables:
        at = at[_number(at, table, key)] if isinstance(at, list) else at.setdefault(table, {})
        is_of_tables = isinstance(at, list) and all(isinstance(one, dict) for one in at)
        if not (isinstance(at, dict) or is_of_tables):
            raise RecipeError(f"`{key}`: `{table}` is a value, not a table", "see the preset for the keys there are")
    if isinstance(at, list):
        at[_number(at, last, key)] = value
    else:
        at[last] = value


def _number(tables: list[Any], part: str, key: str) -> int:
    """The place of one of several tables, which keys count from 1."""
    if part.isdecimal() and 1 <= int(part) <= len(tables):
        return int(part) - 1
    name = key.split(".")[0].strip()
    known = f"from {name}.1 to {name}.{len(tables)}" if len(tables) > 1 else f"only {name}.1"
    raise RecipeError(f"`{key}`: there is no `{name}.{part}`", f"they are counted from 1, and the recipe has {known}")


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as TOML with every value written out, defaults too."""
    return tomli_w.dumps(recipe.model_dump(mode="json", exclude_none=True))
