"""`finefold recipe`: which recipes there are, and why each value of one is what it is."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from finefold.data.samples import SampleTable
from finefold.data.splits import Split
from finefold.nn.sampling import epoch_rows
from finefold.recipe.explaining import Value, explain_recipe
from finefold.recipe.loader import dump_recipe, load_recipe, preset_names, preset_text
from finefold.recipe.schema import Recipe
from finefold.steps.progress import SILENT
from finefold.steps.reading import read_data
from finefold.steps.split import check_fits, known_to, make, split_of

SCARCE = 10  # times rarer than the most frequent class, from where on it is worth a word
_SIDES = {
    "hflip": frozenset({"left", "right"}),
    "vflip": frozenset({"up", "down", "top", "bottom", "upper", "lower"}),
}
_SIDES["hvflip"] = _SIDES["rot180"] = _SIDES["hflip"] | _SIDES["vflip"]
_SIDES["rot90"] = _SIDES["rot270"] = _SIDES["transpose"] = _SIDES["hvflip"]


@dataclass(frozen=True)
class Preset:
    """A recipe that comes with finefold.

    Args:
        name: for `--recipe`.
        about: the first comment of its file that is no command.
    """

    name: str
    about: str


@dataclass(frozen=True)
class DataSize:
    """What a data set's size means for a recipe.

    Args:
        samples, groups: how many.
        folds: how many, and `split` where they are from: a file, or made as training would.
        least, median: images per class; `least_class` is the scarcest.
        rows: that train in the largest fold's training part.
        rows_per_epoch: what an epoch shows, after thinning and repeating.
        steps_per_epoch: of the optimiser.
        phase_steps: of each phase; 0 of a probe.
    """

    samples: int
    groups: int
    folds: int
    split: str
    least: int
    least_class: str
    median: float
    rows: int
    rows_per_epoch: int
    steps_per_epoch: int
    phase_steps: tuple[int, ...]


@dataclass(frozen=True)
class Explained:
    """A recipe with its reasons.

    Args:
        name: a preset, or a file.
        values: all of them.
        data: what the data's size means; None where no data was given.
        warnings: what does not suit the data.
    """

    name: str
    values: tuple[Value, ...]
    data: DataSize | None
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `--json` prints them."""
        return asdict(self)


def presets() -> tuple[Preset, ...]:
    """The recipes that come with finefold."""
    return tuple(Preset(name, _about(preset_text(name))) for name in preset_names())


def recipe_text(name: str, overrides: Sequence[str] = ()) -> str:
    """A recipe as a TOML file: a preset or a file as it is written, with its comments; with overrides every value.

    Raises:
        RecipeError: there is no such recipe, or it has mistakes.
    """
    recipe = load_recipe(name, overrides)
    if overrides:
        return dump_recipe(recipe)
    return Path(name).read_text("utf-8") if name.endswith(".toml") else preset_text(name)


def _about(text: str) -> str:
    """The first comment that is no command."""
    comments = [line.lstrip("# ") for line in text.splitlines() if line.startswith("#")]
    return next((line for line in comments if not line.startswith(("finefold ", "$ "))), "")


def explain(name: str, overrides: Sequence[str] = (), *, data: str | Path | None = None) -> Explained:
    """Every value of a recipe, where it came from and why; with data, what its size means and what does not suit it.

    Images are not opened but those that the split lacks: others that cannot be read count as samples.

    Args:
        name: a preset, or a path ending in .toml.
        overrides: `key.path=value`, on top of it.
        data: a data.toml.

    Raises:
        RecipeError, DataError, SplitError: see each.
    """
    recipe, values = explain_recipe(name, overrides)
    if data is None:
        return Explained(name, values, None, ())
    read = read_data(data)
    file = read.default_split
    samples = read.samples
    if file.is_file():
        given, most = split_of(read, file), round(recipe.image.max_megapixels * 1e6)
        samples = known_to(given, samples, max_pixels=most, progress=SILENT)
        split, told = check_fits(given, samples), str(file)
        values = tuple(_from_data(value, split.num_folds, told) for value in values)
    else:
        split, told = make(samples, folds=recipe.split.folds, seed=recipe.seed), "made as training would"
    size = _size(recipe, samples, split, told)
    return Explained(name, values, size, tuple(_warnings(recipe, samples, size)))


def _from_data(value: Value, num_folds: int, file: str) -> Value:
    """The number of folds is that of the split that lies beside data.toml."""
    return replace(value, value=num_folds, source=f"data: {file}") if value.key == "split.folds" else value


def _size(recipe: Recipe, samples: SampleTable, split: Split, told: str) -> DataSize:
    counts_K, folds_N = samples.counts_K(), split.folds_for(samples.ids)
    train_N = samples.train_strata.likely_N(counts_K)
    parts = [np.flatnonzero((folds_N != fold) & (train_N >= 0)) for fold in range(split.num_folds)]
    rows = max(parts, key=len)
    shown_E = epoch_rows(
        rows,
        train_N[rows],
        np.asarray(samples.groups)[rows],
        balance=recipe.loss.balance,
        balance_power=recipe.loss.balance_power,
        at_most=recipe.sampling.at_most,
        quota=recipe.sampling.quota,
        rng=np.random.default_rng(recipe.seed),
    )
    batches = -(-len(shown_E) // recipe.train.batch_size)
    steps = -(-batches // recipe.train.accumulate)
    scarcest = int(counts_K.argmin())
    return DataSize(
        len(samples),
        len(set(samples.groups)),
        split.num_folds,
        told,
        int(counts_K[scarcest]),
        samples.space.class_names[scarcest],
        float(np.median(counts_K)),
        len(rows),
        len(shown_E),
        steps,
        tuple(
            0 if one.is_probe else recipe.train.phase_steps(one.until, steps_per_epoch=steps) for one in recipe.phase
        ),
    )


def _warnings(recipe: Recipe, samples: SampleTable, size: DataSize) -> list[str]:
    return [
        *_about_size(recipe, samples, size),
        *_about_sides(recipe, samples.space.class_names),
        *_about_names(recipe, samples),
    ]


def _about_size(recipe: Recipe, samples: SampleTable, size: DataSize) -> list[str]:
    """Batches larger than the rows, classes smaller than the folds, classes that hardly count."""
    found = []
    trains = not recipe.is_probe_only
    if trains and recipe.train.batch_size > size.rows_per_epoch:
        found.append(
            f"train.batch_size = {recipe.train.batch_size} is above the {size.rows_per_epoch} rows of an epoch: "
            "every epoch is one step"
        )
    names, counts_K = samples.space.class_names, samples.counts_K()
    members: dict[int, set[str]] = {}
    for label, group in zip(samples.labels_N.tolist(), samples.groups, strict=True):
        if label >= 0:
            members.setdefault(label, set()).add(group)
    for label, name in enumerate(names):
        groups = len(members.get(label, ()))
        if counts_K[label] < size.folds:
            found.append(f"class `{name}` has {counts_K[label]} samples, fewer than the {size.folds} folds")
        elif groups < size.folds:
            found.append(f"class `{name}` comes from {groups} groups, fewer than the {size.folds} folds")
    most = int(counts_K.max())
    if trains and recipe.loss.balance == "none" and size.least * SCARCE < most:
        found.append(
            f"class `{size.least_class}` has {size.least} samples and the largest {most}: loss.balance is none, "
            'and "loss" or "sampler" would weigh scarce classes up'
        )
    return found


def _about_sides(recipe: Recipe, class_names: Sequence[str]) -> list[str]:
    """Views that turn one class into another."""
    found = []
    for key, views in (("augment.views", recipe.augment.views), ("predict.views", recipe.predict.views)):
        words = {word: view for view in views for word in sorted(_SIDES.get(view, frozenset()))}
        for name in class_names:
            sides = [word for word in re.split(r"[^a-z]+", name.lower()) if word in words]
            if sides:
                found.append(f"{key} has {words[sides[0]]}, and class `{name}` says which side: {sides[0]}")
    return found


def _about_names(recipe: Recipe, samples: SampleTable) -> list[str]:
    """Names in the recipe that the data does not have."""
    names, classes = samples.space.names, samples.space.class_names
    found = [
        f"augment.classes names `{name}`, which is no class"
        for name in recipe.augment.classes
        if not any(fnmatchcase(one, name) for one in classes)
    ]
    found += [f"loss.attributes names `{name}`, no attribute" for name in recipe.loss.attributes if name not in names]
    if recipe.model.heads != "joint" and len(names) == 1:
        found.append(
            f'model.heads = "{recipe.model.heads}" is the same as "joint" here: `{names[0]}` is the only attribute'
        )
    return found
