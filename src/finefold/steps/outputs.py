"""What training writes into a run's folder: what it was trained on, heads, the ledger, scores and pictures."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
import tomli_w
from numpy.typing import NDArray

from finefold.data.findings import Finding
from finefold.data.predictions import Ledger, Predictions, write_parquet
from finefold.data.samples import SampleTable
from finefold.data.schema import DataFile
from finefold.data.splits import Split, write_split
from finefold.nn.backbones import Backbone
from finefold.recipe.loader import dump_recipe
from finefold.recipe.schema import Recipe
from finefold.report.pictures import draw_class_bars, draw_confusion
from finefold.runs.folder import RunFolder, write_json, write_text
from finefold.steps.after import fit_after
from finefold.steps.evaluate import score, selection
from finefold.steps.heads import Fitted
from finefold.steps.reading import Data


def write_inputs(
    folder: RunFolder, data: Data, samples: SampleTable, split: Split, recipe: Recipe, backbone: Backbone
) -> None:
    """Recipe, data, samples, split and backbone: what the folds' processes, and all verbs after them, start from."""
    write_text(folder.recipe, dump_recipe(recipe))
    write_text(folder.data, tomli_w.dumps(_absolute(data).model_dump(mode="json", by_alias=True, exclude_none=True)))
    write_parquet(samples.frame, folder.samples)
    write_split(split, folder.split)
    backbone.copy_to(folder.backbone)


def _absolute(data: Data) -> DataFile:
    """data.toml with every path absolute, so that it means the same from inside the run."""
    home, file = data.spec.folder, data.spec.file
    sample_paths = {
        key: str(home / path) for key in ("csv", "patches", "exclude") if (path := getattr(file.samples, key))
    }
    sample_table = file.samples.model_copy(update={"root": str(data.spec.root), **sample_paths})
    if file.predict is None:
        return file.model_copy(update={"samples": sample_table})
    paths = {key: str(home / path) for key in ("root", "template_csv") if (path := getattr(file.predict, key))}
    return file.model_copy(update={"samples": sample_table, "predict": file.predict.model_copy(update=paths)})


def write_folds(folder: RunFolder, fitted: Fitted, samples: SampleTable, split: Split, backbone: Backbone) -> None:
    """Every fold's heads, and what they say of what it holds out."""
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


def write_results(
    folder: RunFolder,
    predictions: Predictions,
    samples: SampleTable,
    split: Split,
    recipe: Recipe,
    findings: Sequence[Finding],
    *,
    was_chosen: bool,
    inherited: Sequence[str] = (),
) -> dict[str, Any]:
    """Writes the ledger, its numbers and pictures, and what was left out; the scores."""
    codes_NA = samples.codes_NA if samples.num_missing() else None
    ledger = Ledger(predictions, split.folds_for(samples.ids), tuple(samples.groups), samples.labels_N, codes_NA)
    ledger.write(folder.ledger)
    selected = tuple(dict.fromkeys((*selection(recipe, was_chosen=was_chosen), *inherited)))
    scores = score(ledger, samples.space.attribute_table(), recipe, selected=selected)
    write_json(folder.scores, scores)
    if not recipe.after.is_nothing:
        after = fit_after(ledger.known(), recipe.after, train_shares(samples), samples.space)
        write_json(folder.after, after.to_dict())
    write_text(folder.findings, json.dumps([finding.to_dict() for finding in findings], indent=1) + "\n")
    names = samples.space.class_names
    write_text(folder.picture("confusion"), draw_confusion(scores["confusion"], names, title="Out-of-fold confusion"))
    bars = draw_class_bars(scores["classes"], title="Out-of-fold F1 per class")
    write_text(folder.picture("classes"), bars)
    return scores


def train_shares(samples: SampleTable) -> NDArray[np.float64]:
    """[K] class shares of what training sees, of samples whose class is known."""
    train_N = samples.train_labels_N
    counts_K = np.bincount(train_N[train_N >= 0], minlength=samples.space.num_classes)
    return np.asarray(counts_K / counts_K.sum())
