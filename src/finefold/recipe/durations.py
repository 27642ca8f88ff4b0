"""How long something lasts: "12 epochs", "500 steps", "30 percent"."""

import re
from dataclasses import dataclass
from typing import Literal

Unit = Literal["epochs", "steps", "percent"]

_PATTERN = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(epochs?|steps?|percent|%)\s*")
_UNITS: dict[str, Unit] = {
    "epoch": "epochs",
    "epochs": "epochs",
    "step": "steps",
    "steps": "steps",
    "percent": "percent",
    "%": "percent",
}


@dataclass(frozen=True)
class Duration:
    """A number of epochs, of optimiser steps, or a share of a whole in percent.

    Args:
        value: 0 or more; steps are whole.
        unit: of `value`.
    """

    value: float
    unit: Unit

    @classmethod
    def parse(cls, text: str) -> "Duration":
        """The duration that a text says.

        Raises:
            ValueError: it says none.
        """
        match = _PATTERN.fullmatch(text)
        if match is None:
            raise ValueError('is no duration: write "12 epochs", "500 steps" or "30 percent"')
        made = cls(float(match[1]), _UNITS[match[2]])
        if made.unit == "steps" and made.value != int(made.value):
            raise ValueError("is a part of a step: write a whole number of steps")
        if made.unit == "percent" and made.value > 100:
            raise ValueError("is more than the whole: write at most 100 percent")
        return made

    def to_steps(self, *, steps_per_epoch: int, whole: int | None = None) -> int:
        """Optimiser steps, rounded.

        Args:
            steps_per_epoch: above 0.
            whole: steps that 100 percent are.

        Raises:
            ValueError: percent of no whole.
        """
        if self.unit == "steps":
            return int(self.value)
        if self.unit == "epochs":
            return round(self.value * steps_per_epoch)
        if whole is None:
            raise ValueError("a percentage needs a whole")
        return round(self.value * whole / 100)

    def __str__(self) -> str:
        number = f"{self.value:g}"
        if self.unit == "percent":
            return f"{number} percent"
        return f"{number} {self.unit if self.value != 1 else self.unit[:-1]}"
