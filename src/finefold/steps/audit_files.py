"""What an audit writes: a page to look at, and drafts of corrections to review."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from finefold.data.findings import Finding
from finefold.data.labelling import PATCH_COLUMNS
from finefold.data.samples import SampleTable
from finefold.data.submission import write_csv
from finefold.report.audit_page import audit_page
from finefold.runs.folder import write_text
from finefold.steps.progress import Progress
from finefold.steps.reading import Data


def write_page(
    findings: Sequence[Finding],
    samples: SampleTable,
    paths: Mapping[str, Path],
    data: Data,
    out: Path,
    progress: Progress,
) -> Path:
    """The findings as one HTML file that needs nothing else."""
    labels = {
        row["id"]: ", ".join(str(row[name]) for name in samples.space.names if row[name] is not None)
        for row in samples.frame.iter_rows(named=True)
    }
    title = f"Audit of {data.file.resolve().parent.name}/{data.file.name}"
    with progress.stage("page", 0, ""):
        write_text(out, audit_page(findings, paths, labels, title=title, num_samples=len(data.samples)))
    return out


def write_drafts(findings: Sequence[Finding], data: Data, folder: Path) -> list[Path]:
    """`NAME.patches.csv` and `NAME.exclude.csv` for review, where there is something to put in.

    What is there is not written over.

    The data.toml is left alone: `[samples] patches` and `exclude` take the files once a person has been through them.
    """
    stem = data.file.stem
    written = []
    for name, rows, columns in (
        (f"{stem}.patches.csv", draft_patches(findings), PATCH_COLUMNS),
        (f"{stem}.exclude.csv", draft_exclusions(findings), ("id", "reason")),
    ):
        if not rows:
            continue
        frame = pl.DataFrame(rows, schema=dict.fromkeys(columns, pl.String), orient="row")
        file = _free(folder / name, frame.write_csv().encode())
        write_csv(frame, file)
        written.append(file)
    return written


def _free(file: Path, content: bytes) -> Path:
    """The file, or the first of `NAME.2.csv`, `NAME.3.csv`... that is not there or says the same already."""
    number, place = 1, file
    while place.exists() and place.read_bytes() != content:
        number += 1
        place = file.with_name(f"{file.stem}.{number}{file.suffix}")
    return place


def draft_patches(findings: Sequence[Finding]) -> list[tuple[str, ...]]:
    """Rows of a patches file: every suspected label as it would be corrected."""
    rows: list[tuple[str, ...]] = []
    for finding in findings:
        if finding.kind != "label-suspect":
            continue
        said = finding.evidence
        reason = f"audit: suspect {said['rank']}, {finding.cause}"
        if "group" in said:
            rows.append((said["group"], said["attribute"], said["given"], said["suggested"], reason))
            continue
        rows.append((finding.ids[0], said["attribute"], said["given"], said["suggested"], reason))
        rows += [(other, said["attribute"], said["suggested"], said["given"], reason) for other in finding.ids[1:]]
    return rows


def draft_exclusions(findings: Sequence[Finding]) -> list[tuple[str, ...]]:
    """Rows of a list of exclusions: what cannot be read or shows nothing, and all copies but the first."""
    reasons: dict[str, str] = {}
    for finding in findings:
        if finding.kind == "unreadable":
            reasons.setdefault(finding.ids[0], f"unreadable: {finding.evidence['reason']}")
        elif finding.kind == "image-quality" and finding.evidence["issue"] == "blank":
            for sample in finding.ids:
                reasons.setdefault(sample, "blank")
        elif finding.kind in ("exact-duplicate", "near-duplicate"):
            groups = finding.evidence.get("groups", [])
            extra = groups[1:] if len(groups) > 1 else finding.ids[1:]
            for name in extra:
                reasons.setdefault(name, f"copy of {groups[0] if len(groups) > 1 else finding.ids[0]}")
        elif finding.kind == "test-in-train":
            for sample in finding.ids[1:]:
                reasons.setdefault(sample, f"the same photo is to be predicted: {finding.ids[0]}")
    return list(reasons.items())
