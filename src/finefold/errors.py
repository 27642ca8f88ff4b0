"""Every error finefold raises on purpose. Imports nothing.

* FinefoldError              exit code 1: foreseen, told with what to do
  * DataError                data.toml, its sources, labels or patches say something impossible
  * SplitError               a split leaks, lacks samples or cannot be made
  * ImageError               one file is not a readable image
  * WeightsError             weights are missing, broken or do not fit
  * ModelError               a model cannot be built, run on these images, or cut there
  * EngineError              an engine cannot run this model here
  * CacheError               the cache cannot be written
  * TrainingError            training cannot go on: numbers that are not finite, a worker that died
  * RunError                 a run folder is missing, unfinished or in the way
  * SubmissionError          predictions and template do not belong together
  * UsageError               exit code 2: the invocation itself
    * RecipeError            a recipe has unknown keys, wrong types or impossible combinations

FinefoldWarning is no error: what was chosen where a file or recipe leaves it open.
"""


class FinefoldWarning(UserWarning):
    """Something was chosen for the user, who may want it otherwise; the command line prints it once on stderr."""


class FinefoldError(Exception):
    """A mistake the user can mend: what went wrong, and a hint that says what to do."""

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\n\nhint: {self.hint}"


class DataError(FinefoldError):
    """data.toml, its sources, labels or patches say something impossible."""


class SplitError(FinefoldError):
    """A split leaks, lacks samples or cannot be made."""


class ImageError(FinefoldError):
    """One file is not a readable image."""


class WeightsError(FinefoldError):
    """Weights are missing, broken or do not fit."""


class ModelError(FinefoldError):
    """A model cannot be built, run on these images, or cut there."""


class EngineError(FinefoldError):
    """An engine cannot run this model here."""


class CacheError(FinefoldError):
    """The cache cannot be written."""


class TrainingError(FinefoldError):
    """Training cannot go on: numbers that are not finite, a worker that died."""


class RunError(FinefoldError):
    """A run folder is missing, unfinished or in the way."""


class SubmissionError(FinefoldError):
    """Predictions and template do not belong together."""


class UsageError(FinefoldError):
    """The invocation itself is mistaken."""

    exit_code = 2


class RecipeError(UsageError):
    """A recipe has unknown keys, wrong types or impossible combinations."""
