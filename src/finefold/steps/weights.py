"""`finefold weights`: which weights are on this machine, and laying weights onto a model of other names."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from finefold.errors import UsageError, WeightsError
from finefold.nn.catalogue import build_model, find_name
from finefold.nn.devices import set_threads
from finefold.nn.finding import SUFFIXES, WeightsFile, list_weights, local_weights, told_as_heads
from finefold.nn.identify import models_like
from finefold.nn.renaming import num_rows
from finefold.nn.transplant import Match, match_weights
from finefold.nn.weights import keeps_order, read_state, state_hash, write_weights
from finefold.steps.progress import SILENT, Progress


@dataclass(frozen=True)
class Matched:
    """A match, and what became of it.

    Args:
        match: what goes where.
        source: whose tensors, in words.
        target: the model's name.
        source_model: the model the source is of; empty where it is not known.
        is_random: whether the source's values are random, for its weights are not on this machine.
        out: the file written; None where none was asked for.
    """

    match: Match
    source: str
    target: str
    source_model: str
    is_random: bool
    out: Path | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `finefold weights match --json` prints them."""
        told = {
            "source": self.source,
            "target": self.target,
            "source_model": self.source_model or None,
            "source_is_random": self.is_random,
            "out": str(self.out) if self.out else None,
        }
        return {**told, **self.match.to_dict()}


def find(folders: Sequence[str | Path] = (), *, progress: Progress = SILENT) -> list[WeightsFile]:
    """Weights on this machine: embedded, in timm's and torch's caches, and in some folders. Asks no network.

    Raises:
        WeightsError: a folder is not there.
    """
    with progress.stage("hashing", 0, "bytes") as advance:
        return list_weights([Path(folder) for folder in folders], advance=advance)


def match(
    source: str | Path,
    target: str,
    *,
    out: str | Path | None = None,
    source_name: str | None = None,
    num_classes: int | None = None,
    channels: int = 3,
    hints: str | Path | None = None,
    accept: bool = False,
    download: bool = False,
    progress: Progress = SILENT,
) -> Matched:
    """Lays the weights of `source` onto the model `target`, proves it where it can, and writes the result.

    Args:
        source: a weights file, or a timm or torchvision name.
        target: a timm or torchvision name.
        out: a .safetensors file to write; never over one that is there.
        source_name: the model that a file is of, where it cannot be told by its keys.
        num_classes: outputs of the target; 0 leaves its head out (timm only).
        channels: of the target's images (timm only).
        hints: a JSON file, key of the target -> key of the source.
        accept: take the best guesses where several sources are equally good.
        download: fetch the weights of a source that is a name.

    Raises:
        UsageError: `out` is no .safetensors file, or is there.
        WeightsError: a file cannot be read; with `out`, also where the weights do not fit.
        ModelError: a model cannot be built.
    """
    set_threads()
    _check_out(out)
    wanted = _read_hints(hints)
    find_name(target)  # before anything is built
    with progress.stage("building", 0, ""):
        model = build_model(target, num_classes=num_classes, channels=channels)
        taken = _source(source, target, source_name, download)
    with progress.stage("matching", 0, ""):
        found = match_weights(taken.tensors, model, source_model=taken.model, hints=wanted, accept=accept)
    told, known, is_random = taken.told, taken.model_name, taken.is_random
    if out is None:
        return Matched(found, told, target, known, is_random, None)
    if is_random:
        raise WeightsError(
            f"the weights of {source} are not on this machine, so there is nothing to write",
            "add --download to fetch them, or give a weights file",
        )
    state = found.state()
    header = {
        "kind": "transplant",
        "name": target,
        "source": told,
        "weights_hash": state_hash(state),
        "settings": [setting.to_dict() for setting in found.settings],
        "left_as_they_were": list(found.layout.missing),
    }
    write_weights(Path(out), state, header)
    return Matched(found, told, target, known, is_random, Path(out))


def _check_out(out: str | Path | None) -> None:
    if out is None:
        return
    if Path(out).suffix != ".safetensors":
        raise UsageError(f"--out {out} is no .safetensors file", "finefold writes weights as .safetensors only")
    if Path(out).exists():
        raise UsageError(f"{out} exists", "choose another --out; weights are never overwritten")


def _read_hints(file: str | Path | None) -> dict[str, str]:
    if file is None:
        return {}
    try:
        hints = json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as reason:
        raise UsageError(
            f"cannot read the hints {file}: {reason}", 'write JSON: {"key of DST": "key of SRC"}'
        ) from reason
    if not isinstance(hints, dict) or not all(isinstance(value, str) for value in hints.values()):
        raise UsageError(f"{file} holds no hints", 'write JSON: {"key of DST": "key of SRC"}')
    return hints


@dataclass(frozen=True)
class _Source:
    """The source's tensors (or file, or model), its model where it is known, and what it is in words."""

    tensors: Any
    model: nn.Module | None
    model_name: str
    told: str
    is_random: bool = False


def _source(source: str | Path, target: str, source_name: str | None, download: bool) -> _Source:
    path = Path(source)
    if path.is_file() or path.suffix in SUFFIXES:
        state = read_state(path)
        heads = told_as_heads(path)
        if heads:
            raise WeightsError(f"{path} is {heads}", "give the run's backbone.safetensors, or weights of a whole model")
        if source_name is not None:
            rows = num_rows(state, build_model(source_name), order_is_kept=keeps_order(path))
            known = build_model(source_name, num_classes=rows)
            return _Source(path, known, source_name, str(path))
        names = models_like(state, target)
        if len(names) == 1:
            name, size = next(iter(names.items()))
            return _Source(path, build_model(name, num_classes=size), name, str(path))
        doubt = f" (of one of {', '.join(names)}; --source-model says which, for a proof)" if names else ""
        return _Source(path, None, "", f"{path}{doubt}")
    name = str(source)
    model = build_model(name, pretrained=download)
    local = None if download else local_weights(name)
    if local is not None:
        return _Source(local, model if _fits(local, model) else None, name, f"{name} ({local})")
    return _Source(model, model, name, f"{name} ({'downloaded' if download else 'random weights'})", not download)


def _fits(path: Path, model: nn.Module) -> bool:
    return set(read_state(path)) >= {key for key in model.state_dict() if not key.endswith("num_batches_tracked")}
