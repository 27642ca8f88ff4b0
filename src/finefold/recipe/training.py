"""The tables of a recipe that say what trains, and how."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from finefold.data.schema import Table
from finefold.recipe.durations import Duration

PROBE = "probe"
LossName = Literal["cross_entropy", "focal", "class_balanced", "logit_adjusted", "soft_f1"]
View = Literal["plain", "hflip", "vflip", "hvflip", "rot90", "rot180", "rot270", "transpose"]
Strength = Literal["none", "light", "medium", "strong"]
Change = Literal["light", "medium", "strong"]


_PLAIN: dict[LossName, float] = {"cross_entropy": 1.0}


def _is_duration(text: str) -> str:
    Duration.parse(text)
    return text


DurationText = Annotated[str, AfterValidator(_is_duration)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class PhaseRecipe(Table):
    """`[[phase]]`: what trains, for how long, at which rates.

    `trainable` is `head`, `last:N` (the head and the last N stages), `all`, `norms`, or names of modules and
    parameters with * and ?. `until` is `probe` (the head is fitted to convergence, no steps) or a duration.
    """

    trainable: str | tuple[str, ...]
    until: str
    lr: Positive = 1e-3
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    batch_norm: Literal["frozen", "running"] = "frozen"

    @field_validator("until")
    @classmethod
    def _is_probe_or_duration(cls, until: str) -> str:
        if until == PROBE:
            return until
        try:
            duration = Duration.parse(until)
        except ValueError as reason:
            raise ValueError(f'{reason}, or "probe"') from None
        if duration.value <= 0:
            raise ValueError("trains for no time: write more than 0")
        return until

    @field_validator("trainable")
    @classmethod
    def _says_something(cls, trainable: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if not trainable or not all(trainable):
            raise ValueError('says nothing: write "head", "last:2", "all", "norms", or a list of names')
        return trainable

    @model_validator(mode="after")
    def _probe_is_of_the_head(self) -> "PhaseRecipe":
        if self.until == PROBE and self.trainable != "head":
            raise ValueError('until = "probe" fits the head: write trainable = "head"')
        return self

    @property
    def is_probe(self) -> bool:
        """Whether the head is fitted, and no steps are taken."""
        return self.until == PROBE


class OptimRecipe(Table):
    """`[optim]`: the optimiser. Norms and biases never decay."""

    name: str = "adamw"
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    momentum: Share = 0.9


class ScheduleRecipe(Table):
    """`[schedule]`: how rates change within a phase.

    `gamma` and `every` are of `step` and `exponential` (rate times gamma after every so long) and of `plateau`
    (where the fold's score has not risen for `patience` epochs). `final` is the share of the rate at the end.
    """

    name: Literal["cosine", "one_cycle", "linear", "step", "exponential", "plateau", "constant"] = "cosine"
    warmup: DurationText = "5 percent"
    final: Share = 0.01
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.1
    every: DurationText = "30 percent"
    patience: Annotated[int, Field(ge=1)] = 2


class LossRecipe(Table):
    """`[loss]`: a weighted sum of losses, and what is done about scarce classes.

    `balance` is one argument for one question: weigh the loss, draw scarce classes more often, or move the logits
    by the classes' shares. `attributes` weighs the heads where there is one per attribute.
    """

    terms: dict[LossName, Positive] = Field(default_factory=lambda: dict(_PLAIN))
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    focal_gamma: Annotated[float, Field(ge=0)] = 2.0
    balanced_beta: Annotated[float, Field(ge=0, lt=1)] = 0.999
    tau: Annotated[float, Field(ge=0)] = 1.0
    balance: Literal["none", "loss", "sampler", "logit_adjust"] = "none"
    balance_power: Share = 0.5
    attributes: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)

    @field_validator("terms")
    @classmethod
    def _has_terms(cls, terms: dict[str, float]) -> dict[str, float]:
        if not terms:
            raise ValueError("is empty: write e.g. { cross_entropy = 1.0 }")
        return terms


class SamplingRecipe(Table):
    """`[sampling]`: which training rows an epoch shows. `at_most` thins: so many of one group and class, 0 for all.

    `quota` repeats scarce classes up to this share of the rows there are after thinning; 0 for none.
    """

    at_most: Annotated[int, Field(ge=0)] = 0
    quota: Share = 0.0


class AugmentRecipe(Table):
    """`[augment]`: what training images go through.

    `views` are computed once per image and cached with the frozen prefix; each epoch takes one of them at random.
    `preset` changes images anew every epoch: with it, nothing can be computed once. `mix` mixes two images
    of a batch (where the prefix is cached, their maps); `mix_partners` says with whom: `any`, `same` for images of
    the same class, or names or patterns of the classes that the other image comes from. `copies` gives each training
    image of a class so many augmented copies, `copies_preset` strong: they are computed once, like views, and only
    training sees them.
    """

    views: tuple[View, ...] = (
        "plain",
        "hflip",
    )
    preset: Strength = "none"
    classes: dict[str, Strength] = Field(default_factory=dict)
    mix: Literal["none", "mixup", "cutmix", "half_cutmix"] = "none"
    mix_alpha: Positive = 0.2
    mix_share: Share = 0.5
    mix_partners: Literal["any", "same"] | tuple[str, ...] = "any"
    copies: dict[str, Annotated[int, Field(ge=0, le=100)]] = Field(default_factory=dict)
    copies_preset: Change = "medium"

    @field_validator("views")
    @classmethod
    def _are_different(cls, views: tuple[str, ...]) -> tuple[str, ...]:
        if not views or len(set(views)) < len(views):
            raise ValueError("needs different views, at least one")
        return views

    @field_validator("mix_partners")
    @classmethod
    def _names_somebody(cls, partners: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if not partners:
            raise ValueError('names no class: write "any", "same", or classes as in ["*/>=60"]')
        return partners

    @property
    def is_fresh(self) -> bool:
        """Whether images are changed anew every epoch, so that nothing can be computed once."""
        return self.preset != "none" or bool(self.classes)

    @model_validator(mode="after")
    def _copies_are_kept(self) -> "AugmentRecipe":
        if self.copies and self.is_fresh:
            raise ValueError(
                "copies are computed once, and preset and classes change images every epoch: leave one of them out "
                "(sampling.quota shows scarce classes more often)"
            )
        return self


class TrainRecipe(Table):
    """`[train]`: the loop."""

    batch_size: Annotated[int, Field(ge=1)] = 32
    accumulate: Annotated[int, Field(ge=1)] = 1
    clip_norm: Annotated[float, Field(ge=0)] = 1.0  # 0 for none
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    compile: bool = False
    average: Literal["none", "ema", "swa"] = "none"
    ema_decay: Annotated[float, Field(gt=0, lt=1)] = 0.99
    swa_start: Share = 0.75
    keep: Literal["last", "best"] = "last"
    patience: Annotated[int, Field(ge=0)] = 0  # epochs without a better score before a fold stops; 0 for never
    metric: Literal["macro_f1", "accuracy", "log_loss"] = "macro_f1"
    length: DurationText | None = None  # what a phase's percentage is of
    save_seconds: Annotated[float, Field(ge=0)] = 60.0

    def phase_steps(self, until: str, *, steps_per_epoch: int) -> int:
        """Optimiser steps of a phase that lasts `until`, a duration: at least one."""
        whole = None if self.length is None else Duration.parse(self.length).to_steps(steps_per_epoch=steps_per_epoch)
        return max(1, Duration.parse(until).to_steps(steps_per_epoch=steps_per_epoch, whole=whole))


class PredictRecipe(Table):
    """`[predict]`: views whose probabilities are averaged, in validation and for new images alike."""

    views: tuple[View, ...] = ("plain",)


class AfterRecipe(Table):
    """`[after]`: what is done to the probabilities of new images, fitted on the ledger.

    The ledger itself stays as the folds' models made it. `adjust` decides for scarce classes: afterwards
    probabilities no longer say how sure one is. `adapt_prior` is of the class shares of the new images.
    """

    calibrate: Literal["none", "temperature", "vector", "per_attribute"] = "none"
    adjust: Literal["none", "logit", "bias"] = "none"
    adapt_prior: Literal["off", "auto"] = "off"

    @property
    def is_nothing(self) -> bool:
        """Whether probabilities stay as they are, whatever the images."""
        return self.calibrate == self.adjust == "none"


class PseudoRecipe(Table):
    """`[pseudo]`: labels for unlabelled images, of `finefold pseudo` alone; `train` makes none.

    `share` of the images get a label, class by class as `shares` says: `estimated` among the images themselves by
    expectation maximisation, or those of `training`. `views` must agree on it.
    """

    share: Annotated[float, Field(gt=0, le=1)] = 0.5
    shares: Literal["estimated", "training"] = "estimated"
    threshold: Share = 0.0
    views: tuple[View, ...] = ("plain", "hflip")
    calibrate: bool = True
    target: Literal["soft", "hard"] = "hard"
    weight: Positive = 0.3
    rounds: Annotated[int, Field(ge=1)] = 3


class DistillRecipe(Table):
    """`[distill]`: learning from the run that `finefold train --teacher` names, and of that alone.

    `weight` is the teacher's in the loss, where labels have the rest. Probabilities of both are softened by
    `temperature` before they are compared. Where a teacher is `required`, training without one is an error.
    """

    weight: Share = 0.5
    temperature: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 2.0
    required: bool = False


class CacheRecipe(Table):
    """`[cache]`: disk that cached prefixes may take; a quarter of what is free where unset."""

    budget_gb: Positive | None = None
