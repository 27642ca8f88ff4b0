"""`finefold train`: samples and a recipe -> a run with its ledger, scores and pictures."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from finefold.data.boxes import BoxTable
from finefold.data.findings import Finding
from finefold.data.predictions import Predictions, write_parquet
from finefold.data.samples import SampleTable
from finefold.data.split_checks import counted
from finefold.data.splits import Split, read_split
from finefold.errors import SplitError, UsageError
from finefold.nn.backbones import Backbone, find_backbone, own_backbone
from finefold.nn.classifier import JointLogits
from finefold.nn.engines import choose_engine
from finefold.nn.features import Features, PrefixCache
from finefold.nn.freezing import FreezePlan
from finefold.nn.heads import JOINT, FoldHeads, blank_heads
from finefold.nn.weights import whole_or_nothing
from finefold.recipe.loader import dump_recipe, load_recipe
from finefold.recipe.schema import Recipe
from finefold.runs.folder import RunFolder
from finefold.runs.provenance import provenance, text_hash
from finefold.steps.boxes import Boxes, boxes_of, tell_idle_centre, with_boxes
from finefold.steps.choosing import Chosen, choose
from finefold.steps.evaluate import selection_of
from finefold.steps.extra import ExtraImages
from finefold.steps.heads import Fitted, fit_heads
from finefold.steps.history import write_histories
from finefold.steps.outputs import train_shares, write_folds, write_inputs, write_results
from finefold.steps.own import NOTHING, Own
from finefold.steps.progress import SILENT, Progress
from finefold.steps.reading import Data, without_unreadable
from finefold.steps.run import Run, open_run
from finefold.steps.split import check_fits, check_groups, check_train_labels, make
from finefold.steps.teaching import check_teacher, teach
from finefold.steps.tracking import OnEvent, check_track, tracked, unheard
from finefold.steps.training import Training, ordinal_shares, quick_scores
from finefold.steps.tuning import plan_lines, planned, tune


def train(
    data: Data,
    split: Split | str | Path | None = None,
    *,
    recipe: str | Recipe = "probe",
    overrides: Sequence[str] = (),
    out: str | Path,
    own: Own = NOTHING,
    teacher: Run | str | Path | None = None,
    track: Sequence[str] = (),
    on_event: OnEvent | None = None,
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
        own: a network or whole model, a loss, an augmentation or boxes of your own, in place of the recipe's.
        teacher: a run of the same split, whose fold k's probabilities fold k learns from besides, see `[distill]`; its
            split is used where none is given.
        track: `tensorboard`, `mlflow` or `wandb`: curves of the training, kept in the run's `track/`.
        on_event: called with every step, epoch and the scores at the end, see steps/tracking.py.
        progress: told of the stages.

    Raises:
        UsageError: what `track` names is not installed, `own` does not fit the data, or the recipe requires a teacher.
        RecipeError, SplitError, RunError, WeightsError, EngineError, CacheError, DataError: see each.
    """
    start = time.perf_counter()
    chosen = recipe if isinstance(recipe, Recipe) else load_recipe(recipe, overrides)
    own.check_fits(data.space, chosen)
    check_track(track)
    if chosen.distill.required and teacher is None:
        raise UsageError(
            "the recipe learns from a teacher (distill.required), and none is named",
            "name a finished run or an ensemble: finefold train ... --teacher RUN",
        )
    folder = RunFolder(Path(out))
    master = teacher if teacher is None or isinstance(teacher, Run) else open_run(teacher)
    given = None if master is not None and split is None else given_split(data, split, chosen, progress)
    if master is not None:
        given = check_teacher(master, chosen, data.samples, given)
    boxes = boxes_of(chosen, own.boxes)
    fingerprint = {
        "recipe": text_hash(dump_recipe(chosen)),
        "data": data.samples.hash,
        "split": given.hash if given else f"made with seed {chosen.seed}",
        **{f"own {what}": text_hash(name) for what, name in own.about.items()},
        **({"teacher": text_hash(master.folder.manifest.read_text("utf-8"))} if master is not None else {}),
        **({"boxes": boxes.source.hash} if boxes is not None and isinstance(boxes.source, BoxTable) else {}),
    }
    with folder.begun(fingerprint):
        with tracked(folder, track, chosen, on_event) as tell:
            tell({"kind": "begin", "run": str(folder.path), "recipe": chosen.model_dump(mode="json")})
            made = _train_into(folder, data, given, boxes, chosen, own, master, tell, progress)
        folder.finish({**provenance(), "seconds": round(time.perf_counter() - start, 2), **made})
    return open_run(folder.path, network=own.body)


def _train_into(
    folder: RunFolder,
    data: Data,
    given: Split | None,
    boxes: Boxes | None,
    chosen: Recipe,
    own: Own,
    teacher: Run | None,
    tell: OnEvent,
    progress: Progress,
) -> dict[str, Any]:
    """All of a run but its manifest, and what that keeps of how it was made."""
    framed, misses = with_boxes(data.samples, boxes, progress)
    cache = prefix_cache(chosen, progress, own)
    tell_idle_centre(framed, cache.backbone.preprocessing, progress)
    with progress.stage("features", len(framed), "images") as advance:
        features = cache.compute(framed.ids, framed.paths, boxes=framed.boxes, advance=advance)
    samples = without_unreadable(framed, list(features.findings))
    for finding in features.findings:
        progress.say(f"left out: {finding.ids[0]}: {finding.evidence['reason']}")
    folds = folds_of(given, samples, features.findings, chosen)
    check_train_labels(folds, samples)
    _tell_left_out(samples, chosen, progress)
    rows_ND = features.rows_ND[features.is_readable_N]
    hashes = tuple(np.asarray(features.hashes, object)[features.is_readable_N])
    fitted = fit_heads(rows_ND, samples, folds, chosen, progress)
    measured = {}
    if chosen.choose:
        _tell_probe(fitted.predictions, samples, progress)
        choice = _choose(folder, data, chosen, fitted, samples, folds, cache, hashes, progress, own)
        for line in choice.lines:
            progress.say(line)
        chosen, measured = choice.recipe, {"chosen": choice.to_dict()}
        if chosen.is_probe_only:
            fitted = fit_heads(rows_ND, samples, folds, chosen, progress)
    write_inputs(folder, data, samples, folds, chosen, cache.backbone)
    if boxes is not None and isinstance(boxes.source, BoxTable):
        write_parquet(boxes.source.frame, folder.boxes)
    predictions, about = train_folds(
        folder, samples, folds, chosen, cache, hashes, fitted, progress, own=own, teacher=teacher, tell=tell
    )
    findings = (*features.findings, *misses)
    inherited = about.get("selection", ())
    scores = write_results(
        folder, predictions, samples, folds, chosen, findings, was_chosen=bool(measured), inherited=inherited
    )
    tell({"kind": "end", "scores": scores})
    return {**_about_run(chosen, samples, folds, cache, features, fitted, about, own), **measured}


def train_folds(
    folder: RunFolder,
    samples: SampleTable,
    split: Split,
    recipe: Recipe,
    cache: PrefixCache,
    hashes: tuple[bytes, ...],
    fitted: Fitted,
    progress: Progress,
    *,
    own: Own = NOTHING,
    teacher: Run | None = None,
    extra: ExtraImages | None = None,
    tell: OnEvent = unheard,
) -> tuple[Predictions, dict[str, Any]]:
    """Every fold's model, from the heads on that were fitted: what they say of held-out samples, and how they came.

    Args:
        folder, samples, split, recipe: the run's; what `write_inputs` writes is there.
        cache: of the whole backbone.
        hashes: where each sample's rows lie in it, and then each extra image's.
        fitted: the heads.
        progress: told of the plan, the stages and every epoch.
        own: what the user brought from Python.
        teacher: what each fold learns from besides labels, see `train`.
        extra: images that train besides.
        tell: told of every step and epoch.
    """
    if recipe.is_probe_only:
        write_folds(folder, fitted, samples, split, cache.backbone)
        return fitted.predictions, {}
    _tell_probe(fitted.predictions, samples, progress)
    head = head_of_one(fitted.heads[0], samples, recipe)
    training = replace(planned(folder, recipe, samples, split, cache, head, progress, own, extra), hashes=hashes)
    for line in plan_lines(training.plan):
        progress.say(line)
    about_teacher = {} if teacher is None else _taught(folder, teacher, samples, split, progress)
    tuned = tune(training, _start_heads(fitted, recipe, own, progress), progress, tell=tell)
    write_histories(folder, recipe, samples, num_folds=split.num_folds)
    return tuned.predictions, {**_about_plan(training.plan), **about_teacher, **tuned.to_dict()}


def _taught(folder: RunFolder, teacher: Run, samples: SampleTable, split: Split, progress: Progress) -> dict[str, Any]:
    """Writes what the folds' teachers say, for the folds' processes; what the manifest keeps of it."""
    if not folder.teacher.is_file():
        said_FNK = teach(teacher, samples, split, progress)
        with whole_or_nothing(folder.teacher) as unfinished, unfinished.open("wb") as file:
            np.save(file, said_FNK)
    progress.say(f"teacher: {teacher.folder.path}, each fold by its own models")
    return {
        "selection": list(selection_of(teacher)),
        "teacher": {"path": str(teacher.folder.path.resolve()), "hashes": teacher.manifest["hashes"]},
    }


def _choose(
    folder: RunFolder,
    data: Data,
    recipe: Recipe,
    fitted: Fitted,
    samples: SampleTable,
    split: Split,
    cache: PrefixCache,
    hashes: tuple[bytes, ...],
    progress: Progress,
    own: Own,
) -> Chosen:
    """Measures what the recipe leaves open, in a trial run inside the run's working folder."""

    def plan(tried: Recipe) -> Training:
        write_inputs(folder.trial, data, samples, split, tried, cache.backbone)
        head = head_of_one(fitted.heads[0], samples, tried)
        return replace(planned(folder.trial, tried, samples, split, cache, head, progress, own), hashes=hashes)

    return choose(recipe, fitted.predictions, fitted.heads, samples, plan, progress)


def _about_run(
    recipe: Recipe,
    samples: SampleTable,
    split: Split,
    cache: PrefixCache,
    features: Features,
    fitted: Fitted,
    tuning: Mapping[str, Any],
    own: Own,
) -> dict[str, Any]:
    """What the manifest keeps of what the run was made of."""
    return {
        "hashes": {"recipe": text_hash(dump_recipe(recipe)), "data": samples.hash, "split": split.hash},
        **_about_prefix(cache),
        "features": {"images": len(features.is_readable_N), "computed": features.num_computed},
        "strengths": fitted.strengths,
        "probe": quick_scores(fitted.predictions.probs_NK, samples.labels_N),
        **tuning,
        "train_shares": train_shares(samples).tolist(),
        "class_names": list(samples.space.class_names),
        "num_folds": split.num_folds,
        **({"own": dict(own.about)} if own.about else {}),
    }


def _about_plan(plan: FreezePlan) -> dict[str, Any]:
    return {"plan": plan.to_dict(), "cut": plan.cut}


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
        if own.body is not None and own.preprocessing is not None:
            backbone = own_backbone(own.body, own.preprocessing)
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
    whole = read_split(file)
    given = whole.without(data.excluded)
    less = f", less {counted(out, 'sample')} that data.toml excludes" if (out := len(whole) - len(given)) else ""
    progress.say(f"split: {file}, {given.num_folds} folds{less}")
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


def head_of_one(heads: FoldHeads, samples: SampleTable, recipe: Recipe) -> JointLogits:
    """The head of one trained model: of all attributes, or of the first where each has a model of its own."""
    if recipe.model.heads != "separate":
        return JointLogits(heads, samples.space, ordinal_shares(recipe, samples, np.arange(len(samples))))
    first = samples.space.names[0]
    return JointLogits(FoldHeads({JOINT: heads.heads[first]}), samples.for_attribute(first).space)


def _start_heads(fitted: Fitted, recipe: Recipe, own: Own, progress: Progress) -> tuple[FoldHeads, ...]:
    """What each fold's training starts from: the probe's heads, a whole model's own, or heads that know nothing."""
    if recipe.phase[0].is_probe:
        if own.whole is not None:
            progress.say(
                f"the probe fits `{own.whole.path}` anew; without a probe phase training starts from your weights"
            )
        return fitted.heads
    if own.whole is not None:
        progress.say(f"no probe: training starts from your model's own last layer, `{own.whole.path}`")
        return tuple(FoldHeads({JOINT: own.whole.head}) for _ in fitted.heads)
    return tuple(blank_heads(one) for one in fitted.heads)


def _tell_probe(predictions: Predictions, samples: SampleTable, progress: Progress) -> None:
    """What the heads alone reach, which the training has to beat."""
    scores = quick_scores(predictions.probs_NK, samples.labels_N)
    progress.say(f"probe, out of fold: accuracy {scores['accuracy']:.3f}, macro F1 {scores['macro_f1']:.3f}")


def _tell_left_out(samples: SampleTable, recipe: Recipe, progress: Progress) -> None:
    """Which samples do not train, or not everything, and why."""
    is_known_NA, is_trained_NA = samples.codes_NA >= 0, samples.train_codes_NA >= 0
    if num_dropped := int((is_known_NA.any(axis=1) & ~is_trained_NA.any(axis=1)).sum()):
        progress.say(f"train_drop keeps {num_dropped} of {len(samples)} samples out of training")
    for name, count in samples.num_missing().items():
        progress.say(f"{count} of {len(samples)} samples have no `{name}`: it is neither trained nor scored there")
    num_partial = int((is_known_NA.any(axis=1) & ~is_known_NA.all(axis=1)).sum())
    if num_partial and recipe.model.heads == "joint":
        then = "; steps take them for all classes that they may be" * (not recipe.is_probe_only)
        progress.say(
            f"{num_partial} samples do not train the fit of the joint head, which needs all attributes{then}; "
            'with model.heads = "per_attribute" what is known of them trains'
        )
