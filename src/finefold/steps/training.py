"""What every fold of a run goes by, as its workers read it, and what follows from it for one of them."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from finefold.data.imageset import ImageSet
from finefold.data.samples import SampleTable
from finefold.data.sources import read_spec
from finefold.data.splits import Split, read_split
from finefold.data.strata import Strata
from finefold.errors import RecipeError
from finefold.metrics.classification import confusion_matrix, log_loss_N, scores_from_confusion
from finefold.nn.averaging import make_average
from finefold.nn.backbones import IMAGES, POOLED, Backbone
from finefold.nn.classifier import Classifier, JointLogits, Tail
from finefold.nn.classwise import by_class
from finefold.nn.copies import Copy, copies_by_class, copies_of, wanted_by
from finefold.nn.distilling import Taught
from finefold.nn.engines import Choice
from finefold.nn.features import PLAIN, PrefixCache
from finefold.nn.freezing import FreezePlan, PhasePlan
from finefold.nn.heads import JOINT, FoldHeads
from finefold.nn.loaders import CachedRows, ImageRows, Rows, TrainRole
from finefold.nn.loop import HeadLosses, PhaseLoop, freeze
from finefold.nn.losses import make_loss, make_spread
from finefold.nn.optim import make_optimiser
from finefold.nn.sampling import class_counts
from finefold.nn.schedules import make_schedule
from finefold.nn.transforms import Augment, make_augment
from finefold.nn.watching import Watcher
from finefold.recipe.loader import load_recipe
from finefold.recipe.schema import Recipe
from finefold.recipe.training import View
from finefold.runs.folder import RunFolder, read_json, write_json
from finefold.steps.extra import ExtraImages
from finefold.steps.own import NOTHING, Own

Scalar = TypeVar("Scalar", bound=np.generic)
WATCHED, WATCHED_HEAD = 20, 250  # steps between two looks at logits and gradients; a head's own steps are short


@dataclass(frozen=True)
class Training:
    """What every fold of a run goes by.

    Args:
        folder: the run.
        recipe, samples, split, plan, backbone: the run's.
        hashes: where the rows of each of `images` lie in the prefix cache; empty before they are known.
        shapes: cut -> shape of a row.
        choice: the engine that computed them.
        precision: of the steps.
        device: of the steps.
        own: what the user brought from Python.
        copies_N: [N] how many augmented copies each sample has where it trains; of joint classes always.
        partners_N: [N] which samples are of the joint classes that augment.mix_partners names; None for no names.
        is_compiled: whether steps are.
        teacher_FNK: what each fold's teacher says of the samples, see `steps.teaching`; None without a teacher.
        extra: images that train besides, with each fold's labels; None without.
    """

    folder: RunFolder
    recipe: Recipe
    samples: SampleTable
    split: Split
    plan: FreezePlan
    backbone: Backbone
    hashes: tuple[bytes, ...]
    shapes: Mapping[str, tuple[int, ...]]
    choice: Choice
    precision: str
    device: torch.device
    copies_N: NDArray[np.int64]
    partners_N: NDArray[np.bool_] | None
    own: Own = NOTHING
    is_compiled: bool = False
    teacher_FNK: NDArray[np.float32] | None = None
    extra: ExtraImages | None = None

    @classmethod
    def read(cls, folder: RunFolder, attribute: str | None = None, own: Own = NOTHING) -> "Training":
        """What the parent wrote; of one attribute's own models where it is named."""
        told = read_json(folder.training)
        spec = read_spec(folder.data)
        recipe = load_recipe(str(folder.recipe))
        samples = SampleTable(pl.read_parquet(folder.samples), spec.space, spec.root)
        training = cls(
            folder,
            recipe,
            samples,
            read_split(folder.split),
            FreezePlan.from_dict(told["plan"]),
            replace(Backbone.read(folder.backbone), own=own.body, opened=frozenset(told["opened"])),
            tuple(bytes.fromhex(one) for one in told["hashes"]),
            {cut: tuple(shape) for cut, shape in told["shapes"].items()},
            Choice(told["engine"], told["engine_precision"], "as planned"),
            told["precision"],
            torch.device(told["device"]),
            copies_each(recipe, samples, own),
            partners_named(recipe, samples),
            own,
            told["compiled"],
            np.load(folder.teacher, mmap_mode="r") if folder.teacher.is_file() else None,
            ExtraImages.read(folder.extra) if folder.extra.is_file() else None,
        )
        return training.of(attribute)

    def of(self, attribute: str | None) -> "Training":
        """The same of one attribute's own models; as it is where none is named."""
        if attribute is None:
            return self
        extra = None if self.extra is None else self.extra.under(self.samples.space, attribute)
        samples = self.samples.for_attribute(attribute)
        return replace(self, folder=self.folder.part(attribute), samples=samples, extra=extra)

    @property
    def images(self) -> ImageSet:
        """Those of the samples, and the extra ones after them."""
        return self.samples.images if self.extra is None else self.samples.images + self.extra.images

    @property
    def copies(self) -> Mapping[Copy, NDArray[np.bool_]]:
        """Copy -> which of `images` have it; only samples do."""
        of_extra = 0 if self.extra is None else len(self.extra.images)
        return wanted_by(np.pad(self.copies_N, (0, of_extra)), copies_of(self.recipe))

    def backbone_at(self, cut: str) -> Backbone:
        """The backbone up to a cut."""
        return self.backbone.until(cut, self.shapes[cut])

    def write(self) -> None:
        """For `read`; samples, split, recipe and backbone are in the folder already."""
        told = {
            "plan": self.plan.to_dict(),
            "shapes": {cut: list(shape) for cut, shape in self.shapes.items()},
            "opened": sorted(self.backbone.opened or ()),
            "engine": self.choice.engine,
            "engine_precision": self.choice.precision,
            "precision": self.precision,
            "device": self.device.type,
            "compiled": self.is_compiled,
            "hashes": [one.hex() for one in self.hashes],
        }
        write_json(self.folder.training, told)

    @property
    def _max_pixels(self) -> int:
        return round(self.recipe.image.max_megapixels * 1e6)

    def cache(self, cut: str) -> PrefixCache:
        """The prefix up to a cut, on the engine that was chosen."""
        return PrefixCache(self.backbone_at(cut), self.choice, self._max_pixels)

    def rows(self, cut: str) -> Rows:
        """What a tail from this cut on takes."""
        if cut == IMAGES:
            images = self.images
            return ImageRows(images.paths, self.backbone.preprocessing, self._max_pixels, images.boxes)
        cache, versions = self.cache(cut), (*views_needed(self.recipe), *copies_of(self.recipe))
        return CachedRows({version: cache.open(version) for version in versions}, self.hashes)


def copies_each(recipe: Recipe, samples: SampleTable, own: Own = NOTHING) -> NDArray[np.int64]:
    """[N] how many augmented copies each sample has where it trains.

    Raises:
        RecipeError: the recipe names no class, or the user's own augmentation changes images every epoch.
    """
    if own.augment is not None and recipe.augment.copies:
        raise RecipeError(
            "augment.copies are computed once, and an augmentation of your own changes images every epoch",
            "leave one of them out; sampling.quota shows scarce classes more often",
        )
    return _by_sample(np.append(copies_by_class(recipe, samples.space.class_names), 0), samples)


def partners_named(recipe: Recipe, samples: SampleTable) -> NDArray[np.bool_] | None:
    """[N] which samples are of the classes that augment.mix_partners names; None where it names none.

    Raises:
        RecipeError: it names no class of the data.
    """
    named = recipe.augment.mix_partners
    if isinstance(named, str):
        return None
    is_named_K = by_class("augment.mix_partners", dict.fromkeys(named, True), samples.space.class_names, False)
    return _by_sample(np.array([*is_named_K, False]), samples)


def _by_sample(values: NDArray[Scalar], samples: SampleTable) -> NDArray[Scalar]:
    """[N] of [K + 1] values: those of the joint class that training sees, the last one where a label has gaps."""
    codes_N = samples.train_strata.codes_N
    return values[np.where((codes_N >= 0) & (codes_N < len(values)), codes_N, -1)]


def views_needed(recipe: Recipe) -> tuple[View, ...]:
    """The views of each image that training, scoring and predicting take."""
    return tuple(dict.fromkeys((PLAIN, *recipe.augment.views, *recipe.predict.views)))


def train_role(training: Training, plan: PhasePlan, samples: NDArray[np.int64], key: tuple[int, int, int]) -> TrainRole:
    """The training batches of a phase."""
    recipe, table = training.recipe, training.samples
    augment = None
    if training.own.augment is not None:
        augment = Augment.of(training.own.augment, training.backbone.preprocessing, views=recipe.augment.views)
    elif recipe.augment.is_fresh:
        augment = make_augment(recipe.augment, training.backbone.preprocessing, table.space.class_names)
    strata = table.train_strata
    return TrainRole(
        training.rows(plan.cut),
        samples,
        strata.likely_N(_counts_S(strata, samples)[: table.space.num_classes]),
        np.unique(table.groups, return_inverse=True)[1],
        strata.codes_N,
        len(strata),
        recipe,
        augment if plan.cut == IMAGES else None,
        key,
        training.copies_N,
        training.partners_N,
        None if training.teacher_FNK is None else training.teacher_FNK[key[1]],
        None if training.extra is None else training.extra.labels[key[1]],
    )


def head_losses(training: Training, role: TrainRole) -> HeadLosses:
    """The recipe's loss, or the user's own, for each head, with class counts of the samples and copies that train.

    A head per attribute learns from the samples whose attribute is known; a joint head learns from a partial label
    that it is one of the classes it may be.
    """
    recipe, strata, trained = training.recipe, training.samples.train_strata, role.shown_E
    said = recipe.loss if training.own.loss is None else training.own.loss
    num_classes, counts_S = strata.space.num_classes, _counts_S(strata, trained)
    members = {JOINT: np.eye(len(strata))[:, :num_classes]}
    if recipe.model.heads == "per_attribute":
        members = {name: strata.members(name) for name in strata.space.names}
    counts = {name: (counts_S @ member_SC).astype(np.int64) for name, member_SC in members.items()}
    known = role.num_extra  # of extra images every attribute has a label
    shares = {name: float((counts_C.sum() + known) / (len(trained) + known)) for name, counts_C in counts.items()}
    spread = None
    if JOINT in members and len(strata) > num_classes:
        shares, spread = {}, make_spread(said, strata.possible_PK, counts[JOINT])
    return HeadLosses(
        {name: make_loss(said, counts_C) for name, counts_C in counts.items()},
        {name: torch.from_numpy(member_SC).float() for name, member_SC in members.items()},
        {name: recipe.loss.attributes.get(name, 1.0) for name in members},
        {name: share for name, share in shares.items() if share < 1},
        spread,
        None if training.teacher_FNK is None else _taught(training, list(members)),
    )


def _taught(training: Training, heads: Sequence[str]) -> Taught:
    """How a teacher's probabilities of the joint classes come to each head."""
    space, said = training.samples.space, training.recipe.distill
    codes = {JOINT: np.arange(space.num_classes), **space.attribute_codes()}
    members = {name: torch.eye(int(codes[name].max()) + 1)[torch.from_numpy(codes[name])] for name in heads}
    return Taught(members, said.weight, said.temperature)


def _counts_S(strata: Strata, trained: NDArray[np.int64]) -> NDArray[np.int64]:
    """[S] how many of some samples are of each stratum."""
    return class_counts(strata.codes_N[trained], len(strata))


def ordinal_shares(recipe: Recipe, samples: SampleTable, rows: NDArray[np.int64]) -> dict[str, list[float]]:
    """For each head of an attribute whose classes are in order, its classes' shares among some rows.

    Args:
        recipe: names the attributes.
        samples: the table.
        rows: numbers of the samples that train.

    Raises:
        RecipeError: it names an attribute that the data does not have.
    """
    space = samples.space
    unknown = [name for name in recipe.model.ordinal if name not in space.names]
    if unknown:
        raise RecipeError(
            f"model.ordinal names `{unknown[0]}`, which is no attribute", f"the data has {', '.join(space.names)}"
        )
    codes_NA = samples.train_codes_NA[rows]
    shares = {}
    for name in recipe.model.ordinal:
        place = space.names.index(name)
        codes_N = codes_NA[:, place]
        counts_C = class_counts(codes_N[codes_N >= 0], space.sizes[place])
        shares[name] = (counts_C / counts_C.sum()).tolist()
    return shares


def trained_by(training: Training, fold: int) -> NDArray[np.int64]:
    """Numbers of the samples that a fold trains on: of which something is known."""
    folds_N = training.split.folds_for(training.samples.ids)
    return np.flatnonzero((folds_N != fold) & (training.samples.train_codes_NA >= 0).any(axis=1))


def held_out_by(training: Training, fold: int) -> NDArray[np.int64]:
    """Numbers of the samples that a fold is judged by."""
    return np.flatnonzero(training.split.folds_for(training.samples.ids) == fold)


def start_classifier(training: Training, fold: int) -> Classifier:
    """A fold's model before its first step, on the training's device."""
    network = training.backbone.build_network().to(memory_format=torch.channels_last)
    ordinal = ordinal_shares(training.recipe, training.samples, trained_by(training, fold))
    heads = FoldHeads.read(training.folder.start_weights(fold))
    return Classifier(network, JointLogits(heads, training.samples.space, ordinal)).to(training.device)


def watcher_of(training: Training, plan: PhasePlan, *, said: Collection[str], losses: Sequence[float]) -> Watcher:
    """What watches a fold's steps, for less than a hundredth of their time.

    Args:
        training: what the fold goes by.
        plan: of the phase.
        said: kinds of findings that it said before.
        losses: of the phase's steps so far.
    """
    space, layers = training.samples.space, training.plan.layers
    return Watcher(
        num_classes=space.num_classes,
        class_names=space.class_names,
        stages={layer.name: layer.parameters for layer in layers},
        every=WATCHED_HEAD if plan.cut == POOLED else WATCHED,
        said=said,
        losses=losses,
    )


def phase_loop(training: Training, classifier: Classifier, fold: int, number: int) -> PhaseLoop:
    """The loop of one phase of a fold, before its first step; what the phase leaves alone is frozen.

    Args:
        training: what the fold goes by.
        classifier: the fold's, on the training's device.
        fold: its number.
        number: of the phase, counted from 0.
    """
    recipe, plan = training.recipe, training.plan.phases[number]
    trained = trained_by(training, fold)
    tail = Tail(classifier, training.backbone_at(plan.cut)).to(training.device)
    freeze(tail, plan)
    role = train_role(training, plan, trained, (recipe.seed, fold, number))
    num_steps, per_epoch = length_of(role, plan)
    return PhaseLoop(
        tail,
        plan,
        role,
        head_losses(training, role),
        make_schedule(recipe.schedule, num_steps=num_steps, steps_per_epoch=per_epoch),
        make_optimiser(recipe.optim, plan.groups, dict(classifier.named_parameters())),
        make_average(recipe.train),
        num_steps=num_steps,
        steps_per_epoch=per_epoch,
        accumulate=recipe.train.accumulate,
        clip_norm=recipe.train.clip_norm,
        precision=training.precision,
        device=training.device,
        average_from=round(recipe.train.swa_start * num_steps) if recipe.train.average == "swa" else 0,
        is_compiled=training.is_compiled,
    )


def length_of(role: TrainRole, plan: PhasePlan) -> tuple[int, int]:
    """Optimiser steps of a phase, at least one, and of an epoch."""
    recipe = role.recipe.train
    per_epoch = -(-role.batches_per_epoch // recipe.accumulate)
    return recipe.phase_steps(plan.until, steps_per_epoch=per_epoch), per_epoch


def phase_lengths(training: Training, fold: int) -> Iterator[tuple[int, int, int]]:
    """Number (from 0), optimiser steps, and steps of an epoch of each phase that takes steps."""
    trained = trained_by(training, fold)
    for number, plan in enumerate(training.plan.phases):
        if not plan.is_probe:
            # how many batches there are does not depend on the cut, and from images on no cache is opened
            role = train_role(training, replace(plan, cut=IMAGES), trained, (training.recipe.seed, fold, number))
            yield number, *length_of(role, plan)


def quick_scores(probs_NK: NDArray[np.float64], labels_N: NDArray[np.int64]) -> dict[str, float]:
    """Accuracy, macro F1 and log loss of the samples whose class is known, at least one; of others the label is -1."""
    probs_NK, labels_N = probs_NK[labels_N >= 0], labels_N[labels_N >= 0]
    scores = scores_from_confusion(confusion_matrix(labels_N, probs_NK.argmax(axis=1), probs_NK.shape[1]))
    return {
        "accuracy": float(scores.accuracy),
        "macro_f1": float(scores.macro_f1),
        "log_loss": float(log_loss_N(probs_NK, labels_N).mean()),
    }
