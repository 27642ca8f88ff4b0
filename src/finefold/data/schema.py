"""What may stand in data.toml, as frozen values."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Bounds = dict[str, float]  # "inf" is a float too


class Table(BaseModel):
    """A TOML table: no unknown keys, nothing changes after it was read."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class SamplesTable(Table):
    """`[samples]`: where the images are and what their paths or rows say. One of three sources."""

    root: str = "."
    template: str | None = None
    csv: str | None = None
    class_folders: bool = False
    parse: dict[str, str] = Field(default_factory=dict)
    ignore: list[str] = Field(default_factory=list)
    id: str | None = None
    group: str | None = None
    fold: str | None = None
    patches: str | None = None
    exclude: str | None = None
    # for csv
    path: str | None = None
    suffix: str = ""
    separator: str = ","
    columns: list[str] | None = None
    # for class_folders
    parts: list[str] = Field(default_factory=list)

    @model_validator(mode="after")
    def _one_source(self) -> "SamplesTable":
        given = [name for name in ("template", "csv", "class_folders") if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(
                f"exactly one of template, csv, class_folders says where samples come from; given: {given}"
            )
        if self.separator != "whitespace" and not (len(self.separator) == 1 and self.separator.isascii()):
            raise ValueError(f'separator is one ASCII character or "whitespace"; given: {self.separator!r}')
        if self.csv and not self.path:
            raise ValueError("csv needs `path`, the column that holds the image's path")
        return self


class AttributeTable(Table):
    """`[attributes.NAME]`: a column's values as classes, or a number's ranges as bands."""

    from_: str | None = Field(default=None, alias="from")
    classes: dict[str, list[str]] | None = None  # a plain list names its values' classes after them
    bands: Bounds | None = None
    train_bands: Bounds | None = None
    train_drop: list[tuple[float, float]] = Field(default_factory=list)
    missing: list[str] = Field(default_factory=list)

    @field_validator("classes", mode="before")
    @classmethod
    def _names_as_table(cls, classes: Any) -> Any:
        if not isinstance(classes, list):
            return classes
        if strange := [name for name in classes if not isinstance(name, str)]:
            raise ValueError(f"classes are texts in quotes; given: {strange[0]!r}")
        if twice := [name for name in classes if classes.count(name) > 1]:
            raise ValueError(f"class named twice: {twice[0]}")
        return {name: [name] for name in classes}

    @model_validator(mode="after")
    def _classes_or_bands(self) -> "AttributeTable":
        if (self.classes is None) == (self.bands is None):
            raise ValueError("an attribute has either `classes` or `bands`")
        return self


class LabelTable(Table):
    """`[label]`: which attributes make the joint class, first slowest."""

    joint: list[str]


class PredictTable(Table):
    """`[predict]`: the images to answer for, and the template to fill in."""

    root: str
    template_csv: str | None = None
    id_column: str | None = None
    answer_column: str | None = None
    answer: Literal["number", "name"] = "number"
    suffix: str = ""
    extra: Literal["refuse", "ignore"] = "refuse"

    @model_validator(mode="after")
    def _template_columns(self) -> "PredictTable":
        if self.template_csv and not (self.id_column and self.answer_column):
            raise ValueError("template_csv needs `id_column` and `answer_column`")
        if self.id_column is not None and self.id_column == self.answer_column:
            raise ValueError(f"id_column and answer_column are both `{self.id_column}`: answers would replace the ids")
        return self


class DataFile(Table):
    """A whole data.toml."""

    samples: SamplesTable
    attributes: dict[str, AttributeTable]
    label: LabelTable | None = None
    predict: PredictTable | None = None
