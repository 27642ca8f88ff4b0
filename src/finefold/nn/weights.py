"""Weights files: reading them without running anything they contain, and writing them whole."""

import hashlib
import json
import os
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeGuard

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from finefold.errors import FinefoldWarning, WeightsError
from finefold.nn.broken import check_start, in_words

State = dict[str, Tensor]
_STATE_ENTRIES = ("state_dict", "model", "state_dict_ema", "model_state_dict", "model_state")


def read_state(path: Path) -> State:
    """The tensors of a .safetensors, .pth or .pt file. Never unpickles anything but tensors.

    Raises:
        WeightsError: missing, broken, needing code to load, or declaring more than the file holds.
    """
    if not path.is_file():
        raise WeightsError(f"there is no weights file {path}", "give the path of a .safetensors, .pth or .pt file")
    check_start(path)
    try:
        if path.suffix == ".safetensors":
            return _some(safetensors.torch.load_file(path), path)
        _check_archive(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sparse tensors, which are refused below
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except WeightsError:
        raise
    except (SafetensorError, OSError, ValueError, RuntimeError, EOFError, LookupError, MemoryError) as reason:
        raise WeightsError(f"{path} is broken: {in_words(reason)}", "download or save it again") from reason
    except Exception as reason:  # pickle.UnpicklingError and what malformed pickles raise besides
        needed = re.search(r"(?:GLOBAL|Unsupported class) (\w+(?:\.\w+)*)", str(reason))
        what = f"it needs the code of {needed[1]}" if needed else in_words(reason)
        raise WeightsError(
            f"{path} cannot be read as plain tensors: {what}",
            "finefold never runs code from a weights file; save `model.state_dict()` as .safetensors instead",
        ) from reason
    state = _some(_state_in(loaded, path), path)
    for key, tensor in state.items():
        _check_tensor(key, tensor, path)
    return state


def _some(state: State, path: Path) -> State:
    if not state:
        raise WeightsError(
            f"{path} holds no state dict: there is no tensor in it", "save `model.state_dict()` as .safetensors"
        )
    return state


def keeps_order(path: Path) -> bool:
    """Whether a file's keys come in the order in which its model defines them; safetensors sorts them."""
    return path.suffix != ".safetensors"


def _check_archive(path: Path) -> None:
    """Refuses an archive that unpacks to more than itself: torch stores tensors as they are."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > 2 * path.stat().st_size:
        raise WeightsError(
            f"{path} would unpack to {unpacked:,} bytes from {path.stat().st_size:,}",
            "torch does not compress weights: do not use this file",
        )


def _state_in(loaded: Any, path: Path) -> State:
    """The state dict that a file holds, or that one of its entries is."""
    if not isinstance(loaded, dict):
        raise WeightsError(f"{path} holds no state dict", "save `model.state_dict()` as .safetensors")
    if _is_state(loaded):
        return loaded
    nested = {str(key): value for key, value in loaded.items() if _is_state(value)}
    known = [key for key in _STATE_ENTRIES if key in nested] or (list(nested) if len(nested) == 1 else [])
    if not known:
        several = f": several entries are ({', '.join(nested)})" if nested else ""
        raise WeightsError(f"{path} holds no state dict{several}", "save `model.state_dict()` as .safetensors")
    if len(known) > 1:
        others = ", ".join(f"`{key}`" for key in known[1:])
        told = f"{path} holds several states: `{known[0]}` is read, and not {others}; save that alone to read it"
        warnings.warn(told, FinefoldWarning, stacklevel=3)
    return nested[known[0]]


def _is_state(value: Any) -> TypeGuard[State]:
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(key, str) and isinstance(one, Tensor) for key, one in value.items())
    )


def _check_tensor(key: str, tensor: Tensor, path: Path) -> None:
    """Refuses a tensor that is not dense, or whose shape promises more values than the file has for it."""
    if tensor.is_meta:
        raise WeightsError(f"{path}: `{key}` has a shape and no values", "save the tensors of a model that has weights")
    if tensor.layout is not torch.strided or tensor.is_quantized:
        raise WeightsError(f"{path}: `{key}` is not a dense tensor", "save dense tensors, in a floating-point type")
    promised = tensor.numel() * tensor.element_size()
    if promised > tensor.untyped_storage().nbytes():
        raise WeightsError(
            f"{path}: `{key}` declares {list(tensor.shape)}, {promised:,} bytes, and the file holds "
            f"{tensor.untyped_storage().nbytes():,} of them",
            "do not use this file",
        )


def load_values(model: nn.Module, state: State) -> None:
    """Loads a state, or a part of one, of a model's own keys and of its own version (torchvision's MNASNet asks)."""
    versioned = OrderedDict(state)
    versioned._metadata = model.state_dict()._metadata  # type: ignore[attr-defined]
    model.load_state_dict(versioned, strict=False)


def tensor_hash(tensor: Tensor) -> str:
    """16 hex digits over a tensor's shape, type and values."""
    what, values = _content(tensor)
    digest = hashlib.sha256(what.encode())
    digest.update(values)
    return digest.hexdigest()[:16]


def _content(tensor: Tensor) -> tuple[str, bytes]:
    """A tensor's shape and type in words, and its values."""
    plain = tensor.detach().contiguous().cpu()
    values = plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b""
    return f"{tuple(plain.shape)} {plain.dtype}", values


def state_hash(state: State) -> str:
    """16 hex digits over names, shapes, types and values."""
    digest = hashlib.sha256()
    for name in sorted(state):
        what, values = _content(state[name])
        digest.update(f"{name} {what}".encode())
        digest.update(values)
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
    plain: State = {}
    places: set[int] = set()
    for name, tensor in state.items():
        one = tensor.detach().contiguous().cpu()
        place = one.untyped_storage().data_ptr()
        plain[name] = one.clone() if place in places else one  # tied tensors are written each
        places.add(place)
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
            f"cannot write {path}: {in_words(reason)}", "free some space, or choose another place"
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
        raise WeightsError(f"cannot read {path}: {in_words(reason)}", "the run is broken: train it again") from reason
    if text is None:
        raise WeightsError(f"{path} has no finefold header", "give weights that finefold wrote")
    try:
        header = json.loads(text)
    except ValueError:
        header = None
    if not isinstance(header, dict):
        raise WeightsError(f"{path} has a broken finefold header", "give weights that finefold wrote")
    return header
