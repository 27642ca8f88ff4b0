"""The one way from files to a run's probabilities: of new images, and of validation images that are sent along."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from finefold.data.preprocessing import Box
from finefold.nn.infer import FoldEnsemble
from finefold.nn.streaming import Part, stream_probs
from finefold.recipe.training import View
from finefold.steps.run import Run


def stream_of(
    run: Run,
    names: Sequence[str],
    paths: Sequence[Path],
    *,
    folds: Sequence[int],
    views: Sequence[View],
    boxes: Sequence[Box | None] | None = None,
    start: int = 0,
    is_fresh: bool = False,
    advance: Callable[[int], None] = lambda _: None,
    report: Callable[[str], None] = lambda _: None,
) -> Iterator[Part]:
    """What a run that was trained answers, some images at a time: the one way from files to probabilities.

    Args:
        run: no ensemble.
        names, paths: [N] of the images.
        folds: whose models answer.
        views: of each image, whose probabilities are averaged.
        boxes: [N] what is kept of each image, where the run looks at boxes.
        start: the first image that is wanted.
        is_fresh: read and decode the files whatever the cache holds.
        advance: told how many images are done since.
        report: told what runs slower than it should, and why.
    """
    weights = [run.fold_weights(fold) for fold in folds]
    model = FoldEnsemble.read(run.backbone, weights, run.space, views=views)
    model = model.exported(run.choice, len(names) * len(views), report)
    yield from stream_probs(
        model,
        names,
        paths,
        choice=run.choice,
        max_pixels=run.max_pixels,
        fallback_K=run.train_shares_K,
        boxes=boxes,
        start=start,
        is_fresh=is_fresh,
        advance=advance,
    )
