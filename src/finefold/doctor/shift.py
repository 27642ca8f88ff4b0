"""Is the test set another world? Training against test by features, by what files are like, and by class shares.

The test set's groups are not known, and one person's photos tell each other. So the discriminator is set against what
the same one reaches between whole groups of the training set and the rest of it.

Shapes: N training rows, T test images, C classes of a question.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from finefold.auditing.confident import agreement
from finefold.auditing.labels import LEAST_KAPPA
from finefold.auditing.looks import Looks
from finefold.data.findings import Finding, Severity
from finefold.doctor.diagnosis import Checked
from finefold.doctor.evidence import ClosedProbe, belief_of
from finefold.doctor.memory import supposed_groups
from finefold.doctor.probing import Judged, judged
from finefold.doctor.roles import reread
from finefold.doctor.sameness import looks_of
from finefold.doctor.subject import Subject
from finefold.metrics.intervals import Score
from finefold.metrics.ranking import rank

if TYPE_CHECKING:
    from finefold.metrics.shift import ShareEstimate

NAME = "shift"
KIND = "test-shift"
FOLDS = 5
NUM_PARTS = 8  # of the training set that play the test set
LEAST = 30  # images on either side
CLEAR_AUC = 0.05  # above all of these parts
FAR_AUC = 0.75  # from which on other images are another world
APART = 0.2  # |AUC - 0.5| of a property from which on it is told
SURE = 5.0  # deviations
SHOWN = 12
RESAMPLES = 100
MANY_SUBJECTS = 50  # people, say, that the test images are of; intervals take every image for one of its own
MOVED = 0.1  # share of the images, from which on another mixture of classes is a warning
SHOWN_PROPERTIES = ("width", "height", "bytes", "jpeg_quality", "brightness", "contrast", "saturation", "edges")

Rows = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Discriminator:
    """Training against test by features.

    Args:
        auc: out of fold, 0.5 where they are alike.
        parts: AUC of parts of the training set against the rest.
        scores: [N + T] higher for images that look like the test set.
    """

    auc: Score
    parts: tuple[float, ...]
    scores: Floats

    @property
    def usual(self) -> float:
        """What is reached between parts of one set."""
        return max(self.parts, default=0.5)


def check_shift(subject: Subject) -> Checked:
    """Whether images to be predicted, or validated on, are like those that are trained on."""
    if subject.test_features is not None and len(subject.test_ids) >= LEAST:
        return _against_test(subject)
    if subject.valid is not None and len(subject.valid.ids) >= LEAST:
        return _against_valid(subject, subject.valid)
    why = (
        "no images to be predicted are known"
        if not subject.test_ids
        else f"{len(subject.test_ids)} test images are few"
    )
    return Checked(NAME, f"not done: {why}", is_done=False)


def _against_test(subject: Subject) -> Checked:
    assert subject.test_features is not None
    rows = np.flatnonzero(subject.features.is_readable_N)
    tests = np.flatnonzero(subject.test_features.is_readable_N)
    if min(len(rows), len(tests)) < LEAST:
        return Checked(NAME, f"not done: {len(rows)} and {len(tests)} readable images are few", is_done=False)
    features = (subject.features.rows_ND[rows], subject.test_features.rows_ND[tests])
    groups_N, rng = subject.group_codes_N[rows], np.random.default_rng(subject.recipe.seed)
    both = _of_both(subject, rows, features[1])
    found = discriminate(both, groups_N, rng, supposed=_supposed(subject, rows))
    names = ([subject.ids[row] for row in rows], [subject.test_ids[row] for row in tests])
    findings = _of_features(found, *names, "the images to be predicted")
    looks = looks_of(subject)
    properties = {} if looks is None else _properties(looks, len(subject.ids), subject.group_codes_N)
    findings += _of_properties(properties)
    estimates = [one for one in _shares(subject, features[1], tests) if one.is_shifted and _do_both_ways_agree(one)]
    subjects = len(tests) * len(np.unique(subject.group_codes_N)) / len(subject.ids)  # if grouped like training
    judge = "a probe's answers" if subject.answer_test is None else "the run's answers"
    findings += _of_shares(estimates, judge=judge, is_sure=subjects >= MANY_SUBJECTS)
    changed = ", ".join(one.name for one in estimates)
    shares = f"class shares of {changed} differ" if changed else "no class share differs beyond chance"
    says = f"{len(tests)} images to be predicted against {len(rows)}: {_told(found)}; {shares}"
    numbers = {"auc": found.auc.to_dict(), "parts": [round(one, 3) for one in found.parts], "properties": properties}
    return Checked(NAME, says, tuple(findings), numbers=numbers)


def _against_valid(train: Subject, valid: Subject) -> Checked:
    """A pair: one data set against the other."""
    features = (train.features.rows_ND, valid.features.rows_ND)
    both = ClosedProbe(np.concatenate(features), np.repeat([0, 1], [len(one) for one in features]))
    supposed = _supposed(train, np.arange(len(train.ids)))
    found = discriminate(both, train.group_codes_N, np.random.default_rng(train.recipe.seed), supposed=supposed)
    says = f"{len(valid.ids)} validation rows against {len(train.ids)}: {_told(found)}"
    if reread(train).differing:
        return Checked(NAME, f"{says}; training rows are augmented, so that they differ is no fault", numbers={})
    findings = _of_features(found, train.ids, valid.ids, "the validation rows")
    return Checked(NAME, says, tuple(findings), numbers={"auc": found.auc.to_dict()})


def _told(found: Discriminator) -> str:
    auc = found.auc
    usual = f"{min(found.parts):.2f}-{max(found.parts):.2f}" if found.parts else "not known"
    return f"told apart with AUC {auc.value:.2f} [{auc.low:.2f}, {auc.high:.2f}], parts of training with {usual}"


def _supposed(subject: Subject, rows: Rows) -> list[Rows]:
    """[n] codes of groups that columns, folders and file names suggest for some rows; nothing where groups are known.

    Not of look-alikes: clusters of any images are told from the rest, whatever the test set is like.
    """
    if subject.groups is not None:
        return []
    paths = [str(path) for path in subject.paths or ()]
    return [codes_N[rows] for _, codes_N in supposed_groups(paths, subject.columns, subject.labels_N)]


def discriminate(
    both: ClosedProbe, groups_N: Rows, rng: np.random.Generator, *, supposed: Sequence[Rows] = ()
) -> Discriminator:
    """A probe of which set an image is of.

    Args:
        both: of the training rows, then T test rows, under any folds.
        groups_N: of the training rows; whole groups play the test set.
        rng: deals folds and draws parts.
        supposed: other groups that the training rows may have; whole ones play the test set as well.
    """
    count, groups_N = len(groups_N), np.unique(groups_N, return_inverse=True)[1]
    num_tests = both.num_rows - count
    is_test = np.repeat([0, 1], [count, num_tests])
    tests = groups_N.max() + 1 + np.arange(num_tests)
    probe = both.with_folds(_dealt(np.concatenate([groups_N, tests]), rng))
    scores = _scores(probe, is_test)
    codes = np.concatenate([groups_N, tests])
    auc = rank(scores, is_test == 1, codes).auc
    parts = []
    for whole_N in (groups_N, *supposed):
        for _ in range(NUM_PARTS):
            part_N = _part(whole_N, min(num_tests, count // 2), rng)
            # as in the test set, nobody knows which images of the part belong together
            folds_N = _dealt(np.where(part_N == 1, groups_N.max() + 1 + np.arange(count), groups_N), rng)
            own = _scores(probe.with_folds(folds_N, np.arange(count)), part_N)
            parts.append(rank(own, part_N == 1, groups_N).auc.value)
    return Discriminator(auc, tuple(parts), scores)


def _of_both(subject: Subject, rows: Rows, test_TD: NDArray[Any]) -> ClosedProbe:
    """Of some rows, then of the test images; made once for each choice of rows."""
    key = rows.tobytes()
    made = subject.memory.setdefault("with test", {})
    if key not in made:
        folds = np.repeat([0, 1], [len(rows), len(test_TD)])
        made[key] = ClosedProbe(np.concatenate([subject.features.rows_ND[rows], test_TD]), folds)
    found = made[key]
    assert isinstance(found, ClosedProbe)
    return found


def _dealt(groups: Rows, rng: np.random.Generator) -> Rows:
    codes = np.unique(groups, return_inverse=True)[1]
    return np.asarray((rng.permutation(codes.max() + 1) % FOLDS)[codes], np.int64)


def _part(groups_N: Rows, size: int, rng: np.random.Generator) -> Rows:
    """[N] 1 for rows of whole groups drawn at random, about `size` of them."""
    order = rng.permutation(groups_N.max() + 1)
    taken = order[: max(1, np.searchsorted(np.cumsum(np.bincount(groups_N)[order]), size, side="right"))]
    return np.isin(groups_N, taken).astype(np.int64)


def _scores(probe: ClosedProbe, labels: Rows) -> Floats:
    return np.asarray(probe.believe(labels, 2).gain_NC[:, 1], np.float64)


def _of_features(found: Discriminator, train_ids: Sequence[str], test_ids: Sequence[str], what: str) -> list[Finding]:
    auc = found.auc
    if auc.low < found.usual + CLEAR_AUC:
        return []
    count = len(train_ids)
    order = np.argsort(-found.scores, kind="stable").tolist()
    alien = [test_ids[row - count] for row in order if row >= count][:SHOWN]
    near = [train_ids[row] for row in order if row < count][:SHOWN]
    is_far = auc.value >= FAR_AUC
    return [
        Finding(
            KIND,
            "warning" if is_far else "info",
            tuple(alien),
            {"what": "features", "auc": auc.to_dict(), "parts": list(found.parts), "most_alike_in_training": near},
            f"{what} look different: a probe tells them from the training images with AUC {auc.value:.2f} "
            f"[{auc.low:.2f}, {auc.high:.2f}], where parts of the training set reach {found.usual:.2f} at most",
            "look at the images that give it away, and at the training images that look most like them: another "
            "camera, "
            "crop or preprocessing; a validation score is of the training images' world",
        )
    ]


def _properties(looks: Looks, count: int, groups_N: Rows) -> dict[str, dict[str, Any]]:
    """Measures of files and pictures that differ between the rows and the test images: name -> AUC and medians."""
    readable = looks.is_readable_N
    is_test = np.arange(len(looks.ids)) >= count
    groups = np.concatenate([groups_N, groups_N.max() + 1 + np.arange(is_test.sum())])
    groups = np.unique(groups[readable], return_inverse=True)[1]
    found: dict[str, dict[str, Any]] = {}
    for name in SHOWN_PROPERTIES:
        values = looks.measure(name)[readable]
        auc = rank(values, is_test[readable], groups).auc
        half = max((auc.high - auc.low) / 2 / 1.96, 1e-6)
        if abs(auc.value - 0.5) >= APART and abs(auc.value - 0.5) / half >= SURE:
            medians = [float(np.median(values[is_test[readable] == side])) for side in (False, True)]
            found[name] = {"auc": round(auc.value, 3), "training": round(medians[0], 3), "test": round(medians[1], 3)}
    shares = [
        {
            str(one): float((looks.formats_N[readable & (is_test == side)] == one).mean())
            for one in np.unique(looks.formats_N[readable])
        }
        for side in (False, True)
    ]
    if max(abs(shares[0][one] - shares[1][one]) for one in shares[0]) >= 2 * APART:
        found["format"] = {"training": shares[0], "test": shares[1]}
    return found


def _of_properties(properties: Mapping[str, Mapping[str, Any]]) -> list[Finding]:
    if not properties:
        return []
    told = [
        f"{name.replace('_', ' ')} ({_short(said['training'])} in training, {_short(said['test'])} in test)"
        for name, said in properties.items()
    ]
    is_file = bool({"width", "height", "format"} & set(properties))
    return [
        Finding(
            KIND,
            "warning" if is_file else "info",
            (),
            {"what": "files", "properties": dict(properties)},
            f"the files to be predicted are of another kind: {', '.join(told)}",
            "find out whether they were made another way (crop, scaling, encoding); what can be undone, do for both "
            "alike",
        )
    ]


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{share:.0%} {name}" for name, share in value.items() if share >= 0.005)
    return f"{value:g}"


def _shares(subject: Subject, test_TD: NDArray[Any], tests: Rows) -> "list[ShareEstimate]":
    """Estimated class shares of the test images, for every attribute."""
    from finefold.metrics.shift import estimate_shares  # with scipy.optimize, a third of a second

    rows = judged(subject)
    if rows is None:
        return []
    answers = subject.answer_test() if subject.answer_test is not None else None
    questions = subject.attributes or {"class": (subject.class_names, np.arange(subject.num_classes))}
    found = []
    for name, (classes, codes_K) in questions.items():
        if answers is not None:
            member_KC = np.eye(len(classes))[codes_K]
            ledger_nC, probs_TC = answers[0][rows.rows] @ member_KC, answers[1][tests] @ member_KC
        else:
            ledger_nC, probs_TC = _probe_probs(subject, rows, codes_K, len(classes), test_TD)
        labels_n = codes_K[rows.labels_n]
        present = np.unique(labels_n)
        if len(present) < 2 or agreement(labels_n, ledger_nC) < LEAST_KAPPA:
            continue
        found.append(
            estimate_shares(
                name,
                [classes[code] for code in present],
                _whole(probs_TC[:, present]),
                _whole(ledger_nC[:, present]),
                np.searchsorted(present, labels_n),
                rows.groups_n,
                resamples=RESAMPLES,
                seed=subject.recipe.seed,
            )
        )
    return found


def _do_both_ways_agree(one: "ShareEstimate") -> bool:
    """Whether the two estimates of each changed share have some values in common; else images differ otherwise, too."""
    ends = zip(one.em, one.bbse, one.has_changed_K, strict=True)
    return all(em.low <= bbse.high and bbse.low <= em.high for em, bbse, has_changed in ends if has_changed)


def _whole(probs: Floats) -> Floats:
    sums = probs.sum(axis=1, keepdims=True)
    return np.asarray(np.where(sums > 0, probs / np.maximum(sums, 1e-300), 1 / probs.shape[1]))


def _probe_probs(
    subject: Subject, rows: Judged, codes_K: Rows, num_classes: int, test_TD: NDArray[Any]
) -> tuple[Floats, Floats]:
    """[n, C] out of fold of the labelled rows, and [T, C] of the test images by a probe of all rows."""
    count = len(rows.rows)
    folds = np.concatenate([rows.folds_n, np.full(len(test_TD), rows.folds_n.max() + 1)])
    probe = _of_both(subject, rows.rows, test_TD).with_folds(folds)
    labels = np.concatenate([codes_K[rows.labels_n], np.full(len(test_TD), -1)])
    share_C = np.bincount(labels[:count], minlength=num_classes) / count
    targets = np.zeros((len(labels), num_classes), np.float32)
    targets[np.arange(count), labels[:count]] = 1
    targets[count:] = share_C
    gain = belief_of(probe.scores(targets), share_C, labels).gain_NC
    probs = _whole(np.exp(gain.astype(np.float64)) * share_C)
    return probs[:count], probs[count:]


def _of_shares(estimates: "Sequence[ShareEstimate]", *, judge: str, is_sure: bool) -> list[Finding]:
    found = []
    for one in estimates:
        moved = float(np.abs(one.shares_K - one.before_K).sum() / 2)
        severity: Severity = "warning" if is_sure and moved >= MOVED else "info"
        changed = [
            f"{name} {before:.0%} -> {score.value:.0%} [{score.low:.0%}, {score.high:.0%}]"
            for name, before, score, has in zip(one.class_names, one.before_K, one.em, one.has_changed_K, strict=True)
            if has
        ]
        found.append(
            Finding(
                KIND,
                severity,
                (),
                {"what": "shares", "attribute": one.name, "moved": round(moved, 4), **one.to_dict()},
                f"the class shares of `{one.name}` seem to be others in the images to be predicted, by {judge}: "
                f"{', '.join(changed[:4])}",
                "`finefold predict` corrects for it where that pays: `--adapt-prior auto`; it assumes that images of "
                "a class "
                "look as in training",
            )
        )
    return found
