"""What a recipe says of single classes: a table from names, or patterns of names, to values.

Shapes: K joint classes.
"""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import TypeVar

from finefold.errors import RecipeError

Value = TypeVar("Value")


def by_class(key: str, given: Mapping[str, Value], class_names: Sequence[str], otherwise: Value) -> tuple[Value, ...]:
    """[K] the value of each class. A class's own name beats patterns, which beat `otherwise`.

    Args:
        key: of the recipe, for errors.
        given: class name, or pattern with * and ?, to value.
        class_names: [K].
        otherwise: of classes that nothing names.

    Raises:
        RecipeError: names nothing, or patterns disagree; all such mistakes at once.
    """
    mistakes: list[str] = []
    for pattern in given:
        if pattern not in class_names and not any(fnmatchcase(name, pattern) for name in class_names):
            mistakes.append(f"`{pattern}` is no class{_suggestion(pattern, class_names)}")
    chosen: list[Value] = []
    for name in class_names:
        fitting = {pattern: value for pattern, value in given.items() if fnmatchcase(name, pattern)}
        if len(set(fitting.values())) > 1 and name not in given:
            mistakes.append(f"class `{name}` gets {' and '.join(f'{b} from `{a}`' for a, b in fitting.items())}")
        chosen.append(given[name] if name in given else next(iter(fitting.values()), otherwise))
    if mistakes:
        raise RecipeError(
            f"{key}: {'; '.join(mistakes)}",
            f"name a class, e.g. `{class_names[0]}`, or several with * and ?; let patterns exclude each other",
        )
    return tuple(chosen)


def _suggestion(pattern: str, class_names: Sequence[str]) -> str:
    """The nearest class, or the pattern for all classes that have this part."""
    parts: dict[str, str] = {}
    for name in class_names:
        pieces = name.split("/")
        for place, piece in enumerate(pieces if len(pieces) > 1 else []):
            start, end = "*/" if place else "", "/*" if place < len(pieces) - 1 else ""
            parts.setdefault(piece, f"{start}{piece}{end}")
    plain = pattern.strip("*/")
    near = [parts[piece] for piece in get_close_matches(plain, parts, n=1)]
    near += get_close_matches(pattern, class_names, n=1)
    return f", did you mean `{near[0]}`?" if near else ""
