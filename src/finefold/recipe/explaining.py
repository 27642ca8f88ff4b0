"""Every value of a recipe: what it is, where it came from, and why it is there."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from finefold.recipe.loader import apply_overrides, load_recipe, recipe_values
from finefold.recipe.reasons import REASONS
from finefold.recipe.schema import Recipe
from finefold.recipe.training import PhaseRecipe

DEFAULT, SET = "default", "--set"


@dataclass(frozen=True)
class Value:
    """One value of a recipe.

    Args:
        key: as in `--set`, phases counted from 1: `phase.2.lr`.
        value: plain, as TOML or JSON has it; None where unset.
        source: `default`, the preset or file, or `--set`.
        reason: why it is there, and has the default that it has.
    """

    key: str
    value: Any
    source: str
    reason: str


@dataclass(frozen=True)
class Key:
    """One key of the schema.

    Args:
        name: `table.key`; those of phases begin with `phase.`.
        default: plain; None where unset.
        is_required: whether there is no default.
    """

    name: str
    default: Any
    is_required: bool


def explain_recipe(name: str, overrides: Sequence[str] = ()) -> tuple[Recipe, tuple[Value, ...]]:
    """A recipe, and every value of it.

    Args:
        name: a preset, or a path ending in .toml.
        overrides: `key.path=value`, on top of it.

    Raises:
        RecipeError: no such recipe, or a mistake in it.
    """
    recipe = load_recipe(name, overrides)
    origin = f"file {name}" if name.endswith(".toml") else f"preset {name}"
    base = recipe_values(name)
    changed = apply_overrides(recipe_values(name), overrides)
    told = [override.partition("=")[0].strip() for override in overrides]
    values = []
    for key, value in _leaves(recipe.model_dump(mode="json")):
        source = DEFAULT
        if _has(changed, key):
            was_set = any(key == one or key.startswith(f"{one}.") for one in told)
            source = SET if was_set or not _has(base, key) else origin
        values.append(Value(key, value, source, REASONS[_schema_key(key)]))
    return recipe, tuple(values)


def recipe_leaves(recipe: Recipe) -> Iterator[tuple[str, Any]]:
    """Every key of a recipe with its value, phases counted from 1: `phase.2.lr`."""
    return _leaves(recipe.model_dump(mode="json"))


def schema_keys() -> tuple[Key, ...]:
    """Every key that a recipe may have, in the schema's order."""
    return tuple(_keys(Recipe, ""))


def _keys(model: type[BaseModel], prefix: str) -> Iterator[Key]:
    for name, field in model.model_fields.items():
        table = PhaseRecipe if name == "phase" and model is Recipe else _table_of(field)
        if table is not None:
            yield from _keys(table, f"{prefix}{name}.")
        else:
            default = None if field.is_required() else field.get_default(call_default_factory=True)
            yield Key(f"{prefix}{name}", default, field.is_required())


def _table_of(field: FieldInfo) -> type[BaseModel] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _leaves(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Keys and values of a dumped recipe; what the schema says is one value stays one."""
    for name, value in values.items():
        if name == "phase":
            for number, phase in enumerate(value, start=1):
                yield from ((f"phase.{number}.{key}", one) for key, one in phase.items())
        elif isinstance(value, Mapping):
            yield from ((f"{name}.{key}", one) for key, one in value.items())
        else:
            yield name, value


def _schema_key(key: str) -> str:
    """`phase.2.lr` -> `phase.lr`."""
    return ".".join(part for part in key.split(".") if not part.isdigit())


def _has(values: Mapping[str, Any], key: str) -> bool:
    """Whether raw tables say a key."""
    at: Any = values
    for part in key.split("."):
        if isinstance(at, list) and part.isdigit() and int(part) <= len(at):
            at = at[int(part) - 1]
        elif isinstance(at, Mapping) and part in at:
            at = at[part]
        else:
            return False
    return True


def to_toml(value: Any) -> str:
    """A plain value as TOML writes it; `unset` for None."""
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, Mapping):
        inside = ", ".join(f"{key} = {to_toml(one)}" for key, one in value.items())
        return f"{{ {inside} }}" if inside else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(to_toml, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)
