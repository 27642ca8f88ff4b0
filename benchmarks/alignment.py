"""How many wrong pairings of images and labels the doctor sees and names, and how often it is wrong about right ones.

    python benchmarks/alignment.py [--seeds 2] [--draws 20] [--shared FOLDER] [--only NAME] [--lists]

Data: ELPV (the elpv-dataset package), ../shared/data/maskfaces and facemask_folders where they are there, drawn
portraits of 120 people; false alarms on these, as they are and listed in class folders, and on `--draws` draws of 60
people. Images are listed in 20 shards of equal size with names like shard3/img12.png, as the sources list them. A part
is so many adjoining shards.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from finefold.data.findings import Finding
from finefold.data.images import natural_key
from finefold.data.synthetic import draw_portraits
from finefold.doctor.alignment import check_alignment
from finefold.doctor.diagnosis import Checked
from finefold.doctor.lists import Lists
from finefold.doctor.subject import Subject
from finefold.nn.features import Features, PrefixCache
from finefold.recipe.loader import load_recipe
from finefold.steps.demo import elpv_folder
from finefold.steps.init import init
from finefold.steps.progress import SILENT
from finefold.steps.reading import without_unreadable
from finefold.steps.train import prefix_cache

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
SHARDS = 20
PARTS = (1.0, 0.5, 0.2, 0.1, 0.05)
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Set:
    """One data set's features and labels, in the order of its source."""

    name: str
    features_ND: NDArray[np.float16]
    labels_N: Rows
    class_names: tuple[str, ...]
    groups: tuple[str, ...] | None
    has_class_folders: bool = False

    def __len__(self) -> int:
        return len(self.labels_N)

    @cached_property
    def paths(self) -> list[str]:
        """[N] names in 20 shards, or in a folder for each class."""
        if self.has_class_folders:
            return [f"class{code}/img{row:06}.png" for row, code in enumerate(self.labels_N)]
        starts = [-(-shard * len(self) // SHARDS) for shard in range(SHARDS + 1)]
        return [f"shard{s}/img{row}.png" for s in range(SHARDS) for row in range(starts[s + 1] - starts[s])]

    def shards(self, first: int, count: int) -> Rows:
        """The rows of adjoining shards."""
        return np.arange(-(-first * len(self) // SHARDS), -(-(first + count) * len(self) // SHARDS))

    def subject(self, labels_N: Rows, rows: Rows | None = None, lists: Lists | None = None) -> Subject:
        """The set, or some rows of it, with other labels."""
        kept = np.arange(len(self)) if rows is None else rows
        found = Features(self.features_ND[kept], np.ones(len(kept), bool), (), 0, ())
        paths = [self.paths[row] for row in kept]
        return Subject(
            name=self.name,
            ids=tuple(paths),
            labels_N=labels_N,
            class_names=self.class_names,
            recipe=load_recipe("probe"),
            look=lambda: found,
            cache=lambda: prefix_cache(load_recipe("probe"), SILENT),
            groups=None if self.groups is None else tuple(self.groups[row] for row in kept),
            paths=tuple(map(Path, paths)),
            lists=lists or Lists(),
        )


def read_set(name: str, folder: Path, work: Path, cache: PrefixCache) -> Set:
    """A folder's images through the backbone."""
    samples = init(folder, out=work / f"{name}.toml").data.samples
    found = cache.compute(samples.ids, samples.paths)
    samples = without_unreadable(samples, list(found.findings))
    groups = tuple(samples.groups) if samples.is_grouped else None
    rows_ND = found.rows_ND[found.is_readable_N]
    return Set(name, rows_ND, samples.labels_N, samples.space.class_names, groups)


def in_class_folders(data: Set) -> Iterator[Set]:
    """The set listed folder by folder: of each class, and of the first and the second half of the classes."""
    count = len(data.class_names)
    for names, codes_N in ((data.class_names, data.labels_N), (("first", "second"), data.labels_N // -(-count // 2))):
        order_N = np.argsort(codes_N, kind="stable")
        groups = None if data.groups is None else tuple(data.groups[row] for row in order_N)
        name = f"{data.name}, {len(names)} folders"
        yield Set(name, data.features_ND[order_N], codes_N[order_N], names, groups, has_class_folders=True)


def rotated(by: int) -> Callable[[Set, Rows, np.random.Generator], Rows]:
    return lambda _set, rows, _rng: np.roll(rows, -by)


def backwards(_set: Set, rows: Rows, _rng: np.random.Generator) -> Rows:
    return rows[::-1]


def in_text_order(data: Set, rows: Rows, _rng: np.random.Generator) -> Rows:
    """Images listed in natural order, labels in text order: within each shard, and over all where all are concerned."""
    names = data.paths
    return np.array(
        sorted(rows.tolist(), key=lambda row: (names[row].partition("/")[0] and _shard(names[row]), names[row]))
    )


def _shard(path: str) -> tuple[str, str]:
    return natural_key(path.partition("/")[0])


def shuffled(_set: Set, rows: Rows, rng: np.random.Generator) -> Rows:
    return rng.permutation(rows)


KINDS: dict[str, tuple[Callable[[Set, Rows, np.random.Generator], Rows], str]] = {
    "off by 1": (rotated(1), "+1 rows"),
    "off by 3, the other way": (rotated(-3), "-3 rows"),
    "off by 20": (rotated(20), "+20 rows"),
    "reversed": (backwards, "reversing"),
    "text for natural order": (in_text_order, "text order"),
    "shuffled": (shuffled, ""),
}


def outcome(said: Checked, named: str) -> tuple[bool, bool]:
    """(it was told, the pairing that is named is the right one; of a shuffle, that none is)."""
    errors = [one for one in said.findings if one.kind == "misaligned-labels"]
    names = [str(one.evidence["pairing"]) for one in errors if one.evidence["pairing"]]
    if named:
        return bool(errors), any(named in name for name in names)
    is_told = bool(errors) or any(one.kind == "no-signal" for one in said.findings)
    return is_told, is_told and not names


def parts(data: Set, kind: str, part: float, seeds: int) -> Iterator[tuple[int, bool, bool]]:
    """(labels that it makes wrong, seen, named) for every seed; the part lies at a random place."""
    turn, named = KINDS[kind]
    for seed in range(seeds):
        rng = np.random.default_rng((seed, int(100 * part)))
        count = round(part * SHARDS)
        rows = data.shards(int(rng.integers(0, SHARDS - count + 1)), count)
        source_N = np.arange(len(data))
        source_N[rows] = turn(data, rows, rng)
        observed_N = data.labels_N[source_N]
        num_wrong = int((observed_N != data.labels_N).sum())
        if num_wrong:
            yield num_wrong, *outcome(check_alignment(data.subject(observed_N)), named)


def subsets(data: Set, seeds: int) -> Iterator[tuple[str, int, bool, bool]]:
    """(kind, wrong labels, seen, named): one list is a part of the other, or both were cut to one length."""
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        size = int(0.8 * len(data))
        some = np.sort(rng.permutation(len(data))[:size])
        texts = [data.class_names[code] for code in data.labels_N]
        whole = {"labels": tuple(texts)}
        cases = {
            "images a part, both lists kept with the indices": (
                some,
                data.labels_N[:size],
                {"idx": tuple(some.tolist())},
                whole,
            ),
            "images a part, the whole list of labels kept": (some, data.labels_N[:size], None, whole),
            "images a part, nothing kept": (some, data.labels_N[:size], None, None),
            "labels a part, nothing kept": (np.arange(size), data.labels_N[some], None, None),
            "20 images lost, cut to one length": (
                _lost(len(data), 20, rng),
                data.labels_N[: len(data) - 20],
                None,
                None,
            ),
        }
        for kind, (rows, observed_N, indices, labels) in cases.items():
            num_wrong = int((observed_N != data.labels_N[rows]).sum())
            said = check_alignment(data.subject(observed_N, rows, Lists(labels=labels, indices=indices)))
            errors = [one for one in said.findings if one.kind == "misaligned-labels"]
            yield kind, num_wrong, bool(errors), any(_is_named(one, num_wrong) for one in errors)


def _is_named(finding: Finding, num_wrong: int) -> bool:
    """Told as lists of different lengths, or, of long runs, that so many labels lie beside a wrong end."""
    kind = finding.evidence["kind"]
    return kind == "subset" or (kind == "end" and abs(finding.evidence["relabelled"] - num_wrong) <= 2)


def _lost(count: int, lost: int, rng: np.random.Generator) -> Rows:
    return np.delete(np.arange(count), rng.permutation(count)[:lost])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2, help="places of a part, per kind and size; 0: no parts")
    parser.add_argument("--draws", type=int, default=20, help="draws of portraits, all labels right")
    parser.add_argument("--shared", type=Path, default=SHARED, help="where maskfaces and facemask_folders lie")
    parser.add_argument("--only", help="one data set: ELPV, maskfaces, facemask_folders, portraits; no draws")
    parser.add_argument(
        "--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="of wrong pairings; all by default"
    )
    parser.add_argument("--lists", action="store_true", help="lists of different lengths alone")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="finefold-bench-") as name:
        work = Path(name)
        cache = prefix_cache(load_recipe("probe"), SILENT)
        draw_portraits(work / "portraits", num_people=120, seed=20)
        folders = {
            "ELPV": elpv_folder(),
            "maskfaces": arguments.shared / "maskfaces",
            "facemask_folders": arguments.shared / "facemask_folders",
        }
        folders["portraits"] = work / "portraits"
        if arguments.only:
            folders = {arguments.only: folders[arguments.only]}
        sets = [read_set(key, folder, work, cache) for key, folder in folders.items() if folder and folder.is_dir()]
        draws = []
        for seed in range(0 if arguments.only else arguments.draws):
            draw_portraits(work / f"draw-{seed}", num_people=60, seed=seed)
            draws.append(read_set(f"draw {seed}", work / f"draw-{seed}", work, cache))
    alarms(sets + [one for data in sets for one in in_class_folders(data)] + draws)
    for data in sets if arguments.seeds else ():
        print(f"\n{data.name}: {len(data):,} images, {len(data.class_names)} classes", flush=True)
        if not arguments.lists:
            table(data, arguments.seeds, arguments.kinds)
        start = time.process_time()
        rows = list(subsets(data, arguments.seeds))
        for kind in dict.fromkeys(row[0] for row in rows):
            of = [row for row in rows if row[0] == kind]
            wrong = np.mean([row[1] for row in of])
            print(f"  {kind:<50} {wrong:7.0f} wrong  seen {_share(of, 2)}  named {_share(of, 3)}", flush=True)
        print(f"  {(time.process_time() - start) / max(1, len(rows)):.1f} s of processor for each of these", flush=True)


def alarms(sets: list[Set]) -> None:
    """Errors on sets whose labels are right."""
    for data in sets:
        start = time.process_time()
        said = check_alignment(data.subject(data.labels_N))
        errors = [finding.cause for finding in said.findings if finding.severity == "error"]
        print(
            f"{data.name:<30} {len(errors)} errors, {time.process_time() - start:.1f} s of processor  {said.says}",
            flush=True,
        )
        for cause in errors:
            print(f"    {cause}", flush=True)


def table(data: Set, seeds: int, kinds: list[str]) -> None:
    """Seen and named by kind and part; a cell in which no label is wrong holds a dash."""
    print(f"  {'seen / named, of trials with a wrong label':<44}" + "".join(f"{100 * part:>12.0f} %" for part in PARTS))
    for kind in kinds:
        print(f"  {kind:<44}", end="", flush=True)
        for part in PARTS:
            of = list(parts(data, kind, part, seeds))
            print(f"{f'{_share(of, 1)}/{_share(of, 2)}' if of else '-':>14}", end="", flush=True)
        print(flush=True)


def _share(rows: list[tuple], place: int) -> str:  # type: ignore[type-arg]
    return f"{sum(bool(row[place]) for row in rows)} of {len(rows)}" if rows else "-"


if __name__ == "__main__":
    main()
