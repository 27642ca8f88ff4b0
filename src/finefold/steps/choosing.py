"""What trains where the recipe leaves it open (`choose = true`): measured on the probe and on one fold.

The textbook's four cases of transfer learning: few or many images, near to or far from what the weights have seen.
How near is measured by what a head on frozen features explains, and whether unfreezing pays by training one stage
in one fold and comparing it with that head, row by row.

Shapes: N samples, K classes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from finefold.data.predictions import Predictions
from finefold.data.samples import SampleTable
from finefold.metrics.classification import log_loss_N
from finefold.metrics.intervals import Score, bootstrap_sums, group_codes, group_sums
from finefold.nn.heads import FoldHeads
from finefold.recipe.loader import load_recipe
from finefold.recipe.schema import Recipe
from finefold.recipe.training import LossRecipe, PhaseRecipe
from finefold.steps.progress import Progress
from finefold.steps.training import Training
from finefold.steps.tuning import tune

TRIED_FOLD = 0
TRIED_STAGES, TRIED_LENGTH = "last:1", "4 epochs"
NEAR = 0.5  # share of the labels' entropy that the probe explains, from where on the weights' world counts as near
MANY = 200  # images per class, at the median, from where on everything may train

PROBE_PHASE = PhaseRecipe(trainable="head", until="probe")
Plan = Callable[[Recipe], Training]


@dataclass(frozen=True)
class Measured:
    """What the choice rests on.

    Args:
        median, least: images per class, of those that training sees; `num_classes` of them.
        explained: share of the labels' entropy that the probe explains out of fold; below 0 where it does harm.
        accuracy, chance: of the probe, and of always answering the largest class.
        gain: log loss of the probe less that of one trained stage, on one fold's held-out samples.
    """

    median: float
    least: int
    num_classes: int
    explained: float
    accuracy: float
    chance: float
    gain: Score


@dataclass(frozen=True)
class Chosen:
    """The recipe that was chosen, and why.

    Args:
        recipe: with phases, and nothing left open.
        lines: three, for people.
        measured: what they rest on.
    """

    recipe: Recipe
    lines: tuple[str, str, str]
    measured: Measured

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for the run's manifest."""
        kept = {name: value for name, value in vars(self.measured).items() if name != "gain"}
        return {"lines": list(self.lines), **kept, "gain": self.measured.gain.to_dict()}


def trial_recipe(recipe: Recipe) -> Recipe:
    """One stage for a few epochs, under a plain cross-entropy, so that log losses compare."""
    last = next(
        (phase for phase in reversed(recipe.phase) if not phase.is_probe), PhaseRecipe(trainable="all", until="1 epoch")
    )
    tried = last.model_copy(update={"trainable": TRIED_STAGES, "until": TRIED_LENGTH})
    return recipe.model_copy(update={"choose": False, "phase": (PROBE_PHASE, tried), "loss": LossRecipe()})


def choose(
    recipe: Recipe,
    probe: Predictions,
    heads: tuple[FoldHeads, ...],
    samples: SampleTable,
    plan: Plan,
    progress: Progress,
) -> Chosen:
    """Measures, and says which phases train.

    Args:
        recipe: that leaves it open.
        probe: out-of-fold predictions of the heads, in the samples' order.
        heads: [F] of every fold.
        samples: the table.
        plan: a recipe -> what every fold of a trial run of it goes by.
        progress: told of the stages.

    Raises:
        TrainingError, EngineError, CacheError: see `tune`.
    """
    progress.say(f"choosing what trains: {TRIED_STAGES} for {TRIED_LENGTH} on fold {TRIED_FOLD}, against the probe")
    training = plan(trial_recipe(recipe))
    tried = tune(training, heads, progress, folds=(TRIED_FOLD,))
    measured = measure(probe, tried.predictions, samples)
    return decide(recipe, measured)


def measure(probe: Predictions, tried: Predictions, samples: SampleTable) -> Measured:
    """The numbers that a choice rests on.

    Args:
        probe: of all samples, in their order.
        tried: of some of them.
        samples: the table; those that lack an attribute's value are left out.
    """
    labels_N, counts_K = (
        samples.labels_N,
        np.bincount(samples.train_labels_N[samples.train_labels_N >= 0], minlength=samples.space.num_classes),
    )
    known = np.flatnonzero(labels_N >= 0)
    shares_K = samples.counts_K() / len(known)
    entropy = float(-(shares_K[shares_K > 0] * np.log(shares_K[shares_K > 0])).sum())
    losses = log_loss_N(probe.probs_NK[known], labels_N[known])
    row_of = {name: row for row, name in enumerate(samples.ids)}
    rows = np.array([row_of[name] for name in tried.ids])
    is_known, rows = labels_N[rows] >= 0, rows[labels_N[rows] >= 0]
    gains = log_loss_N(probe.probs_NK[rows], labels_N[rows]) - log_loss_N(tried.probs_NK[is_known], labels_N[rows])
    return Measured(
        median=float(np.median(counts_K)),
        least=int(counts_K.min()),
        num_classes=len(counts_K),
        explained=float(1 - losses.mean() / entropy) if entropy else 0.0,
        accuracy=float((probe.probs_NK[known].argmax(axis=1) == labels_N[known]).mean()),
        chance=float(shares_K.max()),
        gain=mean_over_groups(gains, np.asarray(samples.groups)[rows]),
    )


def mean_over_groups(values_N: NDArray[np.float64], groups_N: NDArray[Any]) -> Score:
    """The mean of some rows' values, with its interval over groups."""
    codes_N, num_groups = group_codes(groups_N)
    sums_GC = group_sums(sparse.csr_array(np.stack([values_N, np.ones(len(values_N))], axis=1)), codes_N, num_groups)
    drawn_RC = bootstrap_sums(sums_GC)
    return Score.from_resamples(float(values_N.mean()), drawn_RC[:, 0] / drawn_RC[:, 1], len(values_N))


def decide(recipe: Recipe, measured: Measured) -> Chosen:
    """The textbook's cases: the head alone where a stage does not clearly pay, else the last stages or everything."""
    is_near, is_many = measured.explained >= NEAR, measured.median >= MANY
    gain = measured.gain
    about_gain = (
        f"one stage trained on one fold changes log loss by {-gain.value:+.3f} [{-gain.high:+.3f}, {-gain.low:+.3f}]"
    )
    if gain.low <= 0:
        phases: tuple[PhaseRecipe, ...] = (PROBE_PHASE,)
        why = f"{about_gain}: not clearly better, so the head alone"
    elif is_many and not is_near:
        phases = load_recipe("full").phase
        why = f"{about_gain}: it pays, and images are many and far, so everything trains"
    else:
        phases = tuple(phase for phase in recipe.phase)
        why = f"{about_gain}: it pays, so {phases[-1].trainable} train"
    images = (
        f"{measured.num_classes} classes, {measured.median:.0f} images at the median and {measured.least} in the "
        f"scarcest: {'many' if is_many else 'few'}"
    )
    world = (
        f"the probe reaches accuracy {measured.accuracy:.3f} (always the largest class: {measured.chance:.3f}) and "
        f"explains {max(0.0, measured.explained):.0%} of the labels' entropy: {'near to' if is_near else 'far from'} "
        "what the weights have seen"
    )
    chosen = recipe.model_copy(update={"choose": False, "phase": phases})
    return Chosen(chosen, (images, world, why), measured)
