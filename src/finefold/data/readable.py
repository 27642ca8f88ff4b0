"""Which files decode? Every image is decoded once; the answer is cached by the file's content."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np

from finefold.data.findings import Finding
from finefold.data.images import content_hash, decode_image
from finefold.data.machine import num_threads
from finefold.data.store import ContentStore
from finefold.errors import ImageError

CHUNK = 64
_REASON_BYTES = 64  # what is kept of a reason, UTF-8; empty means the file decodes

Progress = Callable[[int], None]


def find_unreadable(
    ids: Sequence[str],
    paths: Sequence[Path],
    *,
    cache: Path,
    max_pixels: int,
    advance: Progress = lambda _: None,
) -> list[Finding]:
    """One finding per file that is no readable image, in the order given.

    Args:
        ids: [N] names for the findings.
        paths: [N] files.
        cache: folder of the cache.
        max_pixels: larger images are refused before they are decoded.
        advance: told how many files were looked at since.
    """
    about = {"kind": "decoding", "what": f"which images decode (up to {max_pixels / 1e6:g} Mpx)"}
    store = ContentStore.open(cache / "decoding" / f"{max_pixels}", (_REASON_BYTES,), np.uint8, about=about)

    def look(rows: list[int]) -> list[tuple[int, str]]:
        reasons = _reasons([paths[row] for row in rows], store, max_pixels)
        advance(len(rows))
        return [(row, reason) for row, reason in zip(rows, reasons, strict=True) if reason]

    try:
        with ThreadPoolExecutor(num_threads()) as pool:
            found = [pair for pairs in pool.map(look, _chunks(range(len(paths)))) for pair in pairs]
    finally:
        store.close()
    return [unreadable(ids[row], paths[row], reason) for row, reason in found]


def unreadable(sample: str, path: Path, reason: str) -> Finding:
    """The finding that says a file is not a readable image."""
    return Finding(
        "unreadable",
        "warning",
        (sample,),
        {"path": str(path), "reason": reason},
        cause=f"the file is no readable image: {reason}",
        remedy="replace the file; until then it is left out of training",
    )


def _reasons(paths: list[Path], store: ContentStore, max_pixels: int) -> list[str]:
    """Why each file does not decode; empty where it does."""
    contents: list[bytes | str] = [bytes_or_reason(path) for path in paths]
    readable = [row for row, content in enumerate(contents) if isinstance(content, bytes)]
    hashes = {row: content_hash(contents[row]) for row in readable}  # type: ignore[arg-type]
    stored, is_found = store.read([hashes[row] for row in readable])
    reasons = [content if isinstance(content, str) else "" for content in contents]
    fresh = []
    for row, known, is_known in zip(readable, stored, is_found, strict=True):
        if is_known:
            reasons[row] = known.tobytes().rstrip(b"\0").decode(errors="ignore")
        else:
            reasons[row] = _decoding_error(contents[row], max_pixels)  # type: ignore[arg-type]
            fresh.append(row)
    if fresh:
        encoded = [reasons[row].encode().ljust(_REASON_BYTES, b"\0") for row in fresh]
        rows = np.frombuffer(b"".join(encoded), np.uint8).reshape(len(fresh), _REASON_BYTES)
        store.append([hashes[row] for row in fresh], rows)
    return reasons


def bytes_or_reason(path: Path) -> bytes | str:
    """A file's bytes, or why they cannot be read."""
    try:
        return path.read_bytes()
    except OSError as reason:
        return reason.strerror or "cannot be read"


def _decoding_error(data: bytes, max_pixels: int) -> str:
    try:
        decode_image(data, max_pixels=max_pixels)
    except ImageError as reason:
        return reason.message.encode()[:_REASON_BYTES].decode(errors="ignore")  # as the cache will tell it
    return ""


def _chunks(rows: range) -> Iterator[list[int]]:
    places = iter(rows)
    while chunk := list(islice(places, CHUNK)):
        yield chunk
