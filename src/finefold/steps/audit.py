"""`finefold audit`: what is wrong with the images and labels of a data.toml, as findings. Nothing is changed."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finefold.auditing.copies import Copies, find_copies
from finefold.auditing.duplicates import duplicate_findings, overlap_findings, split_findings
from finefold.auditing.groups import find_contradictions
from finefold.auditing.labels import Labelled, find_suspects, label_findings
from finefold.auditing.looks import Looks, look_at
from finefold.auditing.quality import quality_findings
from finefold.auditing.shortcuts import find_shortcuts
from finefold.data.cachedir import cache_root
from finefold.data.findings import Finding
from finefold.data.images import list_images
from finefold.data.samples import SampleTable
from finefold.data.sources import read_source
from finefold.data.tables import taken_rows
from finefold.errors import SplitError, UsageError
from finefold.nn.features import PrefixCache
from finefold.recipe.loader import load_recipe
from finefold.recipe.schema import Recipe
from finefold.steps.audit_features import group_features
from finefold.steps.audit_files import write_drafts, write_page
from finefold.steps.heads import fit_heads
from finefold.steps.progress import SILENT, Progress
from finefold.steps.reading import MAX_PIXELS, Data, without_unreadable
from finefold.steps.run import Run, open_run
from finefold.steps.split import split_of
from finefold.steps.train import folds_of, prefix_cache

IMAGES = ("unreadable", "wrong-extension", "exif-rotation", "image-quality")
COPIES = ("exact-duplicate", "near-duplicate", "duplicate-labels-differ", "test-in-train", "split-leak")
LABELS = ("group-contradiction", "label-suspect", "shortcut")
KINDS = (*IMAGES, *COPIES, *LABELS)
NEAR = ("near-duplicate", "duplicate-labels-differ", "test-in-train", "split-leak")
SEVERITIES = ("error", "warning", "info")


@dataclass(frozen=True)
class Checked:
    """One kind of finding that was looked for.

    Args:
        kind: of the findings.
        says: what was looked at, or why it was not.
        is_done: whether it was looked at.
    """

    kind: str
    says: str
    is_done: bool = True


@dataclass(frozen=True)
class Audit:
    """What an audit found.

    Args:
        data: what was looked at.
        findings: errors first, then by kind; suspects by their rank.
        checks: what was looked for.
        written: files that were written.
    """

    data: Data
    findings: tuple[Finding, ...]
    checks: tuple[Checked, ...]
    written: tuple[Path, ...] = ()

    def of(self, kind: str) -> tuple[Finding, ...]:
        """The findings of one kind."""
        return tuple(finding for finding in self.findings if finding.kind == kind)

    @property
    def counts(self) -> Mapping[str, int]:
        """Kind -> number of findings."""
        return Counter(finding.kind for finding in self.findings)

    def to_list(self) -> list[dict[str, Any]]:
        """The findings as plain JSON values."""
        return [finding.to_dict() for finding in self.findings]


def audit(
    data: Data,
    *,
    run: Run | str | Path | None = None,
    only: Collection[str] = (),
    out: str | Path | None = None,
    fix: bool = False,
    progress: Progress = SILENT,
) -> Audit:
    """Looks for broken and odd images, copies, contradictions, wrong labels and shortcuts.

    Args:
        data: what `read_data` gave.
        run: a run on this data whose ledger says what models think; without one a probe is fitted.
        only: kinds of findings to look for, e.g. `label-suspect`; all by default.
        out: an HTML page to write.
        fix: write drafts of a patches file and of a list of exclusions, beside `out` or into the current folder.
        progress: told of the stages.

    Raises:
        UsageError: `only` names what is no kind.
        DataError: no image can be read.
        RunError, WeightsError, EngineError, CacheError: see each.
    """
    if strange := sorted(set(only) - set(KINDS)):
        raise UsageError(f"no kind of finding is called `{strange[0]}`", f"kinds are {', '.join(KINDS)}")
    opened = open_run(run) if isinstance(run, str | Path) else run
    work = _Work(data, opened, frozenset(only or KINDS), progress)
    findings = work.findings()
    order = sorted(findings, key=lambda one: (SEVERITIES.index(one.severity), KINDS.index(one.kind)))
    found = Audit(data, tuple(order), tuple(work.checks))
    written: list[Path] = []
    if out is not None:
        written.append(write_page(found.findings, work.samples, work.paths, data, Path(out), progress))
    if fix:
        folder = Path(out).parent if out is not None else Path()
        written += write_drafts(found.findings, data, folder)
    return replace(found, written=tuple(written))


class _Work:
    """One audit: every part is made when a check first needs it."""

    def __init__(self, data: Data, run: Run | None, kinds: frozenset[str], progress: Progress) -> None:
        self.data = data
        self.run = run
        self.kinds = kinds
        self.progress = progress
        self.checks: list[Checked] = []
        self.recipe: Recipe = load_recipe("probe", ())

    def findings(self) -> list[Finding]:
        found = [one for one in self.looks.findings if one.ids[0] in self.labelled_ids]
        self._tell("unreadable", f"{len(self.data.samples):,} files decoded")
        found += quality_findings(self.train_looks)
        for kind in IMAGES[1:]:
            self._tell(kind, f"{int(self.train_looks.is_readable_N.sum()):,} images measured")
        if self.kinds & set(COPIES):
            found += self._copies()
        labels = {one.name: (one.classes, self.codes[one.name]) for one in self.samples.space.attributes}
        if "group-contradiction" in self.kinds:
            found += find_contradictions(self.samples.ids, self.groups_N, self.group_names, labels)
            of = f"{len(self.group_names):,} groups" if self.samples.is_grouped else "there are no groups"
            self._tell("group-contradiction", of, is_done=self.samples.is_grouped)
        if "label-suspect" in self.kinds:
            found += self._suspects()
        if "shortcut" in self.kinds:
            with self.progress.stage("shortcuts", 0, ""):
                found += find_shortcuts(_rows_of(self.looks, self.readable_N), self.groups_N, labels)
            self._tell("shortcut", "each property of files and pictures against each attribute, 99 permutations")
        return [one for one in found if one.kind in self.kinds]

    def _tell(self, kind: str, says: str, *, is_done: bool = True) -> None:
        if kind in self.kinds:
            self.checks.append(Checked(kind, says, is_done))

    @cached_property
    def test(self) -> dict[str, Path]:
        """Ids and files of what is to be predicted, if said."""
        said = self.data.spec.predict
        root = None if said is None else (self.data.spec.folder / said.root).resolve()
        if root is None or not root.is_dir() or "test-in-train" not in self.kinds:
            return {}
        trained = {path.resolve() for path in self.data.samples.paths}
        files = {f"{root.name}/{path}": root / path for path in list_images(root).paths}
        return {name: path for name, path in files.items() if path.resolve() not in trained}

    @cached_property
    def labelled_ids(self) -> frozenset[str]:
        return frozenset(self.data.samples.ids)

    @cached_property
    def looks(self) -> Looks:
        """Of all labelled images, and after them those to be predicted."""
        ids = [*self.data.samples.ids, *self.test]
        paths = [*self.data.samples.paths, *self.test.values()]
        with self.progress.stage("images", len(ids), "images") as advance:
            return look_at(ids, paths, cache=cache_root(), max_pixels=MAX_PIXELS, advance=advance)

    @cached_property
    def paths(self) -> dict[str, Path]:
        return dict(zip(self.looks.ids, self.looks.paths, strict=True))

    @cached_property
    def train_looks(self) -> Looks:
        return _rows_of(self.looks, np.arange(len(self.data.samples)))

    @cached_property
    def readable_N(self) -> NDArray[np.int64]:
        """Rows of the labelled images that can be read."""
        return np.flatnonzero(self.train_looks.is_readable_N)

    @cached_property
    def samples(self) -> SampleTable:
        """Those whose images can be read; everything below is about them."""
        return without_unreadable(
            self.data.samples, [one for one in self.looks.findings if one.ids[0] in self.labelled_ids]
        )

    @cached_property
    def _grouping(self) -> tuple[tuple[str, ...], NDArray[np.int64]]:
        names, codes_N = np.unique(self.samples.groups, return_inverse=True)
        return tuple(map(str, names)), codes_N.astype(np.int64)

    @property
    def group_names(self) -> tuple[str, ...]:
        return self._grouping[0]

    @property
    def groups_N(self) -> NDArray[np.int64]:
        return self._grouping[1]

    @cached_property
    def codes(self) -> dict[str, NDArray[np.int64]]:
        return dict(zip(self.samples.space.names, self.samples.codes_NA.T, strict=True))

    @cached_property
    def cache(self) -> PrefixCache:
        return prefix_cache(self.recipe, self.progress)

    @cached_property
    def features_ND(self) -> NDArray[np.float16]:
        """Of all labelled images, readable or not, and after them those to be predicted."""
        with self.progress.stage("features", len(self.looks.ids), "images") as advance:
            return self.cache.compute(self.looks.ids, self.looks.paths, advance=advance).rows_ND

    def _copies(self) -> list[Finding]:
        """Copies among the labelled images, and between them and those to be predicted."""
        rows = np.concatenate([self.readable_N, np.arange(len(self.data.samples), len(self.looks.ids))])
        looks = _rows_of(self.looks, rows)
        is_test_N = rows >= len(self.data.samples)
        groups_N = np.concatenate([self.groups_N, np.full(is_test_N.sum(), len(self.group_names))])
        is_near = bool(self.kinds & set(NEAR))
        features_ND = taken_rows(self.features_ND, rows, folder=cache_root()) if is_near else None
        with self.progress.stage("copies", 0, "pairs") as advance:
            copies = find_copies(looks, groups_N, features_ND, cache=cache_root(), is_near=is_near, advance=advance)
        ours = copies.among(~is_test_N)
        labels = {one.name: (one.classes, self.codes[one.name]) for one in self.samples.space.attributes}
        found = duplicate_findings(ours, self.samples.ids, self.groups_N, self.group_names, labels)
        self._tell("exact-duplicate", f"{len(self.samples):,} files compared by content")
        if is_near:
            where = "between groups" if self.samples.is_grouped else "between images"
            said = f"{copies.num_candidates:,} pairs {where} aligned and compared; copies from {copies.least:.2f} on"
            self._tell("near-duplicate", f"{said}, {copies.typical:.2f} is usual for neighbours")
            self._tell("duplicate-labels-differ", f"{len(ours):,} pairs of copies")
        has_test = bool(is_test_N.any())
        self._tell(
            "test-in-train",
            f"{int(is_test_N.sum()):,} images to be predicted" if has_test else "data.toml names no images to predict",
            is_done=has_test,
        )
        found += overlap_findings(copies, looks.ids, is_test_N)
        return found + self._split_leaks(ours)

    def _split_leaks(self, copies: Copies) -> list[Finding]:
        file = self.data.default_split
        if not file.is_file():
            self._tell("split-leak", f"there is no {file.name}", is_done=False)
            return []
        try:
            folds_N = split_of(self.data, file).folds_for(self.samples.ids)
        except SplitError as reason:
            self._tell("split-leak", f"{file.name} does not fit: {reason.message}", is_done=False)
            return []
        self._tell("split-leak", f"{len(copies):,} pairs of copies against {file.name}")
        return split_findings(copies, self.samples.ids, folds_N, self.samples.labels_N)

    def _suspects(self) -> list[Finding]:
        labelled, features = self._opinions()
        with self.progress.stage("labels", 0, ""):
            suspects, shares = find_suspects(labelled, self.groups_N, features=features)
        estimate = ", ".join(
            f"{name} cannot be told" if np.isnan(share) else f"{name} {100 * share:.1f} %"
            for name, share in shares.items()
        )
        source = "the run's ledger" if self.run is not None else "a probe fitted here"
        agrees = ", ".join(f"{one.name} {100 * one.accuracy:.0f} %" for one in labelled)
        says = f"by {source}, out of fold, which agrees with the labels in {agrees}; estimated wrong or doubtful"
        self._tell("label-suspect", f"{says}, the more so the less it agrees: {estimate}")
        return label_findings(suspects, shares, self.samples.ids, self.group_names)

    def _opinions(self) -> tuple[list[Labelled], list[NDArray[np.floating]]]:
        """Each attribute with out-of-fold probabilities, and features for whole groups where no run is asked."""
        features: list[NDArray[np.floating]] = []
        if self.run is not None:
            predictions = self.run.ledger().predictions
            if set(predictions.class_names) != set(self.samples.space.class_names):
                raise UsageError("the run has other classes than data.toml", "give a run that was trained on this data")
            predictions = predictions.rows_for(self.samples.ids)
        else:
            rows_ND = taken_rows(self.features_ND, self.readable_N, folder=cache_root())
            heads = "joint" if len(self.samples.space.names) == 1 else "per_attribute"
            recipe = load_recipe("probe", (f"model.heads={heads}",))
            folds = folds_of(None, self.samples, (), recipe)
            predictions = fit_heads(rows_ND, self.samples, folds, recipe, self.progress).predictions
            if self.samples.is_grouped:
                maps_ND = group_features(self.cache, self.samples, self.progress)
                features = [rows_ND if maps_ND is None else maps_ND]
        table = self.samples.space.attribute_table()
        marginals = predictions.marginals(table)
        numbers = self._numbers()
        labelled = []
        for attribute in self.samples.space.attributes:
            edges = () if attribute.bands is None else attribute.bands.upper[:-1]
            labelled.append(
                Labelled(
                    attribute.name,
                    attribute.classes,
                    self.codes[attribute.name],
                    marginals[attribute.name],
                    numbers.get(attribute.name),
                    edges,
                )
            )
        return labelled, features

    def _numbers(self) -> dict[str, NDArray[np.float64]]:
        """Raw numbers of banded attributes, NaN where a patch has changed what they say."""
        banded = [one for one in self.samples.space.attributes if one.bands is not None]
        if not banded:
            return {}
        source = read_source(self.data.spec)
        row_of = {path: row for row, path in enumerate(source["path"])}
        rows = [row_of[path] for path in self.samples.frame["path"]]
        numbers = {}
        for one in banded:
            assert one.bands is not None
            texts: Sequence[str | None] = source[one.column].to_list()
            values_N = np.array([_number(texts[row]) for row in rows])
            agrees_N = one.bands.codes_for(np.nan_to_num(values_N)) == self.codes[one.name]
            numbers[one.name] = np.where(agrees_N, values_N, np.nan)
        return numbers


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return float("nan")


def _rows_of(looks: Looks, rows: NDArray[np.int64]) -> Looks:
    """Some rows of what was seen; without its findings."""
    return Looks(
        tuple(looks.ids[row] for row in rows),
        tuple(looks.paths[row] for row in rows),
        tuple(looks.content_N[row] for row in rows),
        taken_rows(looks.rows_N, rows, folder=cache_root()),
        (),
    )
