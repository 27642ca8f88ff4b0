"""Is the score honest? Copies and groups on both sides of a split, unnoticed groups, folds that differ beyond chance.

Shapes: N rows, n of them judged.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finefold.auditing.copies import Copies, clusters
from finefold.auditing.duplicates import KEEP_APART, severity_of_leak
from finefold.data.findings import Finding
from finefold.data.split_checks import are, counted
from finefold.doctor.diagnosis import Checked
from finefold.doctor.memory import Memory, accuracies, look_alikes, remembered, supposed_groups
from finefold.doctor.probing import Judged, judged
from finefold.doctor.sameness import copies_between, copies_of, same_rows
from finefold.doctor.subject import Subject

NAME = "honesty"
SHOWN = 20  # pairs or groups in the evidence
NUM_CHANCE = 2000  # deals of groups to folds
RARE = 0.001
ABOUT_AS_MUCH = 0.6  # of the memory that the best grouping shows
LEAST_SPREAD = 0.05  # between the best and the worst fold


def check_honesty(subject: Subject) -> Checked:
    """Whether what is scored was also learned from: copies, groups, and what folds say of chance."""
    rng = np.random.default_rng(subject.recipe.seed)
    rows = judged(subject)
    found: list[Finding] = []
    said: list[str] = []
    numbers: dict[str, Any] = {}
    copies = copies_of(subject)
    if copies is not None:
        found += _of_copies(subject, copies, rows, rng)
        part = f" (the likeliest of {copies.num_candidates + copies.num_left:,}; `finefold audit` compares all)"
        said.append(
            f"{copies.num_candidates:,} pairs of look-alikes compared{part * bool(copies.num_left)}, {len(copies)} of "
            "them copies"
        )
    else:
        found += _same_pictures(subject)
        said.append("equal pictures looked for; which files they are of is not known, so no others")
    if subject.valid is not None:
        found += _of_pair(subject, subject.valid)
        said.append(f"{len(subject.valid.ids)} validation rows compared with them")
    if rows is not None:
        found += _torn_groups(subject, rows)
        memory = _of_groups(subject, rows, rng)
        found += memory[0]
        said.append(memory[1])
        numbers |= memory[2]
    spread = _of_folds(subject, rows, rng)
    if spread is not None:
        found += spread[0]
        said.append(spread[1])
    return Checked(NAME, "; ".join(said), tuple(found), numbers=numbers)


def _of_copies(subject: Subject, copies: Copies, rows: Judged | None, rng: np.random.Generator) -> list[Finding]:
    """What copies among the rows, and of rows among the test images, come to."""
    count = len(subject.ids)
    ours = copies.among(np.arange(len(subject.ids) + len(subject.test_ids)) < count)
    found = [*_exact(subject, ours), *_across_folds(subject, ours, rows, rng)]
    numbers = copies.across((np.arange(count + len(subject.test_ids)) >= count).astype(np.int64))
    if len(numbers):
        found.append(_in_test(subject, copies, numbers))
    return found


def _exact(subject: Subject, copies: Copies) -> list[Finding]:
    """One finding for all files that are there under two ids."""
    sets = clusters(copies.pairs_P2[copies.is_exact_P].tolist())
    if not sets:
        return []
    rows = [row for one in sets for row in one]
    return [
        Finding(
            "exact-duplicate",
            "warning",
            tuple(subject.ids[row] for row in rows),
            {
                "files": len(sets),
                "rows": len(rows),
                "sets": [[subject.ids[row] for row in one] for one in sets[:SHOWN]],
            },
            f"{counted(len(sets), 'file')} {are(len(sets))} there under more than one id, e.g. "
            f"{subject.ids[sets[0][0]]} and {subject.ids[sets[0][1]]}: they count twice, and a split may train on one "
            "and score on the other",
            "keep one of each: `finefold audit --fix` drafts the list",
        )
    ]


def _across_folds(subject: Subject, copies: Copies, rows: Judged | None, rng: np.random.Generator) -> list[Finding]:
    """Copies that lie in two folds: of a data set object without folds of its own, that any split may tear."""
    has_folds = subject.given_folds_N is not None
    will_be_dealt = has_folds or subject.samples is not None  # then groups are whole, and copies inside one are no leak
    numbers = copies.across(subject.folds_N) if will_be_dealt else np.arange(len(copies))
    if not len(numbers):
        return []
    concerned = np.unique(copies.pairs_P2[numbers])
    share, num_exact = len(concerned) / len(subject.ids), int(copies.is_exact_P[numbers].sum())
    severity = severity_of_leak(num_exact, share) if has_folds else "warning"
    evidence = {
        "what": "copies",
        "pairs": len(numbers),
        "rows": len(concerned),
        "share": round(share, 4),
        "exact": num_exact,
        "shown": _shown(copies, numbers, subject.ids),
    }
    effect = _effect(copies, rows, concerned, rng)
    if effect is not None:
        evidence |= {"torn": round(effect[0], 4), "whole": round(effect[1], 4)}
    seen = (
        "" if effect is None else f"; the probe has {effect[0]:.2f} of them right so, {effect[1]:.2f} if kept together"
    )
    least = "at least " * bool(copies.num_left)
    where = "have a copy in another fold: they are trained on, then scored"
    if not has_folds:
        where = "have a copy, and no split keeps the two together: they would be trained on, then scored"
    return [
        Finding(
            "split-leak",
            severity,
            tuple(subject.ids[row] for row in concerned),
            evidence,
            f"{least}{len(concerned)} images ({share:.1%}) {where}{seen}",
            KEEP_APART if subject.samples is not None else "keep one of each, or keep them on one side of every split",
        )
    ]


def _effect(
    copies: Copies, rows: Judged | None, concerned: NDArray[np.int64], rng: np.random.Generator
) -> tuple[float, float] | None:
    """The probe's accuracy on rows that have copies, torn and kept together."""
    if rows is None or len(concerned) < 10:
        return None
    place_of = {int(row): place for place, row in enumerate(rows.rows)}
    pairs = [(place_of[i], place_of[j]) for i, j in copies.pairs_P2.tolist() if i in place_of and j in place_of]
    groups_n = rows.groups_n.copy()
    for members in clusters([(int(groups_n[i]), int(groups_n[j])) for i, j in pairs]):
        groups_n[np.isin(groups_n, members)] = members[0]
    asked = np.array([place_of[row] for row in concerned.tolist() if row in place_of])
    num_classes = int(rows.labels_n.max()) + 1
    return accuracies(rows.probe, rows.labels_n, num_classes, groups_n, rng, asked)


def _shown(copies: Copies, numbers: NDArray[np.int64], ids: Sequence[str]) -> list[list[Any]]:
    return [
        [*(ids[row] for row in copies.pairs_P2[number].tolist()), round(float(copies.likeness_P[number]), 3)]
        for number in numbers[:SHOWN].tolist()
    ]


def _in_test(subject: Subject, copies: Copies, numbers: NDArray[np.int64]) -> Finding:
    names = [*subject.ids, *subject.test_ids]
    tests = list(dict.fromkeys(int(copies.pairs_P2[number].max()) for number in numbers.tolist()))
    num_exact = int(copies.is_exact_P[numbers].sum())
    return Finding(
        "test-in-train",
        "error" if num_exact else "warning",
        tuple(names[row] for row in tests),
        {"images": len(tests), "exact": num_exact, "shown": _shown(copies, numbers, names)},
        f"{len(tests)} of {len(subject.test_ids)} images to be predicted {are(len(tests))} also among the labelled "
        f"ones, e.g. {names[tests[0]]}",
        "leave the labelled copies out of training, or their answers say nothing of new images",
    )


def _same_pictures(subject: Subject) -> list[Finding]:
    """Rows whose pictures are equal, of a data set whose files are not known."""
    places: dict[bytes, list[int]] = {}
    for row, key in enumerate(subject.features.hashes):
        if any(key):
            places.setdefault(key, []).append(row)
    sets = [one for one in places.values() if len(one) > 1]
    if not sets:
        return []
    return [
        Finding(
            "exact-duplicate",
            "warning",
            tuple(subject.ids[row] for one in sets for row in one),
            {
                "files": len(sets),
                "rows": sum(map(len, sets)),
                "sets": [[subject.ids[r] for r in s] for s in sets[:SHOWN]],
            },
            f"{len(sets)} pictures are there more than once, e.g. as rows {subject.ids[sets[0][0]]} and "
            f"{subject.ids[sets[0][1]]}: a split may train on one and score on the other",
            "keep one of each, or keep them on one side of every split",
        )
    ]


def _of_pair(train: Subject, valid: Subject) -> list[Finding]:
    """Rows of a validation set that are in the training set too."""
    pairs = same_rows(train, valid)
    rows = list(dict.fromkeys(row for _, row in pairs))
    shown: list[Any] = [[train.ids[one], valid.ids[other]] for one, other in pairs[:SHOWN]]
    near = copies_between(train, valid)
    num_near = 0
    if near is not None:
        copies, is_valid_N = near
        across = copies.across(is_valid_N.astype(np.int64))
        known, first = set(rows), len(train.ids)
        extra = [int(copies.pairs_P2[number].max()) - first for number in across.tolist()]
        num_near = len(set(extra) - known)
        rows += [row for row in dict.fromkeys(extra) if row not in known]
        shown = shown or _shown(copies, across, [*train.ids, *valid.ids])
    if not rows:
        return []
    share = len(rows) / len(valid.ids)
    what = "the same picture or file" if num_near < len(rows) else "a copy"
    return [
        Finding(
            "split-leak",
            severity_of_leak(len(rows) - num_near, share),
            tuple(valid.ids[row] for row in rows),
            {"what": "pair", "rows": len(rows), "share": round(share, 4), "near": num_near, "shown": shown},
            f"{len(rows)} of {len(valid.ids)} validation rows ({share:.1%}) have {what} in the training set: the score "
            "is of what was learned by heart",
            "split the list of files once, with copies and groups kept together, and make both data sets from it",
        )
    ]


def _torn_groups(subject: Subject, rows: Judged) -> list[Finding]:
    """Groups that the given folds tear."""
    if subject.groups is None or subject.given_folds_N is None:
        return []
    folds_of: dict[str, set[int]] = {}
    for group, fold in zip(subject.groups, subject.given_folds_N.tolist(), strict=True):
        folds_of.setdefault(group, set()).add(fold)
    torn = [group for group, folds in folds_of.items() if len(folds) > 1]
    if not torn:
        return []
    rng = np.random.default_rng(subject.recipe.seed)
    memory = remembered(rows.probe, rows.labels_n, subject.num_classes, rows.groups_n, rng)
    ids = tuple(sample for sample, group in zip(subject.ids, subject.groups, strict=True) if len(folds_of[group]) > 1)
    return [
        Finding(
            "split-leak",
            "error",
            ids,
            {
                "what": "groups",
                "groups": torn[:SHOWN],
                "torn_groups": len(torn),
                "torn": round(memory.torn, 4),
                "whole": round(memory.whole, 4),
            },
            f"{len(torn)} of {len(folds_of)} groups {are(len(torn))} in more than one fold, so their images "
            f"are trained on and scored: the probe has {memory.torn:.2f} with images split at random, "
            f"{memory.whole:.2f} with groups kept together",
            "make the split anew: `finefold split` keeps groups whole",
        )
    ]


def _of_groups(
    subject: Subject, rows: Judged, rng: np.random.Generator
) -> tuple[list[Finding], str, Mapping[str, Any]]:
    """The probe of group leakage: of known groups, or of groups that nobody named."""
    if subject.groups is not None:
        memory = remembered(rows.probe, rows.labels_n, subject.num_classes, rows.groups_n, rng)
        numbers = {"random": round(memory.torn, 4), "grouped": round(memory.whole, 4), "z": round(memory.z, 1)}
        said = (
            f"the probe has {memory.torn:.2f} with images split at random, {memory.whole:.2f} with groups kept together"
        )
        return [_known_groups(memory, numbers)] if memory.is_clear else [], said, numbers
    paths = [] if subject.paths is None else [str(path) for path in subject.paths]
    supposed = supposed_groups(paths, subject.columns, subject.labels_N)
    taken = [(name, codes_N[rows.rows]) for name, codes_N in supposed]
    taken += look_alikes(rows.probe.components_NR[:, :-1], rows.labels_n)
    tried = [
        remembered(rows.probe, rows.labels_n, subject.num_classes, codes, rng, name=name, is_found=True)
        for name, codes in taken
    ]
    clear = [memory for memory in tried if memory.is_clear]
    said = f"no groups are known; {len(tried)} groupings by names and looks tried, {len(clear)} that labels follow"
    if not clear:
        return [], said, {"groupings": len(tried)}
    named = [memory for memory in clear if not memory.name.startswith("clusters")]
    most = max(memory.excess for memory in named or clear)
    as_good = [memory for memory in named or clear if memory.excess >= ABOUT_AS_MUCH * most]
    best = min(as_good, key=lambda memory: int(memory.groups_N.max()))  # the widest: its parts are leaks too
    return [_unnoticed(subject, rows, best)], said, {"groupings": len(tried)}


def _known_groups(memory: Memory, numbers: Mapping[str, Any]) -> Finding:
    return Finding(
        "group-leak",
        "info",
        (),
        {**numbers, "groups": int(memory.groups_N.max()) + 1},
        f"{memory.torn:.2f} with images split at random, {memory.whole:.2f} with groups kept together: the "
        "difference is memory of groups, so only the second says what to expect of new ones",
        "nothing to mend here: keep groups whole in every split, as `finefold split` does",
    )


def _unnoticed(subject: Subject, rows: Judged, best: Memory) -> Finding:
    """Groups that were found and that the labels follow."""
    mean, deviation = best.chance or (0.0, 0.0)
    sizes_G = np.bincount(best.groups_N)
    largest = np.argsort(-sizes_G, kind="stable")[:SHOWN]
    shown = [[subject.ids[row] for row in rows.rows[best.groups_N == group][:8]] for group in largest.tolist()]
    return Finding(
        "group-leak",
        "warning",
        tuple(subject.ids[row] for row in rows.rows[sizes_G[best.groups_N] > 1]),
        {
            "grouping": best.name,
            "groups": len(sizes_G),
            "random": round(best.torn, 4),
            "grouped": round(best.whole, 4),
            "chance": [round(mean, 4), round(deviation, 4)],
            "z": round(best.z, 1),
            "shown": shown,
        },
        f"images seem to belong to groups that nobody named, by {best.name}: {best.torn:.2f} with images split at "
        "random, "
        f"{best.whole:.2f} with these kept together; labels that follow the images alone would lose {mean:.2f}",
        "find out what these images share (a person, a place, a camera), and make it a column: `[samples] group`",
    )


def _of_folds(subject: Subject, rows: Judged | None, rng: np.random.Generator) -> tuple[list[Finding], str] | None:
    """Whether folds differ by more than the groups that were dealt to them."""
    if subject.given_folds_N is None or rows is None:
        return None
    if subject.predict is not None:
        right_n = (subject.predict()[rows.rows] == rows.labels_n).astype(float)
    else:
        gain_nC = rows.probe.believe(rows.labels_n, subject.num_classes).gain_NC
        share_C = np.bincount(rows.labels_n, minlength=subject.num_classes) / len(rows.rows)
        right_n = ((gain_nC + np.log(np.maximum(share_C, 1e-9))).argmax(axis=1) == rows.labels_n).astype(float)
    folds_G = np.zeros(rows.groups_n.max() + 1, np.int64)
    folds_G[rows.groups_n] = rows.folds_n
    right_G, size_G = np.bincount(rows.groups_n, weights=right_n), np.bincount(rows.groups_n)
    own, accuracy_F = _spread(folds_G, right_G, size_G)
    drawn = np.array([_spread(rng.permutation(folds_G), right_G, size_G)[0] for _ in range(NUM_CHANCE)])
    p_value = float((1 + (drawn >= own).sum()) / (1 + NUM_CHANCE))
    low, high = float(accuracy_F.min()), float(accuracy_F.max())
    said = f"folds lie between {low:.2f} and {high:.2f} (p = {p_value:.2g} by chance)"
    if p_value > RARE or high - low < LEAST_SPREAD:
        return [], said
    worst = int(accuracy_F.argmin())
    finding = Finding(
        "fold-spread",
        "warning",
        tuple(subject.ids[row] for row in rows.rows[rows.folds_n == worst]),
        {"accuracy": [round(float(one), 4) for one in accuracy_F], "p_value": p_value},
        f"folds differ by more than chance: accuracy {low:.2f} in fold {worst}, {high:.2f} in another (p = "
        f"{p_value:.2g}); "
        "they are not alike, so a mean over them is of no one set of images",
        "look at what fold "
        f"{worst} holds (`finefold show`); `finefold split` deals folds that are alike, unless they differ on purpose",
    )
    return [finding], said


def _spread(
    folds_G: NDArray[np.int64], right_G: NDArray[Any], size_G: NDArray[np.int64]
) -> tuple[float, NDArray[np.float64]]:
    """How far the folds' accuracies lie apart, weighted by size; and those."""
    size_F = np.bincount(folds_G, weights=size_G)
    accuracy_F = np.bincount(folds_G, weights=right_G) / np.maximum(size_F, 1)
    mean = right_G.sum() / size_G.sum()
    return float((size_F * (accuracy_F - mean) ** 2).sum()), accuracy_F
