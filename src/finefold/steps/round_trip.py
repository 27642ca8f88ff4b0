"""A run's own samples sent through the way that new images take, for the doctor.

Shapes: n samples, K joint classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from finefold.data.predictions import Ledger
from finefold.data.preprocessing import Box, Preprocessing
from finefold.data.samples import SIDES
from finefold.data.splits import Split, read_split
from finefold.nn.weights import read_header
from finefold.runs.folder import RunFolder
from finefold.steps.columns import sample_table
from finefold.steps.effort import ledger_views
from finefold.steps.probabilities import stream_of
from finefold.steps.run import Run


@dataclass(frozen=True)
class RunTrip:
    """See `doctor.subject.RoundTrip`.

    Args:
        run: that was trained.
    """

    run: Run

    @property
    def name(self) -> str:
        """The run's folder, as it was given."""
        return str(self.run.folder.path)

    @property
    def folder(self) -> RunFolder:
        """Of the run."""
        return self.run.folder

    @property
    def manifest(self) -> Mapping[str, Any]:
        """Of the run."""
        return self.run.manifest

    @property
    def class_names(self) -> tuple[str, ...]:
        """[K] by its data.toml."""
        return self.run.space.class_names

    @cached_property
    def ledger(self) -> Ledger:
        """Its out-of-fold predictions."""
        return self.run.ledger()

    @cached_property
    def _samples(self) -> pl.DataFrame:
        return sample_table(self.run)

    @property
    def sample_ids(self) -> tuple[str, ...]:
        """Those it was trained on."""
        return tuple(self._samples["id"])

    @property
    def sample_labels_N(self) -> NDArray[np.int64]:
        """Their codes; -1 where not known whole."""
        return self._samples["label"].fill_null(-1).to_numpy().astype(np.int64)

    @cached_property
    def split(self) -> Split:
        """Its folds."""
        return read_split(self.run.folder.split)

    @property
    def stamps(self) -> Mapping[str, Mapping[str, str]]:
        """`preprocessing` and `backbone` -> file that says of which it is -> its hash."""
        backbone = self.run.backbone
        looks = {
            "manifest.json": str(self.manifest["preprocessing"]["hash"]),
            "backbone.safetensors": backbone.preprocessing.hash,
        }
        weights = {
            "manifest.json": str(self.manifest["backbone"]["weights"]),
            "backbone.safetensors": backbone.weights_hash,
        }
        for file, header in self._headers.items():
            looks[file] = Preprocessing.from_dict(header["preprocessing"]).hash
            weights[file] = str(header["backbone"])
        return {"preprocessing": looks, "backbone": weights}

    @property
    def fold_class_names(self) -> Mapping[str, tuple[str, ...]]:
        """File of a fold -> the classes that it names; not of models of single attributes."""
        joint = {file: header for file, header in self._headers.items() if not file.startswith("attributes/")}
        return {file: tuple(header["class_names"]) for file, header in joint.items()}

    @cached_property
    def _headers(self) -> Mapping[str, Mapping[str, Any]]:
        found = {}
        for fold in range(self.run.num_folds):
            weights = self.run.fold_weights(fold)
            for file in [weights] if isinstance(weights, Path) else weights.values():
                found[file.relative_to(self.run.folder.path).as_posix()] = read_header(file)
        return found

    def fold_probs(self, fold: int, rows: NDArray[np.int64], *, anew: bool) -> NDArray[np.float64]:
        """[n, K] of rows of the ledger, by the model of one fold; `anew` decodes the files again."""
        place_of = {sample: place for place, sample in enumerate(self._samples["id"])}
        ids = [self.ledger.predictions.ids[row] for row in rows.tolist()]
        places = [place_of[sample] for sample in ids]
        paths = [self.run.spec.root / self._samples["path"][place] for place in places]
        parts = stream_of(
            self.run,
            ids,
            paths,
            folds=(fold,),
            views=ledger_views(self.run),
            boxes=self._boxes(places),
            is_fresh=anew,
        )
        return np.concatenate([part.probs_BK for part in parts])

    def _boxes(self, places: list[int]) -> list[Box | None] | None:
        if SIDES[0] not in self._samples.columns:
            return None
        sides = self._samples[places].select(SIDES).iter_rows()
        return [None if row[0] is None else row for row in sides]
