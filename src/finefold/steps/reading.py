"""data.toml into the one value that other steps take."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from finefold.data.cachedir import cache_root
from finefold.data.findings import Finding
from finefold.data.labels import LabelSpace
from finefold.data.readable import find_unreadable
from finefold.data.samples import SampleTable
from finefold.data.sources import DataSpec, read_and_exclude, read_spec
from finefold.errors import DataError
from finefold.steps.progress import SILENT, Progress

MAX_PIXELS = 100_000_000


@dataclass(frozen=True)
class Data:
    """Labelled samples and what data.toml says besides.

    Args:
        spec: the checked data.toml.
        samples: all labelled samples, readable or not.
        file: the data.toml.
        excluded: ids of the samples that its list of exclusions keeps out.
    """

    spec: DataSpec
    samples: SampleTable
    file: Path
    excluded: frozenset[str] = frozenset()

    @property
    def space(self) -> LabelSpace:
        """The attributes and their classes."""
        return self.spec.space

    @property
    def default_split(self) -> Path:
        """Where `finefold split` writes and `finefold train` looks, unless told otherwise."""
        return self.file.with_name(f"{self.file.stem}.split.csv")


def read_data(file: str | Path) -> Data:
    """The samples that a data.toml describes.

    Raises:
        DataError: the file, its source, labels or patches say something impossible.
    """
    path = Path(file)
    spec = read_spec(path)
    samples, excluded = read_and_exclude(spec)
    return Data(spec, samples, path, excluded)


def check_images(
    samples: SampleTable, *, max_pixels: int = MAX_PIXELS, progress: Progress = SILENT
) -> tuple[SampleTable, list[Finding]]:
    """The samples whose images decode, and a finding for each that does not.

    Raises:
        DataError: no image decodes.
    """
    findings = decode(samples.ids, samples.paths, max_pixels=max_pixels, progress=progress)
    return without_unreadable(samples, findings), findings


def decode(ids: Sequence[str], paths: Sequence[Path], *, max_pixels: int, progress: Progress) -> list[Finding]:
    """A finding for each of these images that does not decode."""
    with progress.stage("decoding", len(ids), "images") as advance:
        return find_unreadable(ids, paths, cache=cache_root(), max_pixels=max_pixels, advance=advance)


def without_unreadable(samples: SampleTable, findings: list[Finding]) -> SampleTable:
    """The samples less those a finding names.

    Raises:
        DataError: none is left.
    """
    lost = [sample for finding in findings for sample in finding.ids]
    if len(lost) == len(samples):
        reason = findings[0].evidence["reason"]
        raise DataError(
            f"none of the {len(samples)} images can be read, e.g. `{lost[0]}`: {reason}", "check `root` in data.toml"
        )
    return samples.without(lost) if lost else samples
