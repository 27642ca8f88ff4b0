"""Images without labels that folds train on besides the samples, each fold with the labels that its own model gave."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from finefold.data.imageset import ImageSet
from finefold.data.labels import LabelSpace
from finefold.metrics.pseudo import FoldLabels, check_matched
from finefold.nn.weights import whole_or_nothing


@dataclass(frozen=True, eq=False)
class ExtraImages:
    """What trains besides the samples. No image of these validates, and none is in the ledger.

    Args:
        images: of which any fold has a label.
        labels: [F] one for each fold.

    Raises:
        ValueError: a fold would train on another fold's labels.
    """

    images: ImageSet
    labels: tuple[FoldLabels, ...]

    def __post_init__(self) -> None:
        check_matched(self.labels, len(self.labels))

    @classmethod
    def of(cls, images: ImageSet, labels: tuple[FoldLabels, ...]) -> "ExtraImages":
        """Those of some images that got a label in any fold."""
        used = np.unique(np.concatenate([one.rows_M for one in labels]))
        return cls(images.at(used), tuple(replace(one, rows_M=np.searchsorted(used, one.rows_M)) for one in labels))

    def under(self, space: LabelSpace, attribute: str) -> "ExtraImages":
        """The same images with labels of one attribute of the joint class."""
        codes_K, size = space.attribute_codes()[attribute], space.sizes[space.names.index(attribute)]
        return replace(self, labels=tuple(one.under(codes_K, size) for one in self.labels))

    def write(self, file: Path) -> None:
        """All of it, for the folds' processes."""
        boxes = self.images.boxes
        arrays = {
            "ids": np.array(self.images.ids, str),
            "paths": np.array([str(path) for path in self.images.paths], str),
            "weights": np.array([one.weight for one in self.labels]),
            **({} if boxes is None else {"boxes": np.array([box or (0,) * 4 for box in boxes], np.int64)}),
            **{f"rows {one.fold}": one.rows_M for one in self.labels},
            **{f"targets {one.fold}": one.targets_MC for one in self.labels},
        }
        with whole_or_nothing(file) as unfinished, unfinished.open("wb") as made:
            np.savez(made, **arrays)  # type: ignore[arg-type]

    @classmethod
    def read(cls, file: Path) -> "ExtraImages":
        """What `write` wrote."""
        with np.load(file, allow_pickle=False) as arrays:
            boxes = None
            if "boxes" in arrays:
                boxes = [None if box[0] == box[2] else tuple(box) for box in arrays["boxes"].tolist()]
            images = ImageSet(arrays["ids"].tolist(), [Path(path) for path in arrays["paths"].tolist()], boxes)
            labels = tuple(
                FoldLabels(fold, arrays[f"rows {fold}"], arrays[f"targets {fold}"], weight)
                for fold, weight in enumerate(arrays["weights"].tolist())
            )
        return cls(images, labels)
