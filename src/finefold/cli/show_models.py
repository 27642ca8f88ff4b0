"""What a person reads of a model and its weights: tables on stdout, or JSON."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from finefold.cli import show_plan
from finefold.cli.printing import as_bytes, as_share, print_json, say, some_of, table, warn

if TYPE_CHECKING:  # these load torch
    from finefold.nn.finding import WeightsFile
    from finefold.nn.layout import Placed
    from finefold.nn.measuring import Flow, Gradients
    from finefold.nn.modules import Inspection, ModuleRow, StateRow
    from finefold.steps.inspect import Inspected
    from finefold.steps.weights import Matched

_ROOT = "(model)"
_SHOWN = 10


def inspected(seen: "Inspected", *, depth: int | None, as_json: bool) -> None:
    """After `finefold inspect`."""
    if as_json:
        print_json(seen.to_dict())
        return
    inspection = seen.inspection
    shown = _depth(seen.modules, inspection) if depth is None else depth
    whole = seen.modules[0]
    say(
        f"{seen.what}: {whole.parameters:,} parameters, {as_bytes(whole.bytes)}",
        f"weights: {seen.weights}",
    )
    _tree(seen.modules, shown, inspection)
    if inspection is not None:
        _chain(inspection, seen.modules, shown)
        if inspection.flow is not None:
            _flow(inspection.flow, shown, seen.images)
        if inspection.gradients is not None:
            _gradients(inspection.gradients, seen.images)
    if seen.state is not None:
        _state(seen.state)
    if seen.plan is not None:
        show_plan.planned(seen.plan, as_json=False)
    if seen.more:
        say(seen.more)


def _depth(modules: Sequence["ModuleRow"], inspection: "Inspection | None") -> int:
    """As deep as the stages are; of a file, two."""
    if inspection is None:
        return 2
    return max((row.depth for row in modules if row.stage), default=1)


def _tree(modules: Sequence["ModuleRow"], depth: int, inspection: "Inspection | None") -> None:
    rows: list[tuple[str, ...]] = []
    for row in modules:
        if row.depth > depth:
            continue
        name = "  " * row.depth + (row.name.rpartition(".")[2] or _ROOT)
        folded = f" (+{row.num_children})" if row.depth == depth and row.num_children else ""
        cells = (name + folded, row.kind, f"{row.parameters:,}", row.dtype, as_bytes(row.bytes))
        if inspection is None:
            rows.append(cells)
        else:
            share = as_share(row.trainable_share) if row.parameters else ""
            rows.append((*cells[:3], share, *cells[3:], row.stage, "cut" if row.cut else ""))
    columns: tuple[str, ...] = ("module", "kind", "parameters", "type", "memory")
    if inspection is not None:
        columns = ("module", "kind", "parameters", "trainable", "type", "memory", "stage", "ends at")
    table("modules", columns, rows)


def _chain(inspection: "Inspection", modules: Sequence["ModuleRow"], depth: int) -> None:
    chain = inspection.chain
    if chain.reason is not None:
        say(f"no cut points: {chain.reason}")
        return
    names = {row.name for row in modules if row.depth <= depth}
    inside = [cut.name for cut in chain.cuts if not names & set(cut.modules)]
    stages = [stage.name for stage in inspection.stages]
    say(f"stages: {', '.join(stages)}")
    more = f"; deeper or between modules: {some_of(inside, _SHOWN)}" if inside else ""
    say(f"cut points: {len(chain.cuts)}{more}")


def _flow(flow: "Flow", depth: int, images: str) -> None:
    whole = flow.rows[0]
    rows = [
        (
            "  " * _level(row.name) + (row.name or _ROOT),
            row.kind,
            "x".join(map(str, row.shape)),
            f"{row.flops / 1e6:,.1f}",
            f"{1000 * row.seconds:,.2f}",
            as_share(row.seconds / whole.seconds if whole.seconds else 0),
            "" if row.calls == 1 else str(row.calls),
        )
        for row in flow.rows
        if _level(row.name) <= depth
    ]
    what, machine = images.partition(",")[0], f"fp32, {flow.device}, {flow.threads} threads"
    title = f"forward, in the order in which data flows: {flow.batch} of {what}, {machine}"
    table(title, ("module", "kind", "output", "MFLOP", "ms", "of the time", "calls"), rows)


def _level(name: str) -> int:
    return name.count(".") + 1 if name else 0


def _gradients(gradients: "Gradients", images: str) -> None:
    frozen = [row.name for row in gradients.rows if not row.trainable]
    rows = [_frozen_cells(frozen)] if frozen else []
    rows += [
        (
            row.name,
            "x".join(map(str, row.shape)),
            "none" if row.zeros is None else _scientific(row.norm),
            "" if row.zeros is None else as_share(row.zeros),
            str(row.not_finite) if row.not_finite else "",
        )
        for row in gradients.rows
        if row.trainable
    ]
    loss = "not finite" if gradients.loss is None else f"{gradients.loss:.3f}"
    title = f"gradients: {images}, cross-entropy {loss}"
    table(title, ("parameter", "shape", "gradient norm", "zeros", "NaN or inf"), rows)
    for finding in gradients.findings:
        say(f"{finding.severity}: {finding.kind}: {finding.cause}", f"  {finding.remedy}")


def _frozen_cells(names: Sequence[str]) -> tuple[str, ...]:
    """One line for all that is frozen."""
    told = names[0] if len(names) == 1 else f"{names[0]} ... {names[-1]}"
    return told, f"{len(names)} tensor{'s' * (len(names) > 1)}", "frozen", "", ""


def _scientific(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.3g}"


def _state(state: Sequence["StateRow"]) -> None:
    rows = [
        (
            row.key,
            "x".join(map(str, row.shape)) or "scalar",
            row.dtype,
            "" if row.mean is None else f"{row.mean:.4g}",
            "" if row.std is None else f"{row.std:.4g}",
            row.hash,
        )
        for row in state
    ]
    table("state", ("key", "shape", "type", "mean", "std", "hash"), rows)


def weights_files(found: Sequence["WeightsFile"], *, as_json: bool) -> None:
    """After `finefold weights list`."""
    if as_json:
        print_json([{**asdict(file), "path": str(file.path)} for file in found])
        return
    if not found:
        say("no weights on this machine; `finefold weights match NAME DST --download` fetches some")
        return
    rows = [
        (file.model or file.path.name, file.where, as_bytes(file.bytes), file.hash, str(file.path)) for file in found
    ]
    table("weights on this machine", ("model", "where", "size", "hash", "file"), rows)


def matched(made: "Matched", *, every: bool, as_json: bool) -> None:
    """After `finefold weights match`."""
    if as_json:
        print_json(made.to_dict())
        return
    match = made.match
    layout = match.layout
    known = (
        f" ({made.source_model}, told by its keys)" if made.source_model not in ("", made.source.split(" ")[0]) else ""
    )
    say(f"{made.source}{known} -> {made.target}")
    title = f"{layout.num_found} of {len(layout.placed) + len(layout.missing)} tensors of {made.target} matched"
    if every:
        table(title, ("in the model", "from", "how", "confidence", "reason"), [*map(_placed_cells, layout.placed)])
    elif same := _same_names(layout.placed):
        say(f"{title}, each from the {same} (--all shows each)")
    else:
        columns = ("in the model", "from", "tensors", "how", "confidence", "reason")
        table(f"{title} (--all shows each)", columns, _grouped(layout.placed))
    _rest(made)
    if match.settings:
        say("settings of the source that the model needs too:")
        say(*(f"  {line}" for line in _grouped_settings([str(setting) for setting in match.settings])))
    say(match.proof_told())
    if made.out is not None:
        say(f"wrote {made.out}")


def _same_names(placed: Sequence["Placed"]) -> str:
    """By which names every tensor was placed as it is; empty where one was placed otherwise."""
    found = [one for one in placed if one.sources and not one.key.endswith("num_batches_tracked")]
    is_plain = all(one.reason.startswith("same name") and one.how == "same" and not one.rivals for one in found)
    return ", or the ".join(dict.fromkeys(one.reason for one in found)) if is_plain else ""


def _placed_cells(one: "Placed") -> tuple[str, ...]:
    source = " + ".join(one.sources)
    if one.rivals:
        source += f"  (or {some_of(one.rivals, _SHOWN)})"
    return one.key, source, one.how, f"{one.confidence:.2f}", one.reason


def _grouped(placed: Sequence["Placed"]) -> list[tuple[str, ...]]:
    """A line for neighbours in one block that were placed alike; batch counters go without saying."""
    groups: dict[tuple[str, str, bool], list[Placed]] = {}
    for one in placed:
        if one.sources and not one.key.endswith("num_batches_tracked"):
            how = "" if one.how == "same" else one.how
            groups.setdefault((_block(one.key), how, bool(one.rivals)), []).append(one)
    cells: list[tuple[str, ...]] = []
    container = _container([source for ones in groups.values() for one in ones for source in one.sources])
    for (block, how, _), ones in groups.items():
        sources = [source for one in ones for source in one.sources]
        doubt = f"  (or {some_of(ones[0].rivals, _SHOWN)})" if ones[0].rivals else ""
        reasons = list(dict.fromkeys(one.reason for one in ones))
        cells.append(
            (
                ones[0].key if len(ones) == 1 else block,
                _common(sources, container) + doubt,
                str(len(ones)),
                how,
                f"{min(one.confidence for one in ones):.2f}",
                reasons[0] if len(reasons) == 1 else f"{reasons[0]}; {len(reasons) - 1} other",
            )
        )
    return cells


def _block(key: str) -> str:
    """The block that a tensor belongs to: its first three names at most, without the tensor's own."""
    return ".".join(key.split(".")[:-1][:3]) or key


def _common(sources: Sequence[str], container: str) -> str:
    """What the names of some tensors begin with, if that says more than the container of all; else first and last."""
    if len(sources) == 1:
        return sources[0]
    common = _container(sources)
    if common not in ("", container):
        return common
    layers = list(dict.fromkeys(source.rpartition(".")[0] or source for source in sources))
    return layers[0] if len(layers) == 1 else f"{layers[0]} ... {layers[-1]}"


def _container(sources: Sequence[str]) -> str:
    """The innermost path that holds all of some tensors."""
    names = [source.split(".")[:-1] for source in sources]
    shared = 0
    for parts in zip(*names, strict=False):
        if len(set(parts)) > 1:
            break
        shared += 1
    return ".".join(names[0][:shared]) if names else ""


def _rest(made: "Matched") -> None:
    layout = made.match.layout
    for title, found in (("left as they were", layout.missing), ("left out of the source", layout.left_out)):
        by_reason: dict[str, list[str]] = {}
        for key, reason in found.items():
            by_reason.setdefault(reason, []).append(key)
        for reason, keys in by_reason.items():
            say(f"{title}: {some_of(keys, _SHOWN)}: {reason}")
    if layout.ambiguous:
        warn(f"{len(layout.ambiguous)} tensors are ambiguous: the source has others that fit as well")


def _grouped_settings(lines: Sequence[str]) -> list[str]:
    """Equal differences of many modules as one line."""
    modules: dict[str, list[str]] = {}
    for line in lines:
        module, _, difference = line.partition(": ")
        modules.setdefault(difference, []).append(module)
    return [
        f"{names[0]}: {what}" if len(names) == 1 else f"{what} ({len(names)} modules: {', '.join(names[:3])} ...)"
        for what, names in modules.items()
    ]
