"""A finished run as a value: what the verbs after `train` start from."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from finefold.data.labels import LabelSpace
from finefold.data.predictions import Ledger
from finefold.data.sources import DataSpec, read_spec
from finefold.errors import UsageError
from finefold.recipe.loader import load_recipe
from finefold.recipe.schema import Recipe
from finefold.runs.folder import RunFolder
from finefold.steps.progress import SILENT, Progress

if TYPE_CHECKING:
    from torch import nn

    from finefold.nn.backbones import Backbone
    from finefold.steps.answers import Answers
    from finefold.steps.boxes import Finder


@dataclass(frozen=True)
class Run:
    """A finished run.

    Args:
        folder: its files.
        manifest: what it is made of.
        spec: its data.toml.
        recipe: its recipe.
        network: the user's own backbone, where it is one.
    """

    folder: RunFolder
    manifest: dict[str, Any]
    spec: DataSpec
    recipe: Recipe
    network: "nn.Module | None" = None

    @property
    def space(self) -> LabelSpace:
        """The attributes and their classes."""
        return self.spec.space

    @property
    def num_folds(self) -> int:
        """Number of folds, and so of models."""
        return int(self.manifest["num_folds"])

    @property
    def train_shares_K(self) -> NDArray[np.float64]:
        """[K] class shares of what training saw."""
        return np.asarray(self.manifest["train_shares"])

    @property
    def has_boxes(self) -> bool:
        """Whether it looks at a part of each image that boxes say."""
        return self.recipe.image.boxes is not None or "boxes" in self.manifest.get("own", {})

    @property
    def backbone(self) -> "Backbone":
        """The network that the folds share, with its weights and preprocessing."""
        from finefold.nn.backbones import Backbone

        return replace(Backbone.read(self.folder.backbone), own=self.network)

    def fold_weights(self, fold: int) -> Path | dict[str, Path]:
        """The file of a fold's model, or one for each attribute where each has its own."""
        if self.recipe.model.heads != "separate" or self.recipe.is_probe_only:
            return self.folder.fold_weights(fold)
        return {name: self.folder.part(name).fold_weights(fold) for name in self.space.names}

    def ledger(self) -> Ledger:
        """The out-of-fold predictions."""
        return Ledger.read(self.folder.ledger)

    def scores(self) -> dict[str, Any]:
        """The ledger in numbers: see `finefold evaluate`."""
        from finefold.steps.evaluate import evaluate

        return evaluate(self)

    def predict(
        self,
        images: str | Path | None = None,
        *,
        boxes: "str | Path | Finder | None" = None,
        overrides: Sequence[str] = (),
        adapt_prior: str | Path | None = None,
        progress: Progress = SILENT,
    ) -> "Answers":
        """Probabilities for a folder of images: see `finefold predict`."""
        from finefold.steps.predict import predict

        return predict(self, images, boxes=boxes, overrides=overrides, adapt_prior=adapt_prior, progress=progress)


def open_run(path: str | Path, *, network: "nn.Module | None" = None, model: "nn.Module | None" = None) -> Run:
    """The run in a folder.

    Args:
        path: the folder.
        network: the module that was trained, where it was your own.
        model: the same, where it was a whole model of your own.

    Raises:
        RunError: there is no finished run.
        UsageError: the run is of no whole model.
        WeightsError: the model is another.
    """
    folder = RunFolder(Path(path))
    manifest = folder.read_manifest()
    if model is not None:
        from finefold.nn.whole import without_head

        if "head" not in manifest.get("own", {}):
            raise UsageError(
                f"{path} was not trained from a whole model of your own", "leave model out, or say network="
            )
        network = without_head(model, manifest["own"]["head"])
    return Run(folder, manifest, read_spec(folder.data), load_recipe(str(folder.recipe)), network)
