"""A finished run as a value: what the verbs after `train` start from."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from finefold.data.labels import LabelSpace
from finefold.data.predictions import Ledger
from finefold.data.sources import DataSpec, read_spec
from finefold.errors import RunError, UsageError
from finefold.recipe.loader import load_recipe
from finefold.recipe.schema import Recipe
from finefold.runs.folder import RunFolder
from finefold.steps.progress import SILENT, Progress

if TYPE_CHECKING:
    from torch import nn

    from finefold.nn.backbones import Backbone
    from finefold.nn.engines import Choice
    from finefold.nn.features import PrefixCache
    from finefold.recipe.training import View
    from finefold.steps.answers import Answers
    from finefold.steps.boxes import Finder

ENSEMBLE = "ensemble"
FOLD_SOUP = "fold soup"


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
    def is_ensemble(self) -> bool:
        """Whether other runs answer for it."""
        return self.manifest.get("kind") == ENSEMBLE

    @property
    def has_ledger(self) -> bool:
        """Whether it says of every sample what a model says that did not see it; a soup over folds cannot."""
        return self.manifest.get("kind") != FOLD_SOUP

    def members(self) -> tuple["Run", ...]:
        """The runs that an ensemble is made of, in the order of its weights; none of a run that was trained.

        Raises:
            RunError: one is gone, or another run lies in its place.
        """
        return tuple(self._member(one) for one in self.manifest.get("members", []))

    def _member(self, about: dict[str, Any]) -> "Run":
        beside = Path(os.path.normpath(self.folder.path.resolve() / about["beside"]))
        place = beside if beside.is_dir() else Path(about["path"])
        if not place.is_dir():
            raise RunError(
                f"{self.folder.path} is an ensemble, and its member `{about['name']}` is gone: {beside}",
                "put the run back, or move ensemble and members together; members answer for it",
            )
        member = open_run(place)
        if member.manifest["hashes"] != about["hashes"] or member.manifest["written"] != about["written"]:
            raise RunError(
                f"{self.folder.path} is an ensemble, and another run lies in the place of its member: {place}",
                "make the ensemble again: finefold ensemble RUN... --out RUN",
            )
        return member

    @property
    def backbone(self) -> "Backbone":
        """The network that the folds share, with its weights and preprocessing.

        Raises:
            RunError: the run is an ensemble, which has none of its own.
        """
        if self.is_ensemble:
            names = ", ".join(one["name"] for one in self.manifest["members"])
            raise RunError(f"{self.folder.path} is an ensemble and has no network of its own", f"members: {names}")
        from finefold.nn.backbones import Backbone

        return replace(Backbone.read(self.folder.backbone), own=self.network)

    @property
    def choice(self) -> "Choice":
        """The engine and precision that the frozen part was computed with."""
        from finefold.nn.engines import Choice

        engine = self.manifest["engine"]
        return Choice(engine["name"], engine["precision"], "as trained")

    @property
    def max_pixels(self) -> int:
        """Larger images are refused before they are decoded."""
        return round(self.recipe.image.max_megapixels * 1e6)

    def prefix_cache(self, backbone: "Backbone | None" = None) -> "PrefixCache":
        """Rows of a backbone, the run's whole one by default, as the run was trained on them.

        Raises:
            RunError: the run is an ensemble, and no backbone is given.
        """
        from finefold.nn.features import PrefixCache

        return PrefixCache(self.backbone if backbone is None else backbone, self.choice, self.max_pixels)

    def fold_weights(self, fold: int) -> Path | dict[str, Path]:
        """The file of a fold's model, or one for each attribute where each has its own."""
        if self.recipe.model.heads != "separate" or self.recipe.is_probe_only:
            return self.folder.fold_weights(fold)
        return {name: self.folder.part(name).fold_weights(fold) for name in self.space.names}

    def ledger(self) -> Ledger:
        """The out-of-fold predictions.

        Raises:
            RunError: there are none, or their file is broken.
        """
        if not self.has_ledger:
            names = ", ".join(one["name"] for one in self.manifest["soup"]["members"])
            raise RunError(
                f"{self.folder.path} is one model averaged over folds: every sample was trained on by most of what is "
                "in it, so nothing here can tell how good it is",
                f"look at what it was made of: {names}",
            )
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
        folds: int | None = None,
        views: "Sequence[View] | None" = None,
        progress: Progress = SILENT,
    ) -> "Answers":
        """Probabilities for a folder of images: see `finefold predict`."""
        from finefold.steps.effort import Effort
        from finefold.steps.predict import predict

        effort = Effort(folds, None if views is None else tuple(views))
        return predict(
            self, images, boxes=boxes, overrides=overrides, adapt_prior=adapt_prior, effort=effort, progress=progress
        )


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
