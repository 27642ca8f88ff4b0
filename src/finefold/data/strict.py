"""Reading TOML against a schema: all mistakes at once, each with a suggestion."""

import tomllib
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError

from finefold.errors import FinefoldError

M = TypeVar("M", bound=BaseModel)


def load_toml(path: Path, error: type[FinefoldError]) -> dict[str, Any]:
    """The tables of a TOML file; a missing or malformed file is `error`, saying where."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as reason:
        raise error(f"cannot read {path}: {reason.strerror}", "give the path of an existing TOML file") from reason
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as reason:
        raise error(f"{path} is not valid TOML: {reason}", "mend the line it names") from reason


def validate(model: type[M], values: dict[str, Any], *, where: str, error: type[FinefoldError]) -> M:
    """`values` as a `model`.

    Raises:
        error: names every unknown key (with the nearest known one) and every wrong value.
    """
    try:
        return model.model_validate(values)
    except ValidationError as wrong:
        lines = [_describe(model, dict(problem)) for problem in wrong.errors(include_url=False)]
        count = "1 mistake" if len(lines) == 1 else f"{len(lines)} mistakes"
        raise error(f"{where} has {count}:\n" + "\n".join(f"  {line}" for line in lines)) from wrong


def _describe(model: type[BaseModel], problem: dict[str, Any]) -> str:
    keys = [str(key + 1) if isinstance(key, int) else str(key) for key in problem["loc"]]  # places count from 1
    place = ".".join(keys)
    if problem["type"] == "extra_forbidden":
        known = _fields_at(model, keys[:-1])
        near = get_close_matches(keys[-1], known, n=1, cutoff=0.5)
        if near:
            return f"unknown key `{place}`: did you mean `{'.'.join([*keys[:-1], near[0]])}`?"
        return f"unknown key `{place}`: known here are {', '.join(known)}"
    if problem["type"] == "missing":
        return f"`{place}` is missing"
    message = str(problem["msg"]).removeprefix("Value error, ").replace("valid tuple", "list like [10, 30]")
    got = problem["input"]
    shown = f", got {got!r}" if isinstance(got, str | int | float | bool) else ""
    near = get_close_matches(str(got), _choices_at(model, keys), n=1) if isinstance(got, str) else []
    suggestion = f": did you mean `{near[0]}`?" if near else ""
    if not place:  # of several keys together, which the message names
        return message
    return f"`{place}`: {message[0].lower() + message[1:]}{shown}{suggestion}"


def _annotation_at(model: type[BaseModel], keys: list[str]) -> Any:
    """The type of what lives under `keys`, or None where the path leaves the schema."""
    here: Any = model
    for key in keys:
        here = _inside(here, key)
    return here


def _inside(annotation: Any, key: str) -> Any:
    if _is_model(annotation):
        return {(field.alias or name): field.annotation for name, field in annotation.model_fields.items()}.get(key)
    if get_origin(annotation) in (tuple, list) and key.isdecimal():
        return get_args(annotation)[0]
    if get_origin(annotation) is dict:
        return get_args(annotation)[1]
    return next(filter(None, (_inside(inner, key) for inner in get_args(annotation))), None)


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _fields_at(model: type[BaseModel], keys: list[str]) -> list[str]:
    here = _annotation_at(model, keys)
    models = [inner for inner in (here, *get_args(here)) if _is_model(inner)]
    return [field.alias or name for inner in models for name, field in inner.model_fields.items()]


def _choices_at(model: type[BaseModel], keys: list[str]) -> list[str]:
    here = _annotation_at(model, keys)
    literals = [inner for inner in (here, *get_args(here)) if get_origin(inner) is Literal]
    return [str(choice) for inner in literals for choice in get_args(inner)]
