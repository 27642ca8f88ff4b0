"""What the doctor examines: one value that every check is given, and that computes what a check asks for when it asks.

Shapes: N rows in the order of the data set, K classes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from finefold.data.predictions import Ledger
from finefold.data.samples import SampleTable
from finefold.data.splits import Split, make_split
from finefold.doctor.lists import Lists
from finefold.doctor.loading import Loading
from finefold.errors import SplitError
from finefold.nn.features import Features, PrefixCache
from finefold.recipe.schema import Recipe
from finefold.runs.folder import RunFolder

if TYPE_CHECKING:
    from torch import nn

FOLDS = 5


class RoundTrip(Protocol):
    """A run as images meet it that are to be answered for, and what it wrote down when it was trained.

    Args:
        name: what a person calls it.
        folder, manifest: of the run.
        class_names: [K] by its data.toml.
        ledger: its out-of-fold predictions.
        sample_ids, sample_labels_N: the samples that it was trained on.
        split: its folds.
        stamps: `preprocessing` and `backbone` -> file that says of which it is -> its hash.
        fold_class_names: file of a fold -> the classes that it names.
    """

    @property
    def name(self) -> str: ...
    @property
    def folder(self) -> RunFolder: ...
    @property
    def manifest(self) -> Mapping[str, Any]: ...
    @property
    def class_names(self) -> tuple[str, ...]: ...
    @property
    def ledger(self) -> Ledger: ...
    @property
    def sample_ids(self) -> tuple[str, ...]: ...
    @property
    def sample_labels_N(self) -> NDArray[np.int64]: ...
    @property
    def split(self) -> Split: ...
    @property
    def stamps(self) -> Mapping[str, Mapping[str, str]]: ...
    @property
    def fold_class_names(self) -> Mapping[str, tuple[str, ...]]: ...

    def fold_probs(self, fold: int, rows: NDArray[np.int64], *, anew: bool) -> NDArray[np.float64]:
        """[n, K] what the submission path gives for some rows of the ledger with the model of one fold alone.

        Args:
            fold: whose model.
            rows: of the ledger.
            anew: read and decode the files again instead of asking the cache.
        """
        ...


@dataclass(frozen=True, eq=False)
class Subject:
    """Rows of images with labels, and what belongs to them, where there is any.

    Args:
        name: what a person calls it: a file, a run, a function.
        ids: [N] names of the rows.
        labels_N: codes in [0, K) as the data give them to a model; -1 where an attribute's value is missing.
        class_names: [K].
        recipe: whose backbone looks at the images.
        look: computes the features of all rows.
        cache: the backbone on its engine, for checks that look at other images.
        attributes: name -> (its class names, [K] its code in each class); empty where the class is all there is.
        groups: [N] rows of one group show one thing; None where not known.
        paths: [N] files of the rows; None where not known, or where the images are in memory.
        lists: what the data set object keeps besides.
        samples: of a data.toml or a run, the readable rows.
        columns: what else the data source says of each row, by the column's name.
        given_folds_N: the folds of a run or of a split file.
        test_ids, test_paths: images to answer for.
        look_at_test: computes their features.
        answer_test: of a run whose models are heads on these features, its ledger's probabilities [N, K], and [T, K] of
            the test images, 1/K where unreadable.
        dataset: the object that was given, any map-style data set.
        valid: the second of a pair.
        model: a model that was given, images of `dataset` -> logits.
        predict: [N] the class that the given model, or the run's fold models out of fold, gives to each row.
        run: its folder.
        loading: how batches are made of the rows, where a DataLoader was given.
        trips: the way of new images through the run's models, for the round trip; of each member of an ensemble.
        notes: what was assumed, a sentence each.
        memory: what a check found and another may ask for, by the check's name.
    """

    name: str
    ids: tuple[str, ...]
    labels_N: NDArray[np.int64]
    class_names: tuple[str, ...]
    recipe: Recipe
    look: Callable[[], Features] = field(repr=False)
    cache: Callable[[], PrefixCache] = field(repr=False)
    attributes: Mapping[str, tuple[tuple[str, ...], NDArray[np.int64]]] = field(default_factory=dict)
    groups: tuple[str, ...] | None = None
    paths: tuple[Path, ...] | None = None
    lists: Lists = field(default_factory=Lists)
    samples: SampleTable | None = None
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict, repr=False)
    given_folds_N: NDArray[np.int64] | None = None
    test_ids: tuple[str, ...] = ()
    test_paths: tuple[Path, ...] = ()
    look_at_test: Callable[[], Features] | None = field(default=None, repr=False)
    answer_test: Callable[[], tuple[NDArray[np.float64], NDArray[np.float64]]] | None = field(default=None, repr=False)
    dataset: Any = field(default=None, repr=False)
    valid: "Subject | None" = field(default=None, repr=False)
    model: "nn.Module | None" = field(default=None, repr=False)
    predict: Callable[[], NDArray[np.int64]] | None = field(default=None, repr=False)
    run: RunFolder | None = None
    loading: Loading | None = None
    trips: "tuple[RoundTrip, ...]" = ()
    notes: tuple[str, ...] = ()
    memory: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.class_names)

    def codes_of(self, attribute: str) -> NDArray[np.int64]:
        """[N] codes of one attribute's classes; -1 where its value is missing."""
        if self.samples is not None:
            return self.samples.codes_NA[:, self.samples.space.names.index(attribute)]
        codes_K = self.attributes[attribute][1]
        return np.where(self.labels_N >= 0, codes_K[self.labels_N], -1)

    @cached_property
    def features(self) -> Features:
        """The embedded backbone's features of every row, in order; zero where an image is unreadable."""
        return self.look()

    @cached_property
    def test_features(self) -> Features | None:
        """Features of the images to answer for; None where there are none."""
        return self.look_at_test() if self.look_at_test is not None and self.test_paths else None

    @cached_property
    def group_codes_N(self) -> NDArray[np.int64]:
        """[N] group of each row as a number; every row its own where groups are not known."""
        if self.groups is None:
            return np.arange(len(self.ids))
        return np.asarray(np.unique(np.asarray(self.groups), return_inverse=True)[1], np.int64)

    @cached_property
    def folds_N(self) -> NDArray[np.int64]:
        """[N] folds: those given, else five that keep groups whole, with every class in each as far as can be."""
        if self.given_folds_N is not None:
            return self.given_folds_N
        groups = None if self.groups is None else list(self.groups)
        ids = [str(row) for row in range(len(self.ids))]
        try:
            split = make_split(
                ids, self.labels_N, groups, class_names=self.class_names, folds=FOLDS, seed=self.recipe.seed
            )
        except SplitError:  # a class too scarce to train in every fold: folds without regard to classes will do here
            codes_N = self.group_codes_N
            dealt = np.random.default_rng(self.recipe.seed).permutation(int(codes_N.max()) + 1) % FOLDS
            return np.asarray(dealt[codes_N], np.int64)
        return np.asarray(split.folds_for(ids), np.int64)
