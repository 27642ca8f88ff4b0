"""What the doctor says of drawn portraits that have nothing wrong with them, check by check, and of planted faults.

    python benchmarks/alarms.py [--draws 20] [--people 60]

Each draw is a data.toml of 60 people with 140 images of 20 others to be predicted, and the same photos as a pair of
map-style data sets, 12 people for validation. Class shares of the images to be predicted do differ from training's, by
design: a `test-shift` of shares is no false alarm, one of features or files is.
"""

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from finefold.data.findings import Finding
from finefold.data.synthetic import draw_portraits
from finefold.doctor.checks import CHECKS, make_checks
from finefold.doctor.diagnosis import Diagnosis
from finefold.doctor.subject import Subject
from finefold.steps.diagnose import subject_of
from finefold.steps.init import init
from finefold.steps.reading import Data

EXPECTED = {("shift", "test-shift"), ("honesty", "group-leak")}  # shares differ, and photos of one person look alike


class Photos:
    """RGB uint8 photos with the number of their class, as somebody's own data set gives them."""

    def __init__(self, paths: list[Path], labels: list[int]) -> None:
        self.paths, self.labels = paths, labels

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], int]:
        return cv2.cvtColor(cv2.imread(str(self.paths[index])), cv2.COLOR_BGR2RGB), self.labels[index]


def pair_of(data: Data, attribute: str) -> tuple[Photos, Photos]:
    """Training and validation by one attribute; every fifth person is validated on."""
    samples = data.samples
    codes_N = samples.codes_NA[:, samples.space.names.index(attribute)].tolist()
    is_valid_N = np.unique(samples.groups, return_inverse=True)[1] % 5 == 0
    parts = [np.flatnonzero(is_valid_N == part).tolist() for part in (False, True)]
    train, valid = (Photos([samples.paths[row] for row in rows], [codes_N[row] for row in rows]) for rows in parts)
    return train, valid


def faults(subject: Subject, pair: Subject, rng: np.random.Generator) -> Iterator[tuple[str, str, Subject, str]]:
    """(what was done, check, subject, kind of finding that must come of it)."""
    assert subject.samples is not None and pair.valid is not None
    codes_NA = subject.samples.codes_NA.copy()
    codes_NA[:, 1] = np.roll(codes_NA[:, 1], 3)
    moved = replace(subject, labels_N=subject.samples.space.joint_codes(codes_NA), samples=None, memory={})
    yield "gender moved by 3 rows", "alignment", moved, "misaligned-labels"
    torn = replace(subject, given_folds_N=rng.integers(0, 5, len(subject.ids)), memory={})
    yield "images split at random", "honesty", torn, "split-leak"
    turned = replace(pair.valid, labels_N=(pair.valid.labels_N + 1) % pair.num_classes, memory={})
    yield "validation's classes renumbered", "contract", replace(pair, valid=turned, memory={}), "contract-broken"


def told(check: str, one: Finding) -> str:
    """A finding in short; one that is expected of these data begins with an equals sign."""
    what = one.evidence.get("what", "")
    is_expected = (check, one.kind) in EXPECTED and (one.kind != "test-shift" or what == "shares")
    return f"{'=' if is_expected else ''}{one.severity} {one.kind}{f' ({what})' if what else ''}"


def count(diagnosis: Diagnosis, found: dict[str, Counter[str]], where: str) -> None:
    """Adds a diagnosis to the counts by check, and prints what nobody expected."""
    for check in diagnosis.checks:
        of = found.setdefault(check.name, Counter())
        of["made"] += check.is_done
        for one in check.findings:
            name = told(check.name, one)
            of[name] += 1
            if not name.startswith("="):
                print(f"  {where}, {check.name}: {name}: {one.cause}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--people", type=int, default=60, help="in each")
    arguments = parser.parse_args()
    clean: dict[str, dict[str, Counter[str]]] = {"data.toml": {}, "pair": {}}
    seen: dict[str, list[bool]] = {}
    seconds = 0.0
    with tempfile.TemporaryDirectory(prefix="finefold-bench-") as name:
        for seed in range(arguments.draws):
            folder = Path(name) / f"draw-{seed}"
            draw_portraits(folder, num_people=arguments.people, seed=seed)
            data = init(folder, out=Path(name) / f"{seed}.toml").data
            subject, pair = subject_of(data), subject_of(pair_of(data, "mask"))
            assert subject.features.num_computed >= 0 and subject.test_features is not None  # their time is no check's
            start = time.process_time()
            count(make_checks(subject), clean["data.toml"], f"draw {seed}")
            seconds += time.process_time() - start
            count(make_checks(pair), clean["pair"], f"draw {seed}, pair")
            for fault, check, faulty, kind in faults(subject, pair, np.random.default_rng(seed)):
                kinds = [one.kind for one in make_checks(faulty, [check]).findings if one.severity == "error"]
                seen.setdefault(fault, []).append(kind in kinds)
    print(f"\n{arguments.draws} draws, all checks of a data.toml: {seconds / arguments.draws:.1f} s of processor each")
    for target, by_check in clean.items():
        for check in CHECKS:
            of = by_check.get(check, Counter())
            rest = ", ".join(f"{number} x {one}" for one, number in sorted(of.items()) if one != "made")
            print(f"  {target:<10} {check:<10} made {of['made']:>2}  {rest or 'nothing found'}")
    for fault, outcomes in seen.items():
        print(f"  {fault:<32} seen {sum(outcomes)} of {len(outcomes)}")


if __name__ == "__main__":
    main()
