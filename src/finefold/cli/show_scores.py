"""What `finefold evaluate` prints."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finefold.cli.printing import as_share, print_json, say, table
from finefold.cli.show import interval_of, number_of, score_table

SHOWN_PAIRS = 10


def scores(found: Mapping[str, Any], *, pictures: Sequence[Path], as_json: bool) -> None:
    """Tables sorted by what they cost macro F1, then folds, then the columns that were asked for."""
    if as_json:
        print_json(found)
        return
    score_table(dict(found))
    if len(found["attributes"]) > 1:
        _attributes(found)
    _classes(found)
    _cheapest(found["costs"])
    _pairs(found["confused"])
    _folds(found["folds"])
    _calibration(found["calibration"])
    for column, rows in found.get("by", {}).items():
        _slices(column, rows)
    if "views" in found:
        _views(found["views"])
    if pictures:
        say(f"pictures: {', '.join(map(str, pictures))}")


def _attributes(found: Mapping[str, Any]) -> None:
    costs = found["costs"]["attributes"]
    rows = [
        (
            name,
            interval_of(part["accuracy"]),
            interval_of(part["balanced_accuracy"]),
            interval_of(part["macro_f1"]),
            f"+{costs[name]['if_always_right']:.3f}" if name in costs else "",
        )
        for name, part in found["attributes"].items()
    ]
    rows.sort(key=lambda row: row[-1], reverse=True)
    columns = ("attribute", "accuracy", "balanced accuracy", "macro F1", "joint F1 if always right")
    table("per attribute", columns, rows)
    values = [
        (f"{attribute} {name}", found["attributes"][attribute]["classes"][name], cost, sure)
        for attribute, part in costs.items()
        for name, cost in part["classes"].items()
        if (sure := found["certainty"]["attributes"][attribute][name]) is not None
    ]
    values.sort(key=lambda one: -one[2]["gain"])
    table(
        "per attribute's class, by what raising its recall to the mean would add to macro F1",
        ("class", "samples", "recall", "mean recall", "would add", "groups", "recall may be"),
        [
            (
                name,
                f"{facts['support']:,}",
                f"{cost['recall']:.3f}",
                f"{cost['mean_recall']:.3f}",
                _added(cost["gain"]),
                *_sure(sure),
            )
            for name, facts, cost, sure in values
        ],
    )


def _classes(found: Mapping[str, Any]) -> None:
    costs, sure = found["costs"]["classes"], found["certainty"]["classes"]
    order = sorted(found["classes"], key=lambda name: -(costs[name]["gain"] if costs[name] else -1))
    rows = [
        (
            name,
            f"{part['support']:,}",
            number_of(part["precision"]),
            number_of(part["recall"]),
            interval_of(part["f1"]),
            as_share(part["true_share"]),
            as_share(part["predicted_share"]),
            _added(costs[name]["gain"]) if costs[name] else "",
            *_sure(sure[name]),
        )
        for name in order
        for part in (found["classes"][name],)
    ]
    columns = ("class", "samples", "precision", "recall", "F1", "true share", "predicted share", "would add")
    title = "per class, by what raising its recall to the mean would add to macro F1"
    table(title, (*columns, "groups", "recall may be"), rows)
    scarce = [name for name, one in sure.items() if one is not None and one["is_scarce"]]
    if scarce:
        say(
            f"* fewer than {found['certainty']['scarce_below_groups']} groups: what recall may be counts each group "
            "once, and is wide"
        )


def _cheapest(costs: Mapping[str, Any]) -> None:
    """The one class whose recall is worth most, in a sentence."""
    known = [(f"`{name}`", cost) for name, cost in costs["classes"].items() if cost is not None]
    if len(costs["attributes"]) > 1:
        known += [
            (f"{attribute} `{name}`", cost)
            for attribute, part in costs["attributes"].items()
            for name, cost in part["classes"].items()
            if cost is not None
        ]
    name, cost = max(known, key=lambda one: one[1]["gain"])
    if cost["gain"] > 0:
        say(
            f"raising {name} recall from {cost['recall']:.3f} to the mean {cost['mean_recall']:.3f} would add "
            f"{cost['gain']:.3f} macro F1"
        )
    say("")


def _pairs(pairs: Sequence[Mapping[str, Any]]) -> None:
    if not pairs:
        return
    rows = [
        (pair["true"], pair["predicted"], f"{pair['count']:,}", as_share(pair["share"]), _added(pair["gain"]))
        for pair in pairs[:SHOWN_PAIRS]
    ]
    columns = ("true class", "answered", "samples", "share of the class", "put right adds")
    table("confusions that cost macro F1 most", columns, rows)


def _folds(folds: Sequence[Mapping[str, Any]]) -> None:
    rows = [
        (
            str(fold["fold"]),
            f"{fold['n']:,}",
            f"{fold['accuracy']:.3f}",
            f"{fold['macro_f1']:.3f}",
            f"{fold['log_loss']:.3f}",
            ", ".join(fold["absent"]) or "",
        )
        for fold in folds
    ]
    table("per fold", ("fold", "samples", "accuracy", "macro F1", "log loss", "classes without a sample"), rows)


def _calibration(found: Mapping[str, Any]) -> None:
    names = {"ece": "expected calibration error", "classwise_ece": "the same, per class", "brier": "Brier score"}
    rows = [(label, interval_of(found[key])) for key, label in names.items()]
    table("are probabilities what they say? less is better", ("score", "value"), rows)


def _slices(column: str, rows: Sequence[Mapping[str, Any]]) -> None:
    shown = []
    for row in rows:
        gap = row["difference"]
        against = "" if gap is None else f"{gap['value']:+.3f}  [{gap['low']:+.3f}, {gap['high']:+.3f}]"
        shown.append(
            (
                row["value"],
                f"{row['n']:,}",
                f"{row['num_groups']:,}",
                interval_of(row["accuracy"]),
                against,
                f"{row['macro_f1']:.3f}",
                f"{row['log_loss']:.3f}",
            )
        )
    columns = (
        column,
        "samples",
        "groups",
        "accuracy",
        "less accuracy elsewhere",
        "macro F1 of its classes",
        "log loss",
    )
    table(f"by {column}", columns, shown)


def _views(found: Mapping[str, Any]) -> None:
    shown = []
    for line in found["lines"]:
        gap = line["gain"].get("macro_f1")
        shown.append(
            (
                line["view"] if not line["gain"] else f"+ {line['view']}",
                interval_of(line["macro_f1"]),
                "" if gap is None else f"{gap['value']:+.3f}  [{gap['low']:+.3f}, {gap['high']:+.3f}]",
                "" if gap is None else as_share(gap["better"]),
                f"{line['accuracy']['value']:.3f}",
                f"{line['log_loss']['value']:.3f}",
                f"{line['alone']['macro_f1']:.3f}",
            )
        )
    columns = ("views", "macro F1", "adds, 95 % interval", "better in", "accuracy", "log loss", "macro F1 alone")
    table("what each view adds to those before it, out of fold", columns, shown)


def _added(gain: float) -> str:
    return f"+{gain:.3f}" if gain > 0 else "0"


def _sure(sure: Mapping[str, Any] | None) -> tuple[str, str]:
    """How many groups, marked where they are few, and what recall may then be."""
    if sure is None:
        return "", ""
    if not sure["is_scarce"]:
        return f"{sure['groups']:,}", ""
    return f"{sure['groups']:,} *", f"{sure['recall']['low']:.2f} to {sure['recall']['high']:.2f}"
