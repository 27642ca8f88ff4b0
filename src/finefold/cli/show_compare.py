"""What `finefold compare` prints."""

from typing import TYPE_CHECKING

from finefold.cli.printing import as_share, print_json, say, table
from finefold.data.split_checks import counted

if TYPE_CHECKING:
    from finefold.metrics.paired import Difference
    from finefold.steps.compare import Comparison, Pair

SHOWN_CLASSES, SHOWN_IDS = 20, 5
NAMES = {
    "macro_f1": "macro F1",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "log_loss": "log loss (less is better)",
}
DIFFERENCES = {**NAMES, "log_loss": "log loss, less of it"}  # above 0 is better


def compared(found: "Comparison", *, as_json: bool) -> None:
    """The ranking; for two runs every difference, for more which pairs cannot be told apart."""
    if as_json:
        print_json(found.to_dict())
        return
    attributes = list(next(iter(found.attributes.values())))
    shown = attributes if len(attributes) > 1 else []
    title = f"runs by {NAMES[found.by]}, {found.num_samples:,} samples in {found.num_groups:,} groups"
    rows = [
        (name, *(f"{scores[key]:.3f}" for key in NAMES), *(f"{found.attributes[name][one]:.3f}" for one in shown))
        for name, scores in found.ranking
    ]
    heads = ("macro F1", "accuracy", "balanced accuracy", "log loss")
    table(title, ("run", *heads, *(f"{one} accuracy" for one in shown)), rows)
    if len(found.pairs) == 1:
        _pair(found.pairs[0], found)
        return
    rows = [
        (
            f"{pair.second} - {pair.first}",
            _signed(pair.scores[found.by]),
            _chance(pair.scores[found.by]),
            _p(pair.p_value).removeprefix("= "),
            "yes" if pair.is_told_apart else "no",
        )
        for pair in found.pairs
    ]
    columns = ("pair", f"{DIFFERENCES[found.by]}, 95 % interval", "better in", "p, corrected", "told apart")
    table(f"differences, corrected for {len(found.pairs)} comparisons", columns, rows)


def _pair(pair: "Pair", found: "Comparison") -> None:
    table(
        f"{pair.second} less {pair.first}, above 0 is better",
        ("score", "difference, 95 % interval", "better in"),
        [
            *((DIFFERENCES[key], _signed(one), _chance(one)) for key, one in pair.scores.items()),
            *(
                (f"{name} accuracy", _signed(one), _chance(one))
                for name, one in pair.attributes.items()
                if len(pair.attributes) > 1
            ),
        ],
    )
    known = sorted(
        ((name, one) for name, one in pair.classes.items() if one is not None), key=lambda item: -abs(item[1].value)
    )
    rows = [(name, _signed(one), _chance(one)) for name, one in known[:SHOWN_CLASSES]]
    table("F1 per class, largest changes first", ("class", "difference, 95 % interval", "better in"), rows)
    for name, ids in ((pair.second, pair.only_second), (pair.first, pair.only_first)):
        more = " ..." if len(ids) > SHOWN_IDS else ""
        shown = f": {', '.join(ids[:SHOWN_IDS])}{more}" if ids else ""
        say(f"right in {name} alone: {counted(len(ids), 'sample')}{shown}")
    verdict = "is better" if pair.is_told_apart else "cannot be told apart from the other"
    say("", f"by {NAMES[found.by].partition(' (')[0]}, {pair.second} {verdict} (p {_p(pair.p_value)})")


def _signed(one: "Difference | None") -> str:
    return "no sample" if one is None else f"{one.value:+.3f}  [{one.low:+.3f}, {one.high:+.3f}]"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"


def _chance(one: "Difference | None") -> str:
    return "" if one is None else as_share(one.better)
