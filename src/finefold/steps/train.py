"""`finefold train`: samples and a recipe -> a run with its ledger, scores and pictures."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import tomli_w
from numpy.typing import NDArray

from finefold.data.boxes import BoxTable
from finefold.data.findings import Finding
from finefold.data.predictions import Ledger, Predictions, write_parquet
from finefold.data.samples import SampleTable
from finefold.data.schema import DataFile
from finefold.data.splits import Split, read_split, write_split
from finefold.errors import SplitError
from finefold.nn.backbones import Backbone, find_backbone, own_backbone
from finefold.nn.classifier import JointLogits
from finefold.nn.engines import choose_engine
from finefold.nn.features import Features, PrefixCache
from finefold.nn.freezing import FreezePlan
from finefold.nn.heads import JOINT, FoldHeads, LinearHead, blank_heads
from finefold.nn.probe import fit_probe
from finefold.recipe.loader import dump_recipe, load_recipe
from finefold.recipe.schema import Recipe
from finefold.report.pictures import draw_class_bars, draw_confusion
from finefold.runs.folder import RunFolder, write_json, write_text
from finefold.runs.provenance import provenance, text_hash
from finefold.steps.boxes import boxes_of, with_boxes
from finefold.steps.choosing import Chosen, choose
from finefold.steps.evaluate import score
from finefold.steps.history import write_histories
from finefold.steps.own import NOTHING, Own
from finefold.steps.progress import SILENT, Progress
from finefold.steps.reading import Data, without_unreadable
from finefold.steps.run import Run, open_run
from finefold.steps.split import check_fits, check_groups, check_train_labels, make
from finefold.steps.training import Training, ordinal_shares, quick_scores
from finefold.steps.tuning import plan_lines, planned, tune

TRAINED_ON_FLOOR = 1.0  # of heads that training goes on from, see `fit_probe`


@dataclass(frozen=True)
class _Fitted:
    """Heads of every fold, and what they say of the rows they did not see."""

    heads: tuple[FoldHeads, ...]
    predictions: Predictions
    strengths: dict[str, list[float]]


def train(
    data: Data,
    split: Split | str | Path | None = None,
    *,
    recipe: str | Recipe = "probe",
    overrides: Sequence[str] = (),
    out: str | Path,
    own: Own = NOTHING,
    progress: Progress = SILENT,
) -> Run:
    """Trains a head for every fold on the cached features and writes the run.

    Args:
        data: what `read_data` gave.
        split: a split or its file; without one, the file `finefold split` wrote beside data.toml, and
            failing that a split made by the recipe.
        recipe: a preset's name, a TOML file's path, or a recipe.
        overrides: `key.path=value`, on top of the recipe.
        out: the run's folder; it must not hold a finished run.
        own: a network, loss, augmentation or boxes of your own, in place of the recipe's.
        progress: told of the stages.

    Raises:
        RecipeError, SplitError, RunError, WeightsError, EngineError, CacheError, DataError: see each.
    """
    start = time.perf_counter()
    chosen = recipe if isinstance(recipe, Recipe) else load_recipe(recipe, overrides)
    folder = RunFolder(Path(out))
    given = given_split(data, split, chosen, progress)
    boxes = boxes_of(chosen, own.boxes)
    fingerprint = {
        "recipe": text_hash(dump_recipe(chosen)),
        "data": data.samples.hash,
        "split": given.hash if given else f"made with seed {chosen.seed}",
        **{f"own {what}": text_hash(name) for what, name in own.about.items()},
        **({"boxes": boxes.source.hash} if boxes is not None and isinstance(boxes.source, BoxTable) else {}),
    }
    with folder.begun(fingerprint):
        framed, misses = with_boxes(data.samples, boxes, progress)
        cache = prefix_cache(chosen, progress, own)
        with progress.stage("features", len(data.samples), "images") as advance:
            features = cache.compute(framed.ids, framed.paths, boxes=framed.boxes, advance=advance)
        samples = without_unreadable(framed, list(features.findings))
        for finding in features.findings:
            progress.say(f"left out: {finding.ids[0]}: {finding.evidence['reason']}")
        folds = folds_of(given, samples, features.findings, chosen)
        check_train_labels(folds, samples)
        if num_dropped := int((samples.train_labels_N < 0).sum()):
            progress.say(f"train_drop keeps {num_dropped} of {len(samples)} samples out of training")
        rows_ND = features.rows_ND[features.is_readable_N]
        fitted = fit_heads(rows_ND, samples, folds, chosen, progress)
        choice = None
        if chosen.choose:
            _tell_probe(fitted.predictions, samples, progress)
            choice = _choose(folder, data, chosen, fitted, samples, folds, cache, progress, own)
            for line in choice.lines:
                progress.say(line)
            chosen = choice.recipe
            if chosen.is_probe_only:
                fitted = fit_heads(rows_ND, samples, folds, chosen, progress)
        _write_inputs(folder, data, samples, folds, chosen, cache.backbone)
        if boxes is not None and isinstance(boxes.source, BoxTable):
            write_parquet(boxes.source.frame, folder.boxes)
        if chosen.is_probe_only:
            _write_folds(folder, fitted, samples, folds, cache.backbone)
            predictions, plan = fitted.predictions, None
        else:
            _tell_probe(fitted.predictions, samples, progress)
            head = head_of_one(fitted.heads[0], samples, chosen)
            training = planned(folder, chosen, samples, folds, cache, head, progress, own)
            plan = training.plan
            for line in plan_lines(plan):
                progress.say(line)
            heads = fitted.heads if chosen.phase[0].is_probe else tuple(blank_heads(one) for one in fitted.heads)
            predictions = tune(training, heads, progress)
            write_histories(folder, chosen, samples, num_folds=folds.num_folds)
        _write_results(folder, predictions, samples, folds, chosen, (*features.findings, *misses))
        made = _about_run(chosen, samples, folds, cache, features, fitted, plan, own)
        measured = {} if choice is None else {"chosen": choice.to_dict()}
        folder.finish({**provenance(), "seconds": round(time.perf_counter() - start, 2), **made, **measured})
    return open_run(folder.path, network=own.network)


def _choose(
    folder: RunFolder,
    data: Data,
    recipe: Recipe,
    fitted: _Fitted,
    samples: SampleTable,
    split: Split,
    cache: PrefixCache,
    progress: Progress,
    own: Own,
) -> Chosen:
    """Measures what the recipe leaves open, in a trial run inside the run's working folder."""

    def plan(tried: Recipe) -> Training:
        _write_inputs(folder.trial, data, samples, split, tried, cache.backbone)
        head = head_of_one(fitted.heads[0], samples, tried)
        return planned(folder.trial, tried, samples, split, cache, head, progress, own)

    return choose(recipe, fitted.predictions, fitted.heads, samples, plan, progress)


def _about_run(
    recipe: Recipe,
    samples: SampleTable,
    split: Split,
    cache: PrefixCache,
    features: Features,
    fitted: _Fitted,
    plan: FreezePlan | None,
    own: Own,
) -> dict[str, Any]:
    """What the manifest keeps of what the run was made of."""
    return {
        "hashes": {"recipe": text_hash(dump_recipe(recipe)), "data": samples.hash, "split": split.hash},
        **_about_prefix(cache),
        "features": {"images": len(features.is_readable_N), "computed": features.num_computed},
        "strengths": fitted.strengths,
        "probe": quick_scores(fitted.predictions.probs_NK, samples.labels_N),
        **({} if plan is None else {"plan": plan.to_dict(), "cut": plan.cut}),
        "train_shares": train_shares(samples).tolist(),
        "class_names": list(samples.space.class_names),
        "num_folds": split.num_folds,
        **({"own": dict(own.about)} if own.about else {}),
    }


def _about_prefix(cache: PrefixCache) -> dict[str, Any]:
    """What the manifest keeps of the frozen part."""
    backbone, choice = cache.backbone, cache.choice
    return {
        "backbone": {"name": backbone.name, "weights": backbone.weights_hash},
        "preprocessing": {**backbone.preprocessing.to_dict(), "hash": backbone.preprocessing.hash},
        "engine": {"name": choice.engine, "precision": choice.precision, "choice": choice.reason},
    }


def prefix_cache(recipe: Recipe, progress: Progress, own: Own = NOTHING) -> PrefixCache:
    """The recipe's backbone, or the user's own, on the engine that runs it."""
    model = recipe.model
    with progress.stage("model", 0, ""):
        if own.network is not None and own.preprocessing is not None:
            backbone = own_backbone(own.network, own.preprocessing)
        else:
            backbone = backbone_of(recipe)
        choice = choose_engine(backbone, engine=model.engine, precision=model.precision, report=progress.say)
    return PrefixCache(backbone, choice, round(recipe.image.max_megapixels * 1e6))


def backbone_of(recipe: Recipe) -> Backbone:
    """The recipe's backbone, with its weights."""
    model, image = recipe.model, recipe.image
    return find_backbone(
        model.backbone,
        model.weights,
        size_px=image.size_px,
        crop_fraction=image.crop_fraction,
        fit=image.fit,
        centre=image.centre,
        grey=image.grey,
        clahe=image.clahe,
    )


def given_split(data: Data, split: Split | str | Path | None, recipe: Recipe, progress: Progress) -> Split | None:
    """The split that was passed in, or lies beside data.toml; None where the recipe is to make one."""
    if isinstance(split, Split):
        return split
    if split is None and not data.default_split.is_file():
        return None
    file = Path(split) if split is not None else data.default_split
    given = read_split(file)
    progress.say(f"split: {file}, {given.num_folds} folds")
    check_groups(given, data.samples)
    if "folds" in recipe.split.model_fields_set and recipe.split.folds != given.num_folds:
        raise SplitError(
            f"the recipe asks for split.folds = {recipe.split.folds}, and {file} has {given.num_folds}",
            "leave split.folds out, or give another --split",
        )
    return given


def folds_of(given: Split | None, samples: SampleTable, findings: Sequence[Finding], recipe: Recipe) -> Split:
    """The split of the readable samples."""
    if given is None:
        return make(samples, folds=recipe.split.folds, seed=recipe.seed)
    lost = [sample for finding in findings for sample in finding.ids]
    return check_fits(Split(given.frame.filter(~pl.col("id").is_in(lost))), samples)


def fit_heads(
    features_ND: NDArray[np.float16], samples: SampleTable, split: Split, recipe: Recipe, progress: Progress
) -> _Fitted:
    """One head per fold on the joint class, or one per fold and attribute."""
    space, folds_N = samples.space, split.folds_for(samples.ids)
    labels_N, train_N = samples.labels_N, samples.train_labels_N
    tasks = {JOINT: (np.arange(space.num_classes), space.num_classes)}
    if recipe.model.heads != "joint":
        codes = space.attribute_codes()
        tasks = {name: (codes[name], size) for name, size in zip(space.names, space.sizes, strict=True)}
    heads: list[dict[str, LinearHead]] = [{} for _ in range(split.num_folds)]
    probs: list[NDArray[np.float64]] = []
    strengths = {}
    for task, (codes_K, num_classes) in tasks.items():
        with progress.stage(f"heads ({task})" if len(tasks) > 1 else "heads", 0, "steps") as advance:
            probe = fit_probe(
                features_ND,
                codes_K[labels_N],
                np.where(train_N >= 0, codes_K[train_N], -1),
                folds_N,
                num_classes=num_classes,
                strengths=recipe.probe.strengths,
                power=recipe.head_power,
                floor=0.0 if recipe.is_probe_only else TRAINED_ON_FLOOR,
                max_steps=recipe.probe.max_steps,
                advance=partial(_step, advance),
            )
        for fold, head in enumerate(probe.heads):
            heads[fold][task] = head
        probs.append(probe.probs_NC)
        strengths[task] = list(probe.strengths_F)
    joint_NK = probs[0] if JOINT in tasks else space.joint_probs(probs)
    predictions = Predictions(tuple(samples.ids), joint_NK, space.class_names)
    return _Fitted(tuple(FoldHeads(fold) for fold in heads), predictions, strengths)


def head_of_one(heads: FoldHeads, samples: SampleTable, recipe: Recipe) -> JointLogits:
    """The head of one trained model: of all attributes, or of the first where each has a model of its own."""
    if recipe.model.heads != "separate":
        return JointLogits(heads, samples.space, ordinal_shares(recipe, samples, np.arange(len(samples))))
    first = samples.space.names[0]
    return JointLogits(FoldHeads({JOINT: heads.heads[first]}), samples.for_attribute(first).space)


def _tell_probe(predictions: Predictions, samples: SampleTable, progress: Progress) -> None:
    """What the heads alone reach, which the training has to beat."""
    scores = quick_scores(predictions.probs_NK, samples.labels_N)
    progress.say(f"probe, out of fold: accuracy {scores['accuracy']:.3f}, macro F1 {scores['macro_f1']:.3f}")


def _step(advance: Callable[[int], None], _stage: str, _number: int) -> None:
    advance(1)


def train_shares(samples: SampleTable) -> NDArray[np.float64]:
    """[K] class shares of what training sees."""
    train_N = samples.train_labels_N
    counts_K = np.bincount(train_N[train_N >= 0], minlength=samples.space.num_classes)
    return np.asarray(counts_K / counts_K.sum())


def _write_inputs(
    folder: RunFolder, data: Data, samples: SampleTable, split: Split, recipe: Recipe, backbone: Backbone
) -> None:
    write_text(folder.recipe, dump_recipe(recipe))
    write_text(folder.data, tomli_w.dumps(_absolute(data).model_dump(mode="json", by_alias=True, exclude_none=True)))
    write_parquet(samples.frame, folder.samples)
    write_split(split, folder.split)
    backbone.copy_to(folder.backbone)


def _absolute(data: Data) -> DataFile:
    """data.toml with every path absolute, so that it means the same from inside the run."""
    home, file = data.spec.folder, data.spec.file
    sample_paths = {key: str(home / path) for key in ("csv", "patches") if (path := getattr(file.samples, key))}
    sample_table = file.samples.model_copy(update={"root": str(data.spec.root), **sample_paths})
    if file.predict is None:
        return file.model_copy(update={"samples": sample_table})
    paths = {key: str(home / path) for key in ("root", "template_csv") if (path := getattr(file.predict, key))}
    return file.model_copy(update={"samples": sample_table, "predict": file.predict.model_copy(update=paths)})


def _write_folds(folder: RunFolder, fitted: _Fitted, samples: SampleTable, split: Split, backbone: Backbone) -> None:
    folds_N = split.folds_for(samples.ids)
    header = {
        "kind": "heads",
        "class_names": list(samples.space.class_names),
        "backbone": backbone.weights_hash,
        "preprocessing": backbone.preprocessing.to_dict(),
    }
    frame = fitted.predictions.to_frame()
    for fold, heads in enumerate(fitted.heads):
        heads.write(folder.fold_weights(fold), {**header, "fold": fold})
        write_parquet(frame.filter(pl.Series(folds_N == fold)), folder.fold_valid(fold))


def _write_results(
    folder: RunFolder,
    predictions: Predictions,
    samples: SampleTable,
    split: Split,
    recipe: Recipe,
    findings: Sequence[Finding],
) -> None:
    ledger = Ledger(predictions, split.folds_for(samples.ids), tuple(samples.groups), samples.labels_N)
    ledger.write(folder.ledger)
    scores = score(ledger, samples.space.attribute_table(), recipe)
    write_json(folder.scores, scores)
    write_text(folder.findings, json.dumps([finding.to_dict() for finding in findings], indent=1) + "\n")
    names = samples.space.class_names
    write_text(folder.picture("confusion"), draw_confusion(scores["confusion"], names, title="Out-of-fold confusion"))
    bars = draw_class_bars(scores["classes"], title="Out-of-fold F1 per class")
    write_text(folder.picture("classes"), bars)
