"""The check of pairings as a whole."""

from dataclasses import replace

import numpy as np
import pytest

from finefold.doctor.alignment import check_alignment, repaired_labels
from finefold.doctor.lists import Lists
from unit.doctor.planted import planted, subject_of

NAMES = "abcd"


def texts(labels_N) -> tuple[str, ...]:
    return tuple(NAMES[label] for label in labels_N)


@pytest.mark.parametrize("by", [1, -4, 170])
def test_labels_that_moved_are_moved_back(by):
    """Whatever the shift, the evidence holds current, best and pairing, and the repaired labels are the right ones."""
    features_ND, labels_N = planted(400)
    subject = subject_of(features_ND, np.roll(labels_N, by))
    (found,) = check_alignment(subject).findings
    assert (found.kind, found.severity, found.evidence["kind"]) == ("misaligned-labels", "error", "shift")
    assert found.evidence["best"] > found.evidence["current"]
    repaired_N = repaired_labels(subject)
    assert (repaired_N == labels_N)[repaired_N >= 0].all() and (repaired_N >= 0).sum() >= 400 - abs(by)


@pytest.mark.parametrize("noise", [0.5, 3.0])
def test_right_labels_have_no_finding_and_a_stated_power(noise):
    """No finding is an answer: what was compared, and what would have been seen."""
    features_ND, labels_N = planted(400, noise=noise)
    said = check_alignment(subject_of(features_ND, labels_N))
    assert said.is_done and not said.findings
    assert "wrongly paired images would be seen" in said.says and "in random order" in said.says


def test_labels_that_say_nothing_are_a_warning_not_an_error():
    """Little signal is not misalignment: shuffled labels, or images that do not show them, are one warning."""
    features_ND, labels_N = planted(400)
    said = check_alignment(subject_of(features_ND, np.random.default_rng(0).permutation(labels_N)))
    assert [(one.kind, one.severity) for one in said.findings] == [("no-signal", "warning")]
    assert "cannot be told" in said.says


def test_the_data_sets_own_index_list_is_used():
    """images[idx] with all labels: the positions kept in the object say which label belongs to which image."""
    features_ND, labels_N = planted(500)
    idx = np.random.default_rng(0).permutation(500)[:350]
    lists = Lists(labels={"labels": texts(labels_N)}, indices={"idx": tuple(idx.tolist())})
    subject = subject_of(features_ND[idx], labels_N[:350], lists=lists)
    (found,) = check_alignment(subject).findings
    assert found.evidence["pairing"] == "the positions in `idx`"
    assert (repaired_labels(subject) == labels_N[idx]).all()


def test_labels_of_a_part_with_images_of_the_whole():
    """labels[idx] beside all images: the same list says it the other way round."""
    features_ND, labels_N = planted(500)
    idx = np.sort(np.random.default_rng(0).permutation(500)[:350])
    lists = Lists(labels={"labels": texts(labels_N[idx])}, indices={"idx": tuple(idx.tolist())})
    subject = subject_of(features_ND[:350], labels_N[idx], lists=lists)
    (found,) = check_alignment(subject).findings
    assert "`idx`" in found.evidence["pairing"]
    repaired_N = repaired_labels(subject)
    assert (repaired_N == labels_N[:350])[repaired_N >= 0].all()


def test_the_longer_list_of_paths_is_used():
    """A part of the paths beside all labels, where the object keeps all paths too."""
    features_ND, labels_N = planted(400)
    every = [f"{row}.png" for row in range(400)]
    part = np.random.default_rng(1).permutation(400)[:300]
    paths = [every[row] for row in part]
    lists = Lists(tuple(paths), tuple(every), {"labels": texts(labels_N)}, {})
    subject = subject_of(features_ND[part], labels_N[:300], paths=paths, lists=lists)
    (found,) = check_alignment(subject).findings
    assert found.evidence["pairing"] == "the place of each path in the whole list of paths"


def test_too_little_is_not_judged():
    """Few images, or one class, are told as a check that was not done."""
    features_ND, labels_N = planted(400)
    assert not check_alignment(subject_of(features_ND[:20], labels_N[:20])).is_done
    assert not check_alignment(subject_of(features_ND, np.zeros(400, np.int64))).is_done


def test_samples_without_a_label_are_left_out():
    """A missing label is neither judged nor repaired."""
    features_ND, labels_N = planted(400)
    moved_N = np.roll(labels_N, 1)
    moved_N[::50] = -1
    subject = subject_of(features_ND, moved_N)
    check_alignment(subject)
    repaired_N = repaired_labels(subject)
    assert repaired_N is not None and (repaired_N[::50] == -1).all()


def test_a_joint_shuffle_does_not_hide_a_shift():
    """Labels off by one in a list that was shuffled afterwards are told as the files' names lie; repaired in place."""
    features_ND, labels_N = planted(400)
    order_N = np.random.default_rng(2).permutation(400)
    paths = [f"{row:04}.png" for row in order_N]
    subject = subject_of(features_ND[order_N], np.roll(labels_N, 1)[order_N], paths=paths)
    (found,) = check_alignment(subject).findings
    assert "shift of the labels by -1 rows, the files in natural order" in found.evidence["pairing"]
    assert (repaired_labels(subject) == labels_N[order_N]).mean() > 0.99
    assert set(found.ids) <= {paths[row] for row in range(400) if labels_N[order_N[row]] != subject.labels_N[row]}


def test_right_labels_are_right_in_any_order_of_rows():
    """Rows that lie as no listing would have them, with right labels, have no finding."""
    features_ND, labels_N = planted(400)
    order_N = np.random.default_rng(2).permutation(400)
    paths = [f"{row:04}.png" for row in order_N]
    assert not check_alignment(subject_of(features_ND[order_N], labels_N[order_N], paths=paths)).findings


def test_one_fold_by_itself_is_a_part():
    """Labels that moved within one fold, whose rows lie anywhere, are moved back there."""
    features_ND, labels_N = planted(500)
    folds_N = np.random.default_rng(0).integers(0, 5, 500)
    rows, moved_N = np.flatnonzero(folds_N == 2), labels_N.copy()
    moved_N[rows] = np.roll(labels_N[rows], 1)
    subject = replace(subject_of(features_ND, moved_N), given_folds_N=folds_N)
    (found,) = check_alignment(subject).findings
    assert found.evidence["pairing"] == "rotating the labels by -1 rows in fold 2"
    assert (repaired_labels(subject) == labels_N).all()


def test_every_group_by_itself_is_a_part():
    """Labels that moved by one within each person are moved back in every one."""
    features_ND, labels_N = planted(420, run=2)
    moved_N = np.concatenate([np.roll(labels_N[start : start + 7], 1) for start in range(0, 420, 7)])
    groups = tuple(f"person {row // 7}" for row in range(420))
    subject = replace(subject_of(features_ND, moved_N), groups=groups)
    (found,) = check_alignment(subject).findings
    assert found.evidence["pairing"] == "rotating the labels by -1 rows in every group"
    assert (repaired_labels(subject) == labels_N).mean() > 0.98


def test_a_list_of_labels_by_name_is_known_for_the_numbers_it_gives():
    """Names beside rows that give numbers are the same labels: the whole list of names says what the rows lack."""
    features_ND, labels_N = planted(400)
    part = np.sort(np.random.default_rng(1).permutation(400)[:300])
    names = tuple(("cat", "dog", "eel", "fox")[label] for label in labels_N)
    lists = Lists(labels={"species": names}, indices={"keep": tuple(part.tolist())})
    (found,) = check_alignment(subject_of(features_ND[part], labels_N[:300], lists=lists)).findings
    assert found.evidence["pairing"] == "the positions in `keep`"


def test_the_folder_on_disk_is_enough(tmp_path):
    """Where the object keeps no list of labels, the places of its files in their folder say which are right."""
    features_ND, labels_N = planted(400)
    for row in range(400):
        (tmp_path / f"{row}.png").write_bytes(b"x")
    part = np.random.default_rng(1).permutation(400)[:320]
    paths = [str(tmp_path / f"{row}.png") for row in part]
    (found,) = check_alignment(subject_of(features_ND[part], labels_N[:320], paths=paths)).findings
    assert found.evidence["pairing"].startswith("natural order of all 400 files")
    assert found.evidence["without_label"] == int((part >= 320).sum())


@pytest.mark.parametrize(("num_classes", "count"), [(8, 60), (8, 400)])
def test_a_class_of_one_row_and_few_rows_do_not_break_it(num_classes, count):
    """Classes that only one row has, beside one that all others have: no finding, and no error."""
    features_ND, labels_N = planted(count)
    labels_N = np.minimum(labels_N, 1)
    labels_N[:6] = np.arange(2, 8)
    said = check_alignment(subject_of(features_ND, labels_N, num_classes=num_classes))
    assert said.is_done and not [one for one in said.findings if one.severity == "error"]


@pytest.mark.parametrize("seed", range(4))
def test_shuffled_labels_of_validation_are_an_error(seed):
    """As good as random by themselves: training shows that the images do tell these classes."""
    features_ND, labels_N = planted(500)
    train = replace(subject_of(features_ND[:400], labels_N[:400]), name="training")
    shuffled = np.random.default_rng(seed).permutation(labels_N[400:])
    valid = replace(subject_of(features_ND[400:], shuffled), name="validation")
    (found,) = check_alignment(replace(train, valid=valid)).findings
    assert (found.kind, found.severity, found.evidence["kind"]) == ("misaligned-labels", "error", "unknown")
    assert found.cause.startswith("in validation: a probe of training gives")
    assert found.evidence["best"] > 0.8 > found.evidence["current"]


def test_exchanged_classes_and_another_world_are_none():
    """Other codes for the same classes are another check's matter; of strange images training says nothing."""
    features_ND, labels_N = planted(700, noise=1.0)
    train = replace(subject_of(features_ND[:500], labels_N[:500]), name="training")
    exchanged = subject_of(features_ND[500:], (labels_N[500:] + 1) % 4)
    assert not check_alignment(replace(train, valid=exchanged)).findings
    other = replace(subject_of(np.roll(features_ND[500:], 1, axis=1) * np.float16(3), labels_N[500:]), name="other")
    rolled = np.random.default_rng(0).permutation(labels_N[500:])
    for labels in (labels_N[500:], rolled):  # images of another world: training cannot say
        said = check_alignment(replace(train, valid=replace(other, labels_N=labels)))
        assert "a probe of training gives" not in said.says


def test_folders_that_name_classes_name_labels():
    """Rows whose label is not their folder's, where the images are with the folder, take the folder's; else not."""
    rng = np.random.default_rng(0)
    labels_N = rng.integers(0, 3, 400)
    features_ND = (rng.normal(size=(3, 32))[labels_N] + rng.normal(size=(400, 32))).astype(np.float16)
    paths = [f"all/{NAMES[label]}/{row}.png" for row, label in enumerate(labels_N)]
    wrong_N = labels_N.copy()
    wrong_N[rng.choice(400, 30, replace=False)] += 1
    wrong_N %= 3
    subject = subject_of(features_ND, wrong_N, paths=paths)
    (found,) = check_alignment(subject).findings
    assert found.evidence["pairing"] == "the names of the files' folders"
    assert (repaired_labels(subject) == labels_N).all()
    corrected = [f"all/{NAMES[label]}/{row}.png" for row, label in enumerate(wrong_N)]  # a person knew better
    assert not check_alignment(subject_of(features_ND, labels_N, paths=corrected)).findings
