"""What a person reads of recipes: tables on stdout, or JSON; what does not suit the data on stderr."""

from collections.abc import Sequence
from dataclasses import asdict

from finefold.cli.printing import print_json, say, table, warn
from finefold.recipe.explaining import to_toml
from finefold.steps.recipe import DataSize, Explained, Preset


def listed(found: Sequence[Preset], *, as_json: bool) -> None:
    """After `finefold recipe list`."""
    if as_json:
        print_json([asdict(preset) for preset in found])
        return
    table("recipes that come with finefold", ("name", "what it is for"), [(one.name, one.about) for one in found])
    say(
        "next: finefold recipe explain NAME        # what each value is for",
        "      finefold recipe show NAME > mine.toml  # to change it: --recipe mine.toml",
    )


def explained(seen: Explained, *, as_json: bool) -> None:
    """After `finefold recipe explain`."""
    for line in seen.warnings:
        warn(line)
    if as_json:
        print_json(seen.to_dict())
        return
    say(f"recipe {seen.name}: {len(seen.values)} values")
    groups: dict[str, list[tuple[str, ...]]] = {}
    for value in seen.values:
        head, _, rest = value.key.partition(".")
        title = f"{head}.{rest.partition('.')[0]}" if head == "phase" else head if rest else ""
        own = value.key.removeprefix(f"{title}.")
        groups.setdefault(title, []).append((own, to_toml(value.value), value.source, value.reason))
    for title, rows in groups.items():
        say("", title or "(top)")
        for key, shown, source, reason in rows:
            say(f"  {key} = {shown}  ({source})", f"      {reason}")
    if seen.data is not None:
        _size(seen.data)


def _size(size: DataSize) -> None:
    phases = [f"phase {number}: {steps:,} steps" for number, steps in enumerate(size.phase_steps, start=1) if steps]
    say(
        "",
        "what the size of the data means",
        f"  {size.samples:,} samples in {size.groups:,} groups, {size.folds} folds ({size.split})",
        f"  images per class: least {size.least:,} (`{size.least_class}`), median {size.median:,g}",
        f"  a fold trains on {size.rows:,} rows; an epoch shows {size.rows_per_epoch:,}",
    )
    if phases:
        say(f"  {size.steps_per_epoch:,} steps an epoch; {', '.join(phases)}")
