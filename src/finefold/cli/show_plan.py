"""What a person reads of a freeze plan: a table per phase on stdout, or JSON."""

from typing import TYPE_CHECKING

from finefold.cli.printing import print_json, say, table

if TYPE_CHECKING:  # this loads torch
    from finefold.steps.freeze import Planned, PlannedPhase, PlannedStage

_COLUMNS = ("stage", "tensors", "parameters", "rate", "weight decay", "batch norms")


def planned(seen: "Planned", *, as_json: bool) -> None:
    """After `finefold inspect --freeze`, and within what `finefold inspect RUN` shows."""
    if as_json:
        print_json(seen.to_dict())
        return
    say(f"freeze plan on {seen.what}")
    for number, phase in enumerate(seen.phases, start=1):
        cells = [
            _cells(stage, is_per_class=seen.is_per_class and not place) for place, stage in enumerate(phase.stages)
        ]
        table(_title(number, phase), _COLUMNS, cells)
        say(f"computed once: {_computed_once(phase)}", "")
    if seen.note:
        say(f"nothing can be computed once: {seen.note}")


def _title(number: int, phase: "PlannedPhase") -> str:
    if phase.until == "probe":
        return f"phase {number}: the head, fitted to convergence"
    return f"phase {number}: {phase.trainable} for {phase.until}"


def _computed_once(phase: "PlannedPhase") -> str:
    if phase.shape is None or phase.megabytes is None:
        return "nothing, every step starts from the images"
    where = "the whole network" if phase.cut == "pooled" else f"up to {phase.cut}"
    shape = "x".join(map(str, phase.shape))
    return f"{where}, {shape} an image, {phase.megabytes:,.1f} MB for 1,000 images and one view"


def _cells(stage: "PlannedStage", *, is_per_class: bool) -> tuple[str, ...]:
    norms = f"{stage.batch_norms} frozen" if stage.batch_norms else ""
    if stage.running:
        kept = stage.batch_norms - stage.running
        norms = f"{stage.running} running" + (f", {kept} frozen" if kept else "")
    if not stage.tensors:
        return (stage.stage, "frozen", "", "", "", norms)
    tensors = f"{stage.tensors} of {stage.all_tensors}"
    parameters = f"{stage.parameters:,}" + (" per class" if is_per_class else "")
    rate = "" if stage.lr is None else f"{stage.lr:.3g}"
    decay = "" if stage.weight_decay is None else f"{stage.weight_decay:g}"
    return (stage.stage, tensors, parameters, rate, decay, norms)
