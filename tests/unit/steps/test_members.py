"""steps.members: an ensemble's answers from its members', a part at a time."""

from types import SimpleNamespace

import numpy as np

from finefold.data.findings import Finding
from finefold.ensemble import Combination
from finefold.nn.streaming import Part
from finefold.runs.folder import RunFolder, write_json
from finefold.steps.members import combined

SHARES = np.array([0.7, 0.3])


def parts(probs_NK, sizes, findings=()):
    """Answers cut into parts; findings by row."""
    start = 0
    for size in sizes:
        rows = range(start, start + size)
        yield Part(start, probs_NK[start : start + size], tuple(found for row, found in findings if row in rows))
        start += size


def test_parts_cut_differently_make_the_same_answers(tmp_path):
    """However members cut their answers, the ensemble's are the same, in order; an unreadable image is told once."""
    write_json(RunFolder(tmp_path).ensemble, Combination("mean", np.array([0.25, 0.75])).to_dict())
    run = SimpleNamespace(folder=RunFolder(tmp_path), train_shares_K=SHARES)
    rng = np.random.default_rng(0)
    first_NK, second_NK = rng.dirichlet([1, 1], 7), rng.dirichlet([1, 1], 7)
    first_NK[4], second_NK[4], second_NK[6] = SHARES, SHARES, SHARES  # the last is too large for the second member
    found = {row: Finding("image.unreadable", "error", (f"{row}.jpg",), {"reason": "broken"}) for row in (4, 6)}
    expected_NK = 0.25 * first_NK + 0.75 * second_NK
    expected_NK[[4, 6]] = SHARES
    for sizes in ([7], [3, 4], [1] * 7, [5, 2]):
        done: list[int] = []
        streams = [
            parts(first_NK, [2, 5], [(4, found[4])]),
            parts(second_NK, sizes, [(4, found[4]), (6, found[6])]),
        ]
        made = list(combined(run, [run, run], streams, 0, done.append))  # type: ignore[arg-type]
        assert np.allclose(np.concatenate([part.probs_BK for part in made]), expected_NK)
        assert [part.start for part in made] == np.cumsum([0, *done])[:-1].tolist()
        assert [one.ids[0] for part in made for one in part.findings] == ["4.jpg", "6.jpg"]
        assert sum(done) == 7
