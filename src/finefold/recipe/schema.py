"""What a recipe may say. Everything that changes a run's science stands here; each value has a reason."""

import math
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from finefold.data.schema import Table
from finefold.recipe.durations import Duration
from finefold.recipe.training import (
    AfterRecipe,
    AugmentRecipe,
    CacheRecipe,
    DistillRecipe,
    LossRecipe,
    OptimRecipe,
    PhaseRecipe,
    PredictRecipe,
    PseudoRecipe,
    SamplingRecipe,
    ScheduleRecipe,
    TrainRecipe,
)

Pixels = Annotated[int, Field(ge=1)]
STRENGTHS = (10.0, 30.0, 100.0, 300.0, 1000.0)


class SplitRecipe(Table):
    """`[split]`: used where no split file is given."""

    folds: int = Field(default=5, ge=2, le=100)


class ImageRecipe(Table):
    """`[image]`: departures from the backbone's own preprocessing; none where unset.

    `boxes` is a CSV or Parquet file with a box for each image, which is cut out with `box_margin` of its longer side
    around it; an image without one falls back to `centre`.

    First `centre` cuts [height, width] out of the image, in its own pixels; then the crop of `crop_fraction` and `fit`
    is resized; then `grey` takes colour away and `clahe` evens contrast out. The same in every role.
    """

    size_px: int | None = Field(default=None, ge=32, le=2048)
    crop_fraction: float | None = Field(default=None, gt=0, le=1)
    fit: Literal["crop", "squash"] | None = None
    centre: tuple[Pixels, Pixels] | None = None
    grey: bool = False
    clahe: float = Field(default=0.0, ge=0, le=100)
    boxes: str | None = Field(default=None, min_length=1)
    box_margin: float = Field(default=0.2, ge=0, le=10)
    max_megapixels: float = Field(default=100.0, gt=0, allow_inf_nan=False)


class ModelRecipe(Table):
    """`[model]`: the backbone, its weights, the heads on it, and what computes it."""

    backbone: str = "tf_efficientnet_lite0"
    weights: str = "embedded"
    heads: Literal["joint", "per_attribute", "separate"] = "joint"
    ordinal: tuple[str, ...] = ()
    engine: Literal["auto", "torch", "openvino", "onnxruntime"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"


class ProbeRecipe(Table):
    """`[probe]`: linear heads on frozen features, one per fold and strength."""

    strengths: tuple[float, ...] = STRENGTHS
    power: float = Field(default=0.5, gt=0, le=1)
    max_steps: int = Field(default=200, ge=1)

    @field_validator("strengths")
    @classmethod
    def _positive(cls, strengths: tuple[float, ...]) -> tuple[float, ...]:
        in_range = all(0 < strength < math.inf for strength in strengths)
        if not strengths or not in_range or len(set(strengths)) < len(strengths):
            raise ValueError("needs different numbers above 0")
        return tuple(sorted(strengths))


class ScoreRecipe(Table):
    """`[scores]`: how intervals are made."""

    resamples: int = Field(default=1000, ge=100)


class Recipe(Table):
    """A whole recipe."""

    seed: int = Field(default=0, ge=0)
    choose: bool = False
    split: SplitRecipe = SplitRecipe()
    image: ImageRecipe = ImageRecipe()
    model: ModelRecipe = ModelRecipe()
    phase: tuple[PhaseRecipe, ...] = (PhaseRecipe(trainable="head", until="probe"),)
    probe: ProbeRecipe = ProbeRecipe()
    augment: AugmentRecipe = AugmentRecipe()
    sampling: SamplingRecipe = SamplingRecipe()
    loss: LossRecipe = LossRecipe()
    optim: OptimRecipe = OptimRecipe()
    schedule: ScheduleRecipe = ScheduleRecipe()
    train: TrainRecipe = TrainRecipe()
    predict: PredictRecipe = PredictRecipe()
    after: AfterRecipe = AfterRecipe()
    pseudo: PseudoRecipe = PseudoRecipe()
    distill: DistillRecipe = DistillRecipe()
    cache: CacheRecipe = CacheRecipe()
    scores: ScoreRecipe = ScoreRecipe()

    @model_validator(mode="after")
    def _embedded_is_lite0(self) -> "Recipe":
        if self.model.weights == "embedded" and self.model.backbone != "tf_efficientnet_lite0":
            raise ValueError(
                f'model.weights = "embedded" are tf_efficientnet_lite0\'s; for {self.model.backbone} give a weights '
                'file, or "pretrained" to download'
            )
        return self

    @property
    def is_probe_only(self) -> bool:
        """Whether no phase takes steps."""
        return all(phase.is_probe for phase in self.phase)

    @property
    def head_power(self) -> float:
        """The power that heads raise features to; a root has no slope at 0, so none where training goes on."""
        return self.probe.power if self.is_probe_only else 1.0

    @model_validator(mode="after")
    def _phases_follow(self) -> "Recipe":
        if not self.phase:
            raise ValueError('phase: nothing trains; write a [[phase]] with trainable = "head", until = "probe"')
        if self.model.ordinal and self.model.heads != "per_attribute":
            raise ValueError('model.ordinal is of heads on one backbone: set model.heads = "per_attribute"')
        if self.model.ordinal and self.is_probe_only:
            raise ValueError("model.ordinal needs a phase that trains: the probe fits plain heads")
        if self.augment.copies and self.is_probe_only:
            raise ValueError("augment.copies needs a phase that trains: the probe takes each image once")
        if any(phase.is_probe for phase in self.phase[1:]):
            raise ValueError('phase: until = "probe" comes first, before anything else was trained')
        shares = [phase.until for phase in self.phase if not phase.is_probe]
        if self.train.length is None and any(Duration.parse(until).unit == "percent" for until in shares):
            raise ValueError("phase: a phase lasts so many percent of train.length, which is not set")
        return self
