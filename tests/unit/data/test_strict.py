"""TOML against a schema: every mistake at once, each with what was probably meant."""

from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from finefold.data.strict import load_toml, validate
from finefold.errors import DataError, RecipeError


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Oven(_Table):
    heat: int = Field(default=180, ge=0, le=300)
    fan: Literal["on", "off"] | None = None
    source: str | None = Field(default=None, alias="from")


class Cake(_Table):
    name: str
    oven: Oven = Oven()
    second: Oven | None = None
    layers: dict[str, Oven] = Field(default_factory=dict)
    slots: list[Oven] = Field(default_factory=list)
    sizes: tuple[float, ...] = ()


def mistakes(values: dict[str, Any]) -> list[str]:
    with pytest.raises(DataError) as caught:
        validate(Cake, values, where="cake.toml", error=DataError)
    return caught.value.message.split("\n")


def test_right_values_become_a_model() -> None:
    """What fits the schema is returned as its model."""
    cake = validate(Cake, {"name": "x", "oven": {"heat": 20}}, where="", error=DataError)
    assert (cake.name, cake.oven.heat) == ("x", 20)


def test_all_mistakes_come_at_once() -> None:
    """Missing, wrong, out of range and unknown are told together, counted, under the place they stand."""
    values = {"nme": 1, "oven": {"heat": 301, "fan": "of"}, "sizes": [1, "big"], "second": 7}
    assert mistakes(values) == [
        "cake.toml has 6 mistakes:",
        "  `name` is missing",
        "  `oven.heat`: input should be less than or equal to 300, got 301",
        "  `oven.fan`: input should be 'on' or 'off', got 'of': did you mean `off`?",
        "  `second`: input should be a valid dictionary or instance of Oven, got 7",
        "  `sizes.2`: input should be a valid number, unable to parse string as a number, got 'big'",
        "  unknown key `nme`: did you mean `name`?",
    ]


def test_one_mistake_is_told_in_the_singular() -> None:
    """The count reads as language does, and the error is of the asked kind."""
    with pytest.raises(RecipeError, match=r"^here has 1 mistake:\n  `name` is missing$"):
        validate(Cake, {}, where="here", error=RecipeError)


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"ovn": {}}, "unknown key `ovn`: did you mean `oven`?"),
        ({"oven": {"haet": 1}}, "unknown key `oven.haet`: did you mean `oven.heat`?"),
        ({"second": {"haet": 1}}, "unknown key `second.haet`: did you mean `second.heat`?"),
        ({"oven": {"form": "x"}}, "unknown key `oven.form`: did you mean `oven.from`?"),
        ({"layers": {"top": {"haet": 1}}}, "unknown key `layers.top.haet`: did you mean `layers.top.heat`?"),
        ({"layers": {"heat": {"haet": 1}}}, "unknown key `layers.heat.haet`: did you mean `layers.heat.heat`?"),
        ({"oven": {"zzz": 1}}, "unknown key `oven.zzz`: known here are heat, fan, from"),
        (
            {"layers": {"top": {"fan": "onn"}}},
            "`layers.top.fan`: input should be 'on' or 'off', got 'onn': did you mean `on`?",
        ),
        ({"oven": {"fan": "<class"}}, "`oven.fan`: input should be 'on' or 'off', got '<class'"),
    ],
)
def test_what_was_meant_is_suggested(values: dict[str, Any], line: str) -> None:
    """Unknown keys and choices are compared with those known at that place, in tables of tables as well."""
    assert mistakes({"name": "x", **values})[1:] == [f"  {line}"]


def test_toml_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    """Missing files, folders, broken syntax and foreign encodings are the caller's kind of error."""
    file = tmp_path / "x.toml"
    for content, start in [
        (None, f"cannot read {file}: No such file or directory"),
        (b"a = 1\nb = \n", f"{file} is not valid TOML: Invalid value (at line 2, column 5)"),
        (b"a = 1\na = 2\n", f"{file} is not valid TOML: Cannot overwrite a value (at line 2, column 6)"),
        (b"a = '\xff'\n", f"{file} is not valid TOML: 'utf-8' codec can't decode byte 0xff"),
    ]:
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(RecipeError) as caught:
            load_toml(file, RecipeError)
        assert caught.value.message.startswith(start)
        assert caught.value.hint
    with pytest.raises(RecipeError, match="Is a directory"):
        load_toml(tmp_path, RecipeError)


@pytest.mark.parametrize("content", [b"\xef\xbb\xbfa = 1\n", b"a = 1\r\n", b"\xef\xbb\xbfa = 1\r\n\r\n"])
def test_toml_of_any_editor_is_read(tmp_path: Path, content: bytes) -> None:
    """Byte order marks and CRLF are no mistakes."""
    (tmp_path / "x.toml").write_bytes(content)
    assert load_toml(tmp_path / "x.toml", DataError) == {"a": 1}
