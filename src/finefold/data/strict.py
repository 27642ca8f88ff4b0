"""Reading TOML against a schema: all mistakes at once, each with a suggestion."""

import tomllib
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from finefold.errors import FinefoldError

M = TypeVar("M", bound=BaseModel)


def load_toml(path: Path, error: type[FinefoldError]) -> dict[str, Any]:
    """The tables of a TOML file; a missing or malformed file is `error`, saying where."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
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
    keys = [str(key) for key in problem["loc"]]
    place = ".".join(keys) or "(top)"
    if problem["type"] == "extra_forbidden":
        known = _fields_at(model, keys[:-1])
        near = get_close_matches(keys[-1], known, n=1, cutoff=0.5)
        if near:
            return f"unknown key `{place}`: did you mean `{'.'.join([*keys[:-1], near[0]])}`?"
        return f"unknown key `{place}`: known here are {', '.join(known)}"
    if problem["type"] == "missing":
        return f"`{place}` is missing"
    message = str(problem["msg"]).removeprefix("Value error, ")
    got = problem["input"]
    shown = f", got {got!r}" if isinstance(got, str | int | float | bool) else ""
    near = get_close_matches(str(got), _choices_at(model, keys), n=1) if isinstance(got, str) else []
    suggestion = f": did you mean `{near[0]}`?" if near else ""
    return f"`{place}`: {message[0].lower() + message[1:]}{shown}{suggestion}"


def _model_at(model: type[BaseModel], keys: list[str]) -> type[BaseModel] | None:
    """The nested model that lives under `keys`, or None where the path leaves the schema."""
    here: type[BaseModel] | None = model
    for key in keys:
        if here is None:
            return None
        names = {(field.alias or name): field for name, field in here.model_fields.items()}
        if key in names:
            here = _model_in(names[key].annotation)
    return here


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, (_model_in(inner) for inner in get_args(annotation))), None)


def _fields_at(model: type[BaseModel], keys: list[str]) -> list[str]:
    here = _model_at(model, keys)
    return [] if here is None else [field.alias or name for name, field in here.model_fields.items()]


def _choices_at(model: type[BaseModel], keys: list[str]) -> list[str]:
    here = _model_at(model, keys[:-1])
    field = here and {(f.alias or name): f for name, f in here.model_fields.items()}.get(keys[-1])
    return [str(choice) for choice in get_args(field.annotation)] if field else []
