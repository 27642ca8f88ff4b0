"""What is wrong with a file that should hold weights, in words that one can do something with."""

import json
import re
import zipfile
from contextlib import suppress
from pathlib import Path

from finefold.errors import WeightsError

_AGAIN = "download or save it again"
_SHOWN = 16  # bytes of a file that is something else
_MAX_HEADER = 100_000_000  # bytes; what safetensors itself reads at most
_LONGEST = 300  # characters of another library's reason
_INSIDE = re.compile(r"miniz|magic number|weights[_ ]only|weightsunpickler|if you are|torch\.load", re.IGNORECASE)


def check_start(path: Path) -> None:
    """Refuses a file that is another kind than its name says, or cut off, before a reader stumbles over it.

    Raises:
        WeightsError: with what it is instead, or how much of it is there.
    """
    with suppress(OSError):  # then reading it says so
        size, start = path.stat().st_size, _start(path)
        if not size:
            raise WeightsError(f"{path} is broken: it is empty", _AGAIN)
        if path.suffix == ".safetensors":
            _check_safetensors(path, size, start)
        else:
            _check_torch(path, size, start)


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_SHOWN)


def _check_safetensors(path: Path, size: int, start: bytes) -> None:
    if start.startswith(b"PK"):
        raise WeightsError(f"{path} is no safetensors file but an archive of torch.save", "rename it to end in .pth")
    length = int.from_bytes(start[:8], "little")
    if size > 8 and start[8:9] != b"{" and length > size:
        raise _other(path, start)
    if size < 8 or 8 + length > size:
        header = f", and its header has {8 + length:,}" if size >= 8 else ""
        raise WeightsError(f"{path} is broken: truncated: it has {size:,} bytes{header}", _AGAIN)
    promised = 8 + length + _end_of_tensors(path, length)
    if promised > size:
        raise WeightsError(f"{path} is broken: truncated: it has {size:,} of {promised:,} bytes", _AGAIN)


def _end_of_tensors(path: Path, length: int) -> int:
    """Where a safetensors header says that the last tensor ends; 0 where it says nothing that can be read."""
    with suppress(ValueError, TypeError, KeyError, IndexError, AttributeError), path.open("rb") as file:
        if length <= _MAX_HEADER:
            header = json.loads(file.read(8 + length)[8:])
            ends = [tensor["data_offsets"][1] for key, tensor in header.items() if key != "__metadata__"]
            return max((end for end in ends if isinstance(end, int)), default=0)
    return 0


def _check_torch(path: Path, size: int, start: bytes) -> None:
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < size:
        raise WeightsError(f"{path} is a safetensors file", "rename it to end in .safetensors")
    if zipfile.is_zipfile(path):
        _check_names(path)
    elif start.startswith(b"PK"):
        raise WeightsError(f"{path} is broken: truncated: {size:,} bytes, the archive's index is missing", _AGAIN)
    elif not start.startswith(b"\x80"):  # what every pickle of torch.save begins with
        raise _other(path, start)


def _check_names(path: Path) -> None:
    with suppress(zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if any(name.endswith("/constants.pkl") for name in names):
            raise WeightsError(
                f"{path} is a TorchScript archive, code and all",
                "save `torch.jit.load(path).state_dict()` as .safetensors yourself, if you trust it",
            )
        if not any(name.endswith("/data.pkl") for name in names):
            what = f"{path} is no weights file: an archive without the `data.pkl` that torch.save writes"
            raise WeightsError(what, "give a .safetensors, .pth or .pt file")


def _other(path: Path, start: bytes) -> WeightsError:
    shown = repr(start)[2:-1]
    return WeightsError(
        f"{path} is no weights file: it begins with `{shown}`",
        "give a .safetensors, .pth or .pt file",
    )


def in_words(reason: Exception) -> str:
    """Why a library could not read or write a file: its own whole sentences, less its inner life and its advice."""
    text = str(reason)
    if isinstance(reason, EOFError | IndexError) or "EOF" in text:
        return "truncated: it ends in the middle"
    if "PytorchStreamReader" in text or "inline_container" in text:
        return "its archive is damaged"
    sentences = re.split(r"(?<=[.!?])\s+", (text.splitlines() or [""])[0])
    told = " ".join(sentence for sentence in sentences if not _INSIDE.search(sentence)).rstrip(".")
    if isinstance(reason, KeyError) or not re.search("[A-Za-z]", told) or len(told) > _LONGEST:
        return "its content is not what torch.save writes"
    return told
