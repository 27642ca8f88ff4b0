"""`finefold inspect`: what is inside a model, a run or a weights file."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from finefold.data.labels import LabelSpace
from finefold.data.preprocessing import Preprocessing
from finefold.data.samples import SampleTable
from finefold.data.synthetic import portrait_batch
from finefold.errors import DataError, ImageError, ModelError, RunError, UsageError, WeightsError
from finefold.nn.backbones import Backbone, own_preprocessing
from finefold.nn.catalogue import build_model, find_name, input_shape
from finefold.nn.classifier import Classifier
from finefold.nn.devices import set_threads
from finefold.nn.features import load_input
from finefold.nn.finding import SUFFIXES, local_weights, told_as_heads
from finefold.nn.identify import identify_model
from finefold.nn.measuring import measure_flow
from finefold.nn.modules import Inspection, ModuleRow, StateRow, inspect_model, state_rows, state_tree
from finefold.nn.transplant import match_weights
from finefold.nn.units import wrapper_prefix
from finefold.nn.weights import read_header, read_state
from finefold.steps.freeze import Planned, stored_plan
from finefold.steps.progress import SILENT, Progress
from finefold.steps.reading import MAX_PIXELS, read_data
from finefold.steps.run import open_run

BATCH = 8


@dataclass(frozen=True)
class Inspected:
    """What was looked at, and what was seen.

    Args:
        what: in words.
        weights: whose values the tensors have, in words.
        images: what it was run on, in words; empty where it was not run.
        inspection: the model; None for a file that was looked at without building one.
        modules: the tree.
        state: every tensor, where that was asked for.
        more: what else could be asked for; empty where it was.
        plan: what a run was trained by; None of what is no run, and of a run that only fitted heads.
    """

    what: str
    weights: str
    images: str
    inspection: Inspection | None
    modules: tuple[ModuleRow, ...]
    state: tuple[StateRow, ...] | None
    more: str = ""
    plan: Planned | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `finefold inspect --json` prints them."""
        told: dict[str, Any] = {"what": self.what, "weights": self.weights, "images": self.images or None}
        if self.plan is not None:
            told["plan"] = self.plan.to_dict()
        if self.inspection is not None:
            return {**told, **self.inspection.to_dict()}
        told["modules"] = [asdict(row) for row in self.modules]
        return told if self.state is None else {**told, "state": [asdict(row) for row in self.state]}


@dataclass(frozen=True)
class _Subject:
    """A model to look at, and how to feed it."""

    what: str
    weights: str
    model: nn.Module
    preprocessing: Preprocessing | None
    samples: SampleTable | None = None
    plan: Planned | None = None


def inspect(
    target: str | Path,
    *,
    forward: bool = False,
    gradients: bool = False,
    state: bool = False,
    data: str | Path | None = None,
    fold: int | None = None,
    download: bool = False,
    progress: Progress = SILENT,
) -> Inspected:
    """Looks inside a timm or torchvision model by name, a run, or a weights file.

    Args:
        target: a name, a run's folder, or a .safetensors, .pth or .pt file.
        forward: measure output shape, operations and time of every module.
        gradients: run one batch of images forward and backward.
        state: list every tensor; of a file, without building a model.
        data: a data.toml whose first images and labels make the batch; a run has its own, and drawn faces serve
            otherwise.
        fold: of a run, whose head is looked at; 0 by default.
        download: fetch the weights that a name's makers published.
        progress: told of the stages.

    Raises:
        WeightsError, RunError, ModelError, DataError: see each.
        UsageError: what was said has no use here.
    """
    set_threads()
    path = Path(target)
    if data is not None and not forward and not gradients:
        raise UsageError("--data says which images to run, and nothing is run", "add --forward or --gradients")
    if fold is not None and not path.is_dir():
        raise UsageError(f"--fold says which head of a run, and {target} is no run", "leave --fold out")
    if path.is_file() or (path.suffix in SUFFIXES and not path.is_dir()):
        if not forward and not gradients:
            with progress.stage("reading", 0, ""):
                return _look_at_file(path, state=state)
        subject = _file_subject(path, progress)
    elif path.is_dir():
        subject = _run_subject(path, fold or 0)
    else:
        subject = _named_subject(str(target), download=download, needs_weights=state or gradients, progress=progress)
    images, labels, told = None, None, ""
    if forward or gradients:
        images, labels, told = _batch(subject, data)
    with progress.stage("running" if forward or gradients else "looking", 0, ""):
        seen = inspect_model(subject.model, images, labels, gradients=gradients, state=state)
        if forward and images is not None:  # time is measured on one image, gradients on the whole batch
            seen = replace(seen, flow=measure_flow(subject.model, images[:1]))
    return Inspected(subject.what, subject.weights, told, seen, seen.modules, seen.state, plan=subject.plan)


def _look_at_file(path: Path, *, state: bool) -> Inspected:
    """What a file's keys and tensors tell, without building a model."""
    tensors = read_state(path)
    heads = told_as_heads(path)
    more = "" if heads else "--forward or --gradients tells which model this is, and adds its stages and cut points"
    rows = state_rows(tensors) if state else None
    what = f"weights file {path}{heads and f', {heads}'}"
    return Inspected(what, str(path), "", None, state_tree(tensors), rows, more)


def _named_subject(name: str, *, download: bool, needs_weights: bool, progress: Progress) -> _Subject:
    found = find_name(name)
    local = None if download else local_weights(name)
    with progress.stage("building", 0, ""):
        model = build_model(name, pretrained=download)
    weights = "downloaded" if download else "random (none on this machine; --download fetches them)"
    if local is not None and needs_weights:
        match = match_weights(local, model)
        match.load_into(model)
        weights = str(local)
    elif local is not None:
        weights = f"random (not needed; {local} has them)"
    library = "timm" if found.library == "timm" else "torchvision"
    return _Subject(f"{library} model {found.plain}", weights, model, own_preprocessing(name, model))


def _run_subject(path: Path, fold: int) -> _Subject:
    run = open_run(path)
    if not 0 <= fold < run.num_folds:
        raise RunError(f"{path} has no fold {fold}", f"choose one from 0 to {run.num_folds - 1}")
    weights, space, whose = run.fold_weights(fold), run.space, "its head"
    if not isinstance(weights, Path):  # a model for each attribute: the first is looked at
        name, weights = next(iter(weights.items()))
        space = LabelSpace(tuple(one for one in space.attributes if one.name == name))
        whose = f"the head of `{name}` (each of {len(run.space.names)} attributes has a model of its own)"
    backbone = run.backbone
    model = Classifier.read(backbone, weights, space)
    samples = read_data(run.folder.data).samples
    what = f"run {path}, fold {fold}: {backbone.name} with {whose}"
    stored = run.manifest.get("plan")
    plan = None if stored is None else stored_plan(f"run {path}", stored, model, backbone.example())
    return _Subject(what, str(weights), model, backbone.preprocessing, samples, plan)


def _file_subject(path: Path, progress: Progress) -> _Subject:
    """The model that a file is of: finefold's own says so, others are told by their keys and shapes."""
    with progress.stage("identifying", 0, ""):
        state = read_state(path)
        heads = told_as_heads(path)
        if heads:
            told, _, fold = path.parent.name.partition("fold-")
            where = f"{path.parent.parent} --fold {fold}" if fold.isdigit() and not told else "RUN --fold K"
            raise ModelError(
                f"{path} is {heads}: it cannot be run",
                f"inspect the run's folder instead, as in `finefold inspect {where} --forward`",
            )
        try:
            backbone = Backbone.read(path)
        except WeightsError:
            found = identify_model(state, _hint(path), is_likely=True)
        else:
            return _Subject(f"backbone {backbone.name}", str(path), backbone.build().network, backbone.preprocessing)
    if found is None:
        raise ModelError(
            f"{path} has tensors and no code, and no timm or torchvision model of a name like it has these keys",
            "inspect the model by its name, or look at the file without --forward and --gradients",
        )
    prefix = wrapper_prefix(state)
    found.model.load_state_dict({key.removeprefix(prefix): tensor for key, tensor in state.items()}, strict=False)
    what = f"{found.name}, told by its keys and shapes"
    return _Subject(what, str(path), found.model, own_preprocessing(found.name, found.model))


def _hint(path: Path) -> str:
    """A model's name that the file may be of: what its header says, else what the file is called."""
    try:
        return str(read_header(path).get("name", path.stem))
    except WeightsError:
        return path.stem


def _batch(subject: _Subject, data: str | Path | None) -> tuple[Tensor, Tensor | None, str]:
    """Images as the model wants them, class numbers, and in words what they are."""
    channels, height, width = input_shape(subject.model)
    preprocessing = subject.preprocessing or Preprocessing(height, width, mean=_MEAN, std=_STD)
    samples = read_data(data).samples if data is not None else subject.samples
    labels: Tensor | None = None
    if samples is not None:
        images, chosen = _first_images(samples, preprocessing)
        labels = torch.from_numpy(samples.labels_N[chosen])
        told = f"{len(images)} images of {samples.root}"
    else:
        images = [preprocessing.apply(image) for image in portrait_batch(BATCH)]
        told = f"{BATCH} drawn faces, labels made up"
    images_BHWC = torch.from_numpy(np.stack(images)).float()
    images_BHWC = (images_BHWC - torch.tensor(preprocessing.mean)) / torch.tensor(preprocessing.std)
    images_BCHW = images_BHWC.permute(0, 3, 1, 2).contiguous()
    if channels != images_BCHW.shape[1]:
        images_BCHW = images_BCHW.mean(1, keepdim=True).expand(-1, channels, -1, -1).contiguous()
    return images_BCHW, labels, told


_MEAN, _STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # of ImageNet, where a file does not say


def _first_images(
    samples: SampleTable, preprocessing: Preprocessing
) -> tuple[list[NDArray[np.uint8]], NDArray[np.int64]]:
    """Readable images of known class spread over the table, and their row numbers."""
    images: list[NDArray[np.uint8]] = []
    rows: list[int] = []
    paths: Sequence[Path] = samples.paths
    known = np.flatnonzero(samples.labels_N >= 0)
    spread = np.unique(np.linspace(0, len(known) - 1, 4 * BATCH).astype(int)) if len(known) else known
    for row in known[spread].tolist():
        try:
            images.append(load_input(paths[row].read_bytes(), preprocessing, MAX_PIXELS))
        except (ImageError, OSError):
            continue
        rows.append(row)
    if not images:
        raise DataError(f"no labelled image of {samples.root} can be read", "check `root` in data.toml")
    step = max(1, len(images) // BATCH)
    return images[::step][:BATCH], np.array(rows)[::step][:BATCH]
