"""An audit as one HTML page: what was found, with the images in question. It needs no network and no other file."""

import base64
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from html import escape
from pathlib import Path

import cv2

from finefold.data.findings import Finding
from finefold.data.images import read_image
from finefold.data.machine import num_threads
from finefold.errors import ImageError

THUMB_PX = 112
QUALITY = 78
MOST_PER_KIND = 60  # findings of a kind that are shown with images
MOST_PER_FINDING = 12  # images of a finding
MOST_THUMBS = 700  # of the page, some 3 MB

TITLES = {
    "label-suspect": "Labels under suspicion",
    "near-duplicate": "The same photo again, changed",
    "exact-duplicate": "The same file again",
    "duplicate-labels-differ": "Copies with different labels",
    "test-in-train": "Images to predict that are also labelled",
    "split-leak": "Copies in two folds",
    "group-contradiction": "Groups that contradict themselves",
    "unreadable": "Files that are no readable image",
    "image-quality": "Odd images",
    "wrong-extension": "Names that do not fit the content",
    "exif-rotation": "Turned by EXIF",
    "shortcut": "Properties that tell the label",
}
ORDER = tuple(TITLES)

_STYLE = """
:root{color-scheme:light dark;--ink:#1f2328;--faint:#656d76;--rule:#d0d7de;--page:#fff;--card:#f6f8fa;--error:#b3261e;
--warning:#8a5a00;--info:#0969a8}
@media(prefers-color-scheme:dark){:root{--ink:#e6edf3;--faint:#9198a1;--rule:#3d444d;--page:#0d1117;--card:#161b22;
--error:#ff8a80;--warning:#e3b341;--info:#79c0ff}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1120px;padding:20px 16px 60px;background:var(--page);color:var(--ink);
font:15px/1.45 system-ui,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
h1{font-size:1.5rem;margin:0 0 4px}h2{font-size:1.15rem;margin:36px 0 4px}p{margin:4px 0}
.faint{color:var(--faint);font-size:.88rem}
nav{display:grid;grid-template-columns:repeat(auto-fill,minmax(250px,1fr));gap:4px 20px;margin:18px 0}
nav a{display:flex;justify-content:space-between;gap:.6em;color:inherit;text-decoration:none;
border-bottom:1px solid var(--rule);padding:5px 2px}nav a:hover{background:var(--card)}
.error{color:var(--error)}.warning{color:var(--warning)}.info{color:var(--info)}
article{background:var(--card);border:1px solid var(--rule);border-radius:8px;padding:10px 12px;margin:10px 0}
article p{overflow-wrap:anywhere}
.shots{display:flex;flex-wrap:wrap;gap:8px;margin-top:8px}
figure{margin:0;width:112px}figure img,.gone{display:block;width:112px;height:112px;object-fit:contain;
border-radius:4px;
background:#8883}
.gone{display:flex;align-items:center;justify-content:center;font-size:.75rem;color:var(--faint)}
figcaption{font-size:.7rem;line-height:1.25;color:var(--faint);overflow-wrap:anywhere;margin-top:2px}
.arrow{font-weight:600}
code{font-size:.92em}
table{border-collapse:collapse;font-size:.88rem;margin-top:6px}td,th{padding:2px 14px 2px 0;text-align:left}
"""


def audit_page(
    findings: Sequence[Finding],
    paths: Mapping[str, Path],
    labels: Mapping[str, str],
    *,
    title: str,
    num_samples: int,
) -> str:
    """The page as HTML text.

    Args:
        findings: all of them.
        paths: id -> file.
        labels: id -> what its labels say, to be written under its image.
        title: the heading.
        num_samples: that were looked at.
    """
    by_kind = {kind: [one for one in findings if one.kind == kind] for kind in ORDER}
    others = [one for one in findings if one.kind not in TITLES]
    by_kind |= {kind: [one for one in others if one.kind == kind] for kind in dict.fromkeys(one.kind for one in others)}
    by_kind = {kind: found for kind, found in by_kind.items() if found}
    thumbs = _thumbs(by_kind, paths)
    counted = "nothing was found" if not findings else f"{len(findings):,} findings"
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width,initial-scale=1'>",
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1><p class='faint'>{num_samples:,} labelled images, {counted}. "
        "Suspects are to be looked at, not to be believed.</p><nav>",
    ]
    for kind, found in by_kind.items():
        parts.append(
            f"<a href='#{kind}'><span>{escape(TITLES.get(kind, kind))}</span>"
            f"<b class='{_worst(found)}'>{len(found):,}</b></a>"
        )
    parts.append("</nav>")
    for kind, found in by_kind.items():
        parts.append(f"<section id='{kind}'><h2>{escape(TITLES.get(kind, kind))}</h2>")
        parts.append(f"<p class='faint'>{escape(kind)}: {_marked(found[0].remedy)}</p>")
        parts += [_article(one, thumbs, labels) for one in found[:MOST_PER_KIND]]
        if len(found) > MOST_PER_KIND:
            parts.append(f"<p class='faint'>and {len(found) - MOST_PER_KIND:,} more: see --json</p>")
        parts.append("</section>")
    return "\n".join([*parts, "</body></html>", ""])


def _marked(text: str) -> str:
    """Escaped, with what stands in backticks as code."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if number % 2 else part for number, part in enumerate(parts))


def _worst(found: Sequence[Finding]) -> str:
    return min((one.severity for one in found), key=("error", "warning", "info").index)


def _article(finding: Finding, thumbs: Mapping[str, str], labels: Mapping[str, str]) -> str:
    said = finding.evidence
    head = f"<span class='{finding.severity}'>{finding.severity}</span> {_marked(finding.cause)}"
    lines = []
    if finding.kind == "label-suspect":
        head = f"<b>{said['rank']}</b> · " + head
        shift = f"{escape(said['attribute'])}: {escape(said['given'])} → {escape(said['suggested'])}"
        sure = f"probabilities {said['prob_given']:.2f} and {said['prob_suggested']:.2f}"
        told = f"{sure}; {escape(said['votes'])}" if "votes" in said else sure
        if "number" in said:
            told = f"the number is {said['number']:g}, and it looks like {said['looks_like']}"
        lines.append(f"<p><span class='arrow'>{shift}</span> <span class='faint'>{told}</span></p>")
    elif finding.kind == "near-duplicate":
        lines.append(
            f"<p class='faint'>Copies here count from {said['counts_as_copy_from']:.2f}, "
            f"neighbours are usually {said['typical_of_neighbours']:.2f}</p>"
        )
    elif finding.kind == "shortcut":
        lines.append(_shortcut_table(finding))
    shots = [_figure(name, thumbs, labels) for name in finding.ids[:MOST_PER_FINDING] if _is_shown(finding)]
    more = len(finding.ids) - MOST_PER_FINDING
    rest = f"<p class='faint'>and {more:,} more images</p>" if more > 0 and shots else ""
    images = f"<div class='shots'>{''.join(shots)}</div>{rest}" if shots else ""
    return f"<article><p>{head}</p>{''.join(lines)}{images}</article>"


def _is_shown(finding: Finding) -> bool:
    """Whether images would show what was found."""
    return finding.kind not in ("unreadable", "shortcut")


def _figure(name: str, thumbs: Mapping[str, str], labels: Mapping[str, str]) -> str:
    image = (
        f"<img loading='lazy' alt='' src='{thumbs[name]}'>" if name in thumbs else "<div class='gone'>not shown</div>"
    )
    label = f"<br>{escape(labels[name])}" if name in labels else ""
    return f"<figure>{image}<figcaption>{escape(name)}{label}</figcaption></figure>"


def _shortcut_table(finding: Finding) -> str:
    said = finding.evidence
    if "counts" in said:
        columns = list(next(iter(said["counts"].values())))
        rows = [(name, *(f"{row[column]:,}" for column in columns)) for name, row in said["counts"].items()]
        heads = ("", *columns)
    else:
        heads = ("", f"median {said['property'].replace('_', ' ')}")
        rows = [(name, f"{value:g}") for name, value in said["medians"].items()]
    top = "".join(f"<th>{escape(head)}</th>" for head in heads)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><tr>{top}</tr>{body}</table>"


def _thumbs(by_kind: Mapping[str, Sequence[Finding]], paths: Mapping[str, Path]) -> dict[str, str]:
    """id -> data URI; every kind gets its share of what the page may hold, the first findings first."""
    wanted: dict[str, None] = {}
    room = MOST_THUMBS
    queues = [
        [name for one in found[:MOST_PER_KIND] if _is_shown(one) for name in one.ids[:MOST_PER_FINDING]]
        for found in by_kind.values()
    ]
    share = max(1, room // max(1, len(queues)))
    for queue in queues:
        wanted |= dict.fromkeys(queue[:share])
    for queue in queues:
        wanted |= dict.fromkeys(queue[share : share + max(0, room - len(wanted))])
    names = [name for name in wanted if name in paths]
    with ThreadPoolExecutor(num_threads()) as pool:
        made = list(pool.map(lambda name: _thumb(paths[name]), names))
    return {name: uri for name, uri in zip(names, made, strict=True) if uri}


def _thumb(path: Path) -> str:
    """A small JPEG as a data URI; empty where the file cannot be read."""
    try:
        image_HWC = read_image(path, at_least_px=THUMB_PX)
    except ImageError:
        return ""
    height, width = image_HWC.shape[:2]
    scale = min(1.0, THUMB_PX / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(image_HWC, size, interpolation=cv2.INTER_AREA)
    done, data = cv2.imencode(".jpg", small[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return f"data:image/jpeg;base64,{base64.b64encode(data.tobytes()).decode()}" if done else ""
