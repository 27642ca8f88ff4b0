"""The freeze plan: what trains in each phase, at which rates, and where the frozen prefix ends.

A plan is made from the recipe and the model's own stages; it is a value that is printed before training and stored
with it. Names of parameters are those of the classifier: `network.` and the network's own name, or `head.` and
the head's. Patterns in a recipe speak of the network alone.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any, Literal

from torch import nn

from finefold.errors import RecipeError
from finefold.nn.backbones import IMAGES, POOLED
from finefold.nn.cutting import Chain, CutPoint
from finefold.nn.optim import RateGroup, decays, is_norm
from finefold.nn.stages import HEAD, STEM, Stage, find_stages
from finefold.nn.whole import TakenHead
from finefold.recipe.schema import Recipe
from finefold.recipe.training import PhaseRecipe

_NETWORK, _HEAD = "network.", "head."
_LAST = re.compile(r"last:(\d+)")


@dataclass(frozen=True)
class Layer:
    """Some of the network's parameters that share a rate: a stage, or the head.

    Args:
        name: of the stage, `head` for the classifier on top.
        parameters: names, in the order of the model.
        depth: 0 for the head, 1 for the last stage, one more for each before it.
    """

    name: str
    parameters: tuple[str, ...]
    depth: int


@dataclass(frozen=True)
class PhasePlan:
    """One phase.

    Args:
        says: what the recipe says trains.
        until: a duration, or `probe`.
        groups: what trains, with rates and weight decay; empty for a probe.
        batch_norm: whether trained stages' batch norms keep averaging.
        running: names of the batch-norm modules that do.
        cut: where the frozen prefix ends: a cut point's name, POOLED or IMAGES.
    """

    says: str
    until: str
    groups: tuple[RateGroup, ...]
    batch_norm: Literal["frozen", "running"]
    running: tuple[str, ...]
    cut: str

    @property
    def is_probe(self) -> bool:
        """Whether the head is fitted without steps."""
        return not self.groups

    @property
    def trainable(self) -> frozenset[str]:
        """Names of the parameters that change."""
        return frozenset(name for group in self.groups for name in group.names)


@dataclass(frozen=True)
class FreezePlan:
    """All phases of a recipe on one model.

    Args:
        phases: in order.
        layers: head first, then the stages from the last to the first.
    """

    phases: tuple[PhasePlan, ...]
    layers: tuple[Layer, ...]

    @property
    def cut(self) -> str:
        """Where the prefix ends that no phase changes: what all folds share."""
        return self.phases[-1].cut

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as a run stores them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "FreezePlan":
        """The plan that `to_dict` described."""
        phases = [
            PhasePlan(
                **{
                    **phase,
                    "groups": tuple(RateGroup(**{**one, "names": tuple(one["names"])}) for one in phase["groups"]),
                    "running": tuple(phase["running"]),
                }
            )
            for phase in values["phases"]
        ]
        layers = [Layer(one["name"], tuple(one["parameters"]), one["depth"]) for one in values["layers"]]
        return cls(tuple(phases), tuple(layers))


@dataclass(frozen=True)
class PlanRow:
    """One phase and stage of a plan, for a person to read.

    Args:
        phase: counted from 1.
        stage: of the model, or `head`.
        tensors, all_tensors: how many of the stage's parameters train, and how many there are.
        lr: base rate; None where nothing trains.
        weight_decay: of those that decay.
        running: batch norms of the stage that keep averaging.
    """

    phase: int
    stage: str
    tensors: int
    all_tensors: int
    lr: float | None
    weight_decay: float | None
    running: int


def plan_rows(plan: FreezePlan) -> tuple[PlanRow, ...]:
    """Every phase and stage: what trains, rate, weight decay and batch-norm statistics."""
    rows = []
    for number, phase in enumerate(plan.phases, start=1):
        for layer in plan.layers:
            own = set(layer.parameters)
            groups = [group for group in phase.groups if own & set(group.names)]
            trained = sum(len(group.names) for group in groups)
            modules = {name.rpartition(".")[0] for name in own}
            running = sum(f"{_NETWORK}{norm}" in modules for norm in phase.running)
            lr = groups[0].lr if groups else None
            decay = max((group.weight_decay for group in groups), default=None)
            rows.append(PlanRow(number, layer.name, trained, len(own), lr, decay, running))
    return tuple(rows)


def make_plan(
    recipe: Recipe, network: nn.Module, head: nn.Module, chain: Chain, *, fits: Callable[[CutPoint], bool]
) -> FreezePlan:
    """The plan of a recipe.

    Args:
        recipe: its phases and optimiser.
        network: without a classifier of its own.
        head: what turns its features into logits.
        chain: the network's.
        fits: whether the rows of a cut may be cached. Where augmentation is anew each time, none is used.

    Raises:
        RecipeError: a phase trains nothing, or names something that the model lacks (with suggestions).
    """
    layers = find_layers(network, head, chain)
    plans: list[PhasePlan] = []
    trained: frozenset[str] = frozenset()
    problems: list[str] = []
    for number, phase in enumerate(recipe.phase, start=1):
        try:
            names = _names(phase, network, layers)
        except RecipeError as reason:
            problems.append(f"phase {number}: {reason.message}")
            continue
        trained |= frozenset(names) if not phase.is_probe else frozenset()
        plans.append(_phase(phase, recipe, network, head, layers, names, _cut(trained, network, chain, fits)))
    if problems:
        known = ", ".join(f"`{layer.name}`" for layer in layers)
        raise RecipeError("\n".join(problems), f"the model's stages are {known}; `finefold inspect` shows all modules")
    return FreezePlan(tuple(plans), layers)


def find_layers(network: nn.Module, head: nn.Module, chain: Chain) -> tuple[Layer, ...]:
    """The head, then the network's stages from the last to the first, each with the parameters that are its own.

    What follows the last stage (a last convolution, a last norm) belongs to it, what belongs to no stage (position
    embeddings, class tokens) to the stem. A network without cuts is one stage.
    """
    stages = list(find_stages(network, chain)) or [Stage("network", ("",), None, None)]
    if stages[-1].name == HEAD and len(stages) > 1:
        before, last = stages[-2], stages[-1]
        stages[-2:] = [Stage(before.name, (*before.modules, *last.modules), None, None)]
    if stages[0].name != STEM and len(stages) > 1:
        stages.insert(0, Stage(STEM, (), None, None))
    stage_of = {name: _stage_of(name, stages) for name, _ in network.named_parameters()}
    layers = [Layer(HEAD, tuple(f"{_HEAD}{name}" for name, _ in head.named_parameters()), 0)]
    for depth, stage in enumerate(reversed(stages), start=1):
        own = [f"{_NETWORK}{name}" for name, of in stage_of.items() if of == stage.name]
        layers.append(Layer(stage.name, tuple(own), depth))
    return tuple(layers)


def _stage_of(name: str, stages: Sequence[Stage]) -> str:
    for stage in stages:
        if any(not path or name == path or name.startswith(f"{path}.") for path in stage.modules):
            return stage.name
    return stages[0].name


def _names(phase: PhaseRecipe, network: nn.Module, layers: Sequence[Layer]) -> list[str]:
    """What a phase trains: the head, and what it says."""
    head, stages = layers[0], layers[1:]
    says = phase.trainable
    if isinstance(says, tuple) or (says not in ("head", "all", "norms") and not _LAST.fullmatch(says)):
        return [*head.parameters, *_matching((says,) if isinstance(says, str) else says, network)]
    if says == "head":
        return list(head.parameters)
    if says == "norms":
        norms = [name for name, module in network.named_modules() if is_norm(module)]
        found = [
            f"{_NETWORK}{norm}.{name}" for norm in norms for name, _ in network.get_submodule(norm).named_parameters()
        ]
        if not found:
            raise RecipeError("trains nothing: the model has no norm with parameters")
        return [*head.parameters, *found]
    if says == "all":
        return [name for layer in layers for name in layer.parameters]
    match = _LAST.fullmatch(says)
    assert match is not None
    count, most = int(match[1]), sum(stage.name != STEM for stage in stages)
    if not 1 <= count <= most:
        raise RecipeError(f"`{says}`: the model has {most} stages after its stem; write last:1 to last:{most}, or all")
    return [name for layer in layers[: count + 1] for name in layer.parameters]


def _matching(patterns: Sequence[str], network: nn.Module) -> list[str]:
    """Parameters whose name, or a module around them, matches a pattern."""
    own = [name for name, _ in network.named_parameters()]
    paths = [name for name, _ in network.named_modules() if name]
    taken = [name for name, module in network.named_modules() if isinstance(module, TakenHead)]
    of_head = [part for path in taken for name in ("weight", "bias") for part in _around(f"{path}.{name}")]
    found: dict[str, None] = {}
    problems = []
    for pattern in patterns:
        matched = [name for name in own if any(fnmatchcase(part, pattern) for part in _around(name))]
        if not matched and not any(fnmatchcase(part, pattern) for part in of_head):  # the head trains in any case
            near = get_close_matches(pattern, [*paths, *own, "head", "last:1", "all", "norms"], n=3, cutoff=0.5)
            has_none = any(fnmatchcase(path, pattern) for path in paths)
            why = "has no parameters, so nothing trains" if has_none else "matches nothing in the model"
            problems.append(f"`{pattern}` {why}" + (f"; did you mean {' or '.join(near)}?" if near else ""))
        found |= dict.fromkeys(matched)
    if problems:
        raise RecipeError("; ".join(problems))
    return [f"{_NETWORK}{name}" for name in own if name in found]


def _around(name: str) -> list[str]:
    """A parameter's own name and those of the modules around it."""
    parts = name.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts) + 1)]


def _cut(trained: frozenset[str], network: nn.Module, chain: Chain, fits: Callable[[CutPoint], bool]) -> str:
    """Where the longest prefix ends that holds nothing trained."""
    inside = {name.removeprefix(_NETWORK) for name in trained if name.startswith(_NETWORK)}
    if not inside:
        return POOLED
    frozen = [cut for cut in chain.cuts if not inside & chain.parameters_before(cut.name, network)]
    return next((cut.name for cut in reversed(frozen) if fits(cut)), IMAGES)


def _phase(
    phase: PhaseRecipe,
    recipe: Recipe,
    network: nn.Module,
    head: nn.Module,
    layers: Sequence[Layer],
    names: list[str],
    cut: str,
) -> PhasePlan:
    says = phase.trainable if isinstance(phase.trainable, str) else ", ".join(phase.trainable)
    if phase.is_probe:
        return PhasePlan(says, phase.until, (), "frozen", (), cut)
    chosen = set(names)
    no_decay = _no_decay(network)
    groups: list[RateGroup] = []
    for layer in layers:
        own = [name for name in layer.parameters if name in chosen]
        rate = phase.lr * phase.layer_decay**layer.depth
        for is_decayed in (True, False):
            part = [name for name in own if _decays(name, network, head, no_decay) == is_decayed]
            if part:
                groups.append(RateGroup(tuple(part), rate, recipe.optim.weight_decay if is_decayed else 0.0))
    running = _running(network, chosen) if phase.batch_norm == "running" else ()
    return PhasePlan(says, phase.until, tuple(groups), phase.batch_norm, running, cut)


def _running(network: nn.Module, chosen: set[str]) -> tuple[str, ...]:
    """Batch norms that keep averaging: those whose own parameters train."""
    norms = [name for name, module in network.named_modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    return tuple(
        norm
        for norm in norms
        if any(f"{_NETWORK}{norm}.{name}" in chosen for name, _ in network.get_submodule(norm).named_parameters())
    )


def _no_decay(network: nn.Module) -> frozenset[str]:
    """Parameters that the model's makers keep from decaying (position embeddings and the like)."""
    asked = getattr(network, "no_weight_decay", None)
    return frozenset(asked()) if callable(asked) else frozenset()


def _decays(name: str, network: nn.Module, head: nn.Module, no_decay: frozenset[str]) -> bool:
    root, own = (head, name.removeprefix(_HEAD)) if name.startswith(_HEAD) else (network, name.removeprefix(_NETWORK))
    module = root.get_submodule(own.rpartition(".")[0])
    return decays(own, module, root.get_parameter(own), no_decay)
