"""A run's round trip, and what its files say of each other."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from finefold.data.predictions import Ledger, Predictions
from finefold.data.splits import Split
from finefold.doctor.contract import check_contract
from finefold.errors import ImageError
from finefold.runs.folder import RunFolder
from unit.doctor.planted import planted, subject_of

IDS = tuple(f"s{row}" for row in range(40))
FOLDS = np.arange(40) % 4
PROBS = np.random.default_rng(0).dirichlet(np.ones(3), 40)
LABELS = np.arange(40) % 3
NAMES = ("a", "b", "c")


@dataclass
class Trip:
    """A run that gives back what its ledger holds, plus `off` where it reads anew."""

    off: float = 0.0
    name: str = "run"
    folder: RunFolder = RunFolder(Path("run"))  # noqa: RUF009 - a value
    class_names: tuple[str, ...] = NAMES
    manifest: Any = field(default_factory=lambda: {"class_names": list(NAMES)})
    ledger: Ledger = field(default_factory=lambda: Ledger(Predictions(IDS, PROBS, NAMES), FOLDS, IDS, LABELS))
    sample_ids: tuple[str, ...] = IDS
    sample_labels_N: Any = field(default_factory=lambda: LABELS)
    stamps: Any = field(default_factory=lambda: {"preprocessing": {"manifest.json": "1", "fold-0": "1"}})
    fold_class_names: Any = field(default_factory=lambda: {"fold-0": NAMES})
    asked: list[tuple[int, int, bool]] = field(default_factory=list)

    @property
    def split(self) -> Split:
        return Split(pl.DataFrame({"id": IDS, "fold": FOLDS, "group": IDS}))

    def fold_probs(self, fold, rows, *, anew):
        assert (FOLDS[rows] == fold).all()
        self.asked.append((fold, len(rows), anew))
        return PROBS[rows] + anew * self.off * np.array([1, -1, 0])


def check(trip):
    return check_contract(replace(subject_of(*planted(40)), trips=(trip,)))


def test_a_sound_run_comes_back_as_it_was_scored():
    """Images of every fold are sent by their own fold's model, some decoded anew; the largest difference is said."""
    trip = Trip()
    said = check(trip)
    assert not said.findings and said.is_done
    assert "40 validation images through the submission path, 16 of them decoded anew" in said.says
    assert trip.asked[:2] == [(0, 10, False), (0, 4, True)] and len(trip.asked) == 8


def test_other_probabilities_are_an_error_above_a_thousandth():
    """0.01 off is an error that names the images; 0.0005 is rounding."""
    (found,) = check(Trip(off=0.01)).findings
    assert (found.kind, found.severity) == ("contract-broken", "error") and len(found.ids) == 16
    assert found.evidence["most"] == pytest.approx(0.01)
    assert not check(Trip(off=0.0005)).findings


@pytest.mark.parametrize(
    ("changes", "what", "told"),
    [
        ({"stamps": {"preprocessing": {"manifest.json": "1", "fold-2": "7"}}}, "preprocessing", "fold-2 says 7"),
        ({"fold_class_names": {"fold-1": ("b", "a", "c")}}, "class order", "fold-1 has the classes b, a, c"),
        ({"class_names": ("a", "c", "b")}, "class order", "data.toml a, c, b"),
        ({"sample_ids": (*IDS, "s40"), "sample_labels_N": np.arange(41) % 3}, "rows", "1 are missing"),
        ({"sample_labels_N": np.roll(LABELS, 1)}, "label", "another label"),
    ],
)
def test_files_that_contradict_each_other(changes, what, told):
    """Preprocessing of another run, classes in another order, rows that were never scored, other labels."""
    found = [one for one in check(Trip(**changes)).findings if one.evidence["what"] == what]
    assert found and all(one.severity == "error" for one in found) and told in found[0].cause


def test_images_that_are_gone_are_told_not_raised():
    """Where an image cannot be read any more, the round trip was not done, and why."""

    class Gone(Trip):
        def fold_probs(self, *_, **__):
            raise ImageError("the file is gone")

    said = check(Gone())
    assert not said.is_done and "the file is gone" in said.says and not said.findings


def test_data_without_a_run_says_what_a_run_would_add():
    """Of a data.toml only the order of classes can be looked at."""
    said = check_contract(subject_of(*planted(40)))
    assert "give a run" in said.says and not said.findings
