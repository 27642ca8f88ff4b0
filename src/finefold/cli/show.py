"""What a person reads after a command: tables on stdout, or JSON."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from finefold.cli import show_correct
from finefold.cli.printing import as_bytes, as_share, print_json, say, table, warn

if TYPE_CHECKING:  # some of these load torch, which `evaluate` can do without
    from finefold.data.findings import Finding
    from finefold.data.splits import SplitBalance
    from finefold.steps.answers import Tally
    from finefold.steps.cache import CacheState
    from finefold.steps.demo import Demo
    from finefold.steps.init import Initialised
    from finefold.steps.run import Run
    from finefold.steps.split import SplitMade

SHOWN_FINDINGS = 20
AVERAGES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "weighted_f1": "weighted F1",
    "log_loss": "log loss",
}


def interval_of(score: dict[str, Any] | None) -> str:
    return "no sample" if score is None else f"{score['value']:.3f}  [{score['low']:.3f}, {score['high']:.3f}]"


def number_of(score: dict[str, Any] | None) -> str:
    return "–" if score is None else f"{score['value']:.3f}"


def initialised(found: "Initialised", *, as_json: bool) -> None:
    """After `finefold init`."""
    samples, space = found.data.samples, found.data.space
    if as_json:
        counts = dict(zip(space.class_names, samples.counts_K().tolist(), strict=True))
        print_json(
            {
                "file": str(found.data.file),
                "layout": found.kind,
                "samples": len(samples),
                "groups": len(set(samples.groups)),
                "classes": counts,
                "attributes": _attribute_counts(found),
                "missing": samples.num_missing(),
                "skipped": dict(found.skipped),
                "findings": [finding.to_dict() for finding in found.findings],
                "notes": list(found.notes),
            }
        )
        return
    groups = len(set(samples.groups))
    say(f"{found.kind}: {len(samples):,} samples" + (f" in {groups:,} groups" if groups < len(samples) else ""))
    for note in found.notes:
        say(f"  {note}")
    if found.skipped:
        say("  skipped: " + ", ".join(f"{count} {reason}" for reason, count in found.skipped.items()))
    for name, counts in _attribute_counts(found).items():
        table(f"attribute {name}", ("class", "samples", "share"), _count_rows(counts))
    _tell_missing(samples.num_missing())
    if len(space.attributes) > 1:
        counts = dict(zip(space.class_names, samples.counts_K().tolist(), strict=True))
        table(f"joint label ({' x '.join(space.names)})", ("class", "samples", "share"), _count_rows(counts))
    _warn_of(found.findings, "it will be left out", f"`finefold audit {found.data.file}` lists them")
    say(
        f"wrote {found.data.file}",
        "",
        f"next: finefold doctor {found.data.file}            # half a minute: do labels belong to their images?",
        f"      finefold split {found.data.file} --folds 5",
    )


def _warn_of(findings: "Sequence[Finding]", what: str, where: str) -> None:
    """One line for each unreadable image, up to a number of them.

    Args:
        findings: of kind `unreadable`.
        what: becomes of such an image.
        where: all of them are named.
    """
    for finding in findings[:SHOWN_FINDINGS]:
        warn(f"{finding.ids[0]}: {finding.evidence['reason']}; {what}")
    if len(findings) > SHOWN_FINDINGS:
        warn(f"and {len(findings) - SHOWN_FINDINGS:,} more: {where}")


def _tell_missing(missing: dict[str, int]) -> None:
    for name, count in missing.items():
        say(f"{count:,} samples have no `{name}`: they count for the attributes they have, and not for the joint label")


def _attribute_counts(found: "Initialised") -> dict[str, dict[str, int]]:
    samples = found.data.samples
    return {
        attribute.name: {name: int((samples.frame[attribute.name] == name).sum()) for name in attribute.classes}
        for attribute in found.data.space.attributes
    }


def _count_rows(counts: dict[str, int]) -> list[tuple[str, str, str]]:
    total = max(1, sum(counts.values()))
    return [(name, f"{count:,}", as_share(count / total)) for name, count in counts.items()]


def split(made: "SplitMade", command: str, *, as_json: bool) -> None:
    """After `finefold split`, and the command that comes next."""
    balance, names = made.balance, made.names
    if as_json:
        print_json(
            {
                "file": str(made.file),
                "hash": made.split.hash,
                "folds": made.split.num_folds,
                "sizes": balance.sizes_F.tolist(),
                "groups": balance.groups_F.tolist(),
                "classes": {name: balance.counts_FK[:, k].tolist() for k, name in enumerate(names)},
                "unreached": list(balance.unreached),
                "findings": [finding.to_dict() for finding in made.findings],
            }
        )
        return
    _warn_of(made.findings, "it is left out", "`--json` and `finefold audit` name them")
    _fold_table(balance, names)
    for sentence in balance.unreached:
        say(f"not reached: {sentence}")
    say(f"wrote {made.file} (hash {made.split.hash})", "", f"next: {command}")


def _fold_table(balance: "SplitBalance", names: Sequence[str]) -> None:
    folds = range(len(balance.sizes_F))
    rows = [(name, *(f"{balance.counts_FK[fold, k]:,}" for fold in folds)) for k, name in enumerate(names)]
    rows.append(("all", *(f"{size:,}" for size in balance.sizes_F)))
    rows.append(("groups", *(f"{count:,}" for count in balance.groups_F)))
    table("samples per fold", ("class", *(f"fold {fold}" for fold in folds)), rows)


def score_table(found: dict[str, Any]) -> None:
    """The scores over everything, and whether the held-out samples had a say besides."""
    title = f"out-of-fold scores, {found['n']:,} samples in {found['num_groups']:,} groups, 95 % intervals"
    table(title, ("score", "value"), [(label, interval_of(found[key])) for key, label in AVERAGES.items()])
    _tell_missing(found["missing"])
    for reason in found["selection"]:
        say(f"these scores flatter a little: {reason}")
    if found["selection"]:
        say("")


def _class_table(found: dict[str, Any]) -> None:
    rows = [
        (
            name,
            f"{part['support']:,}",
            number_of(part["precision"]),
            number_of(part["recall"]),
            interval_of(part["f1"]),
            as_share(part["true_share"]),
            as_share(part["predicted_share"]),
        )
        for name, part in found["classes"].items()
    ]
    columns = ("class", "samples", "precision", "recall", "F1", "true share", "predicted share")
    table("per class", columns, rows)


def trained(run: "Run", *, as_json: bool) -> None:
    """After `finefold train`."""
    found = run.scores()
    if as_json:
        told = {key: run.manifest[key] for key in ("seconds", "expected", "took") if key in run.manifest}
        print_json({"run": str(run.folder.path), **told, "scores": found})
        return
    score_table(found)
    engine = run.manifest["engine"]
    say(
        f"run: {run.folder.path}  ({run.manifest['seconds']:.1f} s, {engine['name']} {engine['precision']})",
        f"pictures in it: {', '.join(run.folder.pictures)}",
        "",
        f"next: finefold evaluate {run.folder.path}     # per class, attribute and fold",
    )
    if run.spec.predict is not None:
        say(f"      finefold predict {run.folder.path} --out submission.csv")


def answers(made: "Tally", written: Any, *, as_json: bool) -> None:
    """After `finefold predict`."""
    about = made.about()
    if as_json:
        print_json({"file": str(written), **about})
        return
    _warn_of(made.findings, "it gets the training class shares", "the JSON beside the answers names them")
    rows = [
        (name, f"{count:,}", f"{expected:,.1f}", as_share(share), as_share(train))
        for name, count, expected, share, train in zip(
            made.class_names, made.counts_K, made.expected_K, made.shares_K, made.run.train_shares_K, strict=True
        )
    ]
    columns = ("class", "answers", "sum of probabilities", "share of answers", "share in training")
    table("answers beside training", columns, rows)
    if made.is_far_from_training:
        warn("the answers' shares are far from the training shares: another kind of images, or another preprocessing?")
    for one in about["corrections"]:
        if one["kind"] == "pool":
            _pooled(one)
        elif one["kind"] == "counts":
            show_correct.counted(one)
        elif one["kind"] == "after":
            show_correct.adapted(one)
    if expected_f1 := about["expected"].get("macro_f1"):
        say(f"expected macro F1, as out of fold: {interval_of(expected_f1)}")
    say(f"wrote {written}: {len(made):,} answers")


def _pooled(one: dict[str, Any]) -> None:
    """What pooling did, and what it gives where the truth is known."""
    groups, ledger = one["groups"], one["ledger"]
    before, after, gap = (
        ledger["before"]["macro_f1"]["value"],
        ledger["after"]["macro_f1"]["value"],
        ledger["difference"],
    )
    pooled = " and ".join(one["attributes"])
    say(
        f"pooled {pooled} over {groups['count']:,} groups, the largest of {groups['largest']}, "
        f"{groups['alone']:,} images alone",
        f"pooling {pooled} over each group's images takes macro F1 from "
        f"{before:.3f} to {after:.3f} on the ledger: {gap['value']:+.3f}  [{gap['low']:+.3f}, {gap['high']:+.3f}], "
        f"better in {as_share(gap['better'])} of resamples",
    )
    if one["is_transductive"]:
        say(
            "transductive: groups were found by clustering the test images' features (on the ledger, F1 of pairs found "
            f"so: {ledger['pairs_f1']:.2f}); an answer depends on which images are asked together"
        )


def cache(state: "CacheState", *, was_cleared: bool, as_json: bool) -> None:
    """After `finefold cache`."""
    if as_json:
        entries = [
            {"path": str(entry.path), "bytes": entry.num_bytes, "days": round(entry.age_days, 3)} | entry.about
            for entry in state.entries
        ]
        print_json({"root": str(state.root), "bytes": state.num_bytes, "freed": state.freed_bytes, "entries": entries})
        return
    if was_cleared:
        say(f"freed {as_bytes(state.freed_bytes)}")
    rows = [
        (
            str(entry.about.get("what", entry.path.name)),
            entry.about.get("kind", ""),
            as_bytes(entry.num_bytes),
            f"{entry.age_days:.1f}",
        )
        for entry in state.entries
    ]
    if rows:
        table("cached", ("what", "kind", "size", "days since use"), rows)
    say(f"{as_bytes(state.num_bytes)} in {state.root}")


def demo(made: "Demo") -> None:
    """After `finefold demo`."""
    score_table(made.scores)
    _class_table(made.scores)
    say(
        f"run:        {made.run.folder.path}  ({made.run.manifest['seconds']:.1f} s)",
        f"pictures:   {made.run.folder.picture('confusion')}, {made.run.folder.picture('classes')}",
        f"submission: {made.submission}  ({len(made.answers.predictions):,} answers for images no fold has seen)",
        "",
        "try next:",
        f"  finefold evaluate {made.run.folder.path}",
        f"  finefold train {made.folder / 'data.toml'} --set model.heads=per_attribute --out {made.folder / 'heads'}",
        "  finefold init YOUR_FOLDER",
    )
