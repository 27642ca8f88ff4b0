"""How much work goes into an answer: of how many folds' models, under which views."""

from collections.abc import Sequence
from dataclasses import dataclass

from finefold.errors import UsageError
from finefold.nn.features import PLAIN
from finefold.recipe.training import View
from finefold.steps.run import Run


@dataclass(frozen=True)
class Effort:
    """What answers; all folds and the recipe's views where nothing is said.

    Args:
        folds: so many of the folds' models, the first ones.
        views: of each image.
    """

    folds: int | None = None
    views: tuple[View, ...] | None = None

    @property
    def is_all(self) -> bool:
        """Whether nothing was said."""
        return self.folds is None and self.views is None

    def folds_of(self, run: Run) -> int:
        """How many models of a run answer."""
        return run.num_folds if self.folds is None else self.folds

    def views_of(self, run: Run) -> tuple[View, ...]:
        """Under which views a run answers."""
        return run.recipe.predict.views if self.views is None else self.views

    def is_of_the_ledger(self, run: Run) -> bool:
        """Whether a run's ledger is of these views."""
        return self.views is None or set(self.views) == set(ledger_views(run))

    def check_fits(self, run: Run) -> None:
        """A run can answer so.

        Raises:
            UsageError: it has fewer folds, or is an ensemble.
        """
        if self.is_all:
            return
        if run.is_ensemble:
            raise UsageError(
                f"{run.folder.path} is an ensemble: its members answer, each with its own folds and views",
                "leave --folds and --views out, or predict with a member",
            )
        if not 1 <= self.folds_of(run) <= run.num_folds:
            raise UsageError(
                f"--folds {self.folds}: {run.folder.path} has {run.num_folds}", "say one of these or fewer"
            )

    def to_flags(self) -> str:
        """What `finefold predict` is told."""
        folds = "" if self.folds is None else f" --folds {self.folds}"
        return folds + ("" if self.views is None else f" --views {','.join(self.views)}")


ALL = Effort()


def check_effort(run: Run, effort: Effort, *, is_corrected: bool) -> None:
    """A run can answer so, and what corrects its answers was fitted on a ledger of the same views.

    Raises:
        UsageError: neither, or one of both.
    """
    effort.check_fits(run)
    if is_corrected and not effort.is_of_the_ledger(run):
        raise UsageError(
            f"answers are corrected by what the ledger says, which is of the views {say_views(ledger_views(run))}",
            "leave --views out, or do without [after], --adapt-prior and --pool",
        )


def ledger_views(run: Run) -> tuple[View, ...]:
    """The views that a run's ledger is of: a probe's is of plain images."""
    return (PLAIN,) if run.recipe.is_probe_only else run.recipe.predict.views


def say_views(views: Sequence[View]) -> str:
    """In a few words."""
    return " + ".join(views)
