"""Rows of probabilities on disk while they are made."""

import numpy as np
import pytest

from finefold.data.findings import Finding
from finefold.data.journal import Journal
from finefold.errors import SubmissionError

ABOUT = {"run": "a", "images": "b"}


def rows(count, *, seed=0):
    probs = np.random.default_rng(seed).random((count, 3))
    return probs / probs.sum(axis=1, keepdims=True)


def finding(name):
    return Finding("unreadable", "warning", (name,), {"path": name, "reason": "truncated"}, cause="c", remedy="r")


def all_rows(journal):
    return np.concatenate(list(journal.parts(2)))


def test_rows_come_back_in_order(tmp_path):
    """What was appended is read back bit by bit, in parts of any size, with its findings."""
    journal = Journal.open(tmp_path / "j", ABOUT, 3)
    journal.append(rows(4), [])
    journal.append(rows(3, seed=1), [(5, finding("x"))])
    np.testing.assert_array_equal(all_rows(journal), np.concatenate([rows(4), rows(3, seed=1)]))
    assert journal.findings() == [finding("x")]
    journal.remove()
    assert not (tmp_path / "j").exists()


@pytest.mark.parametrize("torn_bytes", [0, 1, 23])
def test_the_next_process_goes_on_behind_the_last_whole_row(tmp_path, torn_bytes):
    """A torn row, and a finding whose row was not written, are dropped; what was whole stays."""
    journal = Journal.open(tmp_path / "j", ABOUT, 3)
    journal.append(rows(5), [(2, finding("x"))])
    journal.close()
    with (tmp_path / "j" / "probs").open("ab") as file:
        file.write(bytes(range(torn_bytes)))
    with (tmp_path / "j" / "findings").open("a") as file:
        file.write(
            '{"row": 5, "kind": "unreadable", "severity": "warning", "ids": ["y"], "evidence": {}, "cause": "", '
        )
    again = Journal.open(tmp_path / "j", ABOUT, 3)
    assert again.num_rows == 5
    again.append(rows(1, seed=2), [(5, finding("z"))])
    np.testing.assert_array_equal(all_rows(again), np.concatenate([rows(5), rows(1, seed=2)]))
    assert again.findings() == [finding("x"), finding("z")]
    again.close()


def test_zeros_behind_the_rows_are_no_rows(tmp_path):
    """What a disk without power left behind the rows does not sum to 1 and is not kept."""
    journal = Journal.open(tmp_path / "j", ABOUT, 3)
    journal.append(rows(2), [])
    journal.close()
    with (tmp_path / "j" / "probs").open("ab") as file:
        file.write(bytes(48))
    again = Journal.open(tmp_path / "j", ABOUT, 3)
    assert again.num_rows == 2
    again.close()


def test_other_work_starts_anew(tmp_path):
    """A journal of another run or of other images is emptied, its findings too; so is one that is restarted."""
    journal = Journal.open(tmp_path / "j", ABOUT, 3)
    journal.append(rows(2), [(0, finding("x"))])
    journal.close()
    other = Journal.open(tmp_path / "j", {**ABOUT, "images": "c"}, 3)
    assert (other.num_rows, other.findings()) == (0, [])
    other.append(rows(2), [(0, finding("x"))])
    other.restart()
    assert (other.num_rows, other.findings(), list(other.parts())) == (0, [], [])
    other.close()


def test_one_process_at_a_time(tmp_path):
    """A journal that is open is refused to others, in words, and free again once it is closed."""
    journal = Journal.open(tmp_path / "j", ABOUT, 3)
    with pytest.raises(SubmissionError, match="another process is writing these answers"):
        Journal.open(tmp_path / "j", ABOUT, 3)
    journal.close()
    Journal.open(tmp_path / "j", ABOUT, 3).close()


def test_a_place_that_refuses_is_told(tmp_path):
    """A file in the way of the folder is an error in words."""
    (tmp_path / "file").write_text("")
    with pytest.raises(SubmissionError, match="cannot write"):
        Journal.open(tmp_path / "file" / "j", ABOUT, 3)
