"""What `finefold correct` prints, and what `finefold predict` says of its corrections."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finefold.cli.printing import as_share, print_json, say, table

if TYPE_CHECKING:
    from finefold.metrics.paired import Difference
    from finefold.steps.correct import Corrections, Tried

JOINT = "joint"


def corrected(found: "Corrections", path: Path, *, as_json: bool) -> None:
    """Every way with what it gives, how calibrated it is, and the command that answers so; `path` is the run's."""
    if as_json:
        print_json(found.to_dict())
        return
    title = f"{found.run} corrected, each fold by what the others gave; {found.num_samples:,} samples"
    rows = [
        (
            one.name,
            f"{one.scores['macro_f1']:.3f}",
            _signed(one.changes["macro_f1"]) if number else "",
            f"{one.scores['accuracy']:.3f}",
            _signed(one.changes["accuracy"]) if number else "",
        )
        for number, one in enumerate(found.tried)
    ]
    table(title, ("correction", "macro F1", "less none, 95 % interval", "accuracy", "less none"), rows)
    columns = ("correction", "log loss", "ECE", "classwise ECE", "Brier")
    table("calibration, less is better", columns, [_calibration(one) for one in found.tried])
    for one in found.tried:
        if one.about:
            say(f"{one.name}: {one.about}")
    best = found.best
    if best is None:
        say("", "none of them raises macro F1 by more than chance")
        return
    settings = " ".join(f"--set {setting}" for setting in best.overrides)
    say(
        "",
        f"{best.name} raises macro F1 by more than chance",
        f"to answer that way: finefold predict {path} {settings}",
    )


def adapted(told: Mapping[str, Any]) -> None:
    """What was done to probabilities, from the JSON of one correction."""
    adaptation = told.get("adaptation")
    if adaptation is not None:
        _shares(adaptation)
    if told["said"] != "nothing":
        say(f"probabilities corrected: {told['said']}")


def _shares(adaptation: Mapping[str, Any]) -> None:
    for name, estimate in adaptation["estimates"].items():
        rows = [
            (one, as_share(part["before"]), _between(part["em"]), _between(part["bbse"]), _said(part["has_changed"]))
            for one, part in estimate["classes"].items()
        ]
        columns = ("class", "in the ledger", "EM, 95 % interval", "BBSE, 95 % interval", "changed")
        title = "class shares of these images" + (
            f": {name}" if name != JOINT else ", joint class: only to be looked at"
        )
        table(title, columns, rows)
    if any(_is_outside(part) for one in adaptation["estimates"].values() for part in one["classes"].values()):
        say(
            "an interval that leaves out the ledger's share is no change yet: the ledger is a sample too, and several "
            "classes are looked at"
        )
    done = "class shares adapted to" if adaptation["is_applied"] else "class shares left as they are"
    say(f"{done}: {adaptation['reason']}")
    for score, change in adaptation["expected_change"].items():
        if change is not None:
            interval = f"{change['value']:+.3f}  [{change['low']:+.3f}, {change['high']:+.3f}]"
            name = score.replace("_", " ").replace("f1", "F1")
            say(f"  expected change of {name}, if these shares are right: {interval}")
    for line in adaptation["assumed"]:
        say(f"  assumed: {line}")


def _is_outside(part: Mapping[str, Any]) -> bool:
    return not part["has_changed"] and not part["em"]["low"] <= part["before"] <= part["em"]["high"]


def _calibration(one: "Tried") -> tuple[str, ...]:
    scores = (one.scores["log_loss"], *(one.calibration[name].value for name in ("ece", "classwise_ece", "brier")))
    return (one.name, *(f"{score:.3f}" for score in scores))


def _said(is_so: bool) -> str:
    return "yes" if is_so else ""


def _between(score: Mapping[str, float]) -> str:
    return f"{as_share(score['value'])}  [{100 * score['low']:.1f}, {100 * score['high']:.1f}]"


def _signed(one: "Difference | None") -> str:
    return "no sample" if one is None else f"{one.value:+.3f}  [{one.low:+.3f}, {one.high:+.3f}]"


def counted(one: Mapping[str, Any]) -> None:
    """What counts known by design did, and what they give where the truth is known."""
    where = "" if one["each"] is None else f" in each of {one['groups']:,} groups"
    gap, ledger = one["ledger"]["difference"], one["ledger"]
    say(
        f"answers have the counts of {one['file']}{where}",
        "transductive: an answer depends on which images are asked together",
        f"told its own counts, the ledger's macro F1 goes from {ledger['before']:.3f} to {ledger['after']:.3f}"
        + ("" if gap is None else f": {gap['value']:+.3f}  [{gap['low']:+.3f}, {gap['high']:+.3f}]"),
    )
