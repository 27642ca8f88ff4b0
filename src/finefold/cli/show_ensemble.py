"""What `finefold ensemble` and `finefold runs` print."""

from typing import TYPE_CHECKING

from finefold.cli.printing import print_json, say, table, warn
from finefold.cli.show import interval_of
from finefold.data.split_checks import counted

if TYPE_CHECKING:
    from finefold.steps.ensemble import Ensemble
    from finefold.steps.pick import Picked
    from finefold.steps.runs import Board
    from finefold.steps.soup import Soup

NAMES = {
    "macro_f1": "macro F1",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "log_loss": "log loss",
}


def combined(made: "Ensemble", *, as_json: bool) -> None:
    """Members with their weights, and what the ensemble gains on the best of them."""
    if as_json:
        print_json(made.to_dict())
        return
    by, folder = made.run.manifest["by"], made.run.folder.path
    rows = [
        (name, "fitted" if by == "stack" else f"{made.weights[name]:.2f}", *(f"{scores[key]:.3f}" for key in NAMES))
        for name, scores in made.members.items()
    ]
    table(f"members, combined by {by}", ("run", "weight", *NAMES.values()), rows)
    found = made.run.scores()
    rows = [
        (
            label,
            interval_of(found[key]),
            "" if gain is None else f"{gain.value:+.3f}  [{gain.low:+.3f}, {gain.high:+.3f}]",
        )
        for (key, label), gain in zip(NAMES.items(), made.gains.values(), strict=True)
    ]
    columns = ("score", "ensemble", f"better than {made.best} by")
    table("every fold combined by what the others gave, 95 % intervals", columns, rows)
    say(
        _verdict(made),
        f"run: {folder}",
        "",
        f"next: finefold compare {folder} RUN     # or evaluate, predict: it is a run like any other",
    )


def _verdict(made: "Ensemble") -> str:
    """Whether the ensemble is worth its time, by what it was to raise."""
    goal = made.run.manifest["goal"]
    gain = made.gains.get(goal)
    if gain is None or (gain.low <= 0 <= gain.high):
        return f"by {NAMES[goal]} it cannot be told apart from {made.best} alone, which answers in less time"
    better = "better" if gain.value > 0 else "worse"
    return f"by {NAMES[goal]} it is {better} than {made.best} alone"


def souped(made: "Soup", *, as_json: bool) -> None:
    """What went into each fold's model, and what the soup gains on the best member; over folds, that nobody can say."""
    if as_json:
        print_json(made.to_dict())
        return
    folder = made.run.folder.path
    if not made.run.has_ledger:
        say(
            f"one model of {' + '.join(made.members)}, all folds averaged",
            "no score: every sample was trained on by most of what is in it; try it on images of which you keep labels",
            f"run: {folder}",
            "",
            f"next: finefold predict {folder} FOLDER",
        )
        return
    rows = [
        (
            name,
            ", ".join(str(fold) for fold, names in enumerate(made.folds) if name in names) or "none",
            *(f"{scores[key]:.3f}" for key in NAMES),
        )
        for name, scores in made.scores.items()
    ]
    table("members, weights averaged fold by fold", ("run", "in the models of folds", *NAMES.values()), rows)
    found = made.run.scores()
    rows = [
        (
            label,
            interval_of(found[key]),
            "" if gap is None else f"{gap.value:+.3f}  [{gap.low:+.3f}, {gap.high:+.3f}]",
        )
        for (key, label), gap in zip(NAMES.items(), made.gains.values(), strict=True)
    ]
    table("out of fold, 95 % intervals", ("score", "soup", f"better than {made.best} by"), rows)
    say(
        f"run: {folder}",
        "",
        f"next: finefold compare {folder} RUN     # or evaluate, predict: it is a run like any other",
    )


def picked(found: "Picked", *, as_json: bool) -> None:
    """Every way to answer, cheapest first, and what to give `predict`."""
    if as_json:
        print_json(found.to_dict())
        return
    label = NAMES[found.by]
    rows = []
    for place, way in enumerate(found.ways):
        gap = way.gap
        rows.append(
            (
                f"{way.name}{' *' if place == found.taken else ''}",
                way.says,
                str(way.models),
                f"{way.ms:.1f}",
                interval_of(way.scores[found.by].to_dict()) if way.scores else "cannot be told",
                "" if gap is None else f"{gap.value:+.3f}  [{gap.low:+.3f}, {gap.high:+.3f}]",
            )
        )
    columns = ("run", "answers with", "passes", "ms an image", f"{label}, 95 % interval", "less the best")
    table(f"{label} against time, {found.num_images} images timed on this machine", columns, rows)
    say("a mean over folds has the score of one fold here, which it rarely falls below: no sample can tell out of fold")
    if found.taken is None:
        say("", "take the best with --best, or the best within a time with --budget-ms MS")
        return
    way = found.ways[found.taken]
    say(f"* {way.name} with {way.says}: {label} {way.scores[found.by].value:.3f}, {way.ms:.1f} ms an image")
    say("", f"next: {way.command}")


def board(found: "Board", *, as_json: bool) -> None:
    """Finished runs, best first, with what tells their recipes apart."""
    if as_json:
        print_json(found.to_dict())
        return
    label = NAMES[found.by]
    rows = [
        (
            line.name,
            interval_of(line.scores[found.by]) if found.by in line.scores else "none",
            f"{line.minutes:.1f}",
            line.written[:16].replace("T", " "),
            *((line.split[:6],) if found.num_splits > 1 else ()),
            ", ".join(f"{key}={value}" for key, value in line.differs.items()),
        )
        for line in found.lines
    ]
    splits = ("split",) if found.num_splits > 1 else ()
    columns = ("run", f"{label}, 95 % interval", "minutes", "written (UTC)", *splits, "what its recipe says otherwise")
    table(f"{counted(len(rows), 'run')} by {label}", columns, rows)
    if found.num_splits > 1:
        warn(f"{found.num_splits} different splits: only runs of one split can be compared")
    for name in found.unfinished:
        say(f"unfinished: {name}")
    for name, reason in found.broken.items():
        warn(f"{name}: {reason}")
