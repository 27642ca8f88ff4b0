"""Numbers that a TOML file says of classes: a table for an attribute, or `[joint]` for the joint class.

Shapes: C classes of a table.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from finefold.data.labels import LabelSpace
from finefold.data.strict import load_toml
from finefold.errors import DataError

JOINT = "joint"


def read_class_tables(
    path: Path, space: LabelSpace, check: Callable[[str, Sequence[Any], bool], list[str]]
) -> tuple[Mapping[str, Sequence[Any]], list[str]]:
    """Tables without mistakes, and all mistakes.

    Args:
        path: of the file.
        space: whose attributes and classes may be named.
        check: mistakes of a table's values, given its name, the values, and whether its classes are named rightly.

    Returns:
        attribute, or `joint` -> [C] values in the order of its classes; and what is wrong, a sentence each.

    Raises:
        DataError: the file cannot be read.
    """
    tables = load_toml(path, DataError)
    known = {attribute.name: attribute.classes for attribute in space.attributes} | {JOINT: space.class_names}
    found: dict[str, list[Any]] = {}
    mistakes: list[str] = []
    for name, table in tables.items():
        if name not in known or not isinstance(table, dict):
            mistakes.append(f"`[{name}]` is no attribute{_near(name, known)}: known are {', '.join(known)}")
            continue
        classes = known[name]
        wrong = [f"`{name}.{one}` is no class{_near(one, classes)}" for one in table if one not in classes]
        wrong += [f"`{name}.{one}` is missing" for one in classes if one not in table]
        wrong += check(name, list(table.values()), not wrong)
        mistakes += wrong
        if not wrong:
            found[name] = [table[one] for one in classes]
    if JOINT in tables and len(tables) > 1:
        mistakes.append("`[joint]` says everything already: leave the attributes out")
    if not tables:
        mistakes.append("it holds no table")
    return found, mistakes


def _near(name: str, known: Iterable[str]) -> str:
    """What was meant, perhaps."""
    near = get_close_matches(name, list(known), n=1)
    return f" (did you mean `{near[0]}`?)" if near else ""
