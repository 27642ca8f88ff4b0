"""`finefold inspect --freeze`: what a recipe would train of a model, and what a run was trained by."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from finefold.data.preprocessing import Preprocessing
from finefold.errors import UsageError
from finefold.nn.backbones import IMAGES, POOLED, build_body
from finefold.nn.classifier import Classifier
from finefold.nn.cutting import Chain, find_cuts
from finefold.nn.devices import set_threads
from finefold.nn.features import DTYPE
from finefold.nn.finding import SUFFIXES
from finefold.nn.freezing import FreezePlan, PlanRow, make_plan, plan_rows
from finefold.recipe.schema import Recipe
from finefold.steps.progress import SILENT, Progress

IMAGES_COUNTED = 1000
_NETWORK = "network."


@dataclass(frozen=True)
class PlannedStage(PlanRow):
    """One stage in one phase of a plan, beside the model's sizes.

    Args:
        parameters, all_parameters: how many numbers train, and how many there are.
        batch_norms: modules of the stage with running statistics.
    """

    parameters: int
    all_parameters: int
    batch_norms: int


@dataclass(frozen=True)
class PlannedPhase:
    """One phase.

    Args:
        trainable: what the recipe says trains.
        until: a duration, or `probe`.
        batch_norm: `frozen` or `running`, as the recipe says.
        cut: where the part ends that is computed once: a cut point, `pooled` for the whole network, `images` for
            nothing.
        shape: of a row there, for one image; None where nothing is computed once.
        megabytes: that the rows of 1,000 images take, in one view; None where nothing is computed once.
        stages: head first, then from the last stage to the first.
    """

    trainable: str
    until: str
    batch_norm: str
    cut: str
    shape: tuple[int, ...] | None
    megabytes: float | None
    stages: tuple[PlannedStage, ...]


@dataclass(frozen=True)
class Planned:
    """A freeze plan beside the model it is of.

    Args:
        what: the model, in words.
        is_per_class: whether the head's parameters are counted for one class, as the classes are not known.
        phases: in order.
        note: why nothing can be computed once; empty where something can.
    """

    what: str
    is_per_class: bool
    phases: tuple[PlannedPhase, ...]
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `--json` prints them."""
        return asdict(self)


def freeze(target: str | Path, recipe: Recipe, *, progress: Progress = SILENT) -> Planned:
    """What a recipe trains of a model, phase by phase. Nothing is trained, and no weights are needed.

    How much disk there is for cached prefixes is not asked: that depends on the images, and `finefold train` says it.

    Args:
        target: a timm or torchvision name.
        recipe: its phases, optimiser, views and image size; its own backbone does not matter.
        progress: told of the stages.

    Raises:
        UsageError: a run or a file in place of a name.
        RecipeError: a phase trains nothing, or names what the model lacks (with suggestions).
        ModelError, WeightsError: the model cannot be built.
    """
    path = Path(target)
    if path.is_dir():
        raise UsageError(
            f"--freeze says what a recipe would train of a model, and {target} is a folder",
            "`finefold inspect RUN` shows the plan that a run was trained by; give a timm or torchvision name here",
        )
    if path.is_file() or path.suffix in SUFFIXES:
        raise UsageError(f"--freeze needs a model, and {target} is a file", "give a timm or torchvision name")
    set_threads()
    with progress.stage("building", 0, ""):
        network, own = build_body(str(target), pretrained=False)
    size_px = recipe.image.size_px
    preprocessing = replace(own, height_px=size_px or own.height_px, width_px=size_px or own.width_px)
    with progress.stage("looking", 0, ""):
        return _planned_of_name(str(target), network.eval(), preprocessing, recipe)


def _planned_of_name(name: str, network: nn.Module, preprocessing: Preprocessing, recipe: Recipe) -> Planned:
    example = torch.randn(1, 3, preprocessing.height_px, preprocessing.width_px)
    chain = find_cuts(network, example=example)
    with torch.inference_mode():
        num_features = int(network(example).flatten(1).shape[1])
    head = nn.Linear(num_features, 1)
    plan = make_plan(recipe, network, head, chain, fits=lambda _: not recipe.augment.is_fresh)
    note = chain.reason or ""
    if recipe.augment.is_fresh:
        note = "augmentation is new in every epoch (augment.preset, augment.classes)"
    sizes = {f"{_NETWORK}{key}": value.numel() for key, value in network.named_parameters()}
    sizes |= {f"head.{key}": value.numel() for key, value in head.named_parameters()}
    phases = _phases(plan, network, sizes, _shapes(chain, num_features))
    return Planned(name, True, phases, note if any(phase.cut == IMAGES for phase in plan.phases) else "")


def stored_plan(what: str, values: Mapping[str, Any], model: Classifier, example: Tensor) -> Planned:
    """The plan that a run's manifest holds.

    Args:
        what: the run, in words.
        values: what `FreezePlan.to_dict` gave.
        model: of one of its folds.
        example: [1, 3, H, W] of the size that it sees.
    """
    plan = FreezePlan.from_dict(values)
    sizes = {key: value.numel() for key, value in model.named_parameters()}
    num_features = next(head.in_features for head in model.head.heads.values() if isinstance(head, nn.Linear))
    phases = _phases(plan, model.network, sizes, _shapes(find_cuts(model.network, example=example), num_features))
    return Planned(what, False, phases)


def _shapes(chain: Chain, num_features: int) -> dict[str, tuple[int, ...]]:
    return {cut.name: cut.shape for cut in chain.cuts} | {POOLED: (num_features,)}


def _phases(
    plan: FreezePlan, network: nn.Module, sizes: Mapping[str, int], shapes: Mapping[str, Sequence[int]]
) -> tuple[PlannedPhase, ...]:
    rows = plan_rows(plan)
    norms = [name for name, module in network.named_modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    phases = []
    for number, phase in enumerate(plan.phases, start=1):
        trained = frozenset(plan.layers[0].parameters) if phase.is_probe else phase.trainable
        stages = []
        for layer, row in zip(plan.layers, (row for row in rows if row.phase == number), strict=True):
            own = [name for name in layer.parameters if name in trained]
            modules = {name.rpartition(".")[0] for name in layer.parameters}
            stages.append(
                PlannedStage(
                    **vars(row) | {"tensors": len(own)},  # a probe trains the head too, though in no steps
                    parameters=sum(sizes.get(name, 0) for name in own),
                    all_parameters=sum(sizes.get(name, 0) for name in layer.parameters),
                    batch_norms=sum(f"{_NETWORK}{norm}" in modules for norm in norms),
                )
            )
        shape = tuple(shapes[phase.cut]) if phase.cut in shapes else None
        megabytes = None if shape is None else int(np.prod(shape)) * DTYPE.itemsize * IMAGES_COUNTED / 1e6
        phases.append(
            PlannedPhase(phase.says, phase.until, phase.batch_norm, phase.cut, shape, megabytes, tuple(stages))
        )
    return tuple(phases)
