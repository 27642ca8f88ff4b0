"""Answers of an ensemble from those of its members, a part at a time.

Shapes: M members, B images at a time, K joint classes.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from finefold.data.findings import Finding
from finefold.ensemble import Combination
from finefold.nn.streaming import Part
from finefold.runs.folder import read_json
from finefold.steps.run import Run


def combined(
    run: Run,
    members: Sequence[Run],
    streams: Sequence[Iterator[Part]],
    start: int,
    advance: Callable[[int], object],
) -> Iterator[Part]:
    """The ensemble's answers, as far as every member has answered; an image one cannot read gets the training shares.

    Args:
        run: an ensemble.
        members: its runs.
        streams: each member's answers, from the same image on; parts may be cut differently.
        start: place of that image among all.
        advance: told how many images are done since.
    """
    combination = Combination.from_dict(read_json(run.folder.ensemble))
    waiting: list[Part | None] = [None] * len(streams)
    while True:
        waiting = [part or next(stream, None) for part, stream in zip(waiting, streams, strict=True)]
        parts = [part for part in waiting if part is not None]
        if len(parts) < len(streams):
            return
        count = min(len(part.probs_BK) for part in parts)
        probs_BK = combination.apply(np.stack([part.probs_BK[:count] for part in parts]))
        found: dict[int, Finding] = {}
        for place, (member, part) in enumerate(zip(members, parts, strict=True)):
            unread = np.flatnonzero((part.probs_BK[:count] == member.train_shares_K).all(axis=1))
            found |= dict(zip(unread.tolist(), part.findings[: len(unread)], strict=True))
            waiting[place] = _rest(part, count, len(unread))
        probs_BK[list(found)] = run.train_shares_K
        yield Part(start, probs_BK, tuple(found[row] for row in sorted(found)))
        advance(count)
        start += count


def _rest(part: Part, count: int, num_findings: int) -> Part | None:
    """A part without its first images and their findings; None where none is left."""
    if count == len(part.probs_BK):
        return None
    return Part(part.start + count, part.probs_BK[count:], part.findings[num_findings:])
